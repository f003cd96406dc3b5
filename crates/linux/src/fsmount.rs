// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounting any file system read-only, and giving it other options, through the new mount API.
//!
//! Refuses to know file system types. Invariants: nothing stays mounted after an error; no
//! descriptor of the mount outlives the call (an open one would make the mount busy); what the
//! kernel says about a refusal reaches the error.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags as OldFlags, MoveMountFlags,
    OpenTreeFlags,
};

/// The longest that is read of what the kernel has to say, in lines.
const MESSAGES_MAX: usize = 32;

/// Attributes of a mount point. It is always read-only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MountFlags {
    /// Ignore set-user-ID and set-group-ID bits and file capabilities.
    pub nosuid: bool,
    /// Device nodes do not work.
    pub nodev: bool,
    /// Programs cannot be run.
    pub noexec: bool,
    /// Access times are never updated.
    pub noatime: bool,
    /// Access times of directories are never updated.
    pub nodiratime: bool,
    /// Symbolic links are not followed.
    pub nosymfollow: bool,
}

impl MountFlags {
    fn attributes(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOATIME, self.noatime);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, self.nodiratime);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, self.nosymfollow);
        flags
    }

    fn old(self) -> OldFlags {
        let mut flags = OldFlags::RDONLY;
        flags.set(OldFlags::NOSUID, self.nosuid);
        flags.set(OldFlags::NODEV, self.nodev);
        flags.set(OldFlags::NOEXEC, self.noexec);
        flags.set(OldFlags::NOATIME, self.noatime);
        flags.set(OldFlags::NODIRATIME, self.nodiratime);
        flags.set(OldFlags::NOSYMFOLLOW, self.nosymfollow);
        flags
    }
}

/// What was being done when a mount failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MountStep {
    /// Looking at the directory to mount on.
    Target,
    /// Looking at the image or a device.
    Source,
    /// Asking the kernel for a file system of this type.
    Type,
    /// Giving an option.
    Option,
    /// Creating the file system instance: here the kernel reads the image.
    Create,
    /// Making the mount.
    Mount,
    /// Putting the mount in its place.
    Attach,
    /// Setting up a loop device.
    Loop,
    /// Unmounting.
    Unmount,
    /// Changing options of a mount.
    Reconfigure,
}

/// Why a mount or unmount failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MountError {
    /// The step that failed.
    pub step: MountStep,
    /// The error number.
    pub errno: i32,
    /// What the step was about: the source, the target, or the option.
    pub subject: PathBuf,
    /// What the kernel said, line by line.
    pub messages: Vec<String>,
}

