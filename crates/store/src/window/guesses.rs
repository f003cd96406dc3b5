// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was fetched before it was wanted, as runs.

use std::collections::BTreeMap;
use std::ops::Range;

/// More runs than this are not remembered apart: the first ones become a loss for good.
const RUNS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Guesses {
    runs: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Guesses {
    /// Bytes in all runs, and lost ones.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a run that shares nothing with the others.
    pub(super) fn add(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        let before = self.runs.range(..=range.start).next_back().map(|(start, end)| (*start, *end));
        match before {
            Some((start, end)) if end == range.start => self.runs.insert(start, range.end),
            _ => self.runs.insert(range.start, range.end),
        };
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_first();
        }
    }

    /// Bytes that nobody will want.
    pub(super) const fn lose(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Takes what lies in `range` out; how many bytes it was.
    pub(super) fn take(&mut self, range: &Range<u64>) -> u64 {
        let mut taken = 0;
        while let Some((start, end)) =
            self.runs.range(..range.end).next_back().map(|(start, end)| (*start, *end))
        {
            if end <= range.start {
                break;
            }
            self.runs.remove(&start);
            if start < range.start {
                self.runs.insert(start, range.start);
            }
            if end > range.end {
                self.runs.insert(range.end, end);
            }
            taken += end.min(range.end) - start.max(range.start);
        }
        self.bytes -= taken;
        taken
    }
}
