// SPDX-License-Identifier: MIT OR Apache-2.0
//! The smallest reader: walks a whole image with the format crate's parsers. Panics on anything
//! that is not as it must be.

use std::collections::{BTreeMap, BTreeSet};

use ferrofs_codec::{Algorithm, DecodeLimits, Decoder};
use ferrofs_format::chunk::{Chunk, ChunkFormat};
use ferrofs_format::compression::CompressionConfigs;
use ferrofs_format::device::DeviceSlot;
use ferrofs_format::dirent::DirBlock;
use ferrofs_format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_format::inode::{FileType, InodeRecord, Layout, Mtime};
use ferrofs_format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_format::lcluster::{Back, Head, Lcluster, compact, full};
use ferrofs_format::superblock::SuperBlock;
use ferrofs_format::xattr::{LongPrefix, XattrBody, XattrEntry, base_prefix, filter_bit};
use ferrofs_format::{BlockBits, Nid};

use super::model::{Kind, Model, Node};

pub(super) struct Image<'a> {
    bytes: &'a [u8],
    blob: &'a [u8],
    superblock: SuperBlock,
    configs: CompressionConfigs,
    prefixes: Vec<LongPrefix>,
    unified: Option<(u64, u64)>,
}

impl<'a> Image<'a> {
    pub(super) fn open(bytes: &'a [u8], blob: &'a [u8]) -> Self {
        let superblock = SuperBlock::parse(&bytes[1024..]).unwrap();
        superblock.verify_checksum(&bytes[1024..]).unwrap();
        assert_eq!(superblock.blocks << superblock.block_bits.bits(), bytes.len() as u64);
        let configs = CompressionConfigs::parse(&superblock, &bytes[1024 + 128..]).unwrap();
        let mut at = superblock.xattr_prefix_start as usize * 4;
        let mut prefixes = Vec::new();
        for _ in 0..superblock.xattr_prefix_count {
            let (prefix, len) = LongPrefix::parse(&bytes[at..]).unwrap();
            at += len;
            prefixes.push(prefix);
        }
        let unified = (superblock.extra_devices > 0).then(|| {
            let slot = &bytes[usize::from(superblock.device_slot) * 128..];
            let slot = DeviceSlot::parse(slot, false).unwrap();
            assert_eq!(slot.blocks << superblock.block_bits.bits(), blob.len() as u64);
            (slot.unified_start, slot.blocks)
        });
        Self { bytes, blob, superblock, configs, prefixes, unified }
    }

    fn bits(&self) -> BlockBits {
        self.superblock.block_bits
    }

