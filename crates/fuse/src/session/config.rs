// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a session can be told, and how it fails.

use std::fmt;
use std::io;
use std::time::Duration;

use ferrofs_linux::MountError;

/// Longest readahead and largest read that can be asked for, in bytes.
const IO_MAX: u32 = 16 << 20;
/// Most workers that can be asked for.
const THREADS_MAX: usize = 1024;

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Transport {
    /// `io_uring` where the administrator has allowed it, `/dev/fuse` elsewhere. Measured
    /// (`examples/transports.rs`), a ring costs a single reader of small pieces a tenth and gives
    /// several readers half as much again up to twice; for long reads it makes no difference or
    /// helps.
    #[default]
    Auto,
    /// `/dev/fuse`, by reading and writing. Works everywhere, and is the only way whose sessions
    /// can be handed to another process.
    Device,
    /// `io_uring` (Linux 6.14 and later, where the administrator has allowed it by the parameter
    /// `enable_uring` of the module `fuse`), or an error. Several readers are served faster, data
    /// is decoded where the kernel takes it from, and whoever is slow holds up nobody else.
    Ring,
}

/// Settings of a session. The defaults suit an image that never changes.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Most worker threads. One is enough for one reader; more are started when requests wait.
    /// With [`Transport::Ring`] each processor has some already, and this counts those beyond.
    pub threads_max: usize,
    /// How requests come.
    pub transport: Transport,
    /// Largest read, in bytes. The kernel permits as many pages as
    /// `/proc/sys/fs/fuse/max_pages_limit` says, 1 MiB by default; [`Negotiated`] tells what came
    /// of it.
    ///
    /// [`Negotiated`]: crate::Negotiated
    pub max_read: u32,
    /// Readahead in bytes. More than the kernel's default (128 KiB) needs root.
    pub max_readahead: u32,
    /// How long the kernel may keep a name.
    pub entry_timeout: Duration,
    /// How long the kernel may keep attributes.
    pub attr_timeout: Duration,
    /// How long the kernel may remember that there is no such name.
    pub negative_timeout: Duration,
    /// Let other users in.
    pub allow_other: bool,
    /// Let the kernel check permissions by owner, group and mode. The session itself never does.
    pub default_permissions: bool,
    /// Let the kernel check POSIX ACLs, which it reads as extended attributes; implies
    /// `default_permissions`.
    pub posix_acl: bool,
    /// Let the kernel open files and directories without asking.
    pub zero_message_open: bool,
    /// Files are read past the page cache: each read is a request, and nothing is kept. For files
    /// that another file system is on, which has a page cache of its own.
    pub direct_io: bool,
    /// Files may be opened as other files, which their file system says for each
    /// ([`OpenAs::Backing`](crate::OpenAs::Backing)): so each opening is asked for. Linux 6.9 and root;
    /// [`Negotiated::can_pass_through`](crate::Negotiated::can_pass_through) tells whether it works.
    pub passthrough: bool,
    /// Deliver attributes with directory entries.
    pub readdirplus: bool,
    /// With `readdirplus`: always, where otherwise the kernel decides; so listing a directory makes
    /// the kernel know what is in it.
    pub readdirplus_always: bool,
    /// Give each worker its own channel (`FUSE_DEV_IOC_CLONE`) instead of sharing one.
    pub clone_fd: bool,
    /// Keep a lone worker on the processor of a lone reader of small files, and the threads of rings on
    /// the processors of their queues. Only for file systems that start no threads while they answer, or
    /// have these join ([`Companions::join`](crate::Companions::join)): others would stay on that
    /// processor, too.
    pub follow_reader: bool,
    /// Ignore set-user-ID and set-group-ID bits. Always so for mounts by the helper.
    pub nosuid: bool,
    /// Device nodes do not work. Always so for mounts by the helper.
    pub nodev: bool,
    /// Programs cannot be run.
    pub noexec: bool,
    /// What `/proc/mounts` shows as the source.
    pub fsname: String,
    /// What `/proc/mounts` shows after "fuse." as the type.
    pub subtype: Option<String>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let for_ever = Duration::from_secs(u64::from(u32::MAX));
        Self {
            // More than cores, because a worker may wait for a disk or a network.
            threads_max: cores.saturating_mul(2).max(4),
            transport: Transport::Auto,
            max_read: 1 << 20,
            max_readahead: 1 << 20,
            entry_timeout: for_ever,
            attr_timeout: for_ever,
            negative_timeout: for_ever,
            allow_other: false,
            default_permissions: true,
            posix_acl: true,
            zero_message_open: true,
            direct_io: false,
            passthrough: false,
            readdirplus: true,
            readdirplus_always: false,
            clone_fd: false,
            follow_reader: false,
            nosuid: true,
            nodev: true,
            noexec: false,
            fsname: String::from("ferrofs"),
            subtype: Some(String::from("ferrofs")),
        }
    }
}

