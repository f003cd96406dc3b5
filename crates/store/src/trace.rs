// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces: which parts of which blobs were read first, and when, so that the next time they are
//! there before they are asked for.
//!
//! It refuses to know who reads and who fetches. Invariant: a trace that came from somebody else can
//! make us fetch the wrong parts of known blobs, within limits, and nothing worse.

mod file;
mod merge;
mod record;
mod replay;
#[cfg(test)]
mod tests;

pub use file::{TRACE_SUFFIX, TraceError};
pub use record::{BlobRecorder, Recorder};
pub use replay::{Replay, ReplayConfig, Step};

/// One first touch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a line of the file")]
pub struct Touch {
    /// Microseconds since the run began.
    pub micros: u64,
    /// Which of the trace's blobs.
    pub blob: u32,
    /// First byte.
    pub start: u64,
    /// Bytes, not 0.
    pub len: u64,
    /// In how many runs.
    pub runs: u32,
}

impl Touch {
    /// One after its last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// First touches in order of time, of one run or merged from several.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "as in the file")]
pub struct Trace {
    /// Names of the blobs, as the cache knows them.
    pub blobs: Vec<String>,
    /// Runs that it was made from.
    pub runs: u32,
    /// First touches, in order.
    pub touches: Vec<Touch>,
}

impl Trace {
    /// More touches than this are not kept (8 MiB): 1 GiB in groups is 16,384.
    pub const TOUCHES_MAX: usize = 1 << 18;
    /// More blobs than this are not kept.
    pub const BLOBS_MAX: usize = 1 << 14;
    /// Bytes of the longest text that is looked at.
    pub const TEXT_MAX: usize = 16 << 20;

    /// Bytes of all touches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.touches.iter().fold(0, |sum, touch| sum.saturating_add(touch.len))
    }
}
