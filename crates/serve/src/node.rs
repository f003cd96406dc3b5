// SPDX-License-Identifier: MIT OR Apache-2.0
//! Node ids of FUSE and nids of EROFS: one from the other, without a table.
//!
//! FUSE wants the root to be 1 and nothing to be 0. Every 64-bit number may be asked for, so the
//! mapping is a permutation of all of them: each number is one more than the nid, which leaves 0 for
//! the nid 2^64 - 1 (no inode, since its byte address would be past 2^64), and then the root's number
//! and 1 change places.

use ferrofs_image::Nid;

const ROOT_NODE: u64 = ferrofs_fuse::ROOT_NODE;

/// The node of an inode.
#[must_use]
pub const fn node_of(nid: Nid, root: Nid) -> u64 {
    swap(nid.0.wrapping_add(1), root)
}

/// The inode of a node.
#[must_use]
pub const fn nid_of(node: u64, root: Nid) -> Nid {
    Nid(swap(node, root).wrapping_sub(1))
}

/// Exchanges the root's number and 1; its own inverse.
const fn swap(number: u64, root: Nid) -> u64 {
    let of_root = root.0.wrapping_add(1);
    if number == of_root {
        ROOT_NODE
    } else if number == ROOT_NODE {
        of_root
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nid_has_its_node() {
        let metabox = Nid::METABOX_BIT;
        for root in [0, 1, 2, 36, 1 << 40, metabox, metabox | 0x24, u64::MAX - 1] {
            let root = Nid(root);
            assert_eq!(node_of(root, root), ROOT_NODE);
            assert_eq!(nid_of(ROOT_NODE, root), root);
            let near = [root.0.wrapping_sub(1), root.0.wrapping_add(1)];
            for nid in
                [0, 1, 2, 3, 35, 36, 37, metabox, metabox | 1, u64::MAX - 1].iter().chain(&near)
            {
                let node = node_of(Nid(*nid), root);
                assert_eq!(nid_of(node, root), Nid(*nid));
                assert_eq!(node == 0, *nid == u64::MAX, "only the impossible nid is node 0");
                assert_eq!(node == ROOT_NODE, Nid(*nid) == root);
            }
        }
    }
}
