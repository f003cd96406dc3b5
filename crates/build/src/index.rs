// SPDX-License-Identifier: MIT OR Apache-2.0
//! From extents to the index area of a compressed inode. format.md §9, §10.

use ferrofs_format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_format::lcluster::{Back, DELTA_MAX, Head, Lcluster, compact, full};
use ferrofs_format::{BlockBits, FormatError};

use crate::segment::Extent;

/// 2-byte packs hold 12-bit offsets, 4-byte ones 14-bit offsets.
const BITS_MAX_TWO_BYTE: u8 = 12;
const BITS_MAX_COMPACT: u8 = 14;

/// How one image writes its indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexRules {
    pub(crate) bits: BlockBits,
    /// pclusters may have more than one block.
    pub(crate) big: bool,
    /// 8-byte indexes.
    pub(crate) full: bool,
    /// Algorithm id.
    pub(crate) algorithm: u8,
}

impl IndexRules {
    pub(crate) fn new(bits: BlockBits, big: bool, legacy: bool, algorithm: u8) -> Self {
        Self { bits, big, full: legacy || bits.bits() > BITS_MAX_COMPACT, algorithm }
    }

    fn two_byte(self) -> bool {
        !self.full && self.bits.bits() <= BITS_MAX_TWO_BYTE
    }

    /// Bytes from the aligned end of the inode's body: header and indexes. `body_end` is that end,
    /// rounded up to 8, relative to the inode (which is aligned to 32).
    pub(crate) fn area_len(self, body_end: u64, size: u64) -> u64 {
        let entries = self.bits.blocks_for(size);
        if self.full {
            return full::FIRST_INDEX as u64 + entries * full::INDEX_LEN as u64;
        }
        8 + compact::PackLayout::new(body_end + 8, entries, self.two_byte()).byte_len()
    }

    /// Emits header and indexes of a file of `size` bytes whose pclusters lie one behind the other
    /// from `first_block` on.
    pub(crate) fn emit(
        self,
        body_end: u64,
        size: u64,
        extents: &[Extent],
        first_block: u32,
    ) -> Result<Vec<u8>, FormatError> {
        let mut advise = 0;
        if self.big {
            advise |= Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2;
        }
        if self.two_byte() {
            advise |= Advise::COMPACTED_2B;
        }
        let fields = MapFields {
            word: 0,
            advise: Advise(advise),
            algorithms: self.algorithm,
            cluster_bits: 0,
        };
        let mut out = MapHeader::Map(fields).emit()?.to_vec();
        let lclusters = self.lclusters(size, extents, first_block);
        if self.full {
            out.resize(full::FIRST_INDEX, 0);
            let mut head_offset = 0;
            for &lcluster in &lclusters {
                if let Lcluster::Head { offset, .. } = lcluster {
                    head_offset = offset;
                }
                out.extend_from_slice(&full::emit(lcluster, head_offset)?);
            }
        } else {
            let rules = compact::PackRules { lcluster_bits: self.bits.bits(), big: self.big };
            compact::emit(&lclusters, body_end + 8, self.two_byte(), rules, &mut out)?;
        }
        Ok(out)
    }

    /// One entry for each block of the file.
    fn lclusters(self, size: u64, extents: &[Extent], first_block: u32) -> Vec<Lcluster> {
        let count = self.bits.blocks_for(size);
        let mut lclusters = Vec::with_capacity(count as usize);
        let (mut start, mut block) = (0u64, first_block);
        for extent in extents {
            let end = start + u64::from(extent.len);
            let head = if extent.plain { Head::Plain } else { Head::Head1 };
            lclusters.push(self.head(head, start, block));
            // The next extent begins in the block that holds its first byte; behind the last one
            // the marker of the file's end takes that part.
            let next = (end >> self.bits.bits()).min(count);
            self.push_followers(&mut lclusters, next, extent.blocks);
            start = end;
            block += u32::from(extent.blocks);
        }
        if (lclusters.len() as u64) < count {
            let marker = if self.full { 0 } else { block };
            lclusters.push(self.head(Head::Plain, size, marker));
        }
        debug_assert_eq!(lclusters.len() as u64, count);
        lclusters
    }

    fn head(self, head: Head, start: u64, block: u32) -> Lcluster {
        let offset = self.bits.offset_in_block(start) as u16;
        Lcluster::Head { head, offset, block, partial: false, hole: false }
    }

    fn push_followers(self, lclusters: &mut Vec<Lcluster>, next: u64, blocks: u16) {
        let head = lclusters.len() as u64 - 1;
        for lcn in head + 1..next {
            let distance = (lcn - head).min(u64::from(DELTA_MAX)) as u16;
            let back = if self.big && lcn == head + 1 {
                Back::Blocks(blocks)
            } else {
                Back::Distance(distance)
            };
            // A decoded extent has at most 12 MiB, which are 24,576 of the smallest blocks.
            lclusters.push(Lcluster::NonHead { back, forward: (next - lcn) as u16 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(big: bool, full: bool) -> IndexRules {
        IndexRules::new(BlockBits::DEFAULT, big, full, 0)
    }

    #[test]
    fn the_documented_example_comes_out() {
        // format.md §10.1 and §10.2: the first extents of a file of 100000 bytes.
        let extent = |len, plain| Extent { len, blocks: 1, plain };
        let extents = [extent(8008, false), extent(9792, false), extent(2200, true)];
        let full = rules(false, true).emit(0, 20000, &extents, 1).unwrap();
        assert_eq!(full[..16], [0; 16]);
        assert_eq!(full[16..24], [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(full[24..32], [1, 0, 0x48, 0x0f, 2, 0, 0, 0]);
        assert_eq!(full[32..40], [2, 0, 0x48, 0x0f, 1, 0, 2, 0]);
        assert_eq!(full[40..48], [2, 0, 0x48, 0x0f, 2, 0, 1, 0]);
        assert_eq!(full[48..56], [0, 0, 0x88, 0x05, 3, 0, 0, 0]);
        assert_eq!(full.len() as u64, rules(false, true).area_len(0, 20000));
        let compact = rules(false, false).emit(32, 20000, &extents, 1).unwrap();
        assert_eq!(compact[..8], [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(compact[8..16], [0, 0x10, 0x48, 0x1f, 0, 0, 0, 0]);
        assert_eq!(compact[16..24], [1, 0x20, 1, 0x20, 2, 0, 0, 0]);
        assert_eq!(compact.len() as u64, rules(false, false).area_len(32, 20000));
    }

    #[test]
    fn the_end_has_a_marker_unless_an_extent_begins_there() {
        let extents = [Extent { len: 20000, blocks: 2, plain: false }];
        let list = rules(true, false).lclusters(20000, &extents, 9);
        assert_eq!(list.len(), 5);
        assert!(matches!(list[1], Lcluster::NonHead { back: Back::Blocks(2), forward: 3 }));
        assert!(matches!(
            list[4],
            Lcluster::Head { head: Head::Plain, offset: 3616, block: 11, .. }
        ));
        let extents = [Extent { len: 20480, blocks: 2, plain: false }];
        let list = rules(true, false).lclusters(20480, &extents, 9);
        assert!(matches!(list[4], Lcluster::NonHead { forward: 1, .. }));
    }
}
