// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended attributes of directory entries and open files, symbolic links included.
//!
//! The kernel has no such calls relative to a directory; here they go through
//! `/proc/self/fd/N/name`, which opens nothing and follows no link at the end. Names are whole, as
//! `user.comment`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::at::one;

/// The largest value and the longest list, as Linux has them.
const LEN_MAX: usize = 65536;
/// Enough for most, so that one call does.
const LEN_FIRST: usize = 512;

/// Appends the names of a directory entry's attributes to `names`, each ended by a NUL. None where
/// the file system has no attributes.
pub fn list_at(directory: impl AsFd, name: &OsStr, names: &mut Vec<u8>) -> io::Result<()> {
    let path = path_at(directory, name)?;
    none_if_unsupported(fill(names, |buf| rustix::fs::llistxattr(path.as_slice(), buf)))
}

/// Appends the value of a directory entry's attribute to `value`. False if there is none.
pub fn get_at(
    directory: impl AsFd,
    name: &OsStr,
    key: &[u8],
    value: &mut Vec<u8>,
) -> io::Result<bool> {
    let path = path_at(directory, name)?;
    found(fill(value, |buf| rustix::fs::lgetxattr(path.as_slice(), key, buf)))
}

/// Sets an attribute of a directory entry.
pub fn set_at(directory: impl AsFd, name: &OsStr, key: &[u8], value: &[u8]) -> io::Result<()> {
    let path = path_at(directory, name)?;
    Ok(rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty())?)
}

/// Appends the names of an open file's attributes, as [`list_at`].
pub fn list(file: impl AsFd, names: &mut Vec<u8>) -> io::Result<()> {
    let file = file.as_fd();
    let result = fill(names, |buf| match rustix::fs::flistxattr(file, &mut *buf) {
        Err(Errno::BADF) => rustix::fs::listxattr(path_of(file), buf),
        result => result,
    });
    none_if_unsupported(result)
}

/// Appends the value of an open file's attribute, as [`get_at`]. The file may be open with
/// `O_PATH`.
pub fn get(file: impl AsFd, key: &[u8], value: &mut Vec<u8>) -> io::Result<bool> {
    let file = file.as_fd();
    found(fill(value, |buf| match rustix::fs::fgetxattr(file, key, &mut *buf) {
        Err(Errno::BADF) => rustix::fs::getxattr(path_of(file), key, buf),
        result => result,
    }))
}

/// Sets an attribute of an open file, which may be open with `O_PATH`.
pub fn set(file: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let file = file.as_fd();
    let flags = XattrFlags::empty();
    Ok(match rustix::fs::fsetxattr(file, key, value, flags) {
        Err(Errno::BADF) => rustix::fs::setxattr(path_of(file), key, value, flags),
        result => result,
    }?)
}

/// The names in a list as [`list_at`] gives it.
pub fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0).filter(|name| !name.is_empty())
}

fn path_at(directory: impl AsFd, name: &OsStr) -> io::Result<Vec<u8>> {
    let mut path = path_of(directory).into_bytes();
    path.push(b'/');
    path.extend_from_slice(one(name)?.as_bytes());
    Ok(path)
}

fn path_of(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Appends what `call` puts into a buffer, with a larger one if need be.
fn fill(
    to: &mut Vec<u8>,
    mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    let start = to.len();
    let mut room = LEN_FIRST;
    loop {
        to.resize(start.saturating_add(room), 0);
        let result = call(to.get_mut(start..).unwrap_or_default());
        to.truncate(start.saturating_add(*result.as_ref().unwrap_or(&0)));
        match result {
            Ok(_) => return Ok(()),
            Err(Errno::RANGE) if room < LEN_MAX => room = LEN_MAX,
            Err(errno) => return Err(errno),
        }
    }
}

fn none_if_unsupported(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn found(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    #[test]
    fn attributes_of_entries_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        let (name, path) = (OsStr::new("file"), directory.path().join("file"));
        fs::write(&path, "").unwrap();
        let large = vec![b'x'; 3000];
        if let Err(error) = set_at(&handle, name, b"user.small", b"1") {
            return println!("skipped: no attributes here: {error}");
        }
        set_at(&handle, name, b"user.large", &large).unwrap();
        let file = File::open(&path).unwrap();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let bare = rustix::fs::openat(CWD, &path, flags, Mode::empty()).unwrap();
        set(&bare, b"user.empty", b"").unwrap();
        for file in [file.as_fd(), bare.as_fd()] {
            let mut list_of_names = b"kept".to_vec();
            list(file, &mut list_of_names).unwrap();
            let (kept, list_of_names) = list_of_names.split_at(4);
            assert_eq!(kept, b"kept");
            let mut all: Vec<_> = names(list_of_names).collect();
            all.sort_unstable();
            all.retain(|name| name.starts_with(b"user."));
            assert_eq!(all, [&b"user.empty"[..], b"user.large", b"user.small"]);
            let mut value = Vec::new();
            assert!(get(file, b"user.large", &mut value).unwrap());
            assert_eq!(value, large);
            value.clear();
            assert!(get(file, b"user.empty", &mut value).unwrap());
            assert!(!get(file, b"user.none", &mut value).unwrap());
            assert!(value.is_empty());
        }
        let mut list_of_names = Vec::new();
        list_at(&handle, name, &mut list_of_names).unwrap();
        assert!(names(&list_of_names).any(|name| name == b"user.small"));
        let mut value = Vec::new();
        assert!(get_at(&handle, name, b"user.small", &mut value).unwrap());
        assert_eq!(value, b"1");
        assert!(get_at(&handle, OsStr::new("a/b"), b"user.small", &mut value).is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
        let mut list_of_names = Vec::new();
        list_at(&handle, OsStr::new("link"), &mut list_of_names).unwrap();
        assert!(!names(&list_of_names).any(|name| name.starts_with(b"user.")));
        if rustix::process::geteuid().is_root() {
            match set_at(&handle, OsStr::new("link"), b"trusted.t", b"v") {
                Ok(()) => {
                    let mut value = Vec::new();
                    let link = OsStr::new("link");
                    assert!(get_at(&handle, link, b"trusted.t", &mut value).unwrap());
                    assert_eq!(value, b"v");
                }
                Err(error) => println!("skipped: no trusted attributes here: {error}"),
            }
        } else {
            println!("skipped: attributes of links need root");
        }
    }
}
