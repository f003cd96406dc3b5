// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of format.md §19.2 and §19.3.

use super::{SAMPLE, check_error, open, read_all};
use ferrofs_image::{Error, Nid};
use ferrofs_tests::craft::Crafted;
use ferrofs_tests::exercise::{Budget, exercise};

/// What must come of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// The kernel's EFSCORRUPTED or EIO.
    Corrupt,
    /// The kernel's EOPNOTSUPP or EINVAL.
    Unsupported,
    /// A stream that does not decode.
    Undecodable,
    /// Any of these, depending on what happens to lie there.
    Error,
    /// As if nothing had been changed.
    Same,
    /// Readable, with other content.
    Other,
}

/// Name, path that is affected (none: opening fails), the change, the result.
type Row = (&'static str, Option<&'static str>, fn(&mut Crafted), Is);

fn run(rows: &[Row]) {
    let sound = read_all(&SAMPLE).unwrap();
    for &(name, path, change, expected) in rows {
        let mut crafted = SAMPLE.clone();
        change(&mut crafted);
        assert!(crafted.bytes != SAMPLE.bytes, "{name}: nothing changed");
        let image = match open(crafted.bytes.clone()) {
            Ok(image) => image,
            Err(error) => {
                assert!(path.is_none(), "{name}: does not open: {error}");
                check_error(name, &error);
                assert!(matches(&error, expected), "{name}: {error:?} is not {expected:?}");
                continue;
            }
        };
        let path = path.unwrap_or_else(|| panic!("{name}: opens")).as_bytes();
        let found = exercise(&image, Budget::default());
        match (expected, found.error(path)) {
            (Is::Same | Is::Other, Some(error)) => panic!("{name}: {error}"),
            (Is::Same, None) => {
                assert!(found.files.get(path) == sound.files.get(path), "{name}: other content");
            }
            (Is::Other, None) => {
                assert!(found.files.contains_key(path), "{name}: nothing read");
                assert!(found.files[path] != sound.files[path], "{name}: same content");
            }
            (_, None) => panic!("{name}: no error"),
            (_, Some(error)) => {
                check_error(name, error);
                assert!(matches(error, expected), "{name}: {error:?} is not {expected:?}");
                let of_content = !name.contains("xattr") && !name.contains("shared");
                let read = of_content && found.files.contains_key(path);
                assert!(!read || path.is_empty(), "{name}: and content");
            }
        }
    }
}

fn matches(error: &Error, expected: Is) -> bool {
    match error {
        Error::Corrupt { .. } => matches!(expected, Is::Corrupt | Is::Error),
        Error::Unsupported { .. } => matches!(expected, Is::Unsupported | Is::Error),
        Error::Undecodable { .. } => matches!(expected, Is::Undecodable | Is::Error),
        _ => false,
    }
}

const BLOCK: usize = 512;

fn put16(crafted: &mut Crafted, offset: usize, value: u16) {
    crafted.put(offset, &value.to_le_bytes());
}

fn put32(crafted: &mut Crafted, offset: usize, value: u32) {
    crafted.put(offset, &value.to_le_bytes());
}

fn put64(crafted: &mut Crafted, offset: usize, value: u64) {
    crafted.put(offset, &value.to_le_bytes());
}

/// A superblock byte, with the checksum made right.
fn superblock(crafted: &mut Crafted, offset: usize, bytes: &[u8]) {
    crafted.put(1024 + offset, bytes);
    crafted.seal();
}

/// Full index number `index` of a file.
fn full(crafted: &Crafted, name: &str, index: usize) -> usize {
    crafted.at(&format!("{name}.map")) + 16 + 8 * index
}

/// First full index of a file that is no head.
fn nonhead(crafted: &Crafted, name: &str) -> usize {
    let heads = |index: &usize| crafted.bytes[full(crafted, name, *index)] & 3 == 2;
    full(crafted, name, (0..14).find(heads).expect("an extent of several lclusters"))
}

/// Where the names begin in the first block of `dir`.
fn first_nameoff(crafted: &Crafted) -> usize {
    let at = crafted.at("dir.data") + 8;
    usize::from(u16::from_le_bytes([crafted.bytes[at], crafted.bytes[at + 1]]))
}

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

