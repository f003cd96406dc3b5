// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small images made in memory, to be damaged: one with every structure of the format, and the
//! places of its parts, so that a test can change one thing. Also seeds of the fuzz corpus.
//!
//! It shares the record emitters with the crates under test but none of their layout code: where
//! things lie and how extents become indexes is decided here.

mod compressed;
mod crafted;
mod files;

pub use compressed::{Compressed, Piece, lclusters};
pub use crafted::{Crafted, Patched, seal, text};
pub use files::{word, xattr_body};

use ferrofs_image::Nid;
use ferrofs_image::format::BlockBits;
use ferrofs_image::format::compression::{CompressionConfigs, Lz4Config};
use ferrofs_image::format::device::{DeviceSlot, SLOT_LEN};
use ferrofs_image::format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_image::format::inode::{FileType, InodeRecord, Layout, Mtime};
use ferrofs_image::format::superblock::SuperBlock;
use ferrofs_image::format::xattr::{LongPrefix, XattrEntry, icount};
use std::collections::BTreeMap;

/// Bytes before the data blocks: superblock, tables, inodes.
const META_LEN: usize = 16 << 10;

/// Makes an image.
#[derive(Debug)]
pub struct Craft {
    /// To be changed at will before [`Craft::finish`].
    pub superblock: SuperBlock,
    /// Declared algorithms.
    pub configs: CompressionConfigs,
    bits: BlockBits,
    bytes: Vec<u8>,
    meta: usize,
    metabox: Option<Vec<u8>>,
    places: BTreeMap<String, usize>,
    contents: BTreeMap<String, Vec<u8>>,
    entries: Vec<(Vec<u8>, Nid, FileType)>,
    ino: u32,
}

/// Where an inode goes and what stands behind its record.
#[derive(Debug, Default)]
struct Behind<'a> {
    xattrs: &'a [u8],
    /// Alignment of what follows the xattrs.
    unit: usize,
    area: &'a [u8],
}

impl Craft {
    /// An empty image with blocks of `1 << bits` bytes and every feature bit set.
    ///
    /// # Panics
    /// If `bits` is not 9 to 12.
    #[must_use]
    pub fn new(bits: u8) -> Self {
        assert!((9..=12).contains(&bits), "metadata of 16 KiB begins on a block");
        let bits = BlockBits::new(bits).expect("a block size");
        let superblock = SuperBlock {
            checksum: 0,
            compat: CompatFeatures(
                CompatFeatures::SB_CHKSUM.0
                    | CompatFeatures::MTIME.0
                    | CompatFeatures::XATTR_FILTER.0
                    | CompatFeatures::PLAIN_XATTR_PFX.0,
            ),
            incompat: IncompatFeatures(0x0FF),
            block_bits: bits,
            ext_slots: 1,
            root: Nid(0),
            inodes: 0,
            epoch: 1_700_000_000,
            fixed_nsec: 0,
            blocks: 0,
            meta_blkaddr: 0,
            xattr_blkaddr: 0,
            uuid: *b"ferrofs hostile!",
            volume_name: *b"hostile\0\0\0\0\0\0\0\0\0",
            u1: 0xF,
            extra_devices: 0,
            device_slot: 0,
            xattr_prefix_count: 0,
            xattr_prefix_start: 0,
            packed: None,
            xattr_filter_reserved: 0,
            ishare_prefix_id: 0,
            build_time: 0,
            metabox: None,
        };
        let configs = CompressionConfigs {
            lz4: Some(Lz4Config { max_distance: 65535, max_pcluster_blocks: 64 }),
            lzma_dict_size: Some(65536),
            deflate_window_bits: Some(15),
            zstd_window_log: Some(16),
        };
        let mut craft = Self {
            superblock,
            configs,
            bits,
            bytes: vec![0; META_LEN],
            meta: 1536,
            metabox: None,
            places: BTreeMap::new(),
            contents: BTreeMap::new(),
            entries: vec![],
            ino: 0,
        };
        // The root's place is fixed first, since every directory points to it.
        craft.superblock.root = Nid(craft.reserve(64, 32) as u64 / 32);
        craft
    }

