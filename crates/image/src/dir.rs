// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories: lookup by binary search, and walking from any position. format.md §5.

use crate::meta::ContentReader;
use crate::{Error, FileMap, Image, Inode, Place, Result};
use ferrofs_format::Nid;
use ferrofs_format::dirent::{DirBlock, Dirent, find_unchecked, first_name};
use ferrofs_format::inode::FileType;
use ferrofs_format::num::{u64_from_usize, usize_from_u64};
use std::ops::ControlFlow;

/// Positions number entries as block * 2^16 + index in the block: at most 5461 entries fit one.
const INDEX_BITS: u32 = 16;

/// A directory entry with its own name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Raw name bytes.
    pub name: Vec<u8>,
    /// Inode.
    pub nid: Nid,
    /// Type as stored; `None` if the image does not say.
    pub file_type: Option<FileType>,
}

impl Entry {
    fn new(entry: Dirent<'_>) -> Self {
        Self { name: entry.name.to_vec(), nid: entry.nid, file_type: entry.file_type }
    }

    /// Whether it is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        matches!(self.name.as_slice(), b"." | b"..")
    }
}

/// An opened directory.
#[derive(Debug)]
pub struct Directory<'a> {
    image: &'a Image,
    nid: Nid,
    map: FileMap,
    dot_omitted: bool,
}

impl Image {
    /// Opens a directory.
    pub fn directory(&self, inode: &Inode) -> Result<Directory<'_>> {
        if inode.file_type != FileType::Directory {
            return Err(Error::NotDirectory { nid: inode.nid });
        }
        let map = self.map(inode)?;
        Ok(Directory { image: self, nid: inode.nid, map, dot_omitted: inode.record.dot_omitted })
    }
}

impl<'a> Directory<'a> {
    fn block_count(&self) -> u64 {
        self.image.superblock().block_bits.blocks_for(self.map.size())
    }

    /// Fills `buf` with block `block`: all of it, or what the size leaves.
    fn read_block(
        &self,
        reader: &mut ContentReader<'_>,
        block: u64,
        buf: &mut Vec<u8>,
    ) -> Result<Place> {
        let bits = self.image.superblock().block_bits;
        let start = bits.byte_of(block).unwrap_or(u64::MAX);
        let len = self.map.size().saturating_sub(start).min(bits.size_u64());
        buf.resize(usize_from_u64(len), 0);
        reader.read(start, buf)?;
        Ok(Place::content(self.nid, start))
    }

    /// Finds an entry by name.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<Entry>> {
        if name == b"." && self.dot_omitted {
            return Ok(Some(self.dot()));
        }
        let mut reader = ContentReader::new(self.image, &self.map);
        let mut buf = Vec::new();
        // The last block whose first name is not above `name`.
        let (mut low, mut high) = (0u64, self.block_count());
        while low < high {
            let middle = low.midpoint(high);
            let place = self.read_block(&mut reader, middle, &mut buf)?;
            let first = first_name(&buf).map_err(|error| Error::format(error, place))?;
            if first <= name {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        let Some(block) = low.checked_sub(1) else { return Ok(None) };
        let place = self.read_block(&mut reader, block, &mut buf)?;
        let found = find_unchecked(&buf, name).map_err(|error| Error::format(error, place))?;
        Ok(found.map(Entry::new))
    }

    fn dot(&self) -> Entry {
        Entry { name: b".".to_vec(), nid: self.nid, file_type: Some(FileType::Directory) }
    }

    /// Gives `visit` every entry from `position` on (0 = the first), with the position behind it,
    /// until it breaks. `.` and `..` are among them; an omitted `.` comes last, as in the kernel.
    ///
    /// Names ascend strictly over all blocks that one call sees.
    pub fn walk(
        &self,
        position: u64,
        mut visit: impl FnMut(Dirent<'_>, u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let blocks = self.block_count();
        let mut reader = ContentReader::new(self.image, &self.map);
        let mut buf = Vec::new();
        let mut last: Vec<u8> = Vec::new();
        let mut skip = usize_from_u64(position & ((1 << INDEX_BITS) - 1));
        for block in (position >> INDEX_BITS)..blocks {
            let place = self.read_block(&mut reader, block, &mut buf)?;
            let parsed = DirBlock::parse(&buf).map_err(|error| Error::format(error, place))?;
            for (index, entry) in parsed.iter().enumerate() {
                if index == 0 && !last.is_empty() && last.as_slice() >= entry.name {
                    return Err(Error::corrupt(
                        place,
                        "directory names are not in ascending order",
                        entry.nid.0,
                    ));
                }
                let next =
                    (block << INDEX_BITS).saturating_add(u64_from_usize(index)).saturating_add(1);
                if index >= skip && visit(entry, next).is_break() {
                    return Ok(());
                }
            }
            skip = 0;
            last.clear();
            if let Some(entry) = parsed.len().checked_sub(1).and_then(|index| parsed.get(index)) {
                last.extend_from_slice(entry.name);
            }
        }
        let end = blocks << INDEX_BITS;
        if self.dot_omitted && position <= end {
            let dot = Dirent { name: b".", nid: self.nid, file_type: Some(FileType::Directory) };
            // Nothing follows, so it does not matter whether the visitor goes on.
            let _ = visit(dot, end.saturating_add(1));
        }
        Ok(())
    }

    /// All entries, `.` and `..` included. Names of the whole directory are held in memory; use
    /// [`Directory::cursor`] for large ones.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.walk(0, |entry, _| {
            entries.push(Entry::new(entry));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Walks the directory block by block.
    #[must_use]
    pub fn cursor(self) -> DirCursor<'a> {
        DirCursor { directory: self, position: 0, batch: Vec::new().into_iter(), ended: false }
    }
}

/// Iterates over the entries of a directory with bounded memory.
#[derive(Debug)]
pub struct DirCursor<'a> {
    directory: Directory<'a>,
    position: u64,
    batch: std::vec::IntoIter<Entry>,
    ended: bool,
}

impl Iterator for DirCursor<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        const BATCH: usize = 1024;
        if let Some(entry) = self.batch.next() {
            return Some(Ok(entry));
        }
        if self.ended {
            return None;
        }
        let mut batch = Vec::with_capacity(BATCH);
        let mut position = self.position;
        let result = self.directory.walk(self.position, |entry, next| {
            batch.push(Entry::new(entry));
            position = next;
            if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.ended = batch.len() < BATCH;
        self.position = position;
        self.batch = batch.into_iter();
        match result {
            Err(error) => {
                self.ended = true;
                self.batch = Vec::new().into_iter();
                Some(Err(error))
            }
            Ok(()) => self.batch.next().map(Ok),
        }
    }
}
