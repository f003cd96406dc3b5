// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of a cache: `cache/I<volume>/@<hash>/D<cookie>` below its root.
//!
//! Invariant: whatever a key is, its file lies in the folder of its volume.

use super::Space;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Says, while the cache is used, since which start of the machine.
const MARK: &str = "in-use";

#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let cache = root.join("cache");
        fs::create_dir_all(&cache)?;
        // What is cached may be secret.
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        match fs::read_to_string(root.join(MARK)) {
            Ok(found) if found != boot => {
                fs::remove_dir_all(&cache)?;
                fs::create_dir(&cache)?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::write(root.join(MARK), boot)?;
        File::open(root)?.sync_all()?;
        Ok(Self { root: root.to_owned() })
    }

    /// The name below `cache/` of an object's file.
    pub(super) fn name(volume: &[u8], cookie: &[u8]) -> String {
        // FNV-1a: spreads objects over 256 folders, no more.
        let hash = cookie.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        format!("I{}/@{:02x}/D{}", part(volume), hash & 0xff, part(cookie))
    }

    /// Opens an object's file for everything, made if it is not there.
    pub(super) fn object(&self, name: &str) -> io::Result<File> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = file.custom_flags(nofollow).open(path)?;
        // Age is counted from here, whatever the mount's options are.
        file.set_times(fs::FileTimes::new().set_accessed(SystemTime::now()))?;
        Ok(file)
    }

    /// The daemon's descriptor: for writing alone.
    pub(super) fn writer(&self, name: &str, direct: bool) -> io::Result<File> {
        let mut flags = rustix::fs::OFlags::NOFOLLOW;
        if direct {
            flags |= rustix::fs::OFlags::DIRECT;
        }
        let flags = flags.bits().cast_signed();
        OpenOptions::new().write(true).custom_flags(flags).open(self.path(name))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    /// All objects, the longest unused first.
    pub(super) fn by_age(&self) -> io::Result<Vec<(SystemTime, String)>> {
        let mut found = Vec::new();
        let cache = self.root.join("cache");
        for volume in fs::read_dir(&cache)? {
            for folder in fs::read_dir(volume?.path())? {
                for object in fs::read_dir(folder?.path())? {
                    let object = object?;
                    let path = object.path();
                    let Ok(name) = path.strip_prefix(&cache) else { continue };
                    let name = name.to_string_lossy().into_owned();
                    found.push((object.metadata()?.accessed()?, name));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// A name as `cull` has it: that of an object's file without its folders.
    pub(super) fn find(&self, name: &[u8]) -> io::Result<String> {
        let all = self.by_age()?;
        let mut found = all.into_iter().map(|(_, path)| path);
        let last =
            |path: &String| path.rsplit('/').next().is_some_and(|last| last.as_bytes() == name);
        found.find(last).ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        let share = |free: u64, all: u64| {
            // No limit (btrfs has none for files) is all free.
            let share = u128::from(free) * 100 / u128::from(all.max(1));
            if all == 0 { 100 } else { u8::try_from(share.min(100)).unwrap_or(100) }
        };
        Ok(Space {
            blocks: share(stat.f_bavail, stat.f_blocks),
            files: share(stat.f_favail, stat.f_files),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("cache").join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Everything is on disk first; if that fails the mark stays, and a restart drops all.
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        if synced.is_ok() {
            let _ = fs::remove_file(self.root.join(MARK));
        }
    }
}

/// A key as a file name: itself where it is plain; else its digest, behind a character that no
/// plain one begins with.
fn part(key: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-,:+@".contains(byte);
    if key.len() <= 200 && key.iter().all(plain) {
        return String::from_utf8_lossy(key).into_owned();
    }
    let mut text = String::from("=");
    for byte in Sha256::digest(key) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_leaves_its_folder() {
        for key in [&b"../../etc/passwd"[..], b"a/b", b"\0", b"", b"..", &[b'x'; 255]] {
            let name = Files::name(key, key);
            assert_eq!(name.split('/').count(), 3, "{name}");
            assert!(name.split('/').all(|part| part.len() > 1 || key.is_empty()));
            assert!(name.split('/').all(|part| part.len() < 256));
        }
        assert_ne!(Files::name(b"v", b"a/b"), Files::name(b"v", b"a\\b"));
        assert!(Files::name(b"erofs,x", b"plain").ends_with("/Dplain"));
    }

    #[test]
    fn a_restart_of_the_machine_drops_all() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path()).unwrap();
        files.object("Iv/@00/Dx").unwrap();
        drop(files);
        assert_eq!(Files::open(root.path()).unwrap().by_age().unwrap().len(), 1);
        fs::write(root.path().join(MARK), "another start").unwrap();
        assert_eq!(Files::open(root.path()).unwrap().by_age().unwrap().len(), 0);
    }
}
