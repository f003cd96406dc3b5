// SPDX-License-Identifier: MIT OR Apache-2.0
//! File data at speed over an opened image.
//!
//! A read is cut into extents. Stored bytes go from the device into the caller's buffer. An extent
//! that the buffer covers whole is decoded straight into it; one that it covers in part is decoded
//! into the cache, so that the reads around it find it there. Encoded bytes of neighbouring
//! pclusters are read in one piece. A pcluster that several readers want at once is read and decoded
//! by one of them, and the others get its result.
//!
//! The crate refuses to know FUSE and the network. Invariants: the cache never holds more than its
//! limit; nobody waits for another reader while others may wait for him; failures reach exactly the
//! reads that needed the pcluster, are never kept, and the next read tries again.
#![forbid(unsafe_code)]

mod cache;
mod plan;
mod read;
mod registry;
mod stats;

use cache::Cache;
use ferrofs_image::{Decoder, FileMap, Image, Inode, Result};
use plan::Part;
use registry::Registry;
use stats::Counters;
pub use stats::EngineStats;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Limits of an [`Engine`].
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Bytes of decoded data kept (default 64 MiB). 0 keeps nothing.
    pub cache_bytes: u64,
    /// Largest read of the device, in bytes (default 1 MiB): neighbouring pclusters are merged up
    /// to it. A pcluster, at most 1 MiB itself, is always read whole.
    pub merge_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, merge_bytes: 1 << 20 }
    }
}

/// Reads file data of one image, for any number of threads.
pub struct Engine {
    image: Arc<Image>,
    merge_bytes: usize,
    cache: Cache,
    registry: Registry,
    counters: Counters,
    /// Idle working memory of readers; as many as ever read at once.
    idle: Mutex<Vec<Scratch>>,
}

/// What one read needs besides the caller's buffer; reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    decoder: Decoder,
    staging: Vec<u8>,
    parts: Vec<Part>,
}

/// Readers' working memory kept for later; beyond that it is freed.
const IDLE_MAX: usize = 16;

/// A file opened for reading: its layout, checked once.
#[derive(Clone, Debug)]
pub struct OpenFile {
    map: FileMap,
}

impl OpenFile {
    /// Layout of the content.
    #[must_use]
    pub const fn map(&self) -> &FileMap {
        &self.map
    }

    /// Bytes of content.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.map.size()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("image", &self.image)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over `image`.
    #[must_use]
    pub fn new(image: Arc<Image>, config: EngineConfig) -> Self {
        Self {
            image,
            merge_bytes: config.merge_bytes.max(1),
            cache: Cache::new(config.cache_bytes),
            registry: Registry::default(),
            counters: Counters::default(),
            idle: Mutex::default(),
        }
    }

    /// The image.
    #[must_use]
    pub const fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Opens a file, directory or symbolic link for reading its content.
    pub fn open(&self, inode: &Inode) -> Result<OpenFile> {
        self.image.map(inode).map(|map| OpenFile { map })
    }

    /// Reads content from `offset` on into `buf`; returns how many bytes, less than `buf` holds only
    /// at the end of the file. If part of the range cannot be read, the error of its first such byte
    /// is returned and the content of `buf` is unspecified.
    pub fn read_into(&self, file: &OpenFile, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(file.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let total = left.min(buf.len());
        if total == 0 {
            return Ok(0);
        }
        let mut scratch = self.scratch();
        let result = self.read_planned(&file.map, offset, &mut buf[..total], &mut scratch);
        self.give_back(scratch);
        result.map(|()| total)
    }

    /// Counters since the engine was made.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.counters.snapshot(&self.cache)
    }

    /// Changes the limit of the cache; what is above it is dropped.
    pub fn set_cache_bytes(&self, bytes: u64) {
        self.cache.set_limit(bytes);
    }

    /// Drops all cached data and idle working memory.
    pub fn drop_caches(&self) {
        self.cache.clear();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn scratch(&self) -> Scratch {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_default()
    }

    fn give_back(&self, scratch: Scratch) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(scratch);
        }
    }
}
