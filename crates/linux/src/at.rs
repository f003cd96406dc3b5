// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making and opening files relative to a directory, never outside it.
//!
//! For extraction of hostile archives: [`open_beneath`] follows no symbolic link and no "..", and
//! the other calls take one name, not a path. Refuses to know what is extracted.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Gid, ResolveFlags, Timespec, Timestamps, Uid};
pub use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How often a lookup that another process disturbed is tried again.
const RETRIES_MAX: u32 = 16;

/// Opens `path` below `directory`. Fails with `ELOOP` on a symbolic link anywhere in the path and
/// with `EXDEV` on a path that leads out. An empty path or "." opens the directory itself.
pub fn open_beneath(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RETRIES_MAX {
        match rustix::fs::openat2(&directory, path, flags, mode, resolve) {
            // Something was renamed while the kernel looked; it cannot tell what that means.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => return open_by_steps(directory.as_fd(), path, flags, mode),
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// The same without openat2 (Linux 5.6): one component after the other.
fn open_by_steps(
    directory: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => components.push(name),
            _ => return Err(Errno::XDEV.into()),
        }
    }
    let (last, parents) = match components.split_last() {
        Some((last, parents)) => (*last, parents),
        None => (OsStr::new("."), &[][..]),
    };
    let mut place = rustix::fs::openat(directory, ".", step, Mode::empty())?;
    for name in parents {
        // A link gives ENOTDIR here, with O_DIRECTORY: the same refusal under another name.
        place = rustix::fs::openat(&place, *name, step, Mode::empty())?;
    }
    let opened = rustix::fs::openat(&place, last, flags | OFlags::NOFOLLOW, mode)?;
    // With O_PATH a link itself would be opened.
    let stat = rustix::fs::fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    Ok(opened)
}

/// Makes a directory.
pub fn mkdir(directory: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(directory, one(name)?, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Makes a special file or an empty regular one. `mode` has the type and the permissions, as
/// `st_mode`; `rdev` is as `st_rdev`.
pub fn mknod(directory: impl AsFd, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
    let kind = FileType::from_raw_mode(mode);
    let mode = Mode::from_raw_mode(mode & 0o7777);
    Ok(rustix::fs::mknodat(directory, one(name)?, kind, mode, rdev)?)
}

/// Makes a symbolic link that holds `target`.
pub fn symlink(target: &OsStr, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, directory, one(name)?)?)
}

/// Makes a hard link to `old_name`, which is not followed if it is a symbolic link.
pub fn link(
    old_directory: impl AsFd,
    old_name: &OsStr,
    directory: impl AsFd,
    name: &OsStr,
) -> io::Result<()> {
    let flags = AtFlags::empty();
    Ok(rustix::fs::linkat(old_directory, one(old_name)?, directory, one(name)?, flags)?)
}

/// Sets owner and group, of a symbolic link itself too. Clears set-user-ID bits, so modes come
/// after.
pub fn chown(directory: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = ids(uid, gid)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(directory, one(name)?, Some(uid), Some(gid), flags)?)
}

/// Sets owner and group of an open file.
pub fn fchown(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = ids(uid, gid)?;
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

/// Sets the permission bits (12 of them) of an open file.
pub fn fchmod(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Sets the permission bits of what `name` is, without following a symbolic link, which has none:
/// that gives `EOPNOTSUPP`.
pub fn chmod(directory: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, one(name)?, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP.into());
    }
    // fchmod refuses O_PATH descriptors and fchmodat2 is younger than Linux 6.6.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Sets times of access and content, in seconds and nanoseconds, of a symbolic link itself too.
pub fn set_times(
    directory: impl AsFd,
    name: &OsStr,
    atime: (i64, u32),
    mtime: (i64, u32),
) -> io::Result<()> {
    let times = timestamps(atime, mtime)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(directory, one(name)?, &times, flags)?)
}

/// Sets times of access and content of an open file.
pub fn fset_times(file: impl AsFd, atime: (i64, u32), mtime: (i64, u32)) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(atime, mtime)?)?)
}

/// A new file without a name, in the file system of `directory`, open for reading and writing.
/// `EOPNOTSUPP` where the file system has no such thing.
pub fn create_unnamed(directory: impl AsFd, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match rustix::fs::openat(directory, ".", flags, mode) {
        // What kernels and file systems that do not know O_TMPFILE make of its bits.
        Err(Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Err(Errno::OPNOTSUPP.into()),
        result => Ok(result?),
    }
}

/// Gives a file made by [`create_unnamed`] its name. Fails with `EEXIST` if the name is taken.
pub fn link_unnamed(file: impl AsFd, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    // The way that needs no privilege.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(CWD, path, directory, one(name)?, flags)?)
}

/// Renames within one directory, over what has the new name already.
pub fn rename(directory: impl AsFd, from: &OsStr, to: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::renameat(&directory, one(from)?, &directory, one(to)?)?)
}

/// Removes a name that is not a directory's.
pub fn unlink(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, one(name)?, AtFlags::empty())?)
}

/// Refuses what is more than one name.
pub(crate) fn one(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

fn ids(uid: u32, gid: u32) -> io::Result<(Uid, Gid)> {
    // This number means "leave as it is" to the kernel.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL.into());
    }
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn timestamps(atime: (i64, u32), mtime: (i64, u32)) -> io::Result<Timestamps> {
    let spec = |(seconds, nanoseconds): (i64, u32)| {
        // Larger numbers mean "now" and "leave as it is".
        if nanoseconds > 999_999_999 {
            return Err(io::Error::from(Errno::INVAL));
        }
        Ok(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
    };
    Ok(Timestamps { last_access: spec(atime)?, last_modification: spec(mtime)? })
}

#[cfg(test)]
mod tests;
