// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching what nobody waits for yet: lists, replays of traces, completion of blobs.

use crate::Demand;
use std::fmt;
use std::ops::Range;

/// What is filled: a blob of the cache.
pub trait Fill: Send + Sync + fmt::Debug {
    /// Bytes of the blob.
    fn size(&self) -> u64;

    /// The parts of `range` that are not present, in order. Nobody may be fetching them now.
    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>>;

    /// Fetches what is missing of `range`.
    fn fill(&self, range: Range<u64>, demand: &Demand) -> Result<(), FillError>;
}

/// Why a range was not filled.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FillError {
    /// The demand was cancelled.
    Cancelled,
    /// There is no room for what nobody waits for: stop prefetching until there is.
    Pressure,
    /// It cannot be fetched: why, for people.
    Failed(String),
}
