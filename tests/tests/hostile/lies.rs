// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes and tables that claim more than there is: refused, or read at the cost of what is there.

use super::{SAMPLE, check_error, open, read_all};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::inode::{FileType, InodeRecord, Layout, Mtime};
use ferrofs_image::format::lcluster::extents::ExtentRecord;
use ferrofs_image::format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_image::{Error, Nid};
use ferrofs_tests::craft::{Craft, word, xattr_body};
use ferrofs_tests::exercise::{Budget, exercise};
use std::sync::Arc;

/// Any size in any layout: nothing is allocated or walked by it.
#[test]
fn sizes_lie() {
    let wide = [1 << 31, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, u64::MAX];
    let narrow = [513, 1 << 20, (1 << 31) + 1, u64::from(u32::MAX)];
    let names: Vec<&String> = SAMPLE.places.keys().filter(|name| !name.contains(".map")).collect();
    for name in names {
        let at = SAMPLE.at(name);
        let is_inode = SAMPLE.places.contains_key(&format!("{name}.map")) || name == "root";
        if !is_inode {
            continue;
        }
        let extended = SAMPLE.bytes[at] & 1 == 1;
        for size in if extended { &wide[..] } else { &narrow[..] } {
            let mut crafted = SAMPLE.clone();
            let bytes = size.to_le_bytes();
            crafted.put(at + 8, if extended { &bytes } else { &bytes[..4] });
            match open(crafted.bytes) {
                Ok(image) => drop(exercise(&image, Budget::default())),
                Err(error) => check_error(name, &error),
            }
        }
    }
}

/// A hole of 1 TiB in chunks of 4 KiB: a gigabyte of table, which is itself a hole of the metabox.
#[test]
fn a_tebibyte_of_holes_is_read_at_random() {
    let mut craft = Craft::new(12);
    let format = ChunkFormat { bits: 20, indexes: true, wide: false };
    let data = craft.data(b"the end");
    let mut chunks = vec![Chunk::Hole; 256];
    chunks.push(Chunk::At { device: 0, block: data.into() });
    craft.chunked("sparse", (1 << 40) + 7, format, &chunks);
    let image = open(craft.finish().bytes).unwrap();
    let inode = image.resolve(b"sparse").unwrap();
    let engine = Engine::new(Arc::clone(&image), EngineConfig::default());
    let file = engine.open(&inode).unwrap();
    let mut buf = vec![1; 8192];
    for step in 0..20_000u64 {
        let offset = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
        let count = engine.read_into(&file, offset, &mut buf).unwrap();
        assert!(count == 8192 || offset + 8192 > (1 << 40), "{offset}");
        assert!(buf.iter().all(|&byte| byte == 0) || offset + 8192 > (1 << 40));
    }
    let count = engine.read_into(&file, 1 << 40, &mut buf).unwrap();
    assert_eq!(&buf[..count], b"the end");
}

/// A metabox of 2^62 bytes, nearly all of them a hole, so that any table seems to lie inside it.
fn endless_metabox(inode: &[u8]) -> Vec<u8> {
    let mut craft = Craft::new(9);
    let mut content = vec![0; 32];
    content.extend_from_slice(inode);
    content.resize(512, 0);
    let at = u64::from(craft.data(&content)) * 512;
    let header = MapFields {
        word: 2,
        advise: Advise(Advise::EXTENTS | 2 << 1),
        algorithms: 0,
        cluster_bits: 0,
    };
    let record = |word, physical, logical| ExtentRecord {
        word,
        physical: Some(physical),
        logical: Some(logical),
    };
    let records = [record(word(512, None, false), at, 0), record(0, 0, 512)];
    let nid = craft.records(".metabox", 1 << 62, header, None, &records);
    craft.superblock.metabox = Some(nid);
    craft.superblock.incompat.0 |= 0x100;
    let inner = Nid(Nid::METABOX_BIT | 1);
    craft.directory("dir", &[("inner", inner, FileType::Regular)]);
    craft.finish().bytes
}

#[test]
fn tables_in_an_endless_metabox_cost_nothing() {
    for (layout, advise, u) in [
        (Layout::CompressedFull, Advise::EXTENTS, 0),
        (Layout::CompressedFull, Advise::EXTENTS | 1 << 1, 0),
        (Layout::CompressedFull, Advise::EXTENTS | 2 << 1, 0),
        (Layout::CompressedFull, 0, 0),
        (Layout::CompressedCompact, 1, 0),
        (Layout::Chunk, 0, 0),
    ] {
        for size in [1 << 40, 1 << 50, 1 << 60, (1 << 63) - 1] {
            let record = InodeRecord {
                layout,
                dot_omitted: false,
                xattr_icount: 0,
                mode: 0o100_644,
                file_type: FileType::Regular,
                size,
                mtime: Mtime::Full { seconds: 0, nanoseconds: 0 },
                u,
                u_high: 0,
                ino: 1,
                uid: 0,
                gid: 0,
                nlink: 1,
            };
            let mut bytes = vec![];
            record.emit(&mut bytes).unwrap();
            let fields =
                MapFields { word: 1 << 20, advise: Advise(advise), algorithms: 0, cluster_bits: 0 };
            bytes.extend(MapHeader::Map(fields).emit().unwrap());
            let image = open(endless_metabox(&bytes)).unwrap();
            let found = exercise(&image, Budget::default());
            assert!(found.files.len() + found.errors.len() > 0, "{layout:?} {advise} {size}");
        }
    }
}

