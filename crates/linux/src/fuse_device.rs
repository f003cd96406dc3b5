// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/fuse`: opening it and its ioctls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)`.
const CLONE: Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);

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
