// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/cachefiles`: opening it, its messages with the descriptors they bring, and its ioctl.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Opcode};

/// `CACHEFILES_IOC_READ_COMPLETE`: `_IOW(0x98, 1, int)`. The argument is the number itself.
pub const READ_COMPLETE: Opcode = rustix::ioctl::opcode::write::<i32>(0x98, 1);

/// Bytes of a message of type OPEN up to its keys: what must be there to find the descriptor.
const OPEN_HEAD_LEN: usize = 32;

/// The cache's device.
#[derive(Debug)]
pub struct CacheDevice(OwnedFd);

impl CacheDevice {
    /// Opens `/dev/cachefiles`, closed on exec. EBUSY: another process has it. ENOENT: the kernel
    /// has no cachefiles.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/dev/cachefiles", flags, Mode::empty())?))
    }

    /// Takes over a descriptor that another process has kept. Fails unless it is a character device
    /// of the same number as `/dev/cachefiles`, since what it says is believed.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let (ours, known) = (rustix::fs::fstat(&fd)?, rustix::fs::stat("/dev/cachefiles")?);
        if ours.st_rdev != known.st_rdev || ours.st_mode != known.st_mode {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(fd))
    }

    /// One message into `buf`, and the anonymous descriptor that came with it if it is an OPEN.
    /// 0 bytes: no request is waiting.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let len = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *buf))?;
        let word = |at: usize| {
            let bytes = buf.get(at..at.saturating_add(4))?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        // The opcode is 0 for OPEN alone; a shorter message brings no descriptor.
        if len < OPEN_HEAD_LEN || word(4) != Some(0) {
            return Ok((len, None));
        }
        let number = word(24).and_then(|number| RawFd::try_from(number).ok());
        let number = number.filter(|number| *number > 2).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel has just put this descriptor into our table for us alone: it came by
        // reading the cache's own device, which `open` and `adopt` made sure of.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        // Otherwise every program that is started would keep the object open.
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok((len, Some(fd)))
    }

    /// Writes one command.
    pub fn command(&self, text: &[u8]) -> io::Result<()> {
        let len = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, text))?;
        if len == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl AsFd for CacheDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells the kernel that the READ of this number has been served through `object`, its anonymous
/// descriptor. ENOENT or EINVAL: nobody waits for it any more.
pub fn read_complete(object: impl AsFd, id: u32) -> io::Result<()> {
    // SAFETY: this ioctl takes the number as a value, no pointer.
    let setter = unsafe { IntegerSetter::<READ_COMPLETE>::new_usize(id as usize) };
    // SAFETY: as above; on other files than the cache's it is an unknown number and fails.
    Ok(unsafe { rustix::ioctl::ioctl(object, setter) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_has_its_number() {
        assert_eq!(READ_COMPLETE, 0x4004_9801);
        let file = tempfile::tempfile().unwrap();
        assert!(read_complete(&file, 1).is_err());
    }

    #[test]
    fn another_file_is_not_adopted() {
        assert!(CacheDevice::adopt(tempfile::tempfile().unwrap().into()).is_err());
    }
}
