// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small images made in memory, to be damaged: one with every structure of the format, and the
//! places of its parts, so that a test can change one thing. Also seeds of the fuzz corpus.
//!
//! It shares the record emitters with the crates under test but none of their layout code: where
//! things lie and how extents become indexes is decided here.

use ferrofs_codec::Method;
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::compression::{CompressionConfigs, Lz4Config};
use ferrofs_image::format::device::{DeviceSlot, SLOT_LEN};
use ferrofs_image::format::dirent::DirPacker;
use ferrofs_image::format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_image::format::inode::{FileType, InodeRecord, Layout, Mtime};
use ferrofs_image::format::lcluster::compact::{self, PackRules};
use ferrofs_image::format::lcluster::extents::{EncodedLen, ExtentRecord};
use ferrofs_image::format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_image::format::lcluster::{Back, Head, Lcluster, full};
use ferrofs_image::format::superblock::SuperBlock;
use ferrofs_image::format::xattr::{LongPrefix, XattrBody, XattrEntry, icount};
use ferrofs_image::format::{BlockBits, checksum};
use ferrofs_image::{Nid, ReadAt};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Bytes before the data blocks: superblock, tables, inodes.
const META_LEN: usize = 16 << 10;

/// Text that compresses about four to one; the same for the same seed.
#[must_use]
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "extent ", "block ", "of ", "the ", "inode ", "reads ", "as ", "zero ", "and ", "index ",
        "packs ", "cluster ", "in ", "a ", "tail ", "offset\n",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(WORDS[(state >> 33) as usize % WORDS.len()].as_bytes());
        out.extend_from_slice(format!("{:x} ", state >> 56).as_bytes());
    }
    out.truncate(len);
    out
}

/// A finished image and where its parts lie.
#[derive(Clone, Debug)]
pub struct Crafted {
    /// The image.
    pub bytes: Vec<u8>,
    /// Byte offset of named parts: `NAME` is a file's inode, `NAME.map` its map header, index area
    /// or chunk table, `NAME.data` its first data block, `NAME.xattr` its xattr body.
    pub places: BTreeMap<String, usize>,
    /// What files hold, by path.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// Block size exponent.
    pub bits: u8,
    /// End of the metadata: what lies behind is file data.
    pub meta_end: usize,
}

impl Crafted {
    /// Offset of a named part.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn at(&self, name: &str) -> usize {
        *self.places.get(name).unwrap_or_else(|| panic!("no part {name}"))
    }

    /// Overwrites bytes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The nid of a file of the primary device.
    #[must_use]
    pub fn nid(&self, name: &str) -> Nid {
        Nid(self.at(name) as u64 / 32)
    }

    /// Computes the superblock's checksum anew.
    pub fn seal(&mut self) {
        seal(&mut self.bytes);
    }
}

/// Computes the checksum of the superblock in `image` anew, if that is long enough.
pub fn seal(image: &mut [u8]) {
    let bits = image.get(1036).copied().and_then(|bits| BlockBits::new(bits).ok());
    if let Some(bits) = bits
        && let Some(area) = image.get(1024..)
        && let Ok(sum) = checksum::superblock_checksum(area, bits)
    {
        image[1028..1032].copy_from_slice(&sum.to_le_bytes());
    }
}

/// An image with one byte changed, without a copy of it.
#[derive(Clone, Debug)]
pub struct Patched {
    /// The image.
    pub base: Arc<Vec<u8>>,
    /// Which byte.
    pub offset: usize,
    /// Bits to flip in it.
    pub mask: u8,
    /// What the four bytes of the checksum become.
    pub checksum: Option<u32>,
    /// Bytes there are.
    pub len: usize,
}

impl ReadAt for Patched {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let range = self.base.get(start..end).filter(|_| end <= self.len);
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        if (start..end).contains(&self.offset) {
            buf[self.offset - start] ^= self.mask;
        }
        if let Some(checksum) = self.checksum {
            for (index, byte) in checksum.to_le_bytes().into_iter().enumerate() {
                if (start..end).contains(&(1028 + index)) {
                    buf[1028 + index - start] = byte;
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len as u64)
    }
}

/// One extent of a compressed file.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First file offset.
    pub start: usize,
    /// Bytes of the file.
    pub len: usize,
    /// First block.
    pub block: u32,
    /// Blocks.
    pub blocks: u16,
    /// How it is encoded.
    pub head: Head,
    /// It decodes to more than `len` bytes.
    pub partial: bool,
}

