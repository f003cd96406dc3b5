// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching what nobody waits for yet: lists, replays of traces, completion of blobs.
//!
//! A few threads take steps from jobs in the order of their rank. Before each step they let readers
//! pass. It refuses to know sources and caches. Invariant: what it does can be left out without any
//! reader seeing more than a delay.

mod pool;
#[cfg(test)]
mod tests;

pub use pool::{PrefetchConfig, PrefetchJob, Prefetcher};

use crate::{Demand, Replay};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

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

/// Which job goes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Rank {
    /// What a reader in sequence will want in a moment.
    Ahead,
    /// What somebody has listed, or a trace tells.
    Listed,
    /// The rest of a blob.
    Completion,
}

/// Ranges to fill, in order.
pub struct Order {
    rank: Rank,
    bytes: u64,
    steps: Box<dyn Iterator<Item = (Arc<dyn Fill>, Range<u64>)> + Send>,
}

/// No step is larger: between steps, readers pass, and others may cancel.
const STEP_MAX: u64 = 8 << 20;

impl Order {
    /// Ranges of one blob.
    #[must_use]
    pub fn list(rank: Rank, blob: Arc<dyn Fill>, ranges: &[Range<u64>]) -> Self {
        let size = blob.size();
        let ranges: Vec<_> = ranges.iter().map(|range| range.start..range.end.min(size)).collect();
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let steps = ranges.into_iter().flat_map(|range| pieces(range, STEP_MAX));
        Self { rank, bytes, steps: Box::new(steps.map(move |range| (blob.clone(), range))) }
    }

    /// What a trace tells; `blobs` as they were when it was planned.
    #[must_use]
    pub fn replay(replay: Replay, blobs: &[Option<Arc<dyn Fill>>]) -> Self {
        let blobs = blobs.to_vec();
        let bytes = replay.planned;
        let steps = replay.steps.into_iter().filter_map(move |step| {
            let blob = blobs.get(step.blob as usize)?.clone()?;
            Some((blob, step.range))
        });
        Self { rank: Rank::Listed, bytes, steps: Box::new(steps) }
    }

    /// All that is missing of a blob, from its start.
    #[must_use]
    pub fn complete(blob: Arc<dyn Fill>) -> Self {
        let whole = 0..blob.size();
        Self::list(Rank::Completion, blob, std::slice::from_ref(&whole))
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, bytes, .. } = self;
        f.debug_struct("Order").field("rank", rank).field("bytes", bytes).finish_non_exhaustive()
    }
}

fn pieces(range: Range<u64>, max: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..range.end.min(at.saturating_add(max));
        at = piece.end;
        (piece.start < piece.end).then_some(piece)
    })
}

/// How far a job is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of its ranges.
    pub total: u64,
    /// Bytes of ranges that are done, present before or not.
    pub done: u64,
    /// Bytes of ranges that could not be filled.
    pub failed: u64,
    /// The last failure, for people.
    pub error: Option<String>,
    /// Nothing more will be done for it.
    pub is_over: bool,
    /// It was cancelled, or ended after too many failures in a row.
    pub is_cut_short: bool,
}
