// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that the kernel reads by itself, after asking (fanotify): what whoever answers it holds.
//!
//! Refuses to know how bytes come. Invariant: as long as a hold is there, what was present stays, and
//! nobody but the process that fills for it writes.

use super::files;
use crate::map::{Map, MapState, grains_of};
use crate::{Blob, StoreError};
use rustix::fs::Stat;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Descriptors of a blob's files that another process can make a [`KernelHold`] of.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "descriptors travel one by one")]
pub struct KernelFiles {
    /// The file that the kernel is to read.
    pub data: OwnedFd,
    /// What of it is present.
    pub map: OwnedFd,
    /// By which processes agree.
    pub lock: OwnedFd,
}

/// A blob whose data file the kernel reads after asking. Its locks end with this, not with the
/// process that fills the blob.
#[derive(Debug)]
pub struct KernelHold {
    data: File,
    stat: Stat,
    map: Map,
    map_file: File,
    lock: File,
}

impl Blob {
    /// The files of a blob that was opened for the kernel
    /// ([`Policy::for_kernel`](crate::Policy::for_kernel)).
    pub fn kernel_files(&self) -> Result<KernelFiles, StoreError> {
        use crate::disk::{Folder, Open};
        let fail = StoreError::io(self.id(), "open the files again");
        let files = &self.inner.files;
        let open = || {
            let map = files.folder.open("map", Open::Existing)?;
            let (data, lock) = (files.data.try_clone()?, files.lock.try_clone()?);
            Ok(KernelFiles { data: data.into(), map: map.into(), lock: lock.into() })
        };
        open().map_err(fail)
    }
}

impl KernelHold {
    /// Takes hold of a blob. [`io::ErrorKind::ResourceBusy`]: other processes use it.
    pub fn new(files: KernelFiles) -> io::Result<Self> {
        let (data, map_file) = (File::from(files.data), File::from(files.map));
        // What came along shares its locks with the process that sent it; these are our own.
        let lock = open_again(&files.lock)?;
        if !files::hold_for_kernel(&lock)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let stat = rustix::fs::fstat(&data)?;
        let size = data.metadata()?.len();
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        if !Map::fits(&map_file, size)? {
            return Err(bad());
        }
        let (map, state) = Map::open(&map_file, size)?;
        if state != MapState::Trusted {
            return Err(bad());
        }
        Ok(Self { data, stat, map, map_file, lock })
    }

    /// The files, for a process that may take hold when this one is gone; they have no locks of their
    /// own.
    pub fn files(&self) -> io::Result<KernelFiles> {
        let (data, map) = (self.data.try_clone()?, self.map_file.try_clone()?);
        let lock = open_again(&self.lock)?;
        Ok(KernelFiles { data: data.into(), map: map.into(), lock: lock.into() })
    }

    /// The file that the kernel is to read.
    #[must_use]
    pub const fn data(&self) -> &File {
        &self.data
    }

    /// Whether `file` is that file.
    pub fn is(&self, file: impl AsFd) -> bool {
        rustix::fs::fstat(file)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (self.stat.st_dev, self.stat.st_ino))
    }

    /// Bytes of the blob.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// Whether all of `range`, which may end behind the blob, is present: it stays.
    #[must_use]
    pub fn is_present(&self, range: &Range<u64>) -> bool {
        let end = range.end.min(self.size());
        range.start >= end || self.map.bits().all(grains_of(&(range.start..end)))
    }
}

/// A file opened once more: what is locked by one does not concern the other.
fn open_again(file: &impl AsRawFd) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
