// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a file is read: in order or here and there. Told from the requests alone.
//!
//! The kernel reads ahead by itself: readers in order arrive as requests of 128 KiB and more that
//! follow each other, though several are under way at once and may overtake each other. Readers here
//! and there arrive as single pages. Those too may come back to what lies around, so it is decoded
//! whole and kept; only if the file is so much larger than the cache that it would be gone before it
//! is wanted again, it does not pay.
//!
//! Invariant: a wrong guess costs time, never correctness; so what racing readers lose is no matter.

use ferrofs_engine::Hint;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A request this near to where the last one ended, in bytes, follows it: as many as are under way
/// at once while the kernel reads ahead.
const NEAR: u64 = 2 << 20;
/// Shortest request that can be the kernel's readahead: its window begins with 16 KiB.
const READAHEAD_LEN: usize = 16 << 10;
/// Requests in a row that follow nothing, from which on a file is read here and there.
const RANDOM_ROW: u32 = 16;
/// A file this many times as large as the cache will not be there when it is wanted again.
const CACHE_TIMES: u64 = 8;

/// The last requests of one file.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Where the last request ended; 0 at first, as if one had ended at the start of the file.
    end: AtomicU64,
    /// Requests in a row that followed none.
    row: AtomicU32,
}

impl Access {
    /// Takes note of a request; tells what can be expected after it. `size` is the file's,
    /// `cache` the engine's limit, both in bytes.
    pub(crate) fn note(&self, offset: u64, len: usize, size: u64, cache: u64) -> Hint {
        let end = offset.saturating_add(len as u64);
        let last = self.end.swap(end, Ordering::Relaxed);
        if offset.abs_diff(last) <= NEAR {
            // Pages here and there of a small file are near each other as well; they are short.
            if len >= READAHEAD_LEN {
                self.row.store(0, Ordering::Relaxed);
                return Hint::Readahead;
            }
            if offset == last {
                self.row.store(0, Ordering::Relaxed);
            }
            return Hint::None;
        }
        let row = self.row.load(Ordering::Relaxed).saturating_add(1);
        self.row.store(row, Ordering::Relaxed);
        let hopeless = size / CACHE_TIMES > cache;
        if row > RANDOM_ROW && hopeless { Hint::Random } else { Hint::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn readers_in_order_are_told() {
        let access = Access::default();
        // Windows grow, and overtake each other.
        for (offset, len) in [(0, 16), (16, 32), (48, 128), (304, 128), (176, 128), (432, 1024)] {
            let hint = access.note(offset << 10, len << 10, 100 * MIB, 64 * MIB);
            assert_eq!(hint, Hint::Readahead, "{offset}");
        }
        // By single pages it is in order too, but nothing is read ahead.
        let access = Access::default();
        for page in 0..100 {
            assert_eq!(access.note(page << 12, 4096, 1000 * MIB, 0), Hint::None);
        }
    }

    #[test]
    fn readers_here_and_there_keep_what_lies_around_if_it_can_be_kept() {
        for (cache, last) in [(64 * MIB, Hint::None), (MIB, Hint::Random), (0, Hint::Random)] {
            let access = Access::default();
            let mut hint = Hint::None;
            for step in 0..40_u64 {
                let page = step.wrapping_mul(7919) % 25_600;
                hint = access.note(page << 12, 4096, 100 * MIB, cache);
                assert!(step > 15 || hint == Hint::None);
            }
            assert_eq!(hint, last, "{cache}");
        }
    }

    #[test]
    fn the_end_of_numbers_is_no_trouble() {
        let access = Access::default();
        assert_eq!(access.note(u64::MAX, usize::MAX, u64::MAX, 0), Hint::None);
        assert_eq!(access.note(0, 4096, 0, 0), Hint::None);
    }
}
