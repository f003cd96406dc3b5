// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that nobody is likely to want, and how far apart others are without them.
//!
//! Invariant: of whole grains, in order, none touching the next; so a place has one *rank*, the bytes
//! before it that are not left out.

use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct LeftOut {
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
    /// Bytes left out before it.
    before: u64,
}

impl LeftOut {
    /// The whole grains of a blob of `size` bytes that lie in `ranges`, which may be in any order.
    pub(super) fn new(ranges: &[Range<u64>], grain: u64, size: u64) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let mut before: u64 = 0;
        let mut runs = Vec::with_capacity(merged.len());
        for range in merged {
            let start = range.start.div_ceil(grain).saturating_mul(grain);
            // The last grain may be short.
            let end = if range.end >= size { size } else { range.end / grain * grain };
            if start < end {
                runs.push(Run { start, end, before });
                before += end - start;
            }
        }
        Self { runs }
    }

    /// Bytes before a place that are not left out.
    pub(super) fn rank(&self, at: u64) -> u64 {
        let index = self.runs.partition_point(|run| run.start <= at);
        match index.checked_sub(1).and_then(|index| self.runs.get(index)) {
            Some(run) => at - run.before - (at.min(run.end) - run.start),
            None => at,
        }
    }

    /// The first place of a rank.
    pub(super) fn at(&self, rank: u64) -> u64 {
        let index = self.runs.partition_point(|run| run.start - run.before < rank);
        match index.checked_sub(1).and_then(|index| self.runs.get(index)) {
            Some(run) => rank.saturating_add(run.before + (run.end - run.start)),
            None => rank,
        }
    }

    /// What of a range is not left out, in order.
    pub(super) fn others(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first = self.runs.partition_point(|run| run.end <= range.start);
        let mut found = Vec::new();
        let mut at = range.start;
        for run in self.runs.iter().skip(first).take_while(|run| run.start < range.end) {
            if at < run.start {
                found.push(at..run.start);
            }
            at = run.end;
        }
        if at < range.end {
            found.push(at..range.end);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_count_what_is_not_left_out(
            ranges in proptest::collection::vec((0_u64..400, 0_u64..60), 0..12),
            size in 1_u64..400,
            (from, to) in (0_u64..400, 0_u64..400),
        ) {
            const GRAIN: u64 = 4;
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(start, len)| start.min(size)..(start + len).min(size))
                .collect();
            let is_out = |at: u64| {
                let mut grain = at / GRAIN * GRAIN..(at / GRAIN * GRAIN + GRAIN).min(size);
                grain.all(|at| ranges.iter().any(|range| range.contains(&at)))
            };
            let left_out = LeftOut::new(&ranges, GRAIN, size);
            let mut rank = 0;
            for at in 0..size {
                prop_assert_eq!(left_out.rank(at), rank, "rank of {}", at);
                if !is_out(at) {
                    rank += 1;
                    prop_assert_eq!(left_out.at(rank), at + 1, "place of rank {}", rank);
                }
            }
            prop_assert_eq!(left_out.rank(size), rank);
            let range = from.min(size)..to.min(size).max(from.min(size));
            let others: Vec<u64> =
                left_out.others(range.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = range.filter(|at| !is_out(*at)).collect();
            prop_assert_eq!(others, expected);
        }
    }
}
