// SPDX-License-Identifier: MIT OR Apache-2.0
//! Superblock and what stands behind it.

use super::{Is, run, superblock};

#[test]
fn superblock_rows() {
    use Is::{Corrupt, Same, Unsupported};
    run(&[
        ("bad magic", None, |c| superblock(c, 0, &[0xe3]), Corrupt),
        ("wrong checksum", None, |c| c.put(1028, &[0; 4]), Corrupt),
        ("blkszbits 8", None, |c| superblock(c, 12, &[8]), Unsupported),
        ("blkszbits 17", None, |c| superblock(c, 12, &[17]), Unsupported),
        // Kernels with 4 KiB pages refuse blocks of 8 KiB; those with larger pages read them. Here
        // everything then lies elsewhere: behind the end.
        ("blkszbits 13", Some(""), |c| superblock(c, 12, &[13]), Corrupt),
        ("dirblkbits 1", None, |c| superblock(c, 90, &[1]), Unsupported),
        ("sb_extslots 255", None, |c| superblock(c, 13, &[255]), Corrupt),
        ("incompat 0x200", None, |c| superblock(c, 81, &[3]), Unsupported),
        (
            "root is a file",
            None,
            |c| {
                let nid = c.nid("flat").0 as u16;
                superblock(c, 14, &nid.to_le_bytes());
            },
            Corrupt,
        ),
        ("root nid garbage", None, |c| superblock(c, 14, &[0xff, 0xff]), Corrupt),
        ("METABOX without its slot", None, |c| superblock(c, 13, &[0]), Corrupt),
        ("metabox nid 0", None, |c| superblock(c, 128, &[0; 8]), Corrupt),
        // Kernel 6.18 does not look; readers that follow it recurse (utils 96ee4a6).
        ("packed_nid bit 63", None, |c| superblock(c, 103, &[0x80]), Corrupt),
        ("metabox_nid bit 63", None, |c| superblock(c, 135, &[0x80]), Corrupt),
        ("compat bit 31", Some("/flat"), |c| superblock(c, 11, &[0x80]), Same),
        ("label without NUL", Some("/flat"), |c| superblock(c, 64, &[b'x'; 16]), Same),
        ("algorithm bit 4", None, |c| superblock(c, 84, &[0x1f]), Unsupported),
        (
            "digest prefix behind the table",
            None,
            |c| {
                let compat = c.bytes[1032] | 0x20;
                c.put(1024 + 105, &[9]);
                superblock(c, 8, &[compat]);
            },
            Corrupt,
        ),
        (
            "configuration of length 0",
            None,
            |c| {
                let at = c.at("configs");
                superblock(c, at - 1024, &[0, 0]);
            },
            Corrupt,
        ),
        (
            "MicroLZMA window of 1 GiB",
            None,
            |c| {
                let at = c.at("configs") + 16 + 2;
                superblock(c, at - 1024, &(1u32 << 30).to_le_bytes());
            },
            Corrupt,
        ),
        (
            "Zstandard window of 4 GiB",
            None,
            |c| {
                let at = c.at("configs") + 32 + 8 + 3;
                superblock(c, at - 1024, &[22]);
            },
            Unsupported,
        ),
    ]);
}
