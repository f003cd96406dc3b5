// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a mounted tree shows of itself, path by path, with the bytes: for comparing two of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files from this size on are not read: they are holes for the most part.
const CONTENT_MAX: u64 = 1 << 30;

/// Everything about one path that an image keeps.
#[derive(Debug, Eq, PartialEq)]
pub struct Seen {
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    mtime: (i64, i64),
    /// Not of directories, where file systems differ.
    nlink: u64,
    size: u64,
    /// Of a file, or where a link leads.
    pub content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All below `root`, and `root`.
///
/// # Panics
/// If something cannot be read.
#[must_use]
pub fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_file() && metadata.size() < CONTENT_MAX {
            fs::read(&full).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                pending.push(path.join(entry.unwrap().file_name()));
            }
        }
        let directory = kind.is_dir();
        let found = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            rdev: metadata.rdev(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            nlink: if directory { 0 } else { metadata.nlink() },
            size: if directory { 0 } else { metadata.size() },
            content,
            xattrs: xattrs(&full),
        };
        seen.insert(path, found);
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}