#[test]
fn directory_rows() {
    use Is::{Corrupt, Same};
    run(&[
        (
            "dirent nid out of range",
            Some("/dir/entry-000"),
            |c| {
                put64(c, c.at("dir.data") + 24, 1 << 40);
            },
            Corrupt,
        ),
        (
            "dirent nid 2^63-1",
            Some("/dir/entry-000"),
            |c| {
                put64(c, c.at("dir.data") + 24, (1 << 63) - 1);
            },
            Corrupt,
        ),
        (
            "dirent nid in no metabox",
            Some("/boxed"),
            |c| {
                superblock(c, 81, &[0]);
            },
            Corrupt,
        ),
        (
            "dirent nid behind the metabox",
            Some("/dir/entry-000"),
            |c| {
                put64(c, c.at("dir.data") + 24, Nid::METABOX_BIT | 1 << 40);
            },
            Corrupt,
        ),
        // Kernels do not look at the order while listing; a search would miss names.
        (
            "wrong dirent order",
            Some("/dir"),
            |c| {
                let first = first_nameoff(c) + 3;
                c.put(c.at("dir.data") + first, b"zzzzz");
            },
            Corrupt,
        ),
        ("file_type 9", Some("/dir/entry-000"), |c| c.put(c.at("dir.data") + 24 + 10, &[9]), Same),
        ("first nameoff 0", Some("/dir"), |c| put16(c, c.at("dir.data") + 8, 0), Corrupt),
        (
            "first nameoff 13 (d18a3b5d337f)",
            Some("/dir"),
            |c| {
                put16(c, c.at("dir.data") + 8, 13);
            },
            Corrupt,
        ),
        (
            "first nameoff at the block's end",
            Some("/dir"),
            |c| {
                put16(c, c.at("dir.data") + 8, 516);
            },
            Corrupt,
        ),
        ("first nameoff 0xfffc", Some("/dir"), |c| put16(c, c.at("dir.data") + 8, 0xfffc), Corrupt),
        (
            "descending nameoff (419d6efc50e9)",
            Some("/dir"),
            |c| {
                put16(c, c.at("dir.data") + 4 * 12 + 8, 1);
            },
            Corrupt,
        ),
        (
            "last nameoff beyond the block (d18a3b5d337f)",
            Some("/dir"),
            |c| {
                let count = first_nameoff(c) / 12;
                assert!(count > 10);
                put16(c, c.at("dir.data") + (count - 1) * 12 + 8, 0xfff0);
            },
            Corrupt,
        ),
        (
            "empty name",
            Some("/dir"),
            |c| {
                let at = c.at("dir.data") + 4 * 12 + 8;
                let next = c.bytes[at..at + 2].to_vec();
                c.put(c.at("dir.data") + 3 * 12 + 8, &next);
            },
            Corrupt,
        ),
        (
            "name with a slash",
            Some("/dir"),
            |c| {
                let first = first_nameoff(c) + 3 + 2;
                c.put(c.at("dir.data") + first, b"/");
            },
            Corrupt,
        ),
        (
            "name with NUL",
            Some("/dir"),
            |c| {
                let first = first_nameoff(c) + 3 + 2;
                c.put(c.at("dir.data") + first, &[0]);
            },
            Corrupt,
        ),
        (
            "blocks out of order",
            Some("/dir"),
            |c| {
                let at = c.at("dir.data");
                let first = c.bytes[at..at + BLOCK].to_vec();
                c.put(at + BLOCK, &first);
            },
            Corrupt,
        ),
    ]);
}

/// Lookups do not check the whole block; what they touch they check.
#[test]
fn lookups_in_damaged_blocks_end() {
    let at = SAMPLE.at("dir.data");
    for offset in at..at + 2 * BLOCK {
        for value in [0, 1, 0x7f, 0xff] {
            let mut crafted = SAMPLE.clone();
            crafted.bytes[offset] = value;
            let image = open(crafted.bytes).unwrap();
            let inode = image.inode(SAMPLE.nid("dir")).unwrap();
            let directory = image.directory(&inode).unwrap();
            for name in [&b"entry-000"[..], b"entry-020", b"entry-039", b".", b"", b"zzz", b"\xff"]
            {
                if let Err(error) = directory.lookup(name) {
                    check_error("lookup", &error);
                }
            }
        }
    }
}

/// The kernel's ELOOP and ENOTDIR: walkers here see the directory again; paths do not go through
/// files, whatever the entry says.
#[test]
fn directory_links_and_types() {
    let mut crafted = SAMPLE.clone();
    let root = crafted.nid("root");
    put64(&mut crafted, SAMPLE.at("dir.data") + 24, root.0);
    put64(&mut crafted, SAMPLE.at("dir.data") + 36, SAMPLE.nid("dir").0);
    crafted.put(SAMPLE.at("dir.data") + 48 + 10, &[2]);
    let image = open(crafted.bytes).unwrap();
    let found = exercise(&image, Budget::default());
    assert_eq!(found.loops, [b"/dir/entry-000".to_vec(), b"/dir/entry-001".to_vec()]);
    let deep = b"dir/entry-001/".repeat(20_000);
    assert!(matches!(image.resolve(&deep), Err(Error::NotFound)), "dir is not in dir");
    let deep = [&b"dir/"[..], &b"entry-001/".repeat(20_000)].concat();
    assert_eq!(image.resolve(&deep).unwrap().nid, SAMPLE.nid("dir"), "no recursion by depth");
    let error = image.resolve(b"dir/entry-002/x").unwrap_err();
    assert!(matches!(error, Error::NotDirectory { .. }), "{error}");
}

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
