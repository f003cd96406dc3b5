// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which files with holes are stored as chunks, so that holes take neither space nor time.
//!
//! A hole in a compressed file still needs an index entry for each of its blocks and a compressed
//! run of zeros; a file of 1 TiB would have 2^28 entries. So a file is stored as chunks, some of
//! them holes, when
//!
//! * it has no data at all: one hole chunk; or
//! * it is to be compressed, has at least [`COMPRESSED_HOLES_MIN`] bytes of holes, and these are
//!   at least 15/16 of it (its data is then stored uncompressed); or
//! * it is not to be compressed, and at least [`PLAIN_HOLES_MIN`] bytes and a quarter of it are
//!   holes.
//!
//! The last rule also holds where chunks are asked for; such a file then has chunks of its own size,
//! which are not compared with others.
//!
//! All others are read and stored like any file. The chunk size is the one with the least sum of
//! stored data and map.

use core::ops::Range;

use ferrofs_format::{BlockBits, limits};

/// Smaller files are not looked at.
pub(crate) const SIZE_MIN: u64 = 256 << 10;
const COMPRESSED_HOLES_MIN: u64 = 16 << 20;
const PLAIN_HOLES_MIN: u64 = 128 << 10;

/// How a file with holes is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SparsePlan {
    /// Chunk size exponent above the block size exponent.
    pub(crate) chunk_bits: u8,
    /// Bytes of a chunk.
    pub(crate) chunk_size: u64,
    /// Chunks of the file.
    pub(crate) chunks: u64,
    /// Those with data, ascending.
    pub(crate) runs: Vec<Run>,
}

/// Neighbouring chunks with data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl SparsePlan {
    /// End of a run in the file.
    pub(crate) fn end_of(&self, run: &Run, size: u64) -> u64 {
        ((run.first + run.count) * self.chunk_size).min(size)
    }
}

/// Decides; `ranges` are those with data, ascending. `None`: store it like any other.
pub(crate) fn plan(
    size: u64,
    ranges: &[Range<u64>],
    bits: BlockBits,
    compressed: bool,
) -> Option<SparsePlan> {
    let data: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let holes = size - data;
    let worth = if data == 0 {
        true
    } else if compressed {
        holes >= COMPRESSED_HOLES_MIN && holes >= size / 16 * 15
    } else {
        holes >= PLAIN_HOLES_MIN && holes >= size / 4
    };
    if !worth {
        return None;
    }
    (0..=limits::CHUNK_BITS_MAX)
        .map(|chunk_bits| {
            let chunk_size = bits.size_u64() << chunk_bits;
            let chunks = size.div_ceil(chunk_size);
            let stored: u64 = runs(ranges, chunk_size).iter().map(|run| run.count).sum();
            let cost = stored.saturating_mul(chunk_size).saturating_add(chunks.saturating_mul(4));
            (cost, chunk_bits, chunk_size, chunks)
        })
        .min()
        .map(|(_, chunk_bits, chunk_size, chunks)| SparsePlan {
            chunk_bits,
            chunk_size,
            chunks,
            runs: runs(ranges, chunk_size),
        })
}

/// Chunks that the ranges touch.
fn runs(ranges: &[Range<u64>], chunk_size: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let first = range.start / chunk_size;
        let end = range.end.div_ceil(chunk_size);
        match runs.last_mut() {
            Some(run) if run.first + run.count >= first => run.count = end - run.first,
            _ => runs.push(Run { first, count: end - first }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: BlockBits = BlockBits::DEFAULT;

    #[test]
    fn a_hole_of_a_tebibyte_is_one_chunk() {
        let plan = plan(1 << 40, &[], BITS, true).unwrap();
        assert_eq!((plan.chunks, plan.runs.len()), (1, 0));
    }

    #[test]
    fn islands_cost_what_they_are() {
        let island = |at: u64| at..at + 5000;
        let ranges = [island(0), island(1 << 30), island((1 << 40) - 5000)];
        let plan = plan(1 << 40, &ranges, BITS, true).unwrap();
        let stored: u64 = plan.runs.iter().map(|run| run.count * plan.chunk_size).sum();
        assert!(stored + plan.chunks * 4 < 16 << 20, "{plan:?}");
        for range in &ranges {
            assert!(plan.runs.iter().any(|run| run.first * plan.chunk_size <= range.start
                && plan.end_of(run, 1 << 40) >= range.end));
        }
    }

    #[test]
    fn dense_files_are_left_alone() {
        let range = 0..1 << 20;
        assert!(plan((1 << 20) + 4096, core::slice::from_ref(&range), BITS, false).is_none());
        assert!(plan(2 << 20, core::slice::from_ref(&range), BITS, true).is_none());
        assert!(plan(2 << 20, &[range], BITS, false).is_some());
    }
}
