// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounting a FUSE session and unmounting it again.
//!
//! As root by the kernel's mount calls; otherwise through the set-user-ID helper `fusermount3`.
//! Invariant: only the session's own mount is unmounted, never one that has taken its place.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrofs_linux::{FsMount, MountFlags, Parameter, UnmountFlags, descriptors, fuse_device};

use crate::session::{SessionConfig, SessionError};

/// The helpers to try, newest first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// Who made the mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MountHow {
    /// This process, with its own rights.
    Direct,
    /// `fusermount3` or `fusermount`.
    Helper,
}

/// A mount that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) device: OwnedFd,
    pub(crate) how: MountHow,
}

/// Mounts on `target`, which is absolute and without symbolic links.
pub(crate) fn mount(target: &Path, config: &SessionConfig) -> Result<Made, SessionError> {
    match mount_direct(target, config) {
        Ok(made) => Ok(made),
        Err(SessionError::Mount(error)) if error.errno != EPERM => Err(SessionError::Mount(error)),
        Err(SessionError::Mount(error)) if rustix::process::geteuid().is_root() => {
            // Root without the right to mount: a container. The helper may do better, but if
            // it is missing, the first reason is the one to tell.
            mount_by_helper(target, config).map_err(|_| SessionError::Mount(error))
        }
        Err(_) => mount_by_helper(target, config),
    }
}

const EPERM: i32 = 1;

fn mount_direct(target: &Path, config: &SessionConfig) -> Result<Made, SessionError> {
    let device = fuse_device::open().map_err(SessionError::Device)?;
    request(&device, config).mount(target).map_err(SessionError::Mount)?;
    Ok(Made { device, how: MountHow::Direct })
}

/// Mounts nowhere: what is given besides is the mount's root.
pub(crate) fn mount_detached(config: &SessionConfig) -> Result<(Made, OwnedFd), SessionError> {
    let device = fuse_device::open().map_err(SessionError::Device)?;
    let root = request(&device, config).create().map_err(SessionError::Mount)?;
    Ok((Made { device, how: MountHow::Direct }, root))
}

fn request<'a>(device: &'a OwnedFd, config: &'a SessionConfig) -> FsMount<'a> {
    let mut parameters = vec![
        Parameter::Descriptor("fd", device.as_fd()),
        Parameter::Value("rootmode", OsString::from("40000")),
        Parameter::Value("user_id", rustix::process::getuid().as_raw().to_string().into()),
        Parameter::Value("group_id", rustix::process::getgid().as_raw().to_string().into()),
    ];
    if config.allow_other {
        parameters.push(Parameter::Flag("allow_other"));
    }
    if config.default_permissions {
        parameters.push(Parameter::Flag("default_permissions"));
    }
    if let Some(subtype) = &config.subtype {
        parameters.push(Parameter::Value("subtype", OsString::from(subtype)));
    }
    let flags = MountFlags {
        nosuid: config.nosuid,
        nodev: config.nodev,
        noexec: config.noexec,
        ..MountFlags::default()
    };
    FsMount { fs_type: "fuse", source: OsStr::new(&config.fsname), parameters, flags }
}

/// Lets the helper open `/dev/fuse`, mount, and send the descriptor over a socket.
fn mount_by_helper(target: &Path, config: &SessionConfig) -> Result<Made, SessionError> {
    let (ours, theirs) = UnixStream::pair().map_err(SessionError::Device)?;
    let mut missing = None;
    for helper in HELPERS {
        let socket = theirs.try_clone().map_err(SessionError::Device)?;
        // The socket goes as standard input: the one way to hand over a descriptor without
        // making it inheritable to every process started meanwhile.
        let output = Command::new(helper)
            .arg("-o")
            .arg(helper_options(config))
            .arg("--")
            .arg(target)
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing = Some(error);
                continue;
            }
            Err(error) => return Err(SessionError::Helper { error, message: String::new() }),
        };
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let error = io::Error::other(output.status.to_string());
            return Err(SessionError::Helper { error, message });
        }
        // Else a helper that sent nothing would leave us waiting for ever.
        drop(theirs);
        let mut byte = [0; 1];
        let (_, mut fds) = descriptors::receive(&ours, &mut byte).map_err(SessionError::Device)?;
        let device = fds.pop().ok_or_else(|| SessionError::Helper {
            error: io::Error::from(io::ErrorKind::UnexpectedEof),
            message: String::from("it sent no descriptor"),
        })?;
        return Ok(Made { device, how: MountHow::Helper });
    }
    let error = missing.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    Err(SessionError::NoHelper(error))
}