    /// Block size.
    #[must_use]
    pub const fn block(&self) -> usize {
        self.bits.size_usize()
    }

    fn reserve(&mut self, len: usize, unit: usize) -> usize {
        let at = self.meta.next_multiple_of(unit);
        self.meta = at + len;
        assert!(self.meta <= META_LEN, "the metadata area is too small");
        at
    }

    /// Places bytes among the metadata of the primary device.
    pub fn meta(&mut self, name: &str, bytes: &[u8], unit: usize) -> usize {
        let at = self.reserve(bytes.len(), unit);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.places.insert(name.into(), at);
        at
    }

    /// Appends data, padded to blocks; returns its first block.
    pub fn data(&mut self, bytes: &[u8]) -> u32 {
        let block = (self.bytes.len() / self.block()) as u32;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(self.block()), 0);
        block
    }

    /// A record with ordinary values.
    pub fn record(&mut self, file_type: FileType, layout: Layout, size: usize) -> InodeRecord {
        self.ino += 1;
        let mode = if file_type == FileType::Directory { 0o755 } else { 0o644 };
        InodeRecord {
            layout,
            dot_omitted: false,
            xattr_icount: 0,
            mode: file_type.mode_bits() | mode,
            file_type,
            size: size as u64,
            mtime: Mtime::Delta(0),
            u: 0,
            u_high: 0,
            ino: self.ino,
            uid: 0,
            gid: 0,
            nlink: if file_type == FileType::Directory { 2 } else { 1 },
        }
    }

    /// Places an inode with what follows it, and enters it into the root directory. A name that
    /// begins with a dot is entered nowhere.
    fn inode(&mut self, name: &str, mut record: InodeRecord, behind: &Behind<'_>) -> Nid {
        record.xattr_icount = icount(behind.xattrs.len()).expect("xattrs fit");
        let mut bytes = vec![];
        record.emit(&mut bytes).expect("a record that can be emitted");
        let xattr_at = bytes.len();
        bytes.extend_from_slice(behind.xattrs);
        let map_at = bytes.len().next_multiple_of(behind.unit.max(1));
        bytes.resize(map_at, 0);
        bytes.extend_from_slice(behind.area);
        let nid = if let Some(metabox) = &mut self.metabox {
            let at = fit(metabox.len(), &bytes, self.bits.size_usize());
            metabox.resize(at, 0);
            metabox.extend_from_slice(&bytes);
            Nid(Nid::METABOX_BIT | (at as u64 / 32))
        } else {
            let at = fit(self.meta, &bytes, self.block());
            self.meta = at;
            self.meta(name, &bytes, 32);
            self.places.insert(format!("{name}.xattr"), at + xattr_at);
            self.places.insert(format!("{name}.map"), at + map_at);
            if record.layout != Layout::Chunk && record.u != 0 && record.u != u32::MAX {
                self.places.insert(format!("{name}.data"), record.u as usize * self.block());
            }
            Nid(at as u64 / 32)
        };
        if !name.starts_with('.') {
            self.entries.push((name.as_bytes().to_vec(), nid, record.file_type));
        }
        nid
    }

    /// From here on inodes go into the metabox.
    pub fn enter_metabox(&mut self) {
        self.metabox = Some(vec![0; 32]);
    }

    /// Writes the metabox inode; later inodes go to the primary device again.
    pub fn leave_metabox(&mut self) {
        let content = self.metabox.take().expect("entered before");
        let nid = self.flat(".metabox", &content, 0, &[]);
        self.superblock.metabox = Some(nid);
        self.superblock.incompat.insert(IncompatFeatures::METABOX);
    }

    /// Writes the metabox inode with extents of at most `extent` bytes, each a Zstandard frame of its
    /// own; later inodes go to the primary device again.
    pub fn leave_compressed_metabox(&mut self, extent: usize) {
        let content = self.metabox.take().expect("entered before");
        self.zstd_records(".metabox", &content, extent);
        self.superblock.metabox = Some(self.nid_of(".metabox"));
        self.superblock.incompat.insert(IncompatFeatures::METABOX);
    }

    /// Leaves room in the metabox up to byte `end`.
    pub fn pad_metabox(&mut self, end: usize) {
        let metabox = self.metabox.as_mut().expect("entered before");
        assert!(metabox.len() <= end, "more is in it already");
        metabox.resize(end, 0);
    }

    fn nid_of(&self, name: &str) -> Nid {
        Nid(self.places[name] as u64 / 32)
    }

    /// Adds a shared xattr; returns its id.
    pub fn shared_xattr(&mut self, index: u8, name: &[u8], value: &[u8]) -> u32 {
        let mut bytes = vec![];
        XattrEntry { index, name, value }.emit(&mut bytes).expect("an entry");
        (self.meta(".shared", &bytes, 4) / 4) as u32
    }

    /// Sets the long-prefix table, on the primary device.
    pub fn long_prefixes(&mut self, prefixes: &[&str]) {
        let mut bytes = vec![];
        for prefix in prefixes {
            LongPrefix::from_full(prefix.as_bytes()).emit(&mut bytes).expect("a prefix");
        }
        self.superblock.xattr_prefix_start = (self.meta(".prefixes", &bytes, 4) / 4) as u32;
        self.superblock.xattr_prefix_count = prefixes.len() as u8;
    }

    /// Sets the device table.
    pub fn devices(&mut self, slots: &[DeviceSlot]) {
        let bytes: Vec<u8> =
            slots.iter().flat_map(|slot| slot.emit(true).expect("a slot")).collect();
        let at = self.meta(".devices", &bytes, SLOT_LEN);
        self.superblock.device_slot = (at / SLOT_LEN) as u16;
        self.superblock.extra_devices = slots.len() as u16;
    }

    /// Writes the root directory and the superblock.
    #[must_use]
    pub fn finish(mut self) -> Crafted {
        let root = self.superblock.root;
        let mut entries = std::mem::take(&mut self.entries);
        entries.push((b".".to_vec(), root, FileType::Directory));
        entries.push((b"..".to_vec(), root, FileType::Directory));
        let content = files::pack(&mut entries, self.block());
        let mut record = self.record(FileType::Directory, Layout::FlatPlain, content.len());
        record.mtime = Mtime::Full { seconds: 1, nanoseconds: 1 };
        record.nlink = 3;
        record.u = self.data(&content);
        let mut bytes = vec![];
        record.emit(&mut bytes).expect("a record");
        let at = root.0 as usize * 32;
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        self.places.insert("root".into(), at);
        self.places.insert("root.data".into(), record.u as usize * self.block());
        self.superblock.blocks = (self.bytes.len() / self.block()) as u64;
        self.superblock.inodes = self.ino.into();
        let mut head = self.superblock.emit().expect("a superblock");
        head.extend(self.configs.emit());
        assert!(1024 + head.len() <= 1536, "inodes begin behind the configurations");
        self.bytes[1024..1024 + head.len()].copy_from_slice(&head);
        self.places.insert("configs".into(), 1024 + self.superblock.byte_len());
        let mut crafted = Crafted {
            bytes: self.bytes,
            places: self.places,
            contents: self.contents,
            bits: self.bits.bits(),
            meta_end: self.meta,
        };
        crafted.seal();
        crafted
    }
}

/// Where an inode of these bytes can begin: a tail must not cross a block, so none of it does.
fn fit(at: usize, bytes: &[u8], block: usize) -> usize {
    let at = at.next_multiple_of(32);
    if bytes.len() > block || at % block + bytes.len() <= block {
        at
    } else {
        at.next_multiple_of(block)
    }
}