/// What is special about a compressed file.
#[derive(Clone, Copy, Debug)]
pub struct Compressed<'a> {
    /// HEAD1 encoder.
    pub method: &'a str,
    /// HEAD2 encoder, for every second extent.
    pub second: Option<&'a str>,
    /// Blocks of a pcluster.
    pub blocks: usize,
    /// Compact indexes.
    pub compact: bool,
    /// Advice besides what the rest implies.
    pub advise: u16,
    /// The second extent uses only part of its pcluster.
    pub partial: bool,
    /// The tail lies inline behind the indexes.
    pub inline: bool,
    /// The tail of this many bytes lies in the packed inode at this offset.
    pub fragment: Option<(usize, u32)>,
}

impl Default for Compressed<'_> {
    fn default() -> Self {
        Self {
            method: "lz4",
            second: None,
            blocks: 1,
            compact: false,
            advise: 0,
            partial: false,
            inline: false,
            fragment: None,
        }
    }
}

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

    /// A file of contiguous blocks with `tail` bytes inline.
    pub fn flat(&mut self, name: &str, content: &[u8], tail: usize, xattrs: &[u8]) -> Nid {
        self.flat_of(name, FileType::Regular, content, tail, xattrs)
    }

    /// Anything with content, in contiguous blocks with `tail` bytes inline.
    pub fn flat_of(
        &mut self,
        name: &str,
        file_type: FileType,
        content: &[u8],
        tail: usize,
        xattrs: &[u8],
    ) -> Nid {
        let layout = if tail > 0 { Layout::FlatInline } else { Layout::FlatPlain };
        let (blocks, inline) = content.split_at(content.len() - tail);
        let mut record = self.record(file_type, layout, content.len());
        record.u = if blocks.is_empty() { u32::MAX } else { self.data(blocks) };
        self.contents.insert(format!("/{name}"), content.to_vec());
        self.inode(name, record, &Behind { xattrs, unit: 1, area: inline })
    }

    /// A node without content.
    pub fn node(&mut self, name: &str, file_type: FileType, u: u32) -> Nid {
        let mut record = self.record(file_type, Layout::FlatPlain, 0);
        record.u = u;
        self.inode(name, record, &Behind::default())
    }

    /// A file of holes only, in the layout without any table.
    pub fn sparse(&mut self, name: &str, size: u64) -> Nid {
        let mut record = self.record(FileType::Regular, Layout::FlatPlain, 0);
        record.size = size;
        record.mtime = Mtime::Full { seconds: 1, nanoseconds: 2 };
        (record.u, record.u_high) = (u32::MAX, u16::MAX);
        self.inode(name, record, &Behind::default())
    }

    /// A file of chunks of one block each.
    pub fn chunked(&mut self, name: &str, size: u64, format: ChunkFormat, chunks: &[Chunk]) -> Nid {
        let mut area = vec![];
        for chunk in chunks {
            format.emit_element(*chunk, &mut area).expect("a chunk that can be emitted");
        }
        let mut record = self.record(FileType::Regular, Layout::Chunk, 0);
        (record.size, record.u) = (size, format.emit().into());
        record.mtime = Mtime::Full { seconds: -5, nanoseconds: 999_999_999 };
        self.inode(name, record, &Behind { xattrs: &[], unit: format.element_len(), area: &area })
    }

    /// Cuts `content` into pclusters and places them.
    fn pieces(&mut self, content: &[u8], options: &Compressed<'_>) -> Vec<Piece> {
        let block = self.block();
        let mut pieces: Vec<Piece> = vec![];
        let mut start = 0;
        while start < content.len() {
            let turn = pieces.len() % 2 == 1;
            let (method, head) = match options.second {
                Some(second) if turn => (second, Head::Head2),
                _ => (options.method, Head::Head1),
            };
            let mut encoder = Method::parse(method).expect("a method").encoder().expect("encoder");
            let mut encoded = vec![0; options.blocks * block];
            let rest = &content[start..];
            let prefix = encoder.compress_prefix(rest, &mut encoded).expect("it compresses");
            let blocks = prefix.written.div_ceil(block);
            let use_less = options.partial && pieces.len() == 1 && prefix.consumed > 3 * block;
            let len = if use_less { prefix.consumed - block - 7 } else { prefix.consumed };
            if blocks * block >= len || len < block {
                // What does not shrink is stored, in one block.
                let len = rest.len().min(block);
                let turned = options.advise & Advise::INTERLACED != 0;
                let stored = self.data(&stored(&rest[..len], start, block, turned));
                let piece = Piece {
                    start,
                    len,
                    block: stored,
                    blocks: 1,
                    head: Head::Plain,
                    partial: false,
                };
                pieces.push(piece);
                start += len;
                continue;
            }
            let mut padded = vec![0; blocks * block - prefix.written];
            padded.extend_from_slice(&encoded[..prefix.written]);
            let at = self.data(&padded);
            let blocks = blocks as u16;
            pieces.push(Piece { start, len, block: at, blocks, head, partial: use_less });
            start += len;
        }
        pieces
    }

    /// A compressed file with indexes.
    pub fn compressed(&mut self, name: &str, content: &[u8], options: &Compressed<'_>) -> Nid {
        let block = self.block();
        let fragment = options.fragment.map_or(0, |(len, _)| len);
        let inline = if options.inline { content.len() % block } else { 0 };
        let body = content.len() - fragment - inline;
        let mut pieces = self.pieces(&content[..body], options);
        let first_block = pieces.first().map_or(0, |piece| piece.block);
        let dummy = pieces.last().map_or(0, |piece| piece.block + u32::from(piece.blocks));
        if fragment + inline > 0 {
            pieces.push(Piece {
                start: body,
                len: fragment + inline,
                block: if options.compact { dummy } else { 0 },
                blocks: u16::from(inline > 0),
                head: Head::Plain,
                partial: false,
            });
        }
        let big = options.blocks > 1;
        let mut advise = options.advise;
        advise |= if big { Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2 } else { 0 };
        advise |= if options.inline { Advise::INLINE_PCLUSTER } else { 0 };
        advise |= if fragment > 0 { Advise::FRAGMENT } else { 0 };
        let id = |method: &str| Method::parse(method).expect("a method").algorithm() as u8;
        let header = MapFields {
            word: options.fragment.map_or((inline as u32) << 16, |(_, offset)| offset),
            advise: Advise(advise),
            algorithms: id(options.method) | options.second.map_or(0, id) << 4,
            cluster_bits: 0,
        };
        let lclusters = lclusters(&pieces, content.len(), block, big, dummy);
        let mut area = MapHeader::Map(header).emit().expect("a header").to_vec();
        if options.compact {
            let rules = PackRules { lcluster_bits: self.bits.bits(), big };
            let two_byte = advise & Advise::COMPACTED_2B != 0;
            // An inode begins at a multiple of 32 and has 32 bytes, the header 8.
            compact::emit(&lclusters, 8, two_byte, rules, &mut area).expect("packs");
        } else {
            area.extend_from_slice(&[0; 8]);
            for lcluster in lclusters {
                area.extend_from_slice(&full::emit(lcluster, 0).expect("an index"));
            }
        }
        area.extend_from_slice(&content[body..body + inline]);
        let layout =
            if options.compact { Layout::CompressedCompact } else { Layout::CompressedFull };
        let mut record = self.record(FileType::Regular, layout, content.len());
        record.u = pieces.iter().map(|piece| u32::from(piece.blocks)).sum();
        self.contents.insert(format!("/{name}"), content.to_vec());
        let nid = self.inode(name, record, &Behind { xattrs: &[], unit: 8, area: &area });
        self.places.insert(format!("{name}.data"), first_block as usize * block);
        nid
    }

    /// A file whose content is wholly in the packed inode.
    pub fn whole_fragment(&mut self, name: &str, offset: u64, size: u64) -> Nid {
        let mut area = MapHeader::WholeFragment { offset }.emit().expect("a header").to_vec();
        area.extend_from_slice(&[0; 8]);
        let mut record = self.record(FileType::Regular, Layout::CompressedFull, 0);
        record.size = size;
        record.mtime = Mtime::Full { seconds: 0, nanoseconds: 0 };
        self.inode(name, record, &Behind { xattrs: &[], unit: 8, area: &area })
    }

    /// A file with encoded extents: records of `record_len` bytes.
    pub fn records(
        &mut self,
        name: &str,
        size: u64,
        header: MapFields,
        first: Option<u64>,
        records: &[ExtentRecord],
    ) -> Nid {
        let record_len = header.advise.record_len();
        let mut area = MapHeader::Map(header).emit().expect("a header").to_vec();
        // The inode has 64 bytes, so offsets in the area are aligned as on the device.
        area.resize(area.len().next_multiple_of(record_len.into()), 0);
        area.extend(first.into_iter().flat_map(u64::to_le_bytes));
        for record in records {
            record.emit(record_len, &mut area).expect("a record that can be emitted");
        }
        let mut record = self.record(FileType::Regular, Layout::CompressedFull, 0);
        record.size = size;
        record.mtime = Mtime::Full { seconds: 7, nanoseconds: 7 };
        self.inode(name, record, &Behind { xattrs: &[], unit: 8, area: &area })
    }

    /// A directory below the root that holds the given entries besides its dots.
    pub fn directory(&mut self, name: &str, entries: &[(&str, Nid, FileType)]) -> Nid {
        // Its own nid stands in its `.`; it is the next inode slot.
        let next = match &self.metabox {
            Some(metabox) => Nid(Nid::METABOX_BIT | metabox.len().div_ceil(32) as u64),
            None => Nid(self.meta.div_ceil(32) as u64),
        };
        let mut all = vec![
            (b".".to_vec(), next, FileType::Directory),
            (b"..".to_vec(), self.superblock.root, FileType::Directory),
        ];
        all.extend(entries.iter().map(|(name, nid, kind)| (name.as_bytes().to_vec(), *nid, *kind)));
        let content = pack(&mut all, self.block());
        let nid = self.flat_of(name, FileType::Directory, &content, 0, &[]);
        assert_eq!(nid, next, "a record without tail goes where the last ended");
        self.contents.remove(&format!("/{name}"));
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
        let content = pack(&mut entries, self.block());
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

/// One block of stored bytes; rotated so that each stands at its file offset modulo the block.
fn stored(bytes: &[u8], start: usize, block: usize, rotated: bool) -> Vec<u8> {
    let mut out = vec![0; block];
    for (index, byte) in bytes.iter().enumerate() {
        out[if rotated { (start + index) % block } else { index }] = *byte;
    }
    out
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

/// Directory content: entries sorted and packed.
fn pack(entries: &mut [(Vec<u8>, Nid, FileType)], block: usize) -> Vec<u8> {
    entries.sort();
    let mut packer = DirPacker::new(block);
    for (name, _, _) in &*entries {
        packer.push(name.len());
    }
    let mut out = vec![];
    let entries = entries.iter().map(|(name, nid, kind)| (name.as_slice(), *nid, *kind));
    packer.emit(entries, &mut out).expect("names that can be emitted");
    out
}

/// Body of inline and shared xattrs; every name's filter bit counts as present.
///
/// # Panics
/// If it cannot be emitted.
#[must_use]
pub fn xattr_body(shared: &[u32], inline: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let entries: Vec<XattrEntry<'_>> =
        inline.iter().map(|&(index, name, value)| XattrEntry { index, name, value }).collect();
    let mut body = vec![];
    XattrBody::emit(0, shared, &entries, &mut body).expect("a body");
    body
}

/// lclusters of a file with these extents.
#[must_use]
pub fn lclusters(
    pieces: &[Piece],
    size: usize,
    block: usize,
    big: bool,
    eof_block: u32,
) -> Vec<Lcluster> {
    let count = size.div_ceil(block);
    let mut heads: Vec<(usize, u16, Piece)> = vec![];
    for piece in pieces {
        heads.push((piece.start / block, (piece.start % block) as u16, *piece));
    }
    if !size.is_multiple_of(block) && heads.last().is_none_or(|(at, _, _)| at + 1 < count) {
        let eof = Piece {
            start: size,
            len: 0,
            block: eof_block,
            blocks: 0,
            head: Head::Plain,
            partial: false,
        };
        heads.push((count - 1, (size % block) as u16, eof));
    }
    let mut out = Vec::with_capacity(count);
    for lcluster in 0..count {
        let last = heads.iter().rfind(|(at, _, _)| *at <= lcluster).expect("a first head");
        let next = heads.iter().map(|(at, _, _)| *at).find(|at| *at > lcluster).unwrap_or(count);
        let (at, offset, piece) = last;
        let back = lcluster - at;
        out.push(if back == 0 {
            Lcluster::Head {
                head: piece.head,
                offset: *offset,
                block: piece.block,
                partial: piece.partial,
                hole: false,
            }
        } else {
            let back = if back == 1 && big {
                Back::Blocks(piece.blocks)
            } else {
                Back::Distance(back as u16)
            };
            Lcluster::NonHead { back, forward: (next - lcluster) as u16 }
        });
    }
    out
}

/// A word of an extent record.
///
/// # Panics
/// If it cannot be emitted.
#[must_use]
pub fn word(len: usize, algorithm: Option<u8>, partial: bool) -> u32 {
    EncodedLen { len: len as u32, partial, algorithm }.emit().expect("a word")
}