impl SessionConfig {
    /// Refuses settings that cannot be honoured.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        let fail = |name| Err(SessionError::Config(name));
        if !(1..=THREADS_MAX).contains(&self.threads_max) {
            return fail("threads_max");
        }
        if !(4096..=IO_MAX).contains(&self.max_read) {
            return fail("max_read");
        }
        if self.max_readahead > IO_MAX {
            return fail("max_readahead");
        }
        let bad = |name: &str| name.is_empty() || name.bytes().any(|byte| byte < b' ');
        if bad(&self.fsname) {
            return fail("fsname");
        }
        if self.subtype.as_deref().is_some_and(bad) {
            return fail("subtype");
        }
        Ok(())
    }
}

/// Why requests cannot come over `io_uring`.
#[derive(Debug)]
#[non_exhaustive]
pub enum RingObstacle {
    /// The kernel does not offer it: it is older than 6.14, or the parameter is off.
    NotOffered {
        /// What the parameter `enable_uring` says; None if there is none.
        enabled: Option<bool>,
    },
    /// A ring could not be made (old kernel, `io_uring` not permitted here, no memory).
    Setup(io::Error),
    /// It is not known which processors there are.
    Cpus(io::Error),
    /// [`SessionConfig::max_read`] is below this, and replies to other requests might not fit.
    MaxRead(u32),
    /// The session was begun by another process, with which its rings ended.
    TakenOver,
}

impl fmt::Display for RingObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered { enabled: Some(false) } => f.write_str(
                "it is off (root can allow it: echo Y > /sys/module/fuse/parameters/enable_uring)",
            ),
            Self::NotOffered { .. } => f.write_str("the kernel does not offer it"),
            Self::Setup(error) => write!(f, "io_uring does not work here: {error}"),
            Self::Cpus(error) => write!(f, "cannot count the processors: {error}"),
            Self::MaxRead(least) => write!(f, "max_read is below {least}"),
            Self::TakenOver => f.write_str("a session over io_uring cannot be taken over"),
        }
    }
}

impl From<io::Error> for RingObstacle {
    fn from(error: io::Error) -> Self {
        Self::Setup(error)
    }
}

/// Why a session could not be made or go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// A setting is outside its range: its name.
    Config(&'static str),
    /// Mounting or unmounting failed.
    Mount(MountError),
    /// `/dev/fuse` or something near it failed.
    Device(io::Error),
    /// Not root, and there is no `fusermount3`.
    NoHelper(io::Error),
    /// `fusermount3` refused.
    Helper {
        /// How it ended.
        error: io::Error,
        /// What it said.
        message: String,
    },
    /// The kernel speaks a version of the protocol that is not served.
    Version {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// FUSE over `io_uring` is wanted but cannot be.
    Ring(RingObstacle),
    /// The kernel's first message was not what the protocol says it is.
    Handshake,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(name) => write!(f, "the FUSE setting {name} is out of range"),
            Self::Mount(error) => error.fmt(f),
            Self::Device(error) => write!(f, "FUSE does not work here: {error}"),
            Self::NoHelper(_) => f.write_str(
                "mounting by FUSE needs root or the program fusermount3 (package fuse3), \
                 which is not here",
            ),
            Self::Helper { error, message } if message.is_empty() => {
                write!(f, "the FUSE mount helper failed: {error}")
            }
            Self::Helper { message, .. } => write!(f, "{message}"),
            Self::Version { major, minor } => {
                write!(f, "the kernel's FUSE protocol {major}.{minor} is older than 7.31")
            }
            Self::Ring(obstacle) => write!(f, "no FUSE over io_uring: {obstacle}"),
            Self::Handshake => f.write_str("the kernel's first FUSE message makes no sense"),
        }
    }
}

impl std::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mount(error) => Some(error),
            Self::Device(error)
            | Self::NoHelper(error)
            | Self::Helper { error, .. }
            | Self::Ring(RingObstacle::Setup(error) | RingObstacle::Cpus(error)) => Some(error),
            _ => None,
        }
    }
}