fn helper_options(config: &SessionConfig) -> String {
    // A comma or backslash in a value is escaped by a backslash.
    let escape = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,");
    // The helper itself adds nosuid and nodev.
    let mut options = vec![String::from("ro"), format!("fsname={}", escape(&config.fsname))];
    if let Some(subtype) = &config.subtype {
        options.push(format!("subtype={}", escape(subtype)));
    }
    let flags = [
        (config.allow_other, "allow_other"),
        (config.default_permissions, "default_permissions"),
        (config.noexec, "noexec"),
    ];
    options.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| String::from(*name)));
    options.join(",")
}

/// Unmounts a session's mount from any thread, which makes [`Session::run`] return.
///
/// [`Session::run`]: crate::Session::run
#[derive(Clone, Debug)]
pub struct Unmounter {
    mount: Arc<MountPoint>,
}

#[derive(Debug)]
struct MountPoint {
    target: PathBuf,
    /// Device number of the mount, by which it is told from another in its place.
    device: Option<(u32, u32)>,
    how: MountHow,
    gone: AtomicBool,
}

impl Unmounter {
    pub(crate) fn new(target: PathBuf, how: MountHow) -> Self {
        let entry = ferrofs_linux::mountinfo::find(&target).ok().flatten();
        let device = entry.map(|entry| entry.device);
        let gone = AtomicBool::new(false);
        Self { mount: Arc::new(MountPoint { target, device, how, gone }) }
    }

    /// For a mount that another process has made: on `target`, with this device number, by which it
    /// is told from others.
    pub fn existing(target: PathBuf, device: (u32, u32), how: MountHow) -> Self {
        let gone = AtomicBool::new(false);
        Self { mount: Arc::new(MountPoint { target, device: Some(device), how, gone }) }
    }

    /// Where the session is mounted.
    pub fn target(&self) -> &Path {
        &self.mount.target
    }

    /// Device number (major, minor) of the mount.
    pub fn device(&self) -> Option<(u32, u32)> {
        self.mount.device
    }

    /// Unmounts. Fine if the mount is gone already. Fails while files are open or a process has
    /// its working directory there, unless `flags.lazy`.
    pub fn unmount(&self, flags: UnmountFlags) -> Result<(), SessionError> {
        if self.mount.gone.load(Ordering::SeqCst) || !self.is_ours() {
            return Ok(());
        }
        match ferrofs_linux::unmount(&self.mount.target, flags) {
            Ok(()) => Ok(()),
            Err(error) if error.errno == EPERM && self.mount.how == MountHow::Helper => {
                self.unmount_by_helper(flags)
            }
            // Somebody else was faster.
            Err(_) if !self.is_ours() => Ok(()),
            Err(error) => Err(SessionError::Mount(error)),
        }
    }

    /// Takes note that the mount is gone.
    pub(crate) fn set_gone(&self) {
        self.mount.gone.store(true, Ordering::SeqCst);
    }

    /// Whether what is mounted there is the session's. Without `/proc` that cannot be told, and
    /// then it is taken to be.
    fn is_ours(&self) -> bool {
        match (self.mount.device, ferrofs_linux::mountinfo::find(&self.mount.target)) {
            (Some(device), Ok(entry)) => entry.is_some_and(|entry| entry.device == device),
            _ => true,
        }
    }

    fn unmount_by_helper(&self, flags: UnmountFlags) -> Result<(), SessionError> {
        for helper in HELPERS {
            let mut command = Command::new(helper);
            command.arg("-u");
            if flags.lazy {
                command.arg("-z");
            }
            let output = command.arg("--").arg(&self.mount.target).stdin(Stdio::null()).output();
            match output {
                Ok(output) if output.status.success() => return Ok(()),
                Ok(output) => {
                    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    let error = io::Error::other(output.status.to_string());
                    return Err(SessionError::Helper { error, message });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(SessionError::Helper { error, message: String::new() });
                }
            }
        }
        Err(SessionError::NoHelper(io::Error::from(io::ErrorKind::NotFound)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_names_are_escaped() {
        let config = SessionConfig {
            fsname: String::from("a,b\\c"),
            subtype: None,
            allow_other: true,
            ..SessionConfig::default()
        };
        let options = helper_options(&config);
        assert_eq!(options, "ro,fsname=a\\,b\\\\c,allow_other,default_permissions");
    }
}
