// SPDX-License-Identifier: MIT OR Apache-2.0
//! EROFS mounts by the kernel, and unmounting.
//!
//! Knows which kinds of source the kernel's EROFS takes: files and block devices, never mixed. A
//! file is mounted as it is; loop devices are for files whose file system cannot back a mount
//! (tmpfs, overlay) and for kernels before 6.12.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatFs, StatxFlags};
use rustix::io::Errno;

use crate::fsmount::{FsMount, MountError, MountFlags, MountStep, Parameter, open_directory};
use crate::loopdev::LoopDevice;

/// An EROFS image to mount.
#[derive(Clone, Debug, Default)]
pub struct MountRequest {
    /// The image: a file or a block device.
    pub source: PathBuf,
    /// The directory to mount on.
    pub target: PathBuf,
    /// Further devices of the image, in the order of its device table.
    pub devices: Vec<PathBuf>,
    /// Options for EROFS itself, as `("cache_strategy", Some("readaround"))`.
    pub options: Vec<(String, Option<String>)>,
    /// Attributes of the mount point.
    pub flags: MountFlags,
}

/// How an image was mounted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MountHow {
    /// The kernel reads the files themselves.
    FileBacked,
    /// The kernel reads through loop devices.
    Loop,
    /// The sources were block devices.
    BlockDevice,
}

/// A mount that was made. It stays when this is dropped.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// How.
    pub how: MountHow,
    /// Loop devices in use, which vanish by themselves upon unmount.
    pub loop_devices: Vec<PathBuf>,
}

/// How to unmount.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UnmountFlags {
    /// Detach now, clean up when the last user is gone.
    pub lazy: bool,
    /// Abort requests that hang (network file systems, FUSE).
    pub force: bool,
}

/// Mounts an EROFS image by the kernel.
pub fn mount_erofs(request: &MountRequest) -> Result<Mounted, MountError> {
    check_target(&request.target)?;
    let source = absolute(&request.source)?;
    let devices = request.devices.iter().map(|path| absolute(path));
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    let all = || std::iter::once(&source).chain(&devices);
    let blocks = all().map(|path| is_block_device(path)).collect::<Result<Vec<_>, _>>()?;
    if blocks.iter().all(|&block| block) {
        mount_paths(request, &source, &devices)?;
        return Ok(Mounted { how: MountHow::BlockDevice, loop_devices: Vec::new() });
    }
    if !blocks.contains(&true) {
        match mount_paths(request, &source, &devices) {
            Ok(()) => {
                return Ok(Mounted { how: MountHow::FileBacked, loop_devices: Vec::new() });
            }
            Err(error) if error.step != MountStep::Create => return Err(error),
            // ENOTBLK speaks of the image; a device that cannot back a mount gives EINVAL.
            Err(error) if error.is(Errno::NOTBLK) => {}
            Err(error) if error.is(Errno::INVAL) && devices.iter().any(|p| needs_loop(p)) => {}
            Err(error) => return Err(error),
        }
    }
    mount_by_loop(request, &source, &devices, &blocks)
}

/// As [`mount_erofs`], on files as they are or not at all.
pub fn mount_erofs_on_files(request: &MountRequest) -> Result<(), MountError> {
    check_target(&request.target)?;
    mount_paths(request, &request.source, &request.devices)
}

/// Unmounts `target`. A symbolic link at its end is not followed.
pub fn unmount(target: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    let mut bits = rustix::mount::UnmountFlags::NOFOLLOW;
    bits.set(rustix::mount::UnmountFlags::DETACH, flags.lazy);
    bits.set(rustix::mount::UnmountFlags::FORCE, flags.force);
    rustix::mount::unmount(target, bits)
        .map_err(|errno| MountError::new(MountStep::Unmount, errno, target))
}

/// Whether `target` is a directory that can be mounted on; gives a descriptor of it.
pub fn check_target(target: &Path) -> Result<OwnedFd, MountError> {
    let fail = |errno| MountError::new(MountStep::Target, errno, target);
    let directory = open_directory(target).map_err(fail)?;
    // A dead FUSE mount can be opened so, and what the kernel remembers of it be read; but not be
    // asked anything.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    match rustix::fs::statx(&directory, "", flags, StatxFlags::BASIC_STATS) {
        Ok(_) | Err(Errno::NOSYS) => Ok(directory),
        Err(errno) => Err(fail(errno)),
    }
}

/// Mounts the image by loop devices, where a source is not a block device already.
fn mount_by_loop(
    request: &MountRequest,
    source: &Path,
    devices: &[PathBuf],
    blocks: &[bool],
) -> Result<Mounted, MountError> {
    // Kept open until the mount holds them: they vanish with their last user.
    let mut loops = Vec::new();
    let mut paths = Vec::new();
    for (path, &block) in
        std::iter::once(source).chain(devices.iter().map(PathBuf::as_path)).zip(blocks)
    {
        if block {
            paths.push(path.to_path_buf());
            continue;
        }
        let device = LoopDevice::attach(path)
            .map_err(|errno| MountError::new(MountStep::Loop, errno, path))?;
        paths.push(device.path().to_path_buf());
        loops.push(device);
    }
    let (first, rest) = paths.split_first().expect("the image itself is one");
    mount_paths(request, first, rest)?;
    let loop_devices = loops.iter().map(|device| device.path().to_path_buf()).collect();
    Ok(Mounted { how: MountHow::Loop, loop_devices })
}

fn mount_paths(
    request: &MountRequest,
    source: &Path,
    devices: &[PathBuf],
) -> Result<(), MountError> {
    let devices = devices.iter().map(|path| Parameter::Value("device", OsString::from(path)));
    let options = request.options.iter().map(|(name, value)| match value {
        Some(value) => Parameter::Value(name, OsString::from(value)),
        None => Parameter::Flag(name),
    });
    let mount = FsMount {
        fs_type: "erofs",
        source: source.as_os_str(),
        parameters: devices.chain(options).collect(),
        flags: request.flags,
    };
    mount.mount(&request.target)
}

/// The path from the root, so that `/proc/mounts` shows something of use to others.
fn absolute(path: &Path) -> Result<PathBuf, MountError> {
    std::path::absolute(path)
        .map_err(|_| MountError::new(MountStep::Source, Errno::NOENT, OsStr::new(path)))
}

fn is_block_device(path: &Path) -> Result<bool, MountError> {
    let stat =
        rustix::fs::stat(path).map_err(|errno| MountError::new(MountStep::Source, errno, path))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(true),
        FileType::RegularFile => Ok(false),
        FileType::Directory => Err(MountError::new(MountStep::Source, Errno::ISDIR, path)),
        _ => Err(MountError::new(MountStep::Source, Errno::INVAL, path)),
    }
}

/// Whether a file is where EROFS cannot read it without a loop device.
fn needs_loop(path: &Path) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    const OVERLAY: u32 = 0x794c_7630;
    let magic = |stat: StatFs| stat.f_type as u32;
    rustix::fs::statfs(path).is_ok_and(|stat| matches!(magic(stat), TMPFS | RAMFS | OVERLAY))
}
