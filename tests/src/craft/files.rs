// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inodes that need no indexes: flat ones, nodes, chunks, fragments, extent records, directories.

use super::{Behind, Compressed, Craft};
use ferrofs_codec::Method;
use ferrofs_image::Nid;
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::dirent::DirPacker;
use ferrofs_image::format::inode::{FileType, Layout, Mtime};
use ferrofs_image::format::lcluster::extents::{EncodedLen, ExtentRecord};
use ferrofs_image::format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_image::format::xattr::{XattrBody, XattrEntry};

impl Craft {
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

    /// A file of extent records, each a Zstandard frame of at most `extent` bytes of content.
    pub fn zstd_records(&mut self, name: &str, content: &[u8], extent: usize) -> Nid {
        let mut encoder = Method::parse("zstd,3").expect("a method").encoder().expect("an encoder");
        let mut out = vec![0; extent + 1024];
        let mut records = vec![];
        for (index, part) in content.chunks(extent).enumerate() {
            let len = encoder.compress_all(part, &mut out).expect("no failure").expect("it fits");
            let at = u64::from(self.data(&out[..len])) * self.block() as u64;
            records.push(ExtentRecord {
                word: word(len, Some(3), false),
                physical: Some(at),
                logical: Some((index * extent) as u64),
            });
        }
        let header = MapFields {
            word: records.len() as u32,
            advise: Advise(Advise::EXTENTS | 2 << 1),
            algorithms: 0,
            cluster_bits: 0,
        };
        self.records(name, content.len() as u64, header, None, &records)
    }

    /// A directory below the root that holds the given entries besides its dots.
    pub fn directory(&mut self, name: &str, entries: &[(&str, Nid, FileType)]) -> Nid {
        let content = self.listing(entries);
        let next = self.next_nid();
        let nid = self.flat_of(name, FileType::Directory, &content, 0, &[]);
        assert_eq!(nid, next, "a record without tail goes where the last ended");
        self.contents.remove(&format!("/{name}"));
        nid
    }

    /// The same, compressed. What `options` makes of it must fit behind the last inode.
    pub fn compressed_directory(
        &mut self,
        name: &str,
        entries: &[(&str, Nid, FileType)],
        options: &Compressed<'_>,
    ) -> Nid {
        let content = self.listing(entries);
        let next = self.next_nid();
        let nid = self.compressed_of(name, FileType::Directory, &content, options);
        assert_eq!(nid, next, "the record goes where the last ended");
        self.contents.remove(&format!("/{name}"));
        nid
    }

    /// Content of the directory that is the next inode.
    fn listing(&self, entries: &[(&str, Nid, FileType)]) -> Vec<u8> {
        let mut all = vec![
            (b".".to_vec(), self.next_nid(), FileType::Directory),
            (b"..".to_vec(), self.superblock.root, FileType::Directory),
        ];
        all.extend(entries.iter().map(|(name, nid, kind)| (name.as_bytes().to_vec(), *nid, *kind)));
        pack(&mut all, self.block())
    }

    /// The next inode slot.
    fn next_nid(&self) -> Nid {
        match &self.metabox {
            Some(metabox) => Nid(Nid::METABOX_BIT | metabox.len().div_ceil(32) as u64),
            None => Nid(self.meta.div_ceil(32) as u64),
        }
    }
}

/// Directory content: entries sorted and packed.
pub(super) fn pack(entries: &mut [(Vec<u8>, Nid, FileType)], block: usize) -> Vec<u8> {
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

/// A word of an extent record.
///
/// # Panics
/// If it cannot be emitted.
#[must_use]
pub fn word(len: usize, algorithm: Option<u8>, partial: bool) -> u32 {
    EncodedLen { len: len as u32, partial, algorithm }.emit().expect("a word")
}
