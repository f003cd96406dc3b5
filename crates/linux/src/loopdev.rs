// SPDX-License-Identifier: MIT OR Apache-2.0
//! Read-only loop devices that vanish with their last user.
//!
//! Invariant: a device that is attached is attached to our file with all settings at once
//! (`LOOP_CONFIGURE`, Linux 5.8), so nobody sees it half set up.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter};

const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How often another process may snatch the free device from us before we give up.
const ATTEMPTS_MAX: u32 = 256;

/// An attached loop device, held open.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    _device: OwnedFd,
}

impl LoopDevice {
    /// Attaches a file to a free device.
    pub(crate) fn attach(file: &Path) -> Result<Self, Errno> {
        let backing = open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = open("/dev/loop-control", flags, Mode::empty())?;
        let mut last = Errno::BUSY;
        for _ in 0..ATTEMPTS_MAX {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of ours.
            let number = unsafe { rustix::ioctl::ioctl(&control, GetFree) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            match configure(&device, &backing, file) {
                Ok(()) => return Ok(Self { path, _device: device }),
                // Between asking and attaching, somebody else took it.
                Err(errno @ (Errno::BUSY | Errno::NXIO)) => last = errno,
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    /// The device node.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &OwnedFd, backing: &OwnedFd, file: &Path) -> Result<(), Errno> {
    let mut config = LoopConfig::read_only(backing);
    // Shown by losetup; cut to the field, with a NUL at its end.
    let name = std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str());
    for (to, from) in config.info.file_name.iter_mut().take(63).zip(name) {
        *to = *from;
    }
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout `LoopConfig` has.
    let setter = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: the setter passes a pointer to a live value of that type; the kernel only reads it.
    unsafe { rustix::ioctl::ioctl(device, setter) }
}

/// The ioctl that returns the number of a free device, making one if need be.
struct GetFree;

// SAFETY: the operation takes no argument (null pointer) and its result is the return value.
unsafe impl Ioctl for GetFree {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut libc::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopConfig {
    fn read_only(backing: &OwnedFd) -> Self {
        Self {
            fd: backing.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                sizelimit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        }
    }
}