impl MountError {
    pub(crate) fn new(step: MountStep, errno: Errno, subject: impl AsRef<OsStr>) -> Self {
        let subject = PathBuf::from(subject.as_ref());
        Self { step, errno: errno.raw_os_error(), subject, messages: Vec::new() }
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    /// A reason that fits the case better than the error number's own text.
    fn hint(&self) -> Option<&'static str> {
        let errno = Errno::from_raw_os_error(self.errno);
        Some(match (self.step, errno) {
            (MountStep::Target | MountStep::Unmount, Errno::NOTCONN) => {
                "a FUSE mount is there whose server is gone; unmount it first"
            }
            (MountStep::Target, Errno::NOTDIR) => "it is not a directory",
            (MountStep::Target | MountStep::Source, Errno::NOENT) => "it does not exist",
            (MountStep::Type, Errno::NODEV) => "this kernel does not have this file system",
            (MountStep::Reconfigure, Errno::PERM) => "it needs root (CAP_SYS_ADMIN)",
            (MountStep::Type | MountStep::Mount | MountStep::Create, Errno::PERM) => {
                "mounting needs root (CAP_SYS_ADMIN)"
            }
            (MountStep::Create, Errno::INVAL) => {
                "the kernel does not take it for a valid image, or an option does not fit it \
                 (the kernel's log may say more)"
            }
            (MountStep::Create, Errno::UCLEAN) => "the image is corrupt",
            (MountStep::Create, Errno::OPNOTSUPP) => {
                "the image uses a feature that this kernel does not have"
            }
            (MountStep::Option, Errno::INVAL) => "this kernel does not know the option",
            (MountStep::Attach, Errno::PERM | Errno::ACCESS) => "mounting there is not permitted",
            (MountStep::Unmount, Errno::BUSY) => "something still uses it",
            (MountStep::Unmount, Errno::INVAL) => "it is not a mount point",
            (MountStep::Unmount, Errno::PERM) => "unmounting it needs root (CAP_SYS_ADMIN)",
            _ => return None,
        })
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject.display();
        match self.step {
            MountStep::Target => write!(f, "cannot mount on {subject}: ")?,
            MountStep::Source | MountStep::Create | MountStep::Mount => {
                write!(f, "cannot mount {subject}: ")?;
            }
            MountStep::Type => write!(f, "cannot mount a file system of type {subject}: ")?,
            MountStep::Option => write!(f, "mount option {subject} refused: ")?,
            MountStep::Attach => write!(f, "cannot attach the mount to {subject}: ")?,
            MountStep::Loop => write!(f, "cannot set up a loop device for {subject}: ")?,
            MountStep::Unmount => write!(f, "cannot unmount {subject}: ")?,
            MountStep::Reconfigure => write!(f, "cannot change the mount {subject}: ")?,
        }
        match self.hint() {
            Some(hint) => f.write_str(hint)?,
            None => io::Error::from_raw_os_error(self.errno).fmt(f)?,
        }
        for message in &self.messages {
            write!(f, "; the kernel says: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for MountError {}

impl From<MountError> for io::Error {
    fn from(error: MountError) -> Self {
        let kind = Self::from_raw_os_error(error.errno).kind();
        Self::new(kind, error)
    }
}

/// An option of a file system.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Parameter<'a> {
    /// A name without a value.
    Flag(&'a str),
    /// A name and its value.
    Value(&'a str, OsString),
    /// A name and an open descriptor.
    Descriptor(&'a str, BorrowedFd<'a>),
}

impl Parameter<'_> {
    fn subject(&self) -> OsString {
        match self {
            Self::Flag(name) | Self::Descriptor(name, _) => OsString::from(name),
            Self::Value(name, value) => {
                let mut text = OsString::from(name);
                text.push("=");
                text.push(value);
                text
            }
        }
    }

    fn old(&self) -> OsString {
        match self {
            Self::Flag(_) | Self::Value(..) => self.subject(),
            Self::Descriptor(name, fd) => {
                OsString::from(format!("{name}={}", std::os::fd::AsRawFd::as_raw_fd(fd)))
            }
        }
    }
}

/// A read-only mount to make.
#[derive(Clone, Debug)]
pub struct FsMount<'a> {
    /// Type of the file system, as in `/proc/filesystems`.
    pub fs_type: &'a str,
    /// What is mounted: a path, or a name to show.
    pub source: &'a OsStr,
    /// Options of the file system, in order.
    pub parameters: Vec<Parameter<'a>>,
    /// Attributes of the mount point.
    pub flags: MountFlags,
}

impl FsMount<'_> {
    /// Mounts on the directory `target`.
    pub fn mount(&self, target: &Path) -> Result<(), MountError> {
        let place = crate::mount::check_target(target)?;
        match self.create() {
            Ok(mount) => attach(&mount, &place, target),
            // Before Linux 5.2, and under filters that pretend to be such a kernel.
            Err(error) if error.is(Errno::NOSYS) => self.mount_old(target),
            Err(error) => Err(error),
        }
    }

    /// A mount that is nowhere: who has the descriptor can open files in it, and when nobody has
    /// it or one of them any more it is gone. Needs Linux 5.2.
    pub fn create(&self) -> Result<OwnedFd, MountError> {
        let context = rustix::mount::fsopen(self.fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| MountError::new(MountStep::Type, errno, self.fs_type))?;
        let fail = |step, errno, subject: &OsStr| MountError {
            messages: messages(&context),
            ..MountError::new(step, errno, subject)
        };
        rustix::mount::fsconfig_set_string(&context, "source", self.source)
            .map_err(|errno| fail(MountStep::Source, errno, self.source))?;
        rustix::mount::fsconfig_set_flag(&context, "ro")
            .map_err(|errno| fail(MountStep::Option, errno, OsStr::new("ro")))?;
        for parameter in &self.parameters {
            set(&context, parameter)
                .map_err(|errno| fail(MountStep::Option, errno, &parameter.subject()))?;
        }
        rustix::mount::fsconfig_create(&context)
            .map_err(|errno| fail(MountStep::Create, errno, self.source))?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        rustix::mount::fsmount(&context, flags, self.flags.attributes())
            .map_err(|errno| fail(MountStep::Mount, errno, self.source))
    }

    /// By mount(2), whose options are one string with commas between.
    fn mount_old(&self, target: &Path) -> Result<(), MountError> {
        let mut options = Vec::new();
        for parameter in &self.parameters {
            let text = parameter.old();
            if text.as_bytes().contains(&b',') {
                return Err(MountError::new(MountStep::Option, Errno::INVAL, text));
            }
            if !options.is_empty() {
                options.push(b',');
            }
            options.extend_from_slice(text.as_bytes());
        }
        let fail = |errno| MountError::new(MountStep::Create, errno, self.source);
        let options = CString::new(options).map_err(|_| fail(Errno::INVAL))?;
        let flags = self.flags.old();
        rustix::mount::mount(self.source, target, self.fs_type, flags, options.as_c_str())
            .map_err(fail)
    }
}

fn set(context: &OwnedFd, parameter: &Parameter<'_>) -> Result<(), Errno> {
    match parameter {
        Parameter::Flag(name) => rustix::mount::fsconfig_set_flag(context, *name),
        // Some file systems (FUSE) want even a descriptor's number as a string.
        Parameter::Value(name, value) => rustix::mount::fsconfig_set_string(context, *name, value),
        Parameter::Descriptor(name, fd) => {
            let number = std::os::fd::AsRawFd::as_raw_fd(fd).to_string();
            rustix::mount::fsconfig_set_string(context, *name, number)
        }
    }
}

/// Whether the kernel takes an option of a file system, without a mount: what it has to say about
/// it, which is nothing if it knows the option. Needs Linux 5.2.
pub fn probe_option(fs_type: &str, name: &str, value: &str) -> Result<Vec<String>, MountError> {
    let context = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::new(MountStep::Type, errno, fs_type))?;
    let set = rustix::mount::fsconfig_set_string(&context, name, value);
    let messages = messages(&context);
    match set {
        Ok(()) => Ok(messages),
        Err(errno) => {
            Err(MountError { messages, ..MountError::new(MountStep::Option, errno, name) })
        }
    }
}

/// Whether the kernel takes a switch of a file system, without a mount. Needs Linux 5.2.
pub fn probe_flag(fs_type: &str, name: &str) -> Result<(), MountError> {
    let context = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::new(MountStep::Type, errno, fs_type))?;
    rustix::mount::fsconfig_set_flag(&context, name)
        .map_err(|errno| MountError::new(MountStep::Option, errno, name))
}

