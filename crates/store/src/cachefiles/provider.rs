// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a daemon has its blobs from.
//!
//! Names of blobs come from images, which nobody trusts: no name leads out of its place.

use super::KEY_MAX;
use crate::{Demand, FetchError, FetchErrorKind, Origin, Sink, SinkStop};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a blob, or bytes of it, cannot be had.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "what the protocol can say, and a story for the log")]
pub struct ProviderError {
    /// What the opener of a blob gets; readers get EIO.
    pub errno: Errno,
    /// For the log.
    pub what: String,
}

impl ProviderError {
    /// An error with its story.
    pub fn new(errno: Errno, what: impl Into<String>) -> Self {
        Self { errno, what: what.into() }
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ProviderError {}

impl From<FetchError> for ProviderError {
    fn from(error: FetchError) -> Self {
        let errno = match error.kind {
            FetchErrorKind::NotFound => Errno::NOENT,
            FetchErrorKind::Denied => Errno::ACCESS,
            FetchErrorKind::Deadline => Errno::TIMEDOUT,
            _ => Errno::IO,
        };
        Self { errno, what: error.what }
    }
}

/// Blobs by their keys.
pub trait BlobProvider: Send + Sync + fmt::Debug {
    /// The blob of this key: any bytes, from an image.
    fn blob(&self, volume: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError>;
}

/// One blob. Used by many threads at once.
pub trait ProvidedBlob: Send + Sync + fmt::Debug {
    /// Its bytes.
    fn size(&self) -> u64;

    /// Fills `buf`, all of it, with the bytes from `offset` on, which lie in the blob.
    fn read_exact_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        demand: &Demand,
    ) -> Result<(), ProviderError>;

    /// What to fetch when this range is asked for: it and maybe more behind it.
    fn reach(&self, range: Range<u64>) -> Range<u64> {
        range
    }
}

/// A key as the name of a file in one folder or as a part of a URL.
pub(super) fn plain_name(cookie: &[u8]) -> Result<&str, ProviderError> {
    let bad = || ProviderError::new(Errno::INVAL, "the blob's name is no plain file name");
    let name = std::str::from_utf8(cookie).map_err(|_| bad())?;
    // Images made elsewhere may end their names with the NUL of their field.
    let name = name.trim_end_matches('\0');
    let good = |c: char| !c.is_control() && !"/\\?#%".contains(c);
    if name.is_empty() || name.len() > KEY_MAX || name.starts_with('.') || !name.chars().all(good) {
        return Err(bad());
    }
    Ok(name)
}

/// A folder with a file a blob, named by its key.
#[derive(Debug)]
pub struct DirectoryBlobs {
    folder: PathBuf,
}

impl DirectoryBlobs {
    /// Blobs of this folder.
    pub fn new(folder: &Path) -> io::Result<Self> {
        if !std::fs::metadata(folder)?.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Self { folder: std::fs::canonicalize(folder)? })
    }
}

#[derive(Debug)]
struct FileBlob {
    file: File,
    size: u64,
}

impl BlobProvider for DirectoryBlobs {
    fn blob(&self, _volume: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        let path = self.folder.join(plain_name(cookie)?);
        let error = |error: io::Error| {
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            ProviderError::new(errno, format!("{}: {error}", path.display()))
        };
        let file = File::open(&path).map_err(error)?;
        let meta = file.metadata().map_err(error)?;
        if !meta.is_file() {
            return Err(ProviderError::new(Errno::INVAL, format!("{}: no file", path.display())));
        }
        Ok(Arc::new(FileBlob { file, size: meta.len() }))
    }
}

impl ProvidedBlob for FileBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64, _: &Demand) -> Result<(), ProviderError> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|error| ProviderError::new(Errno::IO, format!("at offset {offset}: {error}")))
    }
}

type Find = dyn Fn(&str) -> Result<Origin, ProviderError> + Send + Sync;

/// Blobs of sources elsewhere: what finds the origin of a name is given.
pub struct SourceBlobs {
    find: Box<Find>,
}

impl SourceBlobs {
    /// Blobs of the origins that `find` tells, by their plain names.
    pub fn new(
        find: impl Fn(&str) -> Result<Origin, ProviderError> + Send + Sync + 'static,
    ) -> Self {
        Self { find: Box::new(find) }
    }
}

impl fmt::Debug for SourceBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBlobs").finish_non_exhaustive()
    }
}

impl BlobProvider for SourceBlobs {
    fn blob(&self, _volume: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        let origin = (self.find)(plain_name(cookie)?)?;
        let size = origin.identity(&Demand::soft(std::time::Duration::from_secs(60)))?.size;
        Ok(Arc::new(OriginBlob { origin, size }))
    }
}

#[derive(Debug)]
struct OriginBlob {
    origin: Origin,
    size: u64,
}

impl ProvidedBlob for OriginBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        demand: &Demand,
    ) -> Result<(), ProviderError> {
        if buf.is_empty() {
            return Ok(());
        }
        let range = offset..offset.saturating_add(buf.len() as u64);
        let mut sink = Filled { buf, from: offset, at: offset, spare: Vec::new() };
        self.origin.fetch(range.clone(), &mut sink, demand, false)?;
        if sink.at < range.end {
            let what = format!("fewer bytes than asked for: {} of {}", sink.at, range.end);
            return Err(ProviderError::new(Errno::IO, what));
        }
        Ok(())
    }
}

/// Puts a range into a buffer, and lets go of what a server sends before it.
struct Filled<'a> {
    buf: &'a mut [u8],
    from: u64,
    at: u64,
    spare: Vec<u8>,
}

impl Sink for Filled<'_> {
    fn begin(&mut self, offset: u64, _total: Option<u64>) -> Result<(), SinkStop> {
        self.at = offset;
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        if self.at >= self.from {
            let at = usize::try_from(self.at - self.from).unwrap_or(usize::MAX);
            return self.buf.get_mut(at..).unwrap_or_default();
        }
        let len = usize::try_from(self.from - self.at).unwrap_or(usize::MAX).min(64 << 10);
        self.spare.resize(len, 0);
        &mut self.spare
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        self.at = self.at.saturating_add(count as u64);
        let end = self.from.saturating_add(self.buf.len() as u64);
        if self.at >= end { Err(SinkStop) } else { Ok(()) }
    }
}
