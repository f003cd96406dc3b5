// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations whose order decides what survives a loss of power.
//!
//! All that is written and must be found again goes through these two traits, so that a test can
//! stand in for the disk and lose whatever was not synced. It refuses to know what is kept.
//! Invariant: names never leave the folder and symbolic links are never followed.

#[cfg(test)]
pub(crate) mod model;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, ResolveFlags};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Open {
    /// It must be there.
    Existing,
    /// It is made if it is not there.
    Create,
    /// It is made empty.
    Empty,
}

/// A folder of few files.
pub(crate) trait Folder: Send + Sync + fmt::Debug {
    /// Its files.
    type File: DiskFile;

    fn open(&self, name: &str, how: Open) -> io::Result<Self::File>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names that were made, changed and removed are durable afterwards.
    fn sync(&self) -> io::Result<()>;
}

/// A file.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to the end of the file; how many bytes there were.
    fn read_up_to(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Bytes and length are durable afterwards.
    fn sync(&self) -> io::Result<()>;
    /// Gives the blocks of a range back; it reads as zeros.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;
}

/// A folder of the system.
#[derive(Debug)]
pub(crate) struct Dir(pub(crate) OwnedFd);

impl Dir {
    /// Opens a folder below this one, and makes it (only for its owner) if it is not there.
    pub(crate) fn enter(&self, name: &str, create: bool) -> io::Result<Self> {
        if create {
            match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(rustix::fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Opens a folder some levels below this one by one call, if the system can; no link is followed.
    pub(crate) fn enter_below(&self, path: &str) -> io::Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), how) {
            Ok(folder) => Ok(Some(Self(folder))),
            // Before Linux 5.6, or forbidden by a filter of system calls.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether `name` is `file`.
    pub(crate) fn is(&self, name: &str, file: &File) -> io::Result<bool> {
        let here = match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let there = rustix::fs::fstat(file)?;
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Names in it.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

impl Folder for Dir {
    type File = File;

    fn open(&self, name: &str, how: Open) -> io::Result<File> {
        let flags = match how {
            Open::Existing => OFlags::empty(),
            Open::Create => OFlags::CREATE,
            Open::Empty => OFlags::CREATE | OFlags::TRUNC,
        };
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

impl DiskFile for File {
    fn read_up_to(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut count = 0;
        while count < bytes.len() {
            match self.read_at(&mut bytes[count..], offset.saturating_add(count as u64)) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = range.end.saturating_sub(range.start);
        Ok(rustix::fs::fallocate(self, flags, range.start, len)?)
    }
}

/// Whether a file was not there.
pub(crate) fn or_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
