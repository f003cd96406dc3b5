// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eight-byte map header behind a compressed inode's xattrs. format.md §9.

use crate::num::bytes_at;
use crate::{BlockBits, FormatError, Result};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

const WHOLE_FRAGMENT: u64 = 1 << 63;

/// Advice bits (`h_advise`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Advise(pub u16);

impl Advise {
    /// Layout 3: 2-byte packs are used in the middle.
    pub const COMPACTED_2B: u16 = 0x01;
    /// Layout 1: encoded extents instead of lcluster indexes.
    pub const EXTENTS: u16 = 0x01;
    /// HEAD1 pclusters may span several blocks.
    pub const BIG_PCLUSTER_1: u16 = 0x02;
    /// HEAD2 and PLAIN pclusters may span several blocks.
    pub const BIG_PCLUSTER_2: u16 = 0x04;
    /// The last pcluster is inline.
    pub const INLINE_PCLUSTER: u16 = 0x08;
    /// Plain pclusters are interlaced.
    pub const INTERLACED: u16 = 0x10;
    /// The tail extent lives in the packed inode.
    pub const FRAGMENT: u16 = 0x20;

    /// Whether every bit of `bits` is set.
    #[must_use]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }

    /// Bytes of one encoded-extent record: 4, 8, 16 or 32.
    #[must_use]
    pub const fn record_len(self) -> u8 {
        4 << (self.0 >> 1 & 3)
    }
}

/// The header, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapHeader {
    /// The whole file is a fragment at this offset of the packed inode; nothing follows.
    WholeFragment {
        /// Byte offset in the packed inode's content.
        offset: u64,
    },
    /// Indexes or records follow.
    Map(MapFields),
}

/// The fields of an ordinary header. Bytes 0 to 3 and 6 have several meanings; all are kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MapFields {
    /// Bytes 0 to 3: fragment offset low, or (high half) inline pcluster length, or extent count.
    pub word: u32,
    /// Advice.
    pub advise: Advise,
    /// Algorithms: HEAD1 in bits 0 to 3, HEAD2 in bits 4 to 7.
    pub algorithms: u8,
    /// lcluster size exponent above the block size exponent, 0 to 15.
    pub cluster_bits: u8,
}

impl MapHeader {
    /// Parses the eight bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let raw: [u8; 8] = bytes_at(bytes, 0, "compression map header")?;
        let whole = u64::from_le_bytes(raw);
        if whole & WHOLE_FRAGMENT != 0 {
            return Ok(Self::WholeFragment { offset: whole & !WHOLE_FRAGMENT });
        }
        let [a, b, c, d, e, f, algorithms, last] = raw;
        Ok(Self::Map(MapFields {
            word: u32::from_le_bytes([a, b, c, d]),
            advise: Advise(u16::from_le_bytes([e, f])),
            algorithms,
            cluster_bits: last & 15,
        }))
    }

    /// The eight bytes.
    pub fn emit(self) -> Result<[u8; 8]> {
        match self {
            Self::WholeFragment { offset } if offset & WHOLE_FRAGMENT != 0 => {
                Err(FormatError::DoesNotFit { what: "fragment offset", value: offset })
            }
            Self::WholeFragment { offset } => Ok((offset | WHOLE_FRAGMENT).to_le_bytes()),
            Self::Map(fields) => {
                let [a, b, c, d] = fields.word.to_le_bytes();
                let [e, f] = fields.advise.0.to_le_bytes();
                if fields.cluster_bits > 15 {
                    return Err(FormatError::DoesNotFit {
                        what: "lcluster size",
                        value: u64::from(fields.cluster_bits),
                    });
                }
                Ok([a, b, c, d, e, f, fields.algorithms, fields.cluster_bits])
            }
        }
    }
}

impl MapFields {
    /// Exponent of the lcluster size.
    #[must_use]
    pub fn lcluster_bits(&self, bits: BlockBits) -> u8 {
        bits.bits().saturating_add(self.cluster_bits)
    }

    /// Algorithm id of HEAD1 extents.
    #[must_use]
    pub const fn algorithm1(&self) -> u8 {
        self.algorithms & 15
    }

    /// Algorithm id of HEAD2 extents.
    #[must_use]
    pub const fn algorithm2(&self) -> u8 {
        self.algorithms >> 4
    }

    /// Length of the inline pcluster; 0 without one. FRAGMENT takes the field for itself.
    #[must_use]
    pub fn inline_len(&self) -> u16 {
        if self.advise.has(Advise::INLINE_PCLUSTER) && !self.advise.has(Advise::FRAGMENT) {
            let [_, _, c, d] = self.word.to_le_bytes();
            u16::from_le_bytes([c, d])
        } else {
            0
        }
    }

    /// Number of 16- or 32-byte extent records.
    #[must_use]
    pub fn extent_count(&self) -> u64 {
        let high = u16::from_le_bytes([self.algorithms, self.cluster_bits]);
        u64::from(self.word) | u64::from(high) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples() {
        let extents = [0, 0, 0, 0, 1, 0, 0, 2];
        let MapHeader::Map(fields) = MapHeader::parse(&extents).unwrap() else { panic!() };
        assert_eq!(fields.advise.record_len(), 4);
        assert_eq!(fields.lcluster_bits(BlockBits::DEFAULT), 14);
        assert_eq!(MapHeader::Map(fields).emit().unwrap(), extents);
        let whole = MapHeader::WholeFragment { offset: 0x1234 };
        assert_eq!(MapHeader::parse(&whole.emit().unwrap()).unwrap(), whole);
        assert!(MapHeader::WholeFragment { offset: 1 << 63 }.emit().is_err());
        assert!(MapHeader::parse(&[0; 7]).is_err());
    }
}
