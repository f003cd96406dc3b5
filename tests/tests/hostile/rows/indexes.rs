// SPDX-License-Identifier: MIT OR Apache-2.0
//! Full and compact indexes.

use super::super::{SAMPLE, check_error, open};
use super::{BLOCK, Is, full, nonhead, put16, put32, run, superblock};
use ferrofs_image::Error;

#[test]
fn index_rows() {
    use Is::{Corrupt, Error, Other, Same, Undecodable, Unsupported};
    run(&[
        (
            "pack address beyond the device",
            Some("/full"),
            |c| {
                put32(c, full(c, "full", 0) + 4, 0xff_ffff);
            },
            Corrupt,
        ),
        ("unknown advise bit", Some("/full"), |c| c.put(c.at("full.map") + 5, &[0x80]), Same),
        ("di_advise bit 13", Some("/full"), |c| c.put(full(c, "full", 0) + 1, &[0x20]), Same),
        // Bit 14 is a hole since Linux 7.2; older kernels ignore it.
        ("di_advise bit 14", Some("/full"), |c| c.put(full(c, "full", 0) + 1, &[0x40]), Other),
        ("HEAD2 nibble 15, unused", Some("/full"), |c| c.put(c.at("full.map") + 6, &[0xf0]), Same),
        (
            "HEAD2 nibble 15, used",
            Some("/head2"),
            |c| c.put(c.at("head2.map") + 6, &[0xf2]),
            Unsupported,
        ),
        (
            "NONHEAD d1 = 0 (0bc8061ffc73)",
            Some("/full"),
            |c| put16(c, nonhead(c, "full") + 6, 0),
            Same,
        ),
        ("stray CBLKCNT flag", Some("/full"), |c| put16(c, nonhead(c, "full") + 4, 0x801), Same),
        ("HEAD1 algorithm 5", Some("/full"), |c| c.put(c.at("full.map") + 6, &[5]), Unsupported),
        ("undeclared algorithm", Some("/head2"), |c| superblock(c, 84, &[7]), Corrupt),
        (
            "BIG bits inconsistent",
            Some("/compactbig"),
            |c| {
                let advise = c.bytes[c.at("compactbig.map") + 4];
                c.put(c.at("compactbig.map") + 4, &[advise & !4]);
            },
            Corrupt,
        ),
        (
            "BIG bits without 0x2",
            None,
            |c| {
                // The packed inode has them, too, so the image does not even open.
                let incompat = c.bytes[1024 + 80];
                superblock(c, 80, &[incompat & !2]);
            },
            Corrupt,
        ),
        (
            "BIG bits without the count",
            Some("/full"),
            |c| c.put(c.at("full.map") + 4, &[6]),
            Corrupt,
        ),
        (
            "first entry is no head",
            Some("/full"),
            |c| {
                c.put(full(c, "full", 0), &[2, 0, 0, 0, 1, 0, 1, 0]);
            },
            Corrupt,
        ),
        ("first head not at 0", Some("/full"), |c| put16(c, full(c, "full", 0) + 2, 9), Corrupt),
        ("clusterofs >= L", Some("/full"), |c| put16(c, full(c, "full", 0) + 2, 512), Corrupt),
        (
            "inline pcluster across a block",
            Some("/fullinline"),
            |c| {
                put16(c, c.at("fullinline.map") + 2, 512);
            },
            Corrupt,
        ),
        (
            "inline pcluster of 64 KiB",
            Some("/fullinline"),
            |c| {
                put16(c, c.at("fullinline.map") + 2, 0xffff);
            },
            Corrupt,
        ),
        (
            "corrupt stream",
            Some("/full"),
            |c| {
                let at = c.at("full.data");
                let noise: Vec<u8> = (0..BLOCK).map(|i| (i * 89 % 251 + 1) as u8).collect();
                c.put(at, &noise);
            },
            Undecodable,
        ),
        ("all-zero stream", Some("/full"), |c| c.put(c.at("full.data"), &[0; BLOCK]), Undecodable),
        (
            "all-zero stream, lzma",
            Some("/lzma"),
            |c| c.put(c.at("lzma.data"), &[0; BLOCK]),
            Undecodable,
        ),
        (
            "lcluster bits 15 in compact",
            Some("/compact"),
            |c| {
                c.put(c.at("compact.map") + 7, &[6]);
            },
            Unsupported,
        ),
        (
            "compact: only NONHEADs, delta0 0 (e13d315ae077)",
            Some("/compact2b"),
            |c| {
                let at = c.at("compact2b.map") + 8;
                for pack in (at..at + 24).step_by(4) {
                    put16(c, pack, 0x2000);
                }
            },
            Corrupt,
        ),
        (
            "compact: only NONHEADs, delta0 1 (utils 2d0e37b)",
            Some("/compactbig"),
            |c| {
                let at = c.at("compactbig.map") + 8;
                c.put(at, &[1, 0x20, 1, 0x20, 0, 0, 0, 0]);
            },
            Corrupt,
        ),
        // Two heads share blocks: both decode, to whatever is there, or fail (CVE-2024-47736).
        (
            "overlapping big pclusters",
            Some("/fullbig"),
            |c| {
                let block = u32::try_from(c.at("fullbig.data") / BLOCK).unwrap();
                for index in 1..15 {
                    let at = full(c, "fullbig", index);
                    if c.bytes[at] & 3 == 1 {
                        put32(c, at + 4, block + 1);
                    }
                }
            },
            Error,
        ),
        // Each decodes its own prefix of the same pcluster (CVE-2023-53777).
        (
            "all extents share one pcluster",
            Some("/full"),
            |c| {
                let block = u32::try_from(c.at("full.data") / BLOCK).unwrap();
                for index in 0..15 {
                    let at = full(c, "full", index);
                    if c.bytes[at] & 3 == 1 {
                        c.put(at + 1, &[0x80]);
                        put32(c, at + 4, block);
                    }
                }
            },
            Error,
        ),
    ]);
}

/// delta0 of 0 or past the file's start: an error for whoever has to go that way. Reads that begin at
/// the head do not, and kernels give them, too.
#[test]
fn distances_back_lie() {
    for index in 1..15 {
        let at = full(&SAMPLE, "full", index);
        if SAMPLE.bytes[at] & 3 != 2 {
            continue;
        }
        for distance in [0, 0x7ff, index as u16 + 1] {
            let mut crafted = SAMPLE.clone();
            put16(&mut crafted, at + 4, distance);
            let image = open(crafted.bytes).unwrap();
            let map = image.map(&image.inode(SAMPLE.nid("full")).unwrap()).unwrap();
            let offset = (index * BLOCK) as u64;
            let error = image.read(&map, offset, &mut [0]).expect_err("a wrong way back");
            check_error("delta0", &error);
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }
}
