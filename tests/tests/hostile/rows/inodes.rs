// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inodes, their xattrs and their chunks.

use super::{BLOCK, Is, put16, put32, put64, run, superblock};

#[test]
fn inode_rows() {
    use Is::{Corrupt, Error, Other, Same, Unsupported};
    run(&[
        ("i_format bit 5", Some("/flat"), |c| c.put(c.at("flat"), &[0x20]), Unsupported),
        ("layout 5", Some("/flat"), |c| c.put(c.at("flat"), &[5 << 1]), Unsupported),
        ("layout 7", Some("/flat"), |c| c.put(c.at("flat"), &[7 << 1]), Unsupported),
        ("bogus i_mode", Some("/flat"), |c| put16(c, c.at("flat") + 4, 0xf1ff), Corrupt),
        ("inline tail across a block", Some("/tiny"), |c| put32(c, c.at("tiny") + 8, 500), Corrupt),
        (
            "inline layout, whole blocks",
            Some("/inline"),
            |c| {
                put32(c, c.at("inline") + 8, 2 * BLOCK as u32);
            },
            Corrupt,
        ),
        (
            "start block beyond the device",
            Some("/flat"),
            |c| {
                put32(c, c.at("flat") + 16, 0xff_ffff);
            },
            Corrupt,
        ),
        ("xattr icount 1", Some("/inline"), |c| put16(c, c.at("inline") + 2, 1), Error),
        ("xattr icount 1, no tail", Some("/flat"), |c| put16(c, c.at("flat") + 2, 1), Unsupported),
        (
            "xattr body behind the end",
            Some("/flat"),
            |c| {
                put16(c, c.at("flat") + 2, 0xffff);
            },
            Corrupt,
        ),
        (
            "xattr entry overrun",
            Some("/inline"),
            |c| {
                put16(c, c.at("inline.xattr") + 12 + 4 + 2, 0xffff);
            },
            Corrupt,
        ),
        // Tolerated by 6.18, refused by 7.x (and utils 1e429b7).
        (
            "h_shared_count 200",
            Some("/inline"),
            |c| c.put(c.at("inline.xattr") + 4, &[200]),
            Corrupt,
        ),
        (
            "shared id behind the end",
            Some("/inline"),
            |c| {
                put32(c, c.at("inline.xattr") + 12, u32::MAX);
            },
            Corrupt,
        ),
        // An entry of a prefix that is not there is no attribute.
        (
            "xattr prefix behind the table",
            Some("/inline"),
            |c| {
                c.put(c.at("inline.xattr") + 12 + 4 + 8 + 1, &[0x85]);
            },
            Same,
        ),
        // Kernels accept both; 7.2 refuses NUL in a target. Extraction has to.
        ("symlink with NUL", Some("/link"), |c| c.put(c.at("link.map") + 3, &[0]), Other),
        ("symlink of size 0", Some("/link"), |c| put32(c, c.at("link") + 8, 0), Other),
        ("symlink of 4 GiB", Some("/link"), |c| put32(c, c.at("link") + 8, u32::MAX), Corrupt),
        (
            "symlink of 2^64-1 (utils 310d44d)",
            Some("/hole"),
            |c| {
                put16(c, c.at("hole") + 4, 0o120_777);
                put64(c, c.at("hole") + 8, u64::MAX);
            },
            Corrupt,
        ),
        (
            "symlink of 2^32+1 (utils 4db4cef)",
            Some("/hole"),
            |c| {
                put16(c, c.at("hole") + 4, 0o120_777);
                put64(c, c.at("hole") + 8, (1 << 32) + 1);
            },
            Corrupt,
        ),
        (
            "negative size (025497e1d176)",
            Some("/hole"),
            |c| {
                put64(c, c.at("hole") + 8, 1 << 63);
            },
            Corrupt,
        ),
        (
            "chunk format bit 7",
            Some("/chunkmap"),
            |c| {
                c.put(c.at("chunkmap") + 16, &[0x80]);
            },
            Unsupported,
        ),
        ("chunk size 2^40", Some("/chunkmap"), |c| c.put(c.at("chunkmap") + 16, &[31]), Other),
        (
            "chunk behind the device",
            Some("/chunkmap"),
            |c| {
                put32(c, c.at("chunkmap.map"), 0xff_ffff);
            },
            Corrupt,
        ),
        (
            "chunk table behind the end",
            Some("/chunkmap"),
            |c| {
                put64(c, c.at("chunkmap") + 8, 1 << 62);
            },
            Corrupt,
        ),
        (
            "chunk address past 2^57",
            Some("/chunkindex"),
            |c| {
                c.put(c.at("chunkindex.map"), &[0xfe, 0xff]);
            },
            Corrupt,
        ),
        // Two devices make ids of two bits, of which 3 is none (utils 89dfe99, 8ef51b0).
        (
            "device id off by one",
            Some("/chunkindex"),
            |c| {
                superblock(c, 86, &[2]);
                put16(c, c.at("chunkindex.map") + 2, 3);
            },
            Corrupt,
        ),
        // Ids are masked: 3 & 1.
        (
            "device id 3 of one device",
            Some("/chunkindex"),
            |c| {
                put16(c, c.at("chunkindex.map") + 2, 3);
            },
            Same,
        ),
    ]);
}
