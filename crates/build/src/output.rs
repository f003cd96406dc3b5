// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file an image is written to: it has no name, or a temporary one, until it is complete.
//!
//! Invariant: under the final name there is either what was there before or a complete image, at
//! every moment, whatever happens to the process. A file without a name vanishes with the process;
//! where the file system has no such files, a hidden name is removed on failure.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use crate::{Error, Result};

/// How often a temporary name is tried.
const NAMES_MAX: u32 = 100;
/// Bytes that are written to the disk at a time.
const WRITEBACK_STEP: u64 = 8 << 20;

/// An output that is not there yet.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    /// What the user called it, for messages.
    target: PathBuf,
    /// Where it will be: the target, or what the target links to.
    place: PathBuf,
    /// The name it has meanwhile, if any; removed when dropped.
    temporary: Option<PathBuf>,
    /// The target is a block device, written in place.
    device: bool,
    writeback: Option<Writeback>,
}

/// Writes a file to the disk beside the build.
///
/// ext4 and btrfs put on the disk what is renamed over another file, lest a crash leave nothing of
/// either. Begun only then, that doubles the time of a build that does not compress.
#[derive(Debug)]
struct Writeback {
    written: AtomicU64,
    ends: Sender<u64>,
    thread: JoinHandle<()>,
}

impl Writeback {
    fn begin(file: &File) -> std::io::Result<Self> {
        let file = file.try_clone()?;
        let (ends, receiver) = unbounded();
        let thread = std::thread::spawn(move || {
            let mut start = 0;
            while let Ok(mut end) = receiver.recv() {
                while let Ok(later) = receiver.try_recv() {
                    end = later;
                }
                // A failure shows when the image is written or flushed, or does no harm.
                let _ = ferrofs_linux::writeback::begin(&file, start, end - start);
                start = end;
            }
        });
        Ok(Self { written: AtomicU64::new(0), ends, thread })
    }

    /// Everything up to `end` is written; what comes later is left to the file system.
    fn reached(&self, end: u64) {
        if end >= self.written.load(Ordering::Relaxed) + WRITEBACK_STEP {
            self.written.store(end, Ordering::Relaxed);
            // It ends only after this.
            let _ = self.ends.send(end);
        }
    }

    fn finish(self) {
        drop(self.ends);
        // It does not panic, and what it began is finished by the renaming.
        let _ = self.thread.join();
    }
}

impl Output {
    /// Makes a file that will become `target`.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let fail = |error| Error::io("create", target, error);
        let place = match std::fs::metadata(target) {
            // Behind a symlink the file is replaced, not the link.
            Ok(_) => std::fs::canonicalize(target).map_err(fail)?,
            Err(_) => target.to_owned(),
        };
        let existing = std::fs::metadata(&place);
        let replaces = existing.is_ok();
        if let Ok(metadata) = existing {
            use std::os::unix::fs::FileTypeExt;
            if metadata.file_type().is_block_device() {
                let file = OpenOptions::new().read(true).write(true).open(&place).map_err(fail)?;
                let target = target.to_owned();
                let temporary = None;
                return Ok(Self { file, target, place, temporary, device: true, writeback: None });
            }
            if !metadata.is_file() {
                return Err(fail(std::io::Error::other("it exists and is not a regular file")));
            }
            // Replacing needs the directory only; a file that may not be written stays.
            OpenOptions::new().write(true).open(&place).map_err(fail)?;
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (file, temporary) = match open(directory_of(&place), flags, Mode::from_raw_mode(0o666))
        {
            Ok(fd) => (File::from(fd), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (file, name) = hidden_file(&place).map_err(fail)?;
                (file, Some(name))
            }
            Err(error) => return Err(fail(error.into())),
        };
        let writeback = replaces.then(|| Writeback::begin(&file)).transpose().map_err(fail)?;
        let target = target.to_owned();
        Ok(Self { file, target, place, temporary, device: false, writeback })
    }

    /// The directory of the final place.
    pub(crate) fn directory(&self) -> PathBuf {
        if self.device { std::env::temp_dir() } else { directory_of(&self.place).to_owned() }
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| Error::io("write", &self.target, error))?;
        if let Some(writeback) = &self.writeback {
            writeback.reached(offset + bytes.len() as u64);
        }
        Ok(())
    }

    /// Reads back what was written.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| Error::io("read back", &self.target, error))
    }

    /// Sets the final length; what was not written reads as zeros.
    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        if self.device {
            return Ok(());
        }
        self.file.set_len(len).map_err(|error| Error::io("resize", &self.target, error))
    }

    /// What somebody makes of the file's bytes.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&File) -> std::io::Result<T>) -> Result<T> {
        look(&self.file).map_err(|error| Error::io("read", &self.target, error))
    }

    /// Flushes to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::io("flush", &self.target, error))
    }

    /// Gives the file its name, replacing what had it.
    pub(crate) fn publish(mut self) -> Result<()> {
        if self.device {
            return Ok(());
        }
        if let Some(writeback) = self.writeback.take() {
            writeback.finish();
        }
        let fail = |error| Error::io("create", &self.target, error);
        if self.temporary.is_none() {
            // A link cannot replace a file, so the file gets a hidden name first.
            let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let hidden = free_name(&self.place, |name| {
                linkat(CWD, &*from, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
            });
            let ((), name) = hidden.map_err(fail)?;
            self.temporary = Some(name);
        }
        if let Some(name) = &self.temporary {
            std::fs::rename(name, &self.place).map_err(fail)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Nothing more can be done about a failure here.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// A file in `directory` that no one else sees.
pub(crate) fn unnamed_file(directory: &Path) -> Result<File> {
    let fail = |error| Error::io("create a temporary file in", directory, error);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match open(directory, flags, Mode::from_raw_mode(0o600)) {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let (file, name) = hidden_file(&directory.join("spool")).map_err(fail)?;
            std::fs::remove_file(name).map_err(fail)?;
            Ok(file)
        }
        Err(error) => Err(fail(error.into())),
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn hidden_file(place: &Path) -> std::io::Result<(File, PathBuf)> {
    free_name(place, |name| OpenOptions::new().read(true).write(true).create_new(true).open(name))
}

/// Runs `make` with hidden names beside `place` until one is free.
fn free_name<T>(
    place: &Path,
    make: impl Fn(&Path) -> std::io::Result<T>,
) -> std::io::Result<(T, PathBuf)> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    // Names are limited to 255 bytes.
    let name: String = name.chars().take(40).collect();
    let mut attempt = 0;
    loop {
        let hidden = format!(".{name}.{}-{attempt}.tmp", std::process::id());
        let path = directory_of(place).join(hidden);
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < NAMES_MAX =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_appears_before_publish_and_what_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("image");
        std::fs::write(&target, b"old").unwrap();
        let output = Output::create(&target).unwrap();
        output.write_at(b"new", 0).unwrap();
        drop(output);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["image"]);
        let output = Output::create(&target).unwrap();
        output.write_at(b"new", 0).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        output.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["image"]);
    }

    #[test]
    fn a_symlink_stays_and_its_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (link, file) = (directory.path().join("link"), directory.path().join("file"));
        std::fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let output = Output::create(&link).unwrap();
        output.write_at(b"new", 0).unwrap();
        output.publish().unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("file"));
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn impossible_places_are_errors_that_name_them() {
        let directory = tempfile::tempdir().unwrap();
        for target in [directory.path().join("none/image"), directory.path().to_owned()] {
            let error = Output::create(&target).unwrap_err();
            assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
        }
    }
}
