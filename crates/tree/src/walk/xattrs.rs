// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading the xattrs of directory entries without following symlinks.
//!
//! The calls take paths only. A path from the root as given is the cheapest; where it would be too
//! long, the open directory is named through /proc.

use core::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::Xattr;

/// The system's limit for a list of names and for a value.
const SIZE_MAX: usize = 65536;
/// Paths up to this length go to the system directly.
const PATH_LEN_MAX: usize = 4000;

/// Reads xattrs; keeps its buffers.
pub(super) struct XattrReader {
    root: Vec<u8>,
    enabled: bool,
    path: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl core::fmt::Debug for XattrReader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("XattrReader").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

impl XattrReader {
    pub(super) fn new(root: &Path, enabled: bool) -> Self {
        let buffer = || if enabled { vec![0; SIZE_MAX] } else { Vec::new() };
        Self {
            root: root.as_os_str().as_bytes().to_vec(),
            enabled,
            path: Vec::new(),
            names: buffer(),
            value: buffer(),
        }
    }

    /// All xattrs of `name` in the open `directory`; `path` is its path from the root.
    pub(super) fn read(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
    ) -> rustix::io::Result<Vec<Xattr>> {
        if !self.enabled {
            return Ok(Vec::new());
        }
        self.path.clear();
        if self.root.len() + path.len() < PATH_LEN_MAX {
            self.path.extend_from_slice(&self.root);
            self.path.push(b'/');
            self.path.extend_from_slice(path);
        } else {
            let through = format!("/proc/self/fd/{}/", directory.as_raw_fd());
            self.path.extend_from_slice(through.as_bytes());
            self.path.extend_from_slice(name.to_bytes());
        }
        let len = match llistxattr(&*self.path, &mut self.names[..]) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            result => result?,
        };
        let mut xattrs = Vec::new();
        for name in self.names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            match lgetxattr(&*self.path, name, &mut self.value[..]) {
                Ok(len) => {
                    xattrs.push(Xattr { name: name.to_vec(), value: self.value[..len].to_vec() });
                }
                // Listed, yet not there for us: namespaces that hide themselves.
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(xattrs)
    }
}