#[test]
fn tables_of_the_superblock_lie() {
    for (what, offset, bytes) in [
        ("device table behind the end", 88, &[0xff, 0xff][..]),
        ("65535 devices", 86, &[0xff, 0xff]),
        ("prefix table behind the end", 92, &[0xff, 0xff, 0xff, 0x7f]),
        ("prefix table of zeros", 92, &[1, 0, 0, 0]),
    ] {
        let mut crafted = SAMPLE.clone();
        crafted.put(1024 + offset, bytes);
        crafted.seal();
        let error = open(crafted.bytes).expect_err(what);
        check_error(what, &error);
        assert!(error.is_corruption(), "{what}: {error}");
    }
    let at = SAMPLE.at(".prefixes");
    for (what, len) in [("empty", 0u16), ("257 bytes", 257), ("64 KiB", 0xffff)] {
        let mut crafted = SAMPLE.clone();
        crafted.put(at, &len.to_le_bytes());
        check_error(what, &open(crafted.bytes).expect_err(what));
    }
    // Shared xattrs far behind the end of the device.
    let mut crafted = SAMPLE.clone();
    crafted.put(1024 + 44, &[0xff; 4]);
    crafted.seal();
    let found = read_all(&crafted).unwrap();
    assert!(found.error(b"/inline").is_some_and(Error::is_corruption));
}

/// A device that covers other addresses than its bytes, or more than there are.
#[test]
fn device_slots_lie() {
    let slot = SAMPLE.at(".devices");
    for (offset, value) in [(64, u32::MAX), (68, u32::MAX), (68, 0), (72, u32::MAX)] {
        let mut crafted = SAMPLE.clone();
        crafted.put(slot + offset, &value.to_le_bytes());
        let flat = open(crafted.bytes.clone()).unwrap();
        let _ = exercise(&flat, Budget::default());
        let options = ferrofs_image::OpenOptions::new().device(vec![7u8; 600]);
        let separate = options.open(crafted.bytes).unwrap();
        let _ = exercise(&Arc::new(separate), Budget::default());
    }
    let options = ferrofs_image::OpenOptions::new().device(vec![]).device(vec![]);
    let error = options.open(SAMPLE.bytes.clone()).expect_err("two devices for one slot");
    assert!(matches!(error, Error::DeviceCount { expected: 1, given: 2 }), "{error}");
}

/// The largest body there is, full of names: listed once each, without comparing all with all.
#[test]
fn a_body_of_thousands_of_names() {
    let names: Vec<[u8; 4]> = (0..1200u32).map(u32::to_le_bytes).collect();
    let mut entries: Vec<(u8, &[u8], &[u8])> =
        names.iter().map(|name| (1, &name[..], &b""[..])).collect();
    entries.push((1, &names[0], b"again"));
    let mut craft = Craft::new(9);
    craft.flat("full", b"", 0, &xattr_body(&[], &entries));
    let image = open(craft.finish().bytes).unwrap();
    let inode = image.resolve(b"full").unwrap();
    let listed = image.xattrs(&inode).unwrap();
    assert_eq!(listed.len(), names.len());
    assert_eq!(listed[0].value, b"", "the first of a name counts");
}

/// A hidden attribute cannot stand in for a visible one of the same spelling.
#[test]
fn hidden_names_do_not_shadow() {
    let mut craft = Craft::new(9);
    craft.long_prefixes(&["user.a"]);
    // The same prefix, but of no namespace: format.md §6.4 allows it.
    let mut body = vec![7, 0, 0];
    body.extend(b"user.a");
    craft.superblock.xattr_prefix_start = (craft.meta(".hidden", &body, 4) / 4) as u32;
    craft.flat("f", b"", 0, &xattr_body(&[], &[(0x80, b"b", b"hidden"), (1, b"ab", b"seen")]));
    let image = open(craft.finish().bytes).unwrap();
    let inode = image.resolve(b"f").unwrap();
    let listed = image.xattrs(&inode).unwrap();
    assert_eq!(listed.iter().filter(|xattr| xattr.visible).count(), 1);
    assert_eq!(image.xattr(&inode, b"user.ab").unwrap().as_deref(), Some(&b"seen"[..]));
}
