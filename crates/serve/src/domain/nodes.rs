// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes of a domain: which image, and which inode of it.
//!
//! Upper 16 bits: number of the image in the domain, from 1 on; so no node is [`ROOT_NODE`], the
//! folder of all images. Below: whether the inode lies in the metabox, and 47 bits of its nid, which
//! is an address in units of 32 bytes: 4 PiB. Invariant: one from the other, without a table.

use ferrofs_fuse::ROOT_NODE;
use ferrofs_image::Nid;

const SLOT_SHIFT: u32 = 48;
const METABOX: u64 = 1 << 47;

/// A regular file, or anything else, of an image of the domain.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct FileId {
    /// Number of the image, from 1 on. Never given twice while the domain lives.
    pub(crate) slot: u16,
    pub(crate) nid: Nid,
}

impl FileId {
    /// Its node; `None` for nids of images beyond 4 PiB.
    pub(crate) const fn node(self) -> Option<u64> {
        let low = self.nid.0 & !Nid::METABOX_BIT;
        if low >= METABOX || self.slot == 0 {
            return None;
        }
        let metabox = if self.nid.0 & Nid::METABOX_BIT == 0 { 0 } else { METABOX };
        Some(((self.slot as u64) << SLOT_SHIFT) | metabox | low)
    }

    /// What a node stands for; `None` for the folder of all images, and what never was one.
    pub(crate) const fn of(node: u64) -> Option<Self> {
        let slot = (node >> SLOT_SHIFT) as u16;
        if slot == 0 || node == ROOT_NODE {
            return None;
        }
        let low = node & (METABOX - 1);
        let metabox = if node & METABOX == 0 { 0 } else { Nid::METABOX_BIT };
        Some(Self { slot, nid: Nid(low | metabox) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for slot in [1, 2, u16::MAX] {
            for low in [0, 1, 36, METABOX - 1] {
                for bit in [0, Nid::METABOX_BIT] {
                    let id = FileId { slot, nid: Nid(low | bit) };
                    let node = id.node().unwrap();
                    assert!(node != 0 && node != ROOT_NODE);
                    assert_eq!(FileId::of(node), Some(id));
                }
            }
        }
        assert_eq!(FileId::of(ROOT_NODE), None);
        assert_eq!(FileId { slot: 1, nid: Nid(METABOX) }.node(), None, "too far away");
        assert_eq!(FileId { slot: 0, nid: Nid(1) }.node(), None, "no image has this number");
    }
}
