// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching what nobody waits for yet: lists, replays of traces, completion of blobs.
//!
//! A few threads take steps from jobs in the order of their rank. Before each step they let readers
//! pass. It refuses to know sources and caches. Invariant: what it does can be left out without any
//! reader seeing more than a delay.

mod pool;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;

pub use pool::{PrefetchConfig, PrefetchJob, Prefetcher};

use crate::{Demand, Replay, Step};
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

    /// Fetches what filling these ranges, which are in order, will need besides their bytes, in fewer
    /// requests than each of them alone would. What this leaves out, or cannot do, [`Fill::fill`] does.
    fn prepare(&self, ranges: &[Range<u64>], demand: &Demand) {
        let _ = (ranges, demand);
    }
}

/// What one step does to a blob.
#[derive(Clone, Debug)]
enum Deed {
    Fill(Range<u64>),
    Prepare(Vec<Range<u64>>),
}

impl Deed {
    /// Bytes, as far as they are known.
    const fn len(&self) -> u64 {
        match self {
            Self::Fill(range) => range.end.saturating_sub(range.start),
            Self::Prepare(_) => 0,
        }
    }
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
    steps: Box<dyn Iterator<Item = (Arc<dyn Fill>, Deed)> + Send>,
}

/// No step is larger: between steps, readers pass, and others may cancel.
const STEP_MAX: u64 = 8 << 20;
/// Bytes of a blob for which is prepared at once: what that needs is some 64 KiB.
const PREPARE_SPAN: u64 = 8 << 20;

impl Order {
    /// Ranges of one blob.
    #[must_use]
    pub fn list(rank: Rank, blob: Arc<dyn Fill>, ranges: &[Range<u64>]) -> Self {
        let size = blob.size();
        let ranges: Vec<_> = ranges.iter().map(|range| range.start..range.end.min(size)).collect();
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let steps = ranges.into_iter().flat_map(|range| pieces(range, STEP_MAX));
        Self {
            rank,
            bytes,
            steps: Box::new(steps.map(move |range| (blob.clone(), Deed::Fill(range)))),
        }
    }

    /// What a trace tells; `blobs` as they were when it was planned.
    #[must_use]
    pub fn replay(replay: Replay, blobs: &[Option<Arc<dyn Fill>>]) -> Self {
        let blobs = blobs.to_vec();
        let bytes = replay.planned;
        let batches = replay.batches.into_iter();
        let deeds = batches.flat_map(|batch| {
            let prepares = prepares(&batch);
            prepares.chain(batch.into_iter().map(|step| (step.blob, Deed::Fill(step.range))))
        });
        let steps =
            deeds.filter_map(move |(blob, deed)| Some((blobs.get(blob as usize)?.clone()?, deed)));
        Self { rank: Rank::Listed, bytes, steps: Box::new(steps) }
    }

    /// All that is missing of a blob, from its start.
    #[must_use]
    pub fn complete(blob: Arc<dyn Fill>) -> Self {
        let whole = 0..blob.size();
        Self::list(Rank::Completion, blob, std::slice::from_ref(&whole))
    }
}

/// What a batch needs besides its bytes, in the order of the blobs and cut by their bytes: a step for
/// all of it would take long, and those whose bytes come first would wait for it.
fn prepares(batch: &[Step]) -> impl Iterator<Item = (u32, Deed)> + use<> {
    let mut steps: Vec<_> = batch.iter().collect();
    steps.sort_unstable_by_key(|step| (step.blob, step.range.start));
    let near = |a: &&Step, b: &&Step| {
        (a.blob, a.range.start / PREPARE_SPAN) == (b.blob, b.range.start / PREPARE_SPAN)
    };
    let chunks = steps.chunk_by(near).map(|chunk| {
        (chunk[0].blob, Deed::Prepare(chunk.iter().map(|step| step.range.clone()).collect()))
    });
    chunks.collect::<Vec<_>>().into_iter()
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
