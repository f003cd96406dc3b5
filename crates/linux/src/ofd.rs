// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks of byte ranges that belong to an open file description.
//!
//! Unlike the older locks of a process they end with the last descriptor of the description, so
//! also when the process is killed, and two descriptions in one process exclude each other. What it
//! refuses to know: what a byte stands for. Invariant: nothing here waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How a range is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "as fcntl(2) knows it")]
pub enum OfdLock {
    /// By several at once; the descriptor must be readable.
    Shared,
    /// By one; the descriptor must be writable.
    Exclusive,
}

/// Takes `len` bytes from `start` on; whether nobody else holds a part of them in the way. What the
/// description held of them before is converted.
pub fn try_lock(file: impl AsFd, start: u64, len: u64, how: OfdLock) -> io::Result<bool> {
    let kind = match how {
        OfdLock::Shared => libc::F_RDLCK,
        OfdLock::Exclusive => libc::F_WRLCK,
    };
    let mut lock = describe(start, len, kind)?;
    match control(&file, libc::F_OFD_SETLK, &mut lock) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Gives `len` bytes from `start` on back, held or not.
pub fn unlock(file: impl AsFd, start: u64, len: u64) -> io::Result<()> {
    control(&file, libc::F_OFD_SETLK, &mut describe(start, len, libc::F_UNLCK)?)
}

/// Whether another description holds a part of `len` bytes from `start` on, in whatever way.
pub fn is_locked(file: impl AsFd, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = describe(start, len, libc::F_WRLCK)?;
    control(&file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn describe(start: u64, len: u64, kind: i32) -> io::Result<libc::flock> {
    let number = |value: u64| {
        libc::off_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    if len == 0 {
        // To fcntl(2) it would mean: to the end of all files.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: number(start)?,
        l_len: number(len)?,
        l_pid: 0,
    })
}

fn control(file: &impl AsFd, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, the command is one of the three
    // that take a `struct flock`, and `lock` is one that lives and may be written for the call.
    let result =
        unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn descriptions_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let (a, b) = (open().unwrap(), open().unwrap());
        assert!(try_lock(&a, 10, 10, OfdLock::Exclusive).unwrap());
        assert!(!try_lock(&b, 19, 1, OfdLock::Shared).unwrap());
        assert!(try_lock(&b, 20, 1, OfdLock::Exclusive).unwrap());
        assert!(is_locked(&b, 0, 100).unwrap());
        assert!(!is_locked(&b, 0, 10).unwrap());
        assert!(try_lock(&a, 15, 5, OfdLock::Shared).unwrap());
        assert!(try_lock(&b, 15, 5, OfdLock::Shared).unwrap());
        unlock(&a, 10, 10).unwrap();
        assert!(try_lock(&b, 10, 10, OfdLock::Exclusive).unwrap());
        drop(b);
        assert!(!is_locked(&a, 0, 100).unwrap(), "ends with the descriptor");
        assert!(try_lock(&a, 0, 0, OfdLock::Shared).is_err());
        assert!(try_lock(&a, u64::MAX, 1, OfdLock::Shared).is_err());
    }
}
