// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/fuse`: opening it and its ioctls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)`.
const CLONE: Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `FUSE_DEV_IOC_BACKING_OPEN`: `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::c_ulong = rustix::ioctl::opcode::write::<BackingMap>(229, 1) as _;
/// `FUSE_DEV_IOC_BACKING_CLOSE`: `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::c_ulong = rustix::ioctl::opcode::write::<u32>(229, 2) as _;

/// Lets files of the session be opened as `file`, by the number returned, until it is closed. Needs
/// root and Linux 6.9.
pub fn open_backing(session: impl AsFd, file: impl AsFd) -> io::Result<i32> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: both descriptors are open for the call, which only reads the structure that it is told
    // of, and that has the form it wants.
    let id = unsafe { libc::ioctl(session.as_fd().as_raw_fd(), BACKING_OPEN, &raw const map) };
    if id < 0 { Err(io::Error::last_os_error()) } else { Ok(id) }
}

/// No more files are opened by this number; those that are stay.
pub fn close_backing(session: impl AsFd, id: i32) -> io::Result<()> {
    let id = id.cast_unsigned();
    // SAFETY: the descriptor is open for the call, which only reads the number that it is told of.
    let result = unsafe { libc::ioctl(session.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens `/dev/fuse`; a mount is made with the descriptor.
pub fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/fuse", flags, Mode::empty())?)
}

/// Whether the kernel offers requests over `io_uring`, which only its administrator decides. None
/// where there is no such choice: a kernel before 6.14, or the module `fuse` not loaded yet.
pub fn uring_enabled() -> Option<bool> {
    let text = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring").ok()?;
    Some(text.trim_end() == "Y")
}

/// A further channel of the session that `session` belongs to.
pub fn clone(session: impl AsFd) -> io::Result<OwnedFd> {
    let channel = open()?;
    let number = session.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: this ioctl reads one u32 at the address given, whatever its direction bits say.
    let setter = unsafe { Setter::<CLONE, u32>::new(number) };
    // SAFETY: the setter passes a pointer to a live u32; the kernel only reads it.
    unsafe { rustix::ioctl::ioctl(&channel, setter) }?;
    Ok(channel)
}
