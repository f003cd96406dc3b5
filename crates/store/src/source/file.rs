// SPDX-License-Identifier: MIT OR Apache-2.0
//! A blob in a local file, or on a block device.

use super::{FetchContext, Identity, RangeSource, Sink};
use crate::{FetchError, FetchErrorKind};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Reads a file. It is opened once: whoever replaces the file by another of the same name changes
/// nothing for a mount; whoever writes into it is found out by its times.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    file: File,
    identity: Identity,
}

fn failed(path: &Path, error: &std::io::Error) -> FetchError {
    let kind = match error.kind() {
        ErrorKind::NotFound => FetchErrorKind::NotFound,
        ErrorKind::PermissionDenied => FetchErrorKind::Denied,
        _ => FetchErrorKind::Io,
    };
    FetchError::new(kind, format!("{}: {error}", path.display()))
}

fn identify(file: &File) -> std::io::Result<Identity> {
    let meta = file.metadata()?;
    // A block device says 0 in its metadata.
    let size = if meta.is_file() { meta.len() } else { { file }.seek(SeekFrom::End(0))? };
    let validator = format!(
        "file:{}:{}:{}.{:09}:{}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    );
    Ok(Identity { size, validator: Some(validator) })
}

impl FileSource {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, FetchError> {
        let file = File::open(path).map_err(|error| failed(path, &error))?;
        let kind = file.metadata().map_err(|error| failed(path, &error))?.file_type();
        if kind.is_dir() || std::os::unix::fs::FileTypeExt::is_fifo(&kind) {
            let what = format!("{}: neither a file nor a device", path.display());
            return Err(FetchError::new(FetchErrorKind::Io, what));
        }
        let identity = identify(&file).map_err(|error| failed(path, &error))?;
        Ok(Self { path: path.to_owned(), file, identity })
    }
}

impl RangeSource for FileSource {
    fn describe(&self) -> String {
        format!("file://{}", self.path.display())
    }

    fn identity(&self, _: &FetchContext) -> Result<Identity, FetchError> {
        Ok(self.identity.clone())
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        let now = identify(&self.file).map_err(|error| failed(&self.path, &error))?;
        if now.size != self.identity.size {
            let what = format!(
                "{}: was {} bytes long, is now {}",
                self.path.display(),
                self.identity.size,
                now.size
            );
            return Err(FetchError::new(FetchErrorKind::Changed, what));
        }
        if sink.begin(range.start, Some(now.size)).is_err() {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            let room = sink.room();
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(room.len());
            let count = match self.file.read_at(&mut room[..len], at) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(|error| failed(&self.path, &error))?,
            };
            if count == 0 && context.head && at == now.size {
                return Ok(());
            }
            if count == 0 {
                let what = format!("{}: ends at {at}, before {}", self.path.display(), range.end);
                return Err(FetchError::new(FetchErrorKind::Length, what));
            }
            at += count as u64;
            if sink.filled(count).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
