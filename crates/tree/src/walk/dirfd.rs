// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening below a root directory, by paths of any length, never through a symlink.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;

use crate::{Error, Result};

/// Longest piece of a path given to the system at once; it takes 4,096 bytes with the NUL.
const PIECE_MAX: usize = 4000;

pub(super) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR => Error::NotADirectory { path: path.to_owned() },
        error => Error::io("open", path, error),
    })
}

pub(super) fn open_directory(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open_below(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
}

pub(super) fn open_file(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    // NONBLOCK, so that a FIFO that took the file's name cannot hang us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open_below(root, path, flags)
}

/// Opens `path` (no slash in front; empty = the root itself) below `root`.
fn open_below(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > PIECE_MAX {
        let cut = rest[..PIECE_MAX].iter().rposition(|&byte| byte == b'/');
        // A name has at most 255 bytes, so there is a slash.
        let cut = cut.ok_or(Errno::NAMETOOLONG)?;
        let at = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = Some(open_piece(at, &rest[..cut], flags)?);
        rest = &rest[cut + 1..];
    }
    let at = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    open_piece(at, if rest.is_empty() { b"." } else { rest }, flags)
}

fn open_piece(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(at, path, flags, Mode::empty(), resolve) {
        // Refused by old kernels and by some container sandboxes.
        Err(Errno::NOSYS | Errno::PERM) => {
            openat(at, path, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        result => result,
    }
}
