// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content of the files of a walked directory.

use core::ops::Range;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{SeekFrom, Stat, Statx, fstat, makedev, seek};
use rustix::io::Errno;

use super::dirfd;
use crate::{Change, Content, Error, FileData, InodeId, Result, Source, Timestamp, Tree};

/// What told a file from all others when it was walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    device: u64,
    ino: u64,
    mtime: Timestamp,
}

impl Origin {
    pub(super) fn new(stat: &Statx) -> Self {
        Self {
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            mtime: Timestamp {
                seconds: stat.stx_mtime.tv_sec,
                nanoseconds: stat.stx_mtime.tv_nsec,
            },
        }
    }
}

/// Reads the files of one walked directory.
#[derive(Debug)]
pub struct DirectorySource {
    root: OwnedFd,
    root_path: PathBuf,
    origins: Vec<Origin>,
}

impl DirectorySource {
    pub(super) fn new(root: OwnedFd, root_path: PathBuf, origins: Vec<Origin>) -> Self {
        Self { root, root_path, origins }
    }
}

impl Source for DirectorySource {
    fn open<'a>(&'a self, tree: &'a Tree, file: InodeId) -> Result<Box<dyn FileData + 'a>> {
        let path = tree.path(file);
        let full = || self.root_path.join(OsStr::from_bytes(&path));
        let Content::File { origin, size, .. } = tree.content(file) else {
            return Err(Error::Changed { path: full(), what: Change::Identity });
        };
        let fd = dirfd::open_file(&self.root, &path).map_err(|error| match error {
            // Gone, or its place is taken by something else.
            Errno::NOENT | Errno::LOOP | Errno::NXIO => {
                Error::Changed { path: full(), what: Change::Identity }
            }
            error => Error::io("open", &full(), error),
        })?;
        let origin = self.origins[origin as usize];
        let mut data =
            WalkedFile { file: File::from(fd), origin, size, tree, id: file, source: self };
        data.verify()?;
        Ok(Box::new(data))
    }
}

/// An open file and what it should be.
struct WalkedFile<'a> {
    file: File,
    origin: Origin,
    size: u64,
    tree: &'a Tree,
    id: InodeId,
    source: &'a DirectorySource,
}

impl WalkedFile<'_> {
    fn path(&self) -> PathBuf {
        self.source.root_path.join(OsStr::from_bytes(&self.tree.path(self.id)))
    }

    fn difference(&self, stat: &Stat) -> Option<Change> {
        let now = stat.st_size as u64;
        if (stat.st_dev, stat.st_ino) != (self.origin.device, self.origin.ino) {
            Some(Change::Identity)
        } else if now != self.size {
            Some(Change::Size { walked: self.size, now })
        } else if (stat.st_mtime, stat.st_mtime_nsec as u32)
            != (self.origin.mtime.seconds, self.origin.mtime.nanoseconds)
        {
            Some(Change::Time)
        } else {
            None
        }
    }
}

impl FileData for WalkedFile<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    let what = Change::Truncated { at: offset + done as u64 };
                    return Err(Error::Changed { path: self.path(), what });
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path(), error)),
            }
        }
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.size {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // File systems that do not know holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..self.size)),
            Err(error) => return Err(Error::io("find data in", &self.path(), error)),
        };
        if start >= self.size {
            return Ok(None);
        }
        let end = seek(&self.file, SeekFrom::Hole(start))
            .map_err(|error| Error::io("find a hole in", &self.path(), error))?;
        Ok(Some(start..end.min(self.size)))
    }

    fn verify(&mut self) -> Result<()> {
        let stat = fstat(&self.file).map_err(|error| Error::io("stat", &self.path(), error))?;
        match self.difference(&stat) {
            None => Ok(()),
            Some(what) => Err(Error::Changed { path: self.path(), what }),
        }
    }
}
