// SPDX-License-Identifier: MIT OR Apache-2.0
//! One small image with every structure of the format, made with [`crate::craft`].

use crate::craft::{Compressed, Craft, Crafted, text, word, xattr_body};
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::device::DeviceSlot;
use ferrofs_image::format::inode::{FileType, InodeRecord};
use ferrofs_image::format::lcluster::extents::ExtentRecord;
use ferrofs_image::format::lcluster::header::{Advise, MapFields};

const T: FileType = FileType::Regular;

/// All layouts, indexes, extents, algorithms, xattrs, devices, fragments and the metabox, in blocks
/// of `1 << bits` bytes.
#[must_use]
pub fn everything(bits: u8) -> Crafted {
    let mut craft = Craft::new(bits);
    flat_and_nodes(&mut craft);
    chunks(&mut craft);
    fragments(&mut craft);
    indexes(&mut craft);
    records(&mut craft);
    metabox(&mut craft);
    craft.finish()
}

fn flat_and_nodes(craft: &mut Craft) {
    let block = craft.block();
    craft.long_prefixes(&["user.long.", "trusted.overlay."]);
    let shared = craft.shared_xattr(4, b"shared", b"once for all");
    let body = xattr_body(
        &[shared],
        &[(1, b"k", b"v1"), (0x80, b"er", b"value"), (0x81, b"opaque", b"y"), (6, b"x", &[7; 40])],
    );
    craft.flat("flat", &text(2 * block + 277, 1), 0, &[]);
    craft.flat("inline", &text(block + 188, 2), 188, &body);
    craft.flat("tiny", b"hello\n", 6, &[]);
    craft.flat("empty", b"", 0, &[]);
    craft.flat_of("link", FileType::Symlink, b"dir/target", 10, &[]);
    craft.flat_of("blocklink", FileType::Symlink, &text(300, 3), 0, &[]);
    craft.sparse("hole", 1 << 40);
    craft.node("chr", FileType::CharDevice, InodeRecord::rdev_word(5, 300).expect("a device"));
    craft.node("fifo", FileType::Fifo, 0);
    craft.node("sock", FileType::Socket, 0);
    let file = craft.flat(".nested", b"deep\n", 5, &[]);
    let names: Vec<String> = (0..40).map(|index| format!("entry-{index:03}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), file, T)).collect();
    craft.directory("dir", &entries);
}

fn chunks(craft: &mut Craft) {
    let block = craft.block();
    let first = u64::from(craft.data(&text(3 * block, 10)));
    let at = |device, block| Chunk::At { device, block };
    let map = ChunkFormat { bits: 0, indexes: false, wide: false };
    let chunks = [at(0, first), Chunk::Hole, at(0, first + 2), at(0, first + 1)];
    craft.chunked("chunkmap", 3 * block as u64 + 100, map, &chunks);
    let index = ChunkFormat { bits: 1, indexes: true, wide: true };
    // The device lies inside the image, as in a flat one.
    let chunks = [at(1, 0), Chunk::Hole, at(0, first)];
    craft.chunked("chunkindex", 5 * block as u64, index, &chunks);
    let mut tag = [0; 64];
    tag[..4].copy_from_slice(b"blob");
    craft.devices(&[DeviceSlot { tag, blocks: 3, unified_start: first }]);
}

fn fragments(craft: &mut Craft) {
    let block = craft.block();
    let packed = text(9 * block, 20);
    let options = Compressed { method: "zstd", blocks: 2, ..Compressed::default() };
    let nid = craft.compressed(".packed", &packed, &options);
    craft.superblock.packed = Some(nid);
    craft.whole_fragment("wholefrag", 100, 1000);
    let body = text(6 * block, 21);
    for (name, compact) in [("frag", false), ("fragcompact", true)] {
        let content = [&body[..], &packed[50..50 + 333]].concat();
        let fragment = Some((333, 50));
        let options = Compressed { compact, fragment, ..Compressed::default() };
        craft.compressed(name, &content, &options);
    }
}

fn indexes(craft: &mut Craft) {
    let block = craft.block();
    let content = text(14 * block + 123, 30);
    let tailed = text(7 * block + 90, 31);
    let none = Compressed::default();
    craft.compressed("full", &content, &none);
    craft.compressed("fullbig", &content, &Compressed { blocks: 3, partial: true, ..none });
    let options = Compressed { method: "deflate", second: Some("zstd"), ..none };
    craft.compressed("head2", &content, &options);
    craft.compressed("fullinline", &tailed, &Compressed { inline: true, ..none });
    craft.compressed("compact", &content, &Compressed { compact: true, ..none });
    let two = Advise::COMPACTED_2B;
    let long = text(40 * block + 5, 32);
    craft.compressed("compact2b", &long, &Compressed { compact: true, advise: two, ..none });
    let options = Compressed { compact: true, advise: two, blocks: 4, ..none };
    craft.compressed("compactbig", &long, &options);
    let options = Compressed { method: "lzma", compact: true, blocks: 2, ..none };
    craft.compressed("lzma", &content, &options);
    let options = Compressed { method: "deflate", compact: true, inline: true, ..none };
    craft.compressed("inlinecompact", &tailed, &options);
    // Nothing to compress: all of it is stored, rotated at block offsets of the file.
    let noise: Vec<u8> = (0..5 * block as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) ^ i.rotate_left(13)).to_le_bytes()[3])
        .collect();
    craft.compressed("interlaced", &noise, &Compressed { advise: Advise::INTERLACED, ..none });
}