/// Gives the file system mounted at `target` other options: those named here, and what the file
/// system itself takes for those that are not. For all mounts of that file system. Needs Linux 5.2.
pub fn reconfigure(target: &Path, parameters: &[Parameter<'_>]) -> Result<(), MountError> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_SYMLINK_NOFOLLOW;
    let context = rustix::mount::fspick(CWD, target, flags)
        .map_err(|errno| MountError::new(MountStep::Reconfigure, errno, target))?;
    let fail = |step, errno, subject: &OsStr| MountError {
        messages: messages(&context),
        ..MountError::new(step, errno, subject)
    };
    for parameter in parameters {
        set(&context, parameter)
            .map_err(|errno| fail(MountStep::Option, errno, &parameter.subject()))?;
    }
    rustix::mount::fsconfig_reconfigure(&context)
        .map_err(|errno| fail(MountStep::Reconfigure, errno, target.as_os_str()))
}

/// Mounts the directory `source` of a file system that is mounted already on `target`, too.
pub fn mount_tree(source: &Path, target: &Path, flags: MountFlags) -> Result<(), MountError> {
    let place = crate::mount::check_target(target)?;
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, source, how)
        .map_err(|errno| MountError::new(MountStep::Source, errno, source))?;
    set_attributes(&tree, flags)
        .map_err(|errno| MountError::new(MountStep::Mount, errno, source))?;
    attach(&tree, &place, target)
}

/// Gives a mount, and none of its neighbours, these attributes and no others.
fn set_attributes(mount: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    let mut clear = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODIRATIME
        | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
    if flags.noatime {
        // One of three ways to keep access times: the others go.
        clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
    }
    let attributes = libc::mount_attr {
        attr_set: flags.attributes().bits().into(),
        attr_clr: clear.bits().into(),
        propagation: 0,
        userns_fd: 0,
    };
    let path: *const libc::c_char = c"".as_ptr();
    // SAFETY: the descriptor is open for the call; the path is a string of the program that ends with a
    // NUL; the structure is of the size given and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            std::os::fd::AsRawFd::as_raw_fd(mount),
            path,
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

fn attach(mount: &OwnedFd, place: &OwnedFd, target: &Path) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
        .map_err(|errno| MountError::new(MountStep::Attach, errno, target))
}

/// What the kernel has to say about a failed step, without its level letters.
fn messages(context: &OwnedFd) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buf = [0; 1024];
    // Each read gives one message; the one after the last fails.
    while lines.len() < MESSAGES_MAX {
        match rustix::io::read(context, &mut buf) {
            Ok(len) if len > 0 => {
                let text = String::from_utf8_lossy(buf.get(..len).unwrap_or_default());
                let text = text.trim_end();
                let text = ["e ", "w ", "i "].iter().find_map(|level| text.strip_prefix(level));
                lines.extend(text.map(str::to_owned));
            }
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    lines
}

/// A descriptor of a directory, by which a path is looked up only once.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}
