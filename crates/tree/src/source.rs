// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seam between a tree and where its content comes from.
//!
//! A directory, a tar stream, a layer or an image each implements [`Source`]; whoever builds reads
//! through it and knows nothing else about the input.

use core::ops::Range;

use crate::{InodeId, Result, Tree};

/// Opens content. Shared by all workers of a build.
pub trait Source: Sync {
    /// Opens the content of a regular file of `tree`, and checks that it is still the file that
    /// the tree describes.
    fn open<'a>(&'a self, tree: &'a Tree, file: InodeId) -> Result<Box<dyn FileData + 'a>>;
}

/// Content of one regular file.
pub trait FileData {
    /// Fills `buf` from byte `offset` on; all of it lies within the size the tree tells.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The next range at or behind `offset` that may hold other bytes than zeros; `None` if only
    /// zeros follow. Ranges ascend and end at the file's size.
    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>>;

    /// Checks, after the last read, that the file did not change meanwhile.
    fn verify(&mut self) -> Result<()>;
}
