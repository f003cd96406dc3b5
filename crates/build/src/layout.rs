// SPDX-License-Identifier: MIT OR Apache-2.0
//! Placing inodes, with all that follows them, in the metadata zone.
//!
//! Rules (format.md §3, §4): inodes begin at multiples of 32; a compact inode lies in one block,
//! which that implies; an inline tail lies in one block. What does not fit at the end of the zone
//! begins later, and the gap is kept for others: the smallest gap that holds an item takes it.

use std::collections::BTreeSet;

use ferrofs_format::{BlockBits, limits::INODE_SLOT};

/// What is to be placed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Shape {
    /// Record, xattrs and indexes: may cross blocks.
    pub(crate) head: u64,
    /// Inline tail directly behind: may not.
    pub(crate) tail: u64,
    /// All of it in one block: kernels before 6.x read an inline symlink from its inode's block.
    pub(crate) together: bool,
}

impl Shape {
    /// Whether a tail can follow such a head at all.
    pub(crate) fn fits(self, bits: BlockBits) -> bool {
        let behind = if self.together { self.head } else { self.head % INODE_SLOT };
        behind + self.tail <= bits.size_u64()
    }
}

/// The zone being filled.
#[derive(Debug)]
pub(crate) struct Packer {
    bits: BlockBits,
    /// End of the zone, a multiple of 32.
    end: u64,
    /// Free pieces before the end, by length and start; none crosses a block.
    gaps: BTreeSet<(u64, u64)>,
}

impl Packer {
    /// A zone that begins at `start`, a byte of the image.
    pub(crate) fn new(bits: BlockBits, start: u64) -> Self {
        Self { bits, end: start.next_multiple_of(INODE_SLOT), gaps: BTreeSet::new() }
    }

    /// End of all that was placed.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Finds a place; the shape must fit.
    pub(crate) fn place(&mut self, shape: Shape) -> u64 {
        debug_assert!(shape.fits(self.bits), "{shape:?}");
        let need = (shape.head + shape.tail).next_multiple_of(INODE_SLOT);
        if let Some(&(len, start)) = self.gaps.range((need, 0)..).next() {
            self.gaps.remove(&(len, start));
            self.keep(start + need, start + len);
            return start;
        }
        let start = self.start_behind(shape);
        self.keep(self.end, start);
        self.end = start + need;
        start
    }

    /// So many whole blocks at or behind the end; what is left before them is a gap.
    pub(crate) fn place_blocks(&mut self, count: u64) -> u64 {
        let start = self.end.next_multiple_of(self.bits.size_u64());
        if count > 0 {
            self.keep(self.end, start);
            self.end = start + (count << self.bits.bits());
        }
        start
    }

    /// First good place at or behind the end.
    fn start_behind(&self, shape: Shape) -> u64 {
        let block = self.bits.size_u64();
        let room = |at: u64| block - self.bits.offset_in_block(at);
        if shape.together {
            let fits = shape.head + shape.tail <= room(self.end);
            return if fits { self.end } else { self.end.next_multiple_of(block) };
        }
        let tail_at = self.end + shape.head;
        if shape.tail <= room(tail_at) {
            return self.end;
        }
        // The tail begins the next block, or a few bytes behind, since heads are aligned.
        let boundary = tail_at.next_multiple_of(block);
        (boundary - shape.head).next_multiple_of(INODE_SLOT)
    }

    fn keep(&mut self, start: u64, end: u64) {
        let mut start = start;
        while start < end {
            let stop = end.min(self.bits.round_down(start) + self.bits.size_u64());
            if stop - start >= INODE_SLOT {
                self.gaps.insert((stop - start, start));
            }
            start = stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rules_hold_and_nothing_overlaps(
            bits in 9u8..=13,
            start in 0u64..10_000,
            items in proptest::collection::vec((1u64..200, 0u64..5000, any::<bool>()), 1..200),
        ) {
            let bits = BlockBits::new(bits).unwrap();
            let mut packer = Packer::new(bits, start);
            let mut placed = Vec::new();
            for (head, tail, together) in items {
                let shape = Shape { head: 32 + head * 4, tail, together };
                if !shape.fits(bits) {
                    continue;
                }
                let at = packer.place(shape);
                prop_assert!(at >= start && at.is_multiple_of(32));
                let tail_at = at + shape.head;
                prop_assert!(bits.offset_in_block(tail_at) + tail <= bits.size_u64());
                if together {
                    let len = shape.head + tail;
                    prop_assert!(bits.offset_in_block(at) + len <= bits.size_u64());
                }
                placed.push((at, at + shape.head + tail));
            }
            placed.sort_unstable();
            for pair in placed.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0, "{pair:?}");
            }
            if let Some(last) = placed.last() {
                prop_assert!(last.1 <= packer.end());
            }
        }
    }

    #[test]
    fn gaps_before_blocks_are_filled() {
        let mut packer = Packer::new(BlockBits::DEFAULT, 32);
        assert_eq!(packer.place_blocks(0), 4096);
        assert_eq!(packer.end(), 32);
        assert_eq!(packer.place_blocks(2), 4096);
        assert_eq!(packer.place(Shape { head: 64, tail: 10, together: false }), 32);
        assert_eq!(packer.place(Shape { head: 64, tail: 4000, together: false }), 3 * 4096);
    }

    #[test]
    fn little_is_wasted() {
        let bits = BlockBits::DEFAULT;
        let mut packer = Packer::new(bits, 0);
        let mut used = 0;
        for n in 0..10_000u64 {
            let tail = n * 7919 % 4096;
            packer.place(Shape { head: 64, tail, together: false });
            used += 64 + tail;
        }
        assert!(packer.end() < used + used / 20, "{} for {used}", packer.end());
    }
}
