// SPDX-License-Identifier: MIT OR Apache-2.0
//! Equal content of several images in the memory of one process once.
//!
//! A [`Domain`] belongs to an embedder and is given to files of any number of engines. It has two
//! pools. *Chunks*, for what is copied out: files are cut where their content says, so that shifted
//! bytes share, too ([`SharedFile`]). *Pages*, for what is mapped: a file becomes a row of pieces of
//! one memory file ([`Composed`]).
//!
//! Invariants: bytes are found again by their length and BLAKE3 hash, which are computed here of bytes
//! that were read here, so no claim of an image matters; what failed is never kept; domains share
//! nothing, neither bytes nor time.

mod chunks;
mod pages;

#[cfg(test)]
mod tests;

use crate::{Error, Result};
use chunks::Chunks;
pub use chunks::SharedFile;
use ferrofs_engine::{Engine, OpenFile};
pub use pages::Composed;
use pages::Pages;
use std::sync::Arc;

/// Images that may share memory with each other. Clones are the same domain.
#[derive(Clone, Debug)]
pub struct Domain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    chunks: Chunks,
    pages: Pages,
}

/// What a domain holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct DomainStats {
    /// Bytes of chunks and of lists of chunks that are in memory, with what keeping them costs.
    pub chunk_memory: u64,
    /// The most that may be.
    pub chunk_limit: u64,
    /// Segments that were decoded, again after eviction, too.
    pub segments_decoded: u64,
    /// Bytes that were put into the pool of chunks.
    pub chunk_new_bytes: u64,
    /// Bytes that were decoded and found there already.
    pub chunk_equal_bytes: u64,
    /// Composed files that exist.
    pub composed_files: u64,
    /// Their bytes, each file rounded up to pages.
    pub composed_bytes: u64,
    /// Pieces that they are mapped in.
    pub composed_pieces: u64,
    /// Different pages in memory.
    pub pages: u64,
    /// Bytes of memory that those take.
    pub page_memory: u64,
}

impl DomainStats {
    /// Bytes that are mapped and need no memory of their own.
    #[must_use]
    pub const fn saved_bytes(&self) -> u64 {
        self.composed_bytes.saturating_sub(self.page_memory)
    }
}

impl Domain {
    /// A domain whose chunks take so many bytes at most. Pages take what is mapped.
    pub fn new(chunk_limit: u64) -> Result<Self> {
        let pages = Pages::new().map_err(Error::Memory)?;
        Ok(Self { inner: Arc::new(Inner { chunks: Chunks::new(chunk_limit), pages }) })
    }

    /// A file whose reads go through the pool of chunks.
    #[must_use]
    pub fn share(&self, engine: Arc<Engine>, file: OpenFile) -> SharedFile {
        SharedFile::new(self.clone(), engine, file)
    }

    /// Reads a whole file and maps it from pages that other files may have, too.
    pub fn compose(&self, engine: &Engine, file: &OpenFile) -> Result<Composed> {
        Composed::new(self, engine, file)
    }

    /// What it holds now.
    #[must_use]
    pub fn stats(&self) -> DomainStats {
        let mut stats = DomainStats::default();
        self.inner.chunks.add_to(&mut stats);
        self.inner.pages.add_to(&mut stats);
        stats
    }
}
