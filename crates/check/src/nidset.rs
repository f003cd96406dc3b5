// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of inode numbers: pages of bits, since inodes lie close together.

use ferrofs_image::Nid;
use std::collections::HashMap;

const PAGE_WORDS: usize = 32;
const PAGE_BITS: u64 = PAGE_WORDS as u64 * 64;

/// The set. Takes about one bit a slot of 32 bytes where inodes are dense.
#[derive(Debug, Default)]
pub(crate) struct NidSet {
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
    len: u64,
}

impl NidSet {
    /// Adds `nid`; whether it was new.
    pub(crate) fn insert(&mut self, nid: Nid) -> bool {
        // The metabox bit is the highest: it only makes a page number of its own.
        let page = self.pages.entry(nid.0 / PAGE_BITS).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let bit = (nid.0 % PAGE_BITS) as usize;
        let word = &mut page[bit / 64];
        let new = *word & (1 << (bit % 64)) == 0;
        *word |= 1 << (bit % 64);
        self.len += u64::from(new);
        new
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_once() {
        let mut set = NidSet::default();
        for nid in [0, 1, 63, 64, 2047, 2048, u64::MAX, 1 << 63] {
            assert!(set.insert(Nid(nid)), "{nid}");
            assert!(!set.insert(Nid(nid)), "{nid}");
        }
        assert_eq!(set.len(), 8);
    }
}
