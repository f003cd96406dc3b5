// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of chunks: joining neighbours, and turning blocks into elements. format.md §7.

use ferrofs_format::chunk::{Chunk, ChunkFormat};
use ferrofs_format::{FormatError, limits};

use crate::ChunkEntries;
use crate::pipeline::HOLE;

/// A list with the largest chunk size that says the same.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Merged {
    pub(crate) bits: u8,
    pub(crate) blocks: Vec<u32>,
}

/// Doubles the chunk size as long as every pair of neighbours is contiguous, or both are holes.
pub(crate) fn merge(blocks: &[u32], bits: u8) -> Merged {
    let mut merged = Merged { bits, blocks: blocks.to_vec() };
    while merged.blocks.len() > 1 && merged.bits < limits::CHUNK_BITS_MAX {
        let step = 1u64 << merged.bits;
        let contiguous = |pair: &[u32]| match *pair {
            [first, second] if first == HOLE || second == HOLE => first == second,
            [first, second] => u64::from(first) + step == u64::from(second),
            _ => true,
        };
        if !merged.blocks.chunks(2).all(contiguous) {
            break;
        }
        merged.blocks = merged.blocks.iter().copied().step_by(2).collect();
        merged.bits += 1;
    }
    merged
}

/// How one image writes the elements of its chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRules {
    indexes: bool,
    device: u16,
    /// Added to every block: the place of the blob in the unified address space.
    base: u32,
}

impl ChunkRules {
    /// `unified` is where a blob begins in the unified address space, if there is one.
    pub(crate) fn new(entries: ChunkEntries, unified: Option<u32>) -> Self {
        let indexes = match entries {
            ChunkEntries::Auto => unified.is_some(),
            ChunkEntries::Map => false,
            ChunkEntries::Indexes => true,
        };
        match unified {
            None => Self { indexes, device: 0, base: 0 },
            Some(_) if indexes => Self { indexes, device: 1, base: 0 },
            Some(base) => Self { indexes, device: 0, base },
        }
    }

    pub(crate) fn format(self, bits: u8) -> ChunkFormat {
        ChunkFormat { bits, indexes: self.indexes, wide: false }
    }

    /// Bytes of `count` elements; also says their alignment.
    pub(crate) fn area(self, count: u64) -> (u64, u64) {
        let element = self.format(0).element_len() as u64;
        (count * element, element)
    }

    /// Appends the elements of a stored list.
    pub(crate) fn emit(self, bits: u8, list: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let format = self.format(bits);
        for raw in list.chunks_exact(4) {
            let block = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            let chunk = if block == HOLE {
                Chunk::Hole
            } else {
                let block = u64::from(block) + u64::from(self.base);
                Chunk::At { device: self.device, block }
            };
            format.emit_element(chunk, out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_as_far_as_all_agree() {
        let cases: [(&[u32], u8, &[u32]); 6] = [
            (&[5], 0, &[5]),
            (&[5, 6, 7], 2, &[5]),
            (&[5, 6, 8, 9], 1, &[5, 8]),
            (&[5, 7], 0, &[5, 7]),
            (&[HOLE, HOLE, 3, 4, 5], 1, &[HOLE, 3, 5]),
            (&[HOLE, 3], 0, &[HOLE, 3]),
        ];
        for (blocks, bits, expected) in cases {
            let expected = Merged { bits, blocks: expected.to_vec() };
            assert_eq!(merge(blocks, 0), expected, "{blocks:?}");
        }
    }

    #[test]
    fn blobs_are_a_device_or_a_part_of_the_space() {
        let list = [7u32.to_le_bytes(), HOLE.to_le_bytes()].concat();
        let mut out = Vec::new();
        ChunkRules::new(ChunkEntries::Auto, Some(100)).emit(0, &list, &mut out).unwrap();
        assert_eq!(out[..8], [0, 0, 1, 0, 7, 0, 0, 0]);
        out.clear();
        ChunkRules::new(ChunkEntries::Map, Some(100)).emit(0, &list, &mut out).unwrap();
        assert_eq!(out, [107, 0, 0, 0, 255, 255, 255, 255]);
    }
}
