// SPDX-License-Identifier: MIT OR Apache-2.0
//! The socket of a mount: its name, its making, its end.
//!
//! It lies in a folder of the user's alone: `/run/ferrofs` for root, `ferrofs` in `$XDG_RUNTIME_DIR`
//! or `/run/user/UID` for others, and `/tmp/ferrofs-UID` where there is none of these. Invariants:
//! nobody else can write that folder; what a server that died has left there goes when the next one
//! begins; a server removes its own socket only, never that of one that came after it.

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const ROOTS_FOLDER: &str = "/run/ferrofs";
/// Old sockets looked at when a new one is made.
const STALE_MAX: usize = 1024;

/// The name of the socket of the mount with this device number, or of a part of it: images that are
/// one file system have a number each.
fn name((major, minor): (u32, u32), part: Option<u16>) -> String {
    match part {
        Some(part) => format!("{major}-{minor}-{part}.sock"),
        None => format!("{major}-{minor}.sock"),
    }
}

/// Where the server of user `uid` may have its socket, the likeliest place first. With `own`, the
/// environment counts.
fn folders(uid: u32, own: bool) -> Vec<PathBuf> {
    if uid == 0 {
        return vec![PathBuf::from(ROOTS_FOLDER)];
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| own).map(PathBuf::from);
    let runtime = runtime.filter(|folder| folder.is_absolute());
    let mut folders: Vec<PathBuf> = runtime.into_iter().collect();
    folders.push(PathBuf::from(format!("/run/user/{uid}")));
    folders.dedup();
    for folder in &mut folders {
        folder.push("ferrofs");
    }
    folders.push(PathBuf::from(format!("/tmp/ferrofs-{uid}")));
    folders
}

/// Where to look for the socket of a mount made by `owner`. What is mounted of it may be a folder
/// that has a number for its name and is no image: so the whole is looked for, too.
pub(crate) fn candidates(device: (u32, u32), part: Option<u16>, owner: u32) -> Vec<PathBuf> {
    let own = owner == rustix::process::geteuid().as_raw();
    let folders = folders(owner, own).into_iter();
    let names = [part, None].into_iter().skip(usize::from(part.is_none()));
    let names: Vec<String> = names.map(|part| name(device, part)).collect();
    folders
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)).collect::<Vec<_>>())
        .collect()
}

/// The user at the other end.
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Connects without waiting: a server whose queue is full is [`io::ErrorKind::WouldBlock`].
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// A socket's file, which can be removed.
#[derive(Clone, Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode number, and time of last change (ext4 gives the number of a removed file to the
/// next one).
type Identity = (u64, u64, i64, i64);

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless it is another server's by now.
    pub(crate) fn remove(&self) {
        let ours = self.path.symlink_metadata().is_ok_and(|meta| identity(&meta) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket stays behind");
        }
    }
}

fn identity(meta: &Metadata) -> Identity {
    (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())
}

/// A socket that is listened on; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    pub(crate) file: SocketFile,
}

impl Listener {
    /// Makes the socket of the mount `device`, or of a part of it.
    pub(crate) fn bind(device: (u32, u32), part: Option<u16>) -> io::Result<Self> {
        let mut first = None;
        for folder in folders(rustix::process::geteuid().as_raw(), true) {
            match Self::bind_in(&folder, &name(device, part)) {
                Ok(listener) => return Ok(listener),
                Err(error) => {
                    let text = format!("{}: {error}", folder.display());
                    first.get_or_insert(io::Error::new(error.kind(), text));
                }
            }
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn bind_in(folder: &Path, name: &str) -> io::Result<Self> {
        make_folder(folder)?;
        // Held until the socket is there, so that no other server takes it for a stale one.
        let lock = File::open(folder)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        clean(folder)?;
        let path = folder.join(name);
        // The number is this mount's now; whoever had it before serves no mount any more.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(&path)?;
        // Nobody else can pass the folder; this is for those who look at the socket alone.
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
        socket.set_nonblocking(true)?;
        let identity = identity(&path.symlink_metadata()?);
        Ok(Self { socket, file: SocketFile { path, identity } })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// A folder that nobody but root, who calls this, can enter.
pub(crate) fn folder_of_root() -> io::Result<PathBuf> {
    let folder = PathBuf::from(ROOTS_FOLDER);
    make_folder(&folder).map(|()| folder)
}

/// Makes the folder if it is not there; it must be ours alone.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let meta = folder.symlink_metadata()?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !ours || meta.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it must be a directory that only its owner, the one who mounts, may enter",
        ));
    }
    Ok(())
}

/// Removes sockets that nobody listens on.
fn clean(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)?.take(STALE_MAX) {
        let entry = entry?;
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let path = entry.path();
        let refused =
            || connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_socket && refused() {
            // If it cannot go it does no harm.
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_come_and_go() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("sockets");
        let first = Listener::bind_in(&folder, "0-40.sock").unwrap();
        let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(first.file.path())), (0o700, 0o600));
        // One that died without a word.
        let stale = folder.join("0-39.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let second = Listener::bind_in(&folder, "0-41.sock").unwrap();
        assert!(!stale.exists() && first.file.path().exists());
        // The number came back; the first server, late to end, leaves the new one alone.
        let again = Listener::bind_in(&folder, "0-40.sock").unwrap();
        assert_eq!(again.file.path(), first.file.path());
        drop(first);
        assert!(again.file.path().exists());
        let path = again.file.path().to_owned();
        drop((again, second));
        assert!(!path.exists());
    }

    #[test]
    fn folders_of_others_are_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("open");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Listener::bind_in(&folder, "0-1.sock").is_err());
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(Listener::bind_in(&link, "0-1.sock").is_err());
        assert!(candidates((0, 7), None, 0)[0].ends_with("run/ferrofs/0-7.sock"));
        let parts = candidates((0, 7), Some(3), 0);
        assert!(parts[0].ends_with("0-7-3.sock") && parts[1].ends_with("0-7.sock"), "{parts:?}");
        assert!(
            candidates((0, 7), None, 12345).iter().any(|path| path.starts_with("/run/user/12345"))
        );
    }
}
