// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of ranges of a blob, and what of them others leave.

use std::ops::Range;

/// Ranges that are kept before neighbours are put together.
const RANGES_MAX: usize = 1 << 16;

/// Ranges, many of which touch.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    list: Vec<Range<u64>>,
    settled_len: usize,
}

impl Ranges {
    pub(crate) fn add(&mut self, range: Range<u64>) {
        match self.list.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.list.push(range),
        }
        // Never more than twice what must be kept.
        if self.list.len() >= RANGES_MAX.max(self.settled_len.saturating_mul(2)) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.list.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in self.list.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.settled_len = merged.len();
        self.list = merged;
    }

    /// In order, none touching the next.
    pub(crate) fn settled(mut self) -> Vec<Range<u64>> {
        self.settle();
        self.list
    }
}

/// What of `0..size` is in none of `ranges`, which are in order.
pub(crate) fn complement(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    for range in ranges {
        if at < range.start.min(size) {
            found.push(at..range.start.min(size));
        }
        at = at.max(range.end);
    }
    if at < size {
        found.push(at..size);
    }
    found
}

/// What of `ranges` is in none of `others`; both in order.
pub(crate) fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut others = others.iter().peekable();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            while others.next_if(|other| other.end <= at).is_some() {}
            let Some(other) = others.peek().filter(|other| other.start < range.end) else {
                found.push(at..range.end);
                break;
            };
            if at < other.start {
                found.push(at..other.start);
            }
            at = other.end;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_data_is_the_rest() {
        let mut ranges = Ranges::default();
        for range in [8..12, 12..16, 40..50, 0..4, 45..60, 10..11] {
            ranges.add(range);
        }
        let settled = ranges.settled();
        assert_eq!(settled, [0..4, 8..16, 40..60]);
        assert_eq!(complement(&settled, 100), [4..8, 16..40, 60..100]);
        assert_eq!(complement(&settled, 50), [4..8, 16..40]);
        assert_eq!(complement(&settled, 20), [4..8, 16..20]);
        assert_eq!(complement(&[], 7).first(), Some(&(0..7)));
        assert_eq!(complement(&settled, 0), []);
    }

    #[test]
    fn ranges_without_others() {
        let others = [2..4, 8..10, 10..12, 18..25];
        assert_eq!(without(&[0..20, 22..30], &others), [0..2, 4..8, 12..18, 25..30]);
        assert_eq!(without(&[2..4, 9..11], &others), []);
        let one = std::slice::from_ref(&(5..6));
        assert_eq!(without(one, &[]), one);
    }
}
