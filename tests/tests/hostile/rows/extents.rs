// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extent records, fragments, and layouts that an image does not declare.

use super::super::{SAMPLE, check_error, read_all};
use super::{Is, put16, put32, put64, run, superblock};
use ferrofs_image::Error;

#[test]
fn extent_and_fragment_rows() {
    use Is::{Corrupt, Same, Undecodable, Unsupported};
    run(&[
        (
            "record format 9",
            Some("/ext16"),
            |c| c.put(c.at("ext16.map") + 16 + 3, &[0x90]),
            Unsupported,
        ),
        (
            "plen over 1 MiB",
            Some("/ext16"),
            |c| {
                put32(c, c.at("ext16.map") + 16, 0x4010_0001);
            },
            Unsupported,
        ),
        ("plain llen over plen", Some("/ext4"), |c| put32(c, c.at("ext4.map") + 16, 100), Corrupt),
        ("pstart 2^62", Some("/ext16"), |c| put32(c, c.at("ext16.map") + 16 + 8, 1 << 30), Corrupt),
        (
            "running address past 2^64",
            Some("/ext4"),
            |c| {
                put64(c, c.at("ext4.map") + 8, u64::MAX - 100);
            },
            Corrupt,
        ),
        (
            "extents not ascending",
            Some("/ext16"),
            |c| {
                put32(c, c.at("ext16.map") + 48 + 12, 2047);
            },
            Corrupt,
        ),
        ("first extent not at 0", Some("/ext16"), |c| put32(c, c.at("ext16.map") + 28, 1), Corrupt),
        ("no extents", Some("/ext16"), |c| put32(c, c.at("ext16.map"), 0), Corrupt),
        ("2^47 extents", Some("/ext16"), |c| put16(c, c.at("ext16.map") + 6, 0x7fff), Corrupt),
        (
            "an extent of 14 MiB (CVE-2023-33552)",
            Some("/ext16"),
            |c| {
                put32(c, c.at("ext16.map") + 32 + 12, 14 << 20);
                put32(c, c.at("ext16.map") + 48 + 12, 15 << 20);
                put64(c, c.at("ext16") + 8, 16 << 20);
            },
            Corrupt,
        ),
        (
            "truncated zstd stream",
            Some("/ext8"),
            |c| {
                let at = c.at("ext8.map") + 8;
                let word = u32::from_le_bytes(c.bytes[at..at + 4].try_into().unwrap());
                put32(c, at, word - 3);
            },
            Undecodable,
        ),
        (
            "zstd stream and more",
            Some("/ext8"),
            |c| {
                let at = c.at("ext8.map") + 8;
                let word = u32::from_le_bytes(c.bytes[at..at + 4].try_into().unwrap());
                put32(c, at, word + 1);
            },
            Undecodable,
        ),
        // Rotation is for whole blocks only (utils 19d90bf, f4d0ec0aa20d): these begin at their
        // block, where rotated and not rotated is the same.
        ("interlaced extents", Some("/ext16"), |c| c.put(c.at("ext16.map") + 4, &[0x15]), Same),
        (
            "interlaced in part of a block",
            Some("/ext4"),
            |c| c.put(c.at("ext4.map") + 4, &[0x11]),
            Same,
        ),
        (
            "fragment at 2^62 (utils ed22721)",
            Some("/wholefrag"),
            |c| {
                put64(c, c.at("wholefrag.map"), 1 << 63 | 1 << 62);
            },
            Corrupt,
        ),
        (
            "fragment at 2^63-1",
            Some("/wholefrag"),
            |c| {
                put64(c, c.at("wholefrag.map"), u64::MAX);
            },
            Corrupt,
        ),
        (
            "fragment longer than the packed inode (6d36077)",
            Some("/wholefrag"),
            |c| {
                put64(c, c.at("wholefrag") + 8, 1 << 40);
            },
            Corrupt,
        ),
        (
            "fragment tail behind the packed inode",
            Some("/frag"),
            |c| {
                put32(c, c.at("frag.map"), u32::MAX);
            },
            Corrupt,
        ),
        (
            "fragments without a packed inode",
            Some("/frag"),
            |c| superblock(c, 96, &[0; 8]),
            Corrupt,
        ),
        (
            "packed inode of fragments (utils b204c92)",
            None,
            |c| {
                let advise = c.bytes[c.at(".packed.map") + 4];
                c.put(c.at(".packed.map") + 4, &[advise | 0x20]);
            },
            Corrupt,
        ),
        (
            "packed inode is one fragment",
            None,
            |c| c.put(c.at(".packed.map") + 7, &[0x80]),
            Corrupt,
        ),
        ("packed inode is a link", None, |c| put16(c, c.at(".packed") + 4, 0o120_777), Corrupt),
        ("metabox is a directory", None, |c| put16(c, c.at(".metabox") + 4, 0o040_755), Corrupt),
    ]);
}

/// An image without compression features whose inodes have compressed layouts: kernels before 7.0
/// read it as ancient LZ4, and so does this reader, since such images exist; what is not LZ4 is
/// refused. format.md §2.6, §13.1.
#[test]
fn compressed_layouts_in_a_plain_image() {
    let mut crafted = SAMPLE.clone();
    let incompat = crafted.bytes[1024 + 80];
    crafted.put(1024 + 84, &[0, 0]);
    // Neither packed inode nor metabox, which would not be readable either.
    crafted.put(1024 + 81, &[0]);
    superblock(&mut crafted, 80, &[incompat & !0x23]);
    let found = read_all(&crafted).unwrap();
    for path in [&b"/head2"[..], b"/lzma", b"/fullbig", b"/ext8", b"/frag"] {
        let error = found.error(path).unwrap_or_else(|| panic!("{}", path.escape_ascii()));
        check_error("plain image", error);
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}