fn records(craft: &mut Craft) {
    let block = craft.block();
    let stored = text(2 * block, 40);
    let at = u64::from(craft.data(&stored)) * block as u64;
    let zstd = {
        let source = text(4 * block, 41);
        let mut encoder = ferrofs_codec::Method::parse("zstd,9")
            .map(|method| method.encoder())
            .expect("a method")
            .expect("an encoder");
        let mut bytes = vec![0; 4 * block];
        let len = encoder.compress_all(&source, &mut bytes).expect("no failure").expect("it fits");
        bytes.truncate(len);
        bytes
    };
    let packed_at = u64::from(craft.data(&[0x55; 3])) * block as u64;
    // Not at a block's start, as only these extents can.
    let head = craft.data(&[&[1, 2, 3][..], &zstd].concat());
    let encoded = u64::from(head) * block as u64 + 3;
    assert_eq!(encoded, packed_at + block as u64 + 3);
    let record = |word, physical, logical| ExtentRecord { word, physical, logical };
    let fields = |size: u16, cluster_bits, count: u32| MapFields {
        word: count,
        advise: Advise(Advise::EXTENTS | size << 1),
        algorithms: 0,
        cluster_bits,
    };
    let (len, block64) = (zstd.len(), block as u64);
    let compressed = word(len, Some(3), false);
    let plain = word(block, None, false);
    craft.records(
        "ext4",
        2 * block64 + 100,
        fields(0, 0, 0),
        Some(at),
        &[record(plain, None, None), record(plain, None, None), record(0, None, None)],
    );
    craft.records(
        "ext8",
        6 * block64,
        fields(1, 2, 0),
        None,
        &[record(compressed, Some(encoded), None), record(0, Some(0), None)],
    );
    let sorted = |count: u64| {
        vec![
            record(compressed, Some(encoded), Some(0)),
            record(0, Some(0), Some(4 * block64)),
            record(plain, Some(at), Some(count)),
        ]
    };
    craft.records("ext16", 7 * block64, fields(2, 0, 3), None, &sorted(6 * block64));
    let big = 1 << 33;
    craft.records("ext32", big + block64, fields(3, 0, 3), None, &sorted(big));
}

fn metabox(craft: &mut Craft) {
    craft.enter_metabox();
    craft.flat("boxed", &text(100, 50), 100, &xattr_body(&[], &[(1, b"in", b"box")]));
    let inner = craft.flat(".inner", b"inner\n", 6, &[]);
    let block = craft.block() as u64;
    let map = ChunkFormat { bits: 0, indexes: false, wide: false };
    craft.chunked("boxchunk", 2 * block, map, &[Chunk::Hole, Chunk::Hole]);
    let options = Compressed { compact: true, ..Compressed::default() };
    let content = text(5 * craft.block() + 1, 51);
    craft.compressed("boxcompact", &content, &options);
    craft.directory("boxdir", &[("inner", inner, T)]);
    craft.leave_metabox();
}
