// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directory blocks, links and types.

use super::super::{SAMPLE, check_error, open};
use super::{BLOCK, Is, first_nameoff, put16, put64, run, superblock};
use ferrofs_image::{Error, Nid};
use ferrofs_tests::exercise::{Budget, exercise};

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
