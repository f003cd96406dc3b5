// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both ends: the part of the image to unpack, and the directory for it.

use crate::{Error, RawPath, Result};
use ferrofs_image::{Image, Inode};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names and inodes from the root down to `path`.
pub(super) fn trail(image: &Image, path: &[u8]) -> Result<Vec<(Vec<u8>, Inode)>> {
    let mut trail = vec![(vec![], image.inode(image.root())?)];
    for name in path.split(|&byte| byte == b'/') {
        if matches!(name, b"" | b".") {
            continue;
        }
        let failed = |source| Error::Path { path: RawPath::from(path), source };
        if name == b".." {
            return Err(failed(ferrofs_image::Error::NotFound));
        }
        let (_, parent) = trail[trail.len() - 1];
        let entry = image.directory(&parent).and_then(|directory| directory.lookup(name));
        let entry = entry.and_then(|entry| entry.ok_or(ferrofs_image::Error::NotFound));
        let inode = entry.and_then(|entry| image.inode(entry.nid)).map_err(failed)?;
        trail.push((name.to_vec(), inode));
    }
    Ok(trail)
}

/// Opens the target, makes it if it is missing.
pub(super) fn open_target(target: &Path, overwrite: bool) -> Result<OwnedFd> {
    let path = || RawPath::from(target.as_os_str().as_bytes());
    let failed = |doing, source| Error::Io { doing, path: path(), source };
    match std::fs::create_dir(target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = std::fs::read_dir(target).map_err(|error| failed("read", error))?;
            if !overwrite && entries.next().is_some() {
                return Err(Error::NotEmpty { path: path() });
            }
        }
        Err(error) => return Err(failed("make directory", error)),
    }
    File::open(target).map(OwnedFd::from).map_err(|error| failed("open", error))
}
