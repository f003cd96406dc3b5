// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked of an engine, and what comes of it.

use crate::cache::{Decoded, Key};
use ferrofs_image::{Error, Result};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What the caller knows of what comes next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// It is readahead: what lies around will be wanted, and nobody waits for it yet.
    Readahead,
    /// What lies around will not be wanted.
    Random,
}

/// A read of a file.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written out by callers with `..default()`")]
pub struct Request {
    /// First byte of the file.
    pub offset: u64,
    /// Bytes wanted. What the caller's buffers have room for beyond that is spare: encoded bytes may
    /// be put there, so that they need no memory of their own. 8 KiB are always enough.
    pub len: usize,
    /// What is known of the reads that follow.
    pub hint: Hint,
    /// Tell what else was decoded; see [`Report::surplus`].
    pub surplus: bool,
}

/// Bytes that could not be delivered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Which bytes, counted from the start of the request. What the buffers hold there is
    /// unspecified.
    pub range: Range<usize>,
    /// Why. Corrupt data is told apart from a failing device by its kind.
    pub error: Error,
}

/// What came of a request.
#[derive(Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct Report {
    /// Bytes of the file that the request covers: less than wanted only at the end of the file.
    pub len: usize,
    /// What of it could not be read, in ascending order without overlaps. All else is delivered.
    pub failures: Vec<Failure>,
    /// Decoded bytes next to those wanted, if the request asks to be told of them.
    pub surplus: Vec<Surplus>,
}

impl Report {
    /// The length, or the error of the first byte that failed.
    pub fn into_result(self) -> Result<usize> {
        match self.failures.into_iter().next() {
            Some(failure) => Err(failure.error),
            None => Ok(self.len),
        }
    }

    /// Puts the failures in order.
    pub(crate) fn settle(&mut self) {
        self.failures.sort_by_key(|failure| failure.range.start);
    }
}

/// Decoded bytes of a file that nobody asked for, next to some that were.
#[derive(Clone)]
pub struct Surplus {
    offset: u64,
    key: Key,
    bytes: Arc<Decoded>,
    range: Range<usize>,
}

impl Surplus {
    /// What is decoded of an extent of `len` bytes that begins at `offset` of the file. The pcluster
    /// may have been decoded further, for another file that has more of it.
    pub(crate) fn new(offset: u64, len: usize, key: Key, bytes: Arc<Decoded>) -> Self {
        let range = 0..bytes.len().min(len);
        Self { offset, key, bytes, range }
    }

    /// The extent that it is of, and what is decoded of that.
    pub(crate) const fn extent(&self) -> (&Key, &Arc<Decoded>) {
        (&self.key, &self.bytes)
    }

    /// First byte of the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset + self.range.start as u64
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// What lies before and what lies behind `range` of the file.
    #[must_use]
    pub fn around(&self, range: &Range<u64>) -> [Self; 2] {
        let within = |at: u64| {
            let at = usize::try_from(at.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            at.clamp(self.range.start, self.range.end)
        };
        let part = |range| Self { range, ..self.clone() };
        [
            part(self.range.start..within(range.start)),
            part(within(range.end).max(within(range.start))..self.range.end),
        ]
    }
}

impl AsRef<[u8]> for Surplus {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Surplus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surplus")
            .field("offset", &self.offset())
            .field("len", &self.range.len())
            .finish_non_exhaustive()
    }
}
