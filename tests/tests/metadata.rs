// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata that is compressed is decoded once for a walk, not once for each block or inode of it.

use ferrofs_check::{CheckOptions, Code, Context, ExtractOptions, ProblemKind, check, extract};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, OpenOptions, ReadAt};
use ferrofs_tests::craft::{Compressed, Craft};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const T: FileType = FileType::Regular;

/// Counts reads behind the metadata.
struct Counting {
    bytes: Vec<u8>,
    data: u64,
    reads: Arc<AtomicU64>,
}

impl ReadAt for Counting {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset >= self.data {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        self.bytes.read_exact_at(offset, buf)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }
}

/// A directory of many blocks in few pclusters.
fn compressed_directory() -> (Vec<u8>, Vec<String>, u64) {
    let mut craft = Craft::new(12);
    let file = craft.flat(".file", b"x", 1, &[]);
    let names: Vec<String> = (0..40_000).map(|index| format!("entry-{index:06}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), file, T)).collect();
    let options = Compressed { method: "lz4", blocks: 2, compact: true, ..Compressed::default() };
    craft.compressed_directory("dir", &entries, &options);
    let crafted = craft.finish();
    let data = crafted.at("dir.data") as u64;
    (crafted.bytes, names, data)
}

#[test]
fn a_compressed_directory_is_decoded_once() {
    let (bytes, names, data) = compressed_directory();
    let reads = Arc::new(AtomicU64::new(0));
    let source = Counting { bytes, data, reads: Arc::clone(&reads) };
    // Whatever the caches may hold.
    let image = OpenOptions::new().metadata_cache(0).open(source).unwrap();
    let inode = image.resolve(b"/dir").unwrap();
    let map = image.map(&inode).unwrap();
    let (mut extents, mut offset, mut cursor) = (0, 0, map.cursor(&image));
    while offset < map.size() {
        offset = cursor.extent_at(offset).unwrap().end();
        extents += 1;
    }
    let blocks = map.size().div_ceil(4096);
    assert!(extents > 2 && extents * 8 < blocks, "{extents} extents of {blocks} blocks");
    let before = reads.load(Ordering::Relaxed);
    // As walkers do: some entries at a time, each time anew.
    let (mut position, mut found) = (0, vec![]);
    loop {
        let mut batch = 0;
        let directory = image.directory(&inode).unwrap();
        let walk = directory.walk(position, |entry, next| {
            if batch == 100 {
                return ControlFlow::Break(());
            }
            batch += 1;
            position = next;
            found.push(String::from_utf8(entry.name.to_vec()).unwrap());
            ControlFlow::Continue(())
        });
        walk.unwrap();
        if batch < 100 {
            break;
        }
    }
    assert_eq!(found.split_off(2), names);
    for name in names.iter().step_by(97) {
        assert!(image.directory(&inode).unwrap().lookup(name.as_bytes()).unwrap().is_some());
    }
    assert_eq!(image.metadata_decoded(), map.size());
    assert_eq!(reads.load(Ordering::Relaxed) - before, extents, "one read an extent");
}

/// An extent of the largest size is kept, too: inodes of it are read without decoding it again.
#[test]
fn large_extents_of_the_metabox_are_kept() {
    const EXTENT: usize = 12 << 20;
    let mut craft = Craft::new(12);
    craft.configs.zstd_window_log = Some(20);
    craft.enter_metabox();
    for index in 0..500 {
        craft.pad_metabox((index + 1) * 20_000);
        craft.flat(&format!("f{index:03}"), b"x", 1, &[]);
    }
    craft.leave_compressed_metabox(EXTENT);
    let bytes = craft.finish().bytes;
    for cache in [0, 64 << 10, 64 << 20] {
        let image = OpenOptions::new().metadata_cache(cache).open(bytes.clone()).unwrap();
        let root = image.inode(image.root()).unwrap();
        for entry in image.directory(&root).unwrap().entries().unwrap() {
            image.inode(entry.nid).unwrap();
        }
        assert!(image.metadata_decoded() <= EXTENT as u64, "{}", image.metadata_decoded());
    }
}

/// An image of some 100 KiB whose inodes lie in turn in extents of 12 MiB: each costs a decode, and
/// the check gives up in time.
#[test]
fn decoding_metadata_counts_as_work() {
    const EXTENT: usize = 12 << 20;
    let mut craft = Craft::new(12);
    craft.configs.zstd_window_log = Some(20);
    craft.enter_metabox();
    for extent in 0..3 {
        for index in 0..60 {
            // Each in a page of its own.
            craft.pad_metabox(extent * EXTENT + 4096 * (index + 1));
            // Sorted by name they are in turn in each of the extents.
            craft.flat(&format!("f{index:03}-{extent}"), b"x", 1, &[]);
        }
    }
    craft.leave_compressed_metabox(EXTENT);
    let bytes = craft.finish().bytes;
    assert!(bytes.len() < 200 << 10, "{} bytes", bytes.len());
    let image = OpenOptions::new().metadata_cache(0).open(bytes.clone()).unwrap();
    let image = Arc::new(image);
    let budget = 20 * (EXTENT as u64 >> 12);
    let options = CheckOptions { budget: Some(budget), ..CheckOptions::default() };
    let report = check(&image, &options, Context { workers: 1, ..Context::default() });
    assert!(!report.complete);
    assert!(report.findings.iter().any(|finding| finding.code == Code::Budget));
    assert!(image.metadata_decoded() <= 22 * EXTENT as u64, "{}", image.metadata_decoded());
    // So does whoever unpacks it.
    let image = Arc::new(OpenOptions::new().metadata_cache(0).open(bytes.clone()).unwrap());
    let engine = ferrofs_check::engine(Arc::clone(&image), 1 << 20);
    let folder = tempfile::tempdir().unwrap();
    let options =
        ExtractOptions { metadata_max: Some(20 * EXTENT as u64), ..ExtractOptions::default() };
    let context = Context { workers: 1, ..Context::default() };
    let report = extract(&engine, folder.path(), &options, context).unwrap();
    assert!(!report.complete && report.problems[0].kind == ProblemKind::Limit, "{report:?}");
    assert!(image.metadata_decoded() <= 22 * EXTENT as u64, "{}", image.metadata_decoded());
    // The same image is sound, for whoever has the time.
    let image = Arc::new(Image::open(bytes).unwrap());
    let options = CheckOptions { budget: Some(u64::MAX), ..CheckOptions::default() };
    let report = check(&image, &options, Context::default());
    assert!(report.is_clean(), "{:?}", report.findings.first());
}