    /// Bytes at a block of a device.
    fn at(&self, device: u16, block: u64, len: usize) -> &'a [u8] {
        let (bytes, block) = match (device, self.unified) {
            (1, _) => (self.blob, block),
            (_, Some((start, blocks))) if block >= start && block < start + blocks => {
                (self.blob, block - start)
            }
            _ => (self.bytes, block),
        };
        let at = (block << self.bits().bits()) as usize;
        &bytes[at..at + len]
    }

    pub(super) fn model(&self) -> Model {
        let mut model = Model { nodes: Vec::new(), paths: BTreeMap::new() };
        let mut numbers = BTreeMap::new();
        let mut pending = vec![(Vec::new(), self.superblock.root, self.superblock.root)];
        while let Some((path, nid, parent)) = pending.pop() {
            if let Some(&number) = numbers.get(&nid) {
                model.paths.insert(path, number);
                continue;
            }
            let (node, entries) = self.node(nid, parent);
            for (name, child) in entries {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                pending.push((path, child, nid));
            }
            numbers.insert(nid, model.nodes.len());
            model.paths.insert(path, model.nodes.len());
            model.nodes.push(node);
        }
        assert_eq!(self.superblock.inodes, numbers.len() as u64);
        model
    }

    /// Blocks that have directories' inodes or entries, in order.
    pub(super) fn directory_blocks(&self) -> BTreeSet<u64> {
        let block_size = self.bits().size_u64();
        let mut found = BTreeSet::new();
        let mut pending = vec![(self.superblock.root, self.superblock.root)];
        while let Some((nid, parent)) = pending.pop() {
            let at = self.superblock.meta_base() + nid.0 * 32;
            let record = InodeRecord::parse(&self.bytes[at as usize..]).unwrap();
            if record.file_type != FileType::Directory {
                continue;
            }
            let end = at + (record.record_len() as u64) + u64::from(record.xattr_len());
            let inline = record.layout == Layout::FlatInline;
            let tail = if inline { record.size % block_size } else { 0 };
            found.extend(at / block_size..(end + tail).div_ceil(block_size));
            if let Some(start) = record.start_block() {
                found.extend(start..start + (record.size - tail).div_ceil(block_size));
            }
            let entries = self.entries(&self.content(&record, end as usize), nid, parent);
            pending.extend(entries.into_iter().map(|(_, child)| (child, nid)));
        }
        found
    }

    fn node(&self, nid: Nid, parent: Nid) -> (Node, Vec<(Vec<u8>, Nid)>) {
        let at = (self.superblock.meta_base() + nid.0 * 32) as usize;
        let record = InodeRecord::parse(&self.bytes[at..]).unwrap();
        if !record.is_extended() {
            assert_eq!(at / self.bits().size_usize(), (at + 31) / self.bits().size_usize());
        }
        let mtime = match record.mtime {
            Mtime::Delta(delta) => {
                (self.superblock.epoch + i64::from(delta), self.superblock.fixed_nsec)
            }
            Mtime::Full { seconds, nanoseconds } => (seconds, nanoseconds),
        };
        let body_at = at + record.record_len();
        let end = body_at + record.xattr_len() as usize;
        let mut entries = Vec::new();
        let content = self.content(&record, end);
        let kind = match record.file_type {
            FileType::Directory => {
                entries = self.entries(&content, nid, parent);
                Kind::Directory
            }
            FileType::Regular => Kind::File(content),
            FileType::Symlink => Kind::Symlink(content),
            FileType::CharDevice => Kind::Device(false, record.rdev().0, record.rdev().1),
            FileType::BlockDevice => Kind::Device(true, record.rdev().0, record.rdev().1),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        let node = Node {
            kind,
            permissions: record.mode & 0o7777,
            uid: record.uid,
            gid: record.gid,
            mtime,
            xattrs: self.xattrs(&self.bytes[body_at..end]),
            nlink: record.nlink,
        };
        (node, entries)
    }

    fn entries(&self, content: &[u8], nid: Nid, parent: Nid) -> Vec<(Vec<u8>, Nid)> {
        let mut entries: Vec<(Vec<u8>, Nid)> = Vec::new();
        let mut dots = BTreeSet::new();
        let mut last = Vec::new();
        for block in content.chunks(self.bits().size_usize()) {
            for entry in DirBlock::parse(block).unwrap().iter() {
                assert!(*last < *entry.name, "order across blocks");
                last = entry.name.to_vec();
                match entry.name {
                    b"." => assert!(dots.insert(".") && entry.nid == nid),
                    b".." => assert!(dots.insert("..") && entry.nid == parent),
                    name => entries.push((name.to_vec(), entry.nid)),
                }
                let at = (self.superblock.meta_base() + entry.nid.0 * 32) as usize;
                let target = InodeRecord::parse(&self.bytes[at..]).unwrap();
                assert_eq!(entry.file_type, Some(target.file_type));
            }
        }
        assert_eq!(dots.len(), 2);
        entries
    }

    fn xattrs(&self, bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let body = XattrBody::parse(bytes).unwrap();
        let mut found = BTreeMap::new();
        let mut filter = u32::MAX;
        let mut put = |entry: XattrEntry<'_>| {
            let (base, infix) = match entry.index {
                index if index & 0x80 != 0 => {
                    let prefix = &self.prefixes[usize::from(index & 0x7f)];
                    (prefix.base_index, &prefix.infix[..])
                }
                index => (index, &b""[..]),
            };
            filter &= !filter_bit(base, infix, entry.name);
            let name = [base_prefix(base).unwrap(), infix, entry.name].concat();
            assert!(found.insert(name, entry.value.to_vec()).is_none());
        };
        for id in body.shared_ids() {
            let at = (self.superblock.xattr_base() + u64::from(id) * 4) as usize;
            put(XattrEntry::parse(&self.bytes[at..]).unwrap().0);
        }
        body.inline_entries().for_each(|entry| put(entry.unwrap()));
        let filtered = self.superblock.compat.has(CompatFeatures::XATTR_FILTER);
        if !bytes.is_empty() {
            assert_eq!(body.filter, if filtered { filter } else { 0 });
        }
        found
    }

    fn content(&self, record: &InodeRecord, end: usize) -> Vec<u8> {
        let special = FileType::from_mode(record.mode).is_some_and(|kind| {
            !matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink)
        });
        if special || record.size == 0 {
            return Vec::new();
        }
        let size = record.size as usize;
        match record.layout {
            Layout::FlatPlain => self.at(0, record.start_block().unwrap(), size).to_vec(),
            Layout::FlatInline => {
                let tail = size % self.bits().size_usize();
                assert!(
                    tail > 0 && end % self.bits().size_usize() + tail <= self.bits().size_usize()
                );
                let whole = size - tail;
                let mut content = match record.start_block() {
                    Some(block) if whole > 0 => self.at(0, block, whole).to_vec(),
                    _ => Vec::new(),
                };
                content.extend_from_slice(&self.bytes[end..end + tail]);
                content
            }
            Layout::Chunk => self.chunks(record, end),
            Layout::CompressedFull | Layout::CompressedCompact => self.compressed(record, end),
        }
    }

    fn chunks(&self, record: &InodeRecord, end: usize) -> Vec<u8> {
        assert!(self.superblock.incompat.has(IncompatFeatures::CHUNKED_FILE));
        let format = ChunkFormat::parse(record.u as u16).unwrap();
        let size = format.chunk_size(self.bits()) as usize;
        let mut at = end.next_multiple_of(format.element_len());
        let mut content = Vec::new();
        while content.len() < record.size as usize {
            let len = size.min(record.size as usize - content.len());
            match format.parse_element(&self.bytes[at..]).unwrap() {
                Chunk::Hole => content.resize(content.len() + len, 0),
                Chunk::At { device, block } => {
                    content.extend_from_slice(self.at(device, block, len));
                }
            }
            at += format.element_len();
        }
        content
    }

    fn compressed(&self, record: &InodeRecord, end: usize) -> Vec<u8> {
        let at = end.next_multiple_of(8);
        let MapHeader::Map(fields) = MapHeader::parse(&self.bytes[at..]).unwrap() else {
            panic!("no map header");
        };
        assert!(self.configs.declares(fields.algorithm1()));
        let entries = self.lclusters(record, fields, at);
        let block = self.bits().size_u64();
        let mut starts: Vec<(u64, Head, u32, u16)> = Vec::new();
        for (lcn, entry) in entries.iter().enumerate() {
            if let Lcluster::Head { head, offset, block: address, .. } = *entry {
                let blocks = match entries.get(lcn + 1) {
                    Some(Lcluster::NonHead { back: Back::Blocks(blocks), .. }) => *blocks,
                    _ => 1,
                };
                starts.push((lcn as u64 * block + u64::from(offset), head, address, blocks));
            }
        }
        let mut content = Vec::new();
        let mut used = 0;
        let mut decoder = Decoder::new();
        for (index, &(start, head, address, blocks)) in starts.iter().enumerate() {
            let next = starts.get(index + 1).map_or(record.size, |next| next.0.min(record.size));
            assert_eq!(start, content.len() as u64);
            let len = (next - start) as usize;
            if len == 0 {
                continue;
            }
            used += u32::from(blocks);
            let encoded = self.at(0, u64::from(address), usize::from(blocks) * block as usize);
            let mut decoded = vec![0; len];
            if head == Head::Plain {
                decoded.copy_from_slice(&encoded[..len]);
            } else {
                let algorithm = Algorithm::from_id(fields.algorithm1()).unwrap();
                let limits = DecodeLimits::default();
                decoder.decode_exact(algorithm, &limits, encoded, &mut decoded).unwrap();
                assert!(encoded[..block as usize].iter().any(|&byte| byte != 0));
            }
            content.extend_from_slice(&decoded);
        }
        assert_eq!(used, record.u);
        content
    }

    fn lclusters(&self, record: &InodeRecord, fields: MapFields, at: usize) -> Vec<Lcluster> {
        let count = self.bits().blocks_for(record.size);
        if record.layout == Layout::CompressedFull {
            let indexes = self.bytes[at + full::FIRST_INDEX..].chunks(full::INDEX_LEN);
            let parse = |index| full::parse(index, self.bits().size()).unwrap();
            return indexes.take(count as usize).map(parse).collect();
        }
        let two_byte = fields.advise.has(Advise::COMPACTED_2B);
        let layout = compact::PackLayout::new(at as u64 + 8, count, two_byte);
        let big = fields.advise.has(Advise::BIG_PCLUSTER_1);
        let rules = compact::PackRules { lcluster_bits: self.bits().bits(), big };
        let mut entries = Vec::new();
        while (entries.len() as u64) < count {
            let place = layout.locate(entries.len() as u64);
            let bytes = &self.bytes[at + 8 + place.offset as usize..];
            let left = count as usize - entries.len();
            let pack = compact::parse(bytes, place.pack, left, rules).unwrap();
            entries.extend_from_slice(pack.entries());
        }
        entries
    }
}
