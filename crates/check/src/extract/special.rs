// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making entries: directories, files, symbolic links, device nodes, FIFOs, sockets, hard links;
//! and replacing what exists, if that is allowed.

use super::attributes::On;
use super::problem::Failure;
use super::walk::Job;
use crate::dirs::Dir;
use ferrofs_image::Inode;
use ferrofs_image::format::inode::FileType;
use ferrofs_linux::at::{self, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

impl Job<'_> {
    /// Makes a directory for `inode`. With overwriting, one that exists will do.
    pub(super) fn make_directory(
        &self,
        fd: impl AsFd,
        name: &[u8],
        inode: &Inode,
    ) -> io::Result<()> {
        let (fd, name) = (fd.as_fd(), OsStr::from_bytes(name));
        let mode = self.policy.first_mode(inode);
        match at::mkdir(fd, name, mode) {
            Err(error)
                if self.options.overwrite && error.kind() == io::ErrorKind::AlreadyExists =>
            {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                if at::open_beneath(fd, Path::new(name), flags, Mode::empty()).is_ok() {
                    return Ok(());
                }
                at::unlink(fd, name)?;
                at::mkdir(fd, name, mode)
            }
            result => result,
        }
    }

    /// Makes a new regular file, open for writing.
    pub(super) fn create(&self, fd: impl AsFd, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
        let (fd, name) = (fd.as_fd(), OsStr::from_bytes(name));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        self.replacing(fd, name, || {
            // The name is one component: no "/" and not "..".
            if name.as_bytes().contains(&b'/') || matches!(name.as_bytes(), b"" | b"." | b"..") {
                return Err(Errno::INVAL.into());
            }
            at::open_beneath(fd, Path::new(name), flags, Mode::from_raw_mode(mode))
        })
    }

    pub(super) fn make_link(
        &self,
        from: &OwnedFd,
        old: &[u8],
        fd: &OwnedFd,
        name: &[u8],
    ) -> io::Result<()> {
        let (old, name) = (OsStr::from_bytes(old), OsStr::from_bytes(name));
        self.replacing(fd, name, || at::link(from, old, fd, name))
    }

    /// Makes anything but a directory, regular file or hard link.
    pub(super) fn special(
        &self,
        dir: &Arc<Dir>,
        fd: &OwnedFd,
        name: &[u8],
        inode: &Inode,
    ) -> Result<(), Failure> {
        let at_name = OsStr::from_bytes(name);
        if inode.file_type == FileType::Symlink {
            let target = self.image().readlink(inode)?;
            self.replacing(fd, at_name, || at::symlink(OsStr::from_bytes(&target), fd, at_name))?;
        } else {
            let mode = u32::from(inode.file_type.mode_bits()) | self.policy.first_mode(inode);
            let (major, minor) = inode.rdev();
            let rdev = rustix::fs::makedev(major, minor);
            self.replacing(fd, at_name, || at::mknod(fd, at_name, mode, rdev))?;
        }
        self.set_attributes(On::Name(fd.as_fd(), at_name), inode, |kind, text, errno| {
            self.problem(dir, Some((name, inode.nid)), kind, text, errno);
        });
        Ok(())
    }

    /// Runs `make`, which fails if the name is taken; with overwriting, removes what has it and
    /// tries again. What is removed is never a directory.
    fn replacing<T>(
        &self,
        fd: impl AsFd,
        name: &OsStr,
        make: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        match make() {
            Err(error)
                if self.options.overwrite && error.kind() == io::ErrorKind::AlreadyExists =>
            {
                at::unlink(fd, name)?;
                make()
            }
            result => result,
        }
    }
}
