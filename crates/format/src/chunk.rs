// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chunk-based inodes: the format word and the two kinds of elements. format.md §7.

use crate::num::{u16_at, u32_at};
use crate::superblock::low_half;
use crate::{BlockBits, FormatError, Result};

const BITS_MASK: u16 = 0x1F;
const INDEXES: u16 = 0x20;
const WIDE: u16 = 0x40;

/// Chunk format of one inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkFormat {
    /// Chunk size exponent above the block size exponent, 0 to 31.
    pub bits: u8,
    /// 8-byte indexes with device ids rather than a 4-byte block map.
    pub indexes: bool,
    /// Indexes hold 48-bit addresses.
    pub wide: bool,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chunk {
    /// Reads as zeros.
    Hole,
    /// Contiguous blocks from `block` on.
    At {
        /// Device id, unmasked; 0 = unified address space.
        device: u16,
        /// First block.
        block: u64,
    },
}

impl ChunkFormat {
    /// Parses the u16 of `i_u`.
    pub fn parse(word: u16) -> Result<Self> {
        if word & !(BITS_MASK | INDEXES | WIDE) != 0 {
            return Err(FormatError::Unsupported {
                what: "chunk format bits",
                value: u64::from(word),
            });
        }
        Ok(Self {
            bits: word.to_le_bytes()[0] & 0x1F,
            indexes: word & INDEXES != 0,
            wide: word & WIDE != 0,
        })
    }

    /// The u16 of `i_u`.
    #[must_use]
    pub fn emit(self) -> u16 {
        (u16::from(self.bits) & BITS_MASK)
            | if self.indexes { INDEXES } else { 0 }
            | if self.wide { WIDE } else { 0 }
    }

    /// Chunk size in bytes: at most 2^47.
    #[must_use]
    pub const fn chunk_size(self, bits: BlockBits) -> u64 {
        bits.size_u64() << (self.bits & 0x1F)
    }

    /// Bytes of one element; also its alignment.
    #[must_use]
    pub const fn element_len(self) -> usize {
        if self.indexes { 8 } else { 4 }
    }

    /// Parses one element at the start of `bytes`.
    pub fn parse_element(self, bytes: &[u8]) -> Result<Chunk> {
        if !self.indexes {
            let block = u32_at(bytes, 0, "chunk block map")?;
            return Ok(if block == u32::MAX {
                Chunk::Hole
            } else {
                Chunk::At { device: 0, block: u64::from(block) }
            });
        }
        let high = u16_at(bytes, 0, "chunk index")?;
        let device = u16_at(bytes, 2, "chunk index")?;
        let low = u32_at(bytes, 4, "chunk index")?;
        let hole = low == u32::MAX && (!self.wide || high == u16::MAX);
        let high = if self.wide { u64::from(high) << 32 } else { 0 };
        Ok(if hole { Chunk::Hole } else { Chunk::At { device, block: u64::from(low) | high } })
    }

    /// Appends one element.
    pub fn emit_element(self, chunk: Chunk, out: &mut alloc::vec::Vec<u8>) -> Result<()> {
        let (device, block) = match chunk {
            Chunk::Hole => (0, (1 << 48) - 1),
            Chunk::At { device, block } => (device, block),
        };
        let hole = chunk == Chunk::Hole;
        let low = low_half(block);
        let high = u16::try_from(block >> 32)
            .ok()
            .filter(|&high| hole || high == 0 || (self.indexes && self.wide))
            .ok_or(FormatError::DoesNotFit { what: "chunk block address", value: block })?;
        // The all-ones pattern under the mask means hole, so no chunk may live there.
        if !hole && low == u32::MAX && (!self.wide || high == u16::MAX) {
            return Err(FormatError::DoesNotFit { what: "chunk block address", value: block });
        }
        if self.indexes {
            out.extend_from_slice(&high.to_le_bytes());
            out.extend_from_slice(&device.to_le_bytes());
        } else if device != 0 {
            return Err(FormatError::DoesNotFit {
                what: "chunk block map (device id)",
                value: u64::from(device),
            });
        }
        out.extend_from_slice(&low.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn elements_match_the_examples() {
        let format = ChunkFormat { bits: 4, indexes: true, wide: false };
        let mut out = Vec::new();
        format.emit_element(Chunk::Hole, &mut out).unwrap();
        format.emit_element(Chunk::At { device: 1, block: 0x779 }, &mut out).unwrap();
        assert_eq!(
            out,
            [0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0, 0x79, 7, 0, 0],
            "format.md §7"
        );
        assert_eq!(format.parse_element(&out).unwrap(), Chunk::Hole);
        assert_eq!(format.parse_element(&out[8..]).unwrap(), Chunk::At { device: 1, block: 0x779 });
    }

    #[test]
    fn wide_addresses_need_wide_indexes() {
        let chunk = Chunk::At { device: 2, block: 0x1234_5678_9abc };
        let mut out = Vec::new();
        let wide = ChunkFormat { bits: 0, indexes: true, wide: true };
        wide.emit_element(chunk, &mut out).unwrap();
        assert_eq!(wide.parse_element(&out).unwrap(), chunk);
        let narrow = ChunkFormat { bits: 0, indexes: true, wide: false };
        assert!(narrow.emit_element(chunk, &mut out).is_err());
        let map = ChunkFormat { bits: 0, indexes: false, wide: false };
        assert!(map.emit_element(Chunk::At { device: 1, block: 1 }, &mut out).is_err());
        assert!(map.emit_element(Chunk::At { device: 0, block: 0xFFFF_FFFF }, &mut out).is_err());
    }

    #[test]
    fn unknown_bits_are_refused() {
        assert!(ChunkFormat::parse(0x80).is_err());
        for word in 0..0x80 {
            assert_eq!(ChunkFormat::parse(word).unwrap().emit(), word);
        }
    }
}
