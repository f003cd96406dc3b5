// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of bits in words of atomics.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bitmap that many threads and processes use at once.
///
/// Orders: `set` releases, so that who sees a bit (acquire) also sees that the bytes were written
/// (they went through the page cache, which is coherent; the order is needed for what else the
/// writer told before). `clear` is of the evictor, which then raises the generation: see `Map`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits<'a> {
    words: &'a [AtomicU64],
    count: u64,
}

/// The words that hold `range`, each with the mask of its bits.
fn words(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let word = at / 64;
        let end = ((word + 1) * 64).min(range.end);
        let (low, len) = (at % 64, end - at);
        let mask = if len == 64 { u64::MAX } else { ((1 << len) - 1) << low };
        at = end;
        Some((word as usize, mask))
    })
}

impl<'a> Bits<'a> {
    /// The first `count` bits of `words`.
    pub(crate) fn new(words: &'a [AtomicU64], count: u64) -> Self {
        assert!(count.div_ceil(64) <= words.len() as u64, "words for all bits");
        Self { words, count }
    }

    /// Bits.
    pub(crate) const fn count(self) -> u64 {
        self.count
    }

    fn clip(self, range: Range<u64>) -> Range<u64> {
        range.start..range.end.min(self.count)
    }

    /// Whether all bits of a range are set.
    #[inline]
    pub(crate) fn all(self, range: Range<u64>) -> bool {
        range.end <= self.count
            && words(range)
                .all(|(word, mask)| self.words[word].load(Ordering::Acquire) & mask == mask)
    }

    /// How many are set.
    pub(crate) fn ones(self, range: Range<u64>) -> u64 {
        words(self.clip(range))
            .map(|(word, mask)| {
                u64::from((self.words[word].load(Ordering::Acquire) & mask).count_ones())
            })
            .sum()
    }

    /// Sets all bits of a range; how many were not set before.
    pub(crate) fn set(self, range: Range<u64>) -> u64 {
        words(self.clip(range))
            .map(|(word, mask)| {
                let before = self.words[word].fetch_or(mask, Ordering::AcqRel);
                u64::from((!before & mask).count_ones())
            })
            .sum()
    }

    /// Clears all bits of a range; how many were set before.
    pub(crate) fn clear(self, range: Range<u64>) -> u64 {
        words(self.clip(range))
            .map(|(word, mask)| {
                let before = self.words[word].fetch_and(!mask, Ordering::SeqCst);
                u64::from((before & mask).count_ones())
            })
            .sum()
    }

    /// The first bit of a range that is (`set`) or is not set.
    pub(crate) fn find(self, range: Range<u64>, set: bool) -> Option<u64> {
        words(self.clip(range)).find_map(|(word, mask)| {
            let value = self.words[word].load(Ordering::Acquire);
            let hit = if set { value } else { !value } & mask;
            (hit != 0).then(|| word as u64 * 64 + u64::from(hit.trailing_zeros()))
        })
    }

    /// The runs of bits in a range that are (`set`) or are not set, in order.
    pub(crate) fn runs(
        self,
        range: Range<u64>,
        set: bool,
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        let range = self.clip(range);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = self.find(at..range.end, set)?;
            let end = self.find(start..range.end, !set).unwrap_or(range.end);
            at = end;
            // A bit may have changed in between: a run is never empty.
            (start < end).then_some(start..end).or_else(|| {
                at = range.end;
                None
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_those_of_a_plain_list(
            count in 1_u64..300,
            sets in proptest::collection::vec((0_u64..320, 0_u64..320, any::<bool>()), 0..12),
        ) {
            let store: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
            let bits = Bits::new(&store, count);
            let mut model = vec![false; count as usize];
            for (a, b, set) in sets {
                let range = a.min(b)..a.max(b);
                let changed = if set { bits.set(range.clone()) } else { bits.clear(range.clone()) };
                let mut expected = 0;
                for at in range {
                    if let Some(bit) = model.get_mut(at as usize)
                        && *bit != set
                    {
                        *bit = set;
                        expected += 1;
                    }
                }
                prop_assert_eq!(changed, expected);
            }
            for set in [true, false] {
                let mut plain = vec![];
                for run in bits.runs(0..count, set) {
                    plain.extend(run);
                }
                let expected: Vec<u64> =
                    (0..count).filter(|at| model[*at as usize] == set).collect();
                prop_assert_eq!(plain, expected);
            }
            let ones = model.iter().filter(|bit| **bit).count() as u64;
            prop_assert_eq!(bits.ones(0..count), ones);
            prop_assert_eq!(bits.all(0..count), ones == count);
            prop_assert!(!bits.all(0..count + 1));
        }
    }
}
