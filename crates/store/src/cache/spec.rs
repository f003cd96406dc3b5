// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a cache and a blob are opened with.

use super::BlobId;
use crate::{Origin, Pin, RangeSource, StoreError};
use std::path::PathBuf;
use std::sync::Arc;

/// Limits of a cache, in percent of the blocks or files of its file system that are free: above
/// `run` nothing is evicted any more, below `cull` evicting begins, below `stop` nothing is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "as cachefiles has them")]
pub struct Thresholds {
    /// Evicting ends.
    pub run: u8,
    /// Evicting begins.
    pub cull: u8,
    /// Nothing is kept.
    pub stop: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { run: 7, cull: 5, stop: 1 }
    }
}

/// Where a cache is and how large it may be.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..CacheConfig::new(path)`")]
pub struct CacheConfig {
    /// Its folder; made (only for its owner) if it is not there.
    pub path: PathBuf,
    /// Bytes on disk that blobs may take together, of all processes. A limit of this handle: give
    /// all processes the same.
    pub bytes_max: Option<u64>,
    /// Limits by free blocks.
    pub blocks: Thresholds,
    /// Limits by free inodes.
    pub files: Thresholds,
    /// Bytes of digest tables that are kept in memory, of all blobs together.
    pub table_memory: usize,
}

impl CacheConfig {
    /// The usual limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes_max: None,
            blocks: Thresholds::default(),
            files: Thresholds::default(),
            table_memory: 16 << 20,
        }
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        for limit in [self.blocks, self.files] {
            if !(limit.stop < limit.cull && limit.cull < limit.run && limit.run < 100) {
                return Err(StoreError::Limits);
            }
        }
        Ok(())
    }
}

/// How the bytes of a blob are verified.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum TableSpec {
    /// Not said: a blob without a table is refused.
    #[default]
    Missing,
    /// Not at all, as the user wanted it (`--insecure`).
    Insecure,
    /// By a digest table with this pin.
    Pinned {
        /// What was pinned.
        pin: Pin,
        /// Where the table is.
        source: Arc<dyn RangeSource>,
    },
}

/// How a blob is treated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Policy::default()`")]
pub struct Policy {
    /// Ranges may be evicted while the blob is in use: for front-ends that read through
    /// [`Blob::read_exact_at`](crate::Blob::read_exact_at). Those that let others read the data file
    /// (fanotify, cachefiles, passthrough) must say no; then no process evicts ranges of it.
    pub range_eviction: bool,
    /// The kernel will ask before it reads or anybody writes the data file: a
    /// [`KernelHold`](crate::KernelHold) is taken, and this process fills for it.
    pub for_kernel: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { range_eviction: true, for_kernel: false }
    }
}

/// A blob to be opened.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..BlobSpec::new(origin)`")]
pub struct BlobSpec {
    /// Its name. Without one: of its table's pin, or of where it is.
    pub id: Option<BlobId>,
    /// Its bytes, if known: saves asking.
    pub size: Option<u64>,
    /// Where it comes from.
    pub origin: Origin,
    /// How it is verified.
    pub table: TableSpec,
    /// How it is treated.
    pub policy: Policy,
    /// Bytes at the start that are sure to be read at once: of a blob that the cache does not know
    /// they are fetched beside the head of its table.
    pub head_len: u64,
    /// Nothing of its table is to be fetched that may not be needed, if that costs a round trip.
    pub sparing: bool,
}

impl BlobSpec {
    /// A blob of which nothing but its origin is known.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            id: None,
            size: None,
            origin,
            table: TableSpec::default(),
            policy: Policy::default(),
            head_len: 0,
            sparing: false,
        }
    }
}
