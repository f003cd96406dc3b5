// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directory blocks. format.md §5.
//!
//! A block is checked once, when it is parsed: afterwards every name is inside the block, has 1 to
//! 255 bytes without `/` and NUL, and names ascend strictly. Order across blocks is the caller's to
//! check, since it sees the neighbours.

use crate::inode::FileType;
use crate::num::{bytes_at, u16_at, u64_from_usize};
use crate::{FormatError, Nid, Result, limits};
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Bytes of one dirent.
pub const DIRENT_LEN: usize = 12;

/// One directory entry; the name borrows from its block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dirent<'a> {
    /// Raw name bytes.
    pub name: &'a [u8],
    /// Inode.
    pub nid: Nid,
    /// Type as stored; `None` for 0 (unknown) and undefined values.
    pub file_type: Option<FileType>,
}

/// A directory block whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct DirBlock<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> DirBlock<'a> {
    /// Checks `bytes`: one block, or what is left of the directory in its last one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let block = Self { bytes, count: count_of(bytes)? };
        let mut previous: Option<&[u8]> = None;
        for entry in block.unchecked_entries() {
            let entry = entry?;
            check_name(entry.name)?;
            if previous.is_some_and(|previous| previous >= entry.name) {
                return Err(FormatError::corrupt(
                    "directory names are not in ascending order",
                    entry.nid.0,
                ));
            }
            previous = Some(entry.name);
        }
        Ok(block)
    }

    /// Entries in the block; at least one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Never true: a block without entries is corrupt.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Entry number `index`; `None` behind the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Dirent<'a>> {
        if index < self.count { entry_at(self.bytes, index, self.count).ok() } else { None }
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Dirent<'a>> + use<'a> {
        let block = *self;
        (0..self.count).filter_map(move |index| block.get(index))
    }

    /// Binary search by name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Dirent<'a>> {
        find_unchecked(self.bytes, name).ok().flatten()
    }

    fn unchecked_entries(self) -> impl Iterator<Item = Result<Dirent<'a>>> {
        (0..self.count).map(move |index| entry_at(self.bytes, index, self.count))
    }
}

/// First name of a block, without checking the rest: what a search over blocks compares.
pub fn first_name(bytes: &[u8]) -> Result<&[u8]> {
    let count = count_of(bytes)?;
    entry_at(bytes, 0, count).map(|entry| entry.name)
}

/// Binary search in a block that has not been checked: touches O(log n) entries and checks those.
/// What lookups use; a whole check of the block would cost more than the search.
pub fn find_unchecked<'a>(bytes: &'a [u8], name: &[u8]) -> Result<Option<Dirent<'a>>> {
    let count = count_of(bytes)?;
    let (mut low, mut high) = (0usize, count);
    while low < high {
        let middle = low.midpoint(high);
        let entry = entry_at(bytes, middle, count)?;
        match entry.name.cmp(name) {
            Ordering::Equal => return check_name(entry.name).map(|()| Some(entry)),
            Ordering::Less => low = middle.saturating_add(1),
            Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

fn count_of(bytes: &[u8]) -> Result<usize> {
    let first = usize::from(u16_at(bytes, 8, "directory block")?);
    if first < DIRENT_LEN || !first.is_multiple_of(DIRENT_LEN) || first >= bytes.len() {
        return Err(FormatError::corrupt(
            "first name offset of a directory block is impossible",
            u64_from_usize(first),
        ));
    }
    Ok(first.checked_div(DIRENT_LEN).unwrap_or(0))
}

fn entry_at(bytes: &[u8], index: usize, count: usize) -> Result<Dirent<'_>> {
    let at = index.saturating_mul(DIRENT_LEN);
    let nid = Nid(u64::from_le_bytes(bytes_at(bytes, at, "directory entry")?));
    let offset = usize::from(u16_at(bytes, at.saturating_add(8), "directory entry")?);
    let [file_type] = bytes_at::<1>(bytes, at.saturating_add(10), "directory entry")?;
    let last = index.saturating_add(1) >= count;
    let end = if last {
        bytes.len()
    } else {
        let next = at.saturating_add(DIRENT_LEN).saturating_add(8);
        usize::from(u16_at(bytes, next, "directory entry")?)
    };
    let name =
        bytes.get(offset..end).filter(|name| !name.is_empty()).ok_or(FormatError::corrupt(
            "name offset of a directory entry is impossible",
            u64_from_usize(offset),
        ))?;
    // The last name ends at its first NUL; the others end where the next begins.
    let name = if last { name.split(|&byte| byte == 0).next().unwrap_or(&[]) } else { name };
    Ok(Dirent { name, nid, file_type: FileType::from_dirent(file_type) })
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > limits::NAME_LEN_MAX {
        return Err(FormatError::corrupt(
            "file name is empty or longer than 255 bytes",
            u64_from_usize(name.len()),
        ));
    }
    match name.iter().find(|&&byte| byte == b'/' || byte == 0) {
        Some(&byte) => {
            Err(FormatError::corrupt("file name contains a slash or NUL", u64::from(byte)))
        }
        None => Ok(()),
    }
}

/// Divides sorted names into blocks the way every writer does: entries go into a block while they
/// fit. Knows lengths first (to size the directory before nids exist) and bytes later.
#[derive(Clone, Debug, Default)]
pub struct DirPacker {
    /// Number of entries in each block.
    blocks: Vec<u32>,
    block_size: usize,
    used: usize,
}

impl DirPacker {
    /// Starts an empty directory with blocks of `block_size` bytes.
    #[must_use]
    pub fn new(block_size: usize) -> Self {
        Self { blocks: Vec::new(), block_size, used: 0 }
    }

    /// Adds the next name by its length.
    pub fn push(&mut self, name_len: usize) {
        let need = name_len.saturating_add(DIRENT_LEN);
        match self.blocks.last_mut() {
            Some(count) if self.used.saturating_add(need) <= self.block_size => {
                *count = count.saturating_add(1);
                self.used = self.used.saturating_add(need);
            }
            _ => {
                self.blocks.push(1);
                self.used = need;
            }
        }
    }

    /// Bytes of the directory: whole blocks and what the last one holds.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.blocks.len().checked_sub(1) {
            None => 0,
            Some(whole) => u64_from_usize(whole)
                .saturating_mul(u64_from_usize(self.block_size))
                .saturating_add(u64_from_usize(self.used)),
        }
    }

    /// Emits the directory into `out`. `entries` are those whose lengths were pushed, in the same
    /// order.
    pub fn emit<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a [u8], Nid, FileType)>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut entries = entries.into_iter();
        let mut block: Vec<(&[u8], Nid, FileType)> = Vec::new();
        for (index, &count) in self.blocks.iter().enumerate() {
            block.clear();
            block.extend(entries.by_ref().take(crate::num::usize_from_u32(count)));
            if index > 0 {
                let start = index.saturating_mul(self.block_size);
                let padding = start.saturating_sub(out.len().min(start));
                out.resize(out.len().saturating_add(padding), 0);
            }
            emit_block(&block, out)?;
        }
        Ok(())
    }
}

fn emit_block(entries: &[(&[u8], Nid, FileType)], out: &mut Vec<u8>) -> Result<()> {
    let mut offset = entries.len().saturating_mul(DIRENT_LEN);
    for (name, nid, file_type) in entries {
        check_name(name)?;
        let name_offset = u16::try_from(offset).map_err(|_| FormatError::DoesNotFit {
            what: "name offset",
            value: u64_from_usize(offset),
        })?;
        out.extend_from_slice(&nid.0.to_le_bytes());
        out.extend_from_slice(&name_offset.to_le_bytes());
        out.extend_from_slice(&[file_type.dirent(), 0]);
        offset = offset.saturating_add(name.len());
    }
    for (name, _, _) in entries {
        out.extend_from_slice(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;

    fn pack(names: &[&[u8]], block_size: usize) -> Vec<u8> {
        let mut packer = DirPacker::new(block_size);
        for name in names {
            packer.push(name.len());
        }
        let mut out = Vec::new();
        let entries =
            names.iter().enumerate().map(|(i, name)| (*name, Nid(i as u64), FileType::Regular));
        packer.emit(entries, &mut out).unwrap();
        assert_eq!(out.len() as u64, packer.size());
        out
    }

    #[test]
    fn worked_example() {
        let mut packer = DirPacker::new(4096);
        let entries: [(&[u8], u64, FileType); 6] = [
            (b".", 0x24, FileType::Directory),
            (b"..", 0x24, FileType::Directory),
            (b"a.txt", 0x28, FileType::Regular),
            (b"dir", 0x2a, FileType::Directory),
            (b"link", 0x2d, FileType::Symlink),
            (b"null", 0x2f, FileType::CharDevice),
        ];
        for entry in &entries {
            packer.push(entry.0.len());
        }
        assert_eq!(packer.size(), 91);
        let mut out = Vec::new();
        packer.emit(entries.map(|(n, nid, t)| (n, Nid(nid), t)), &mut out).unwrap();
        assert_eq!(out[24..36], [0x28, 0, 0, 0, 0, 0, 0, 0, 0x4b, 0, 1, 0], "format.md §5");
        assert_eq!(&out[72..], b"...a.txtdirlinknull");
        let block = DirBlock::parse(&out).unwrap();
        assert_eq!(block.find(b"link").unwrap().nid, Nid(0x2d));
        assert!(block.find(b"lin").is_none());
    }

    #[test]
    fn crafted_blocks_are_errors() {
        let good = pack(&[b"aa", b"bb", b"cc"], 512);
        let set = |offset: usize, value: u16| {
            let mut bytes = good.clone();
            bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        // Rows of format.md §19.2.
        for (bytes, what) in [
            (set(8, 0), "first offset 0"),
            (set(8, 13), "not a multiple of 12"),
            (set(8, 4092), "past the block"),
            (set(20, 30), "descending offset"),
            (set(32, 500), "last offset past the size"),
            (set(32, 38), "empty name"),
        ] {
            assert!(DirBlock::parse(&bytes).is_err(), "{what}");
        }
        let mut slash = good.clone();
        slash[36] = b'/';
        assert!(DirBlock::parse(&slash).is_err());
        let mut order = good;
        order[36] = b'z';
        assert!(DirBlock::parse(&order).is_err());
        assert!(DirBlock::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn packed_names_come_back(names in proptest::collection::btree_set(
            proptest::collection::vec(1u8..=255, 1..40), 1..200), bits in 9u32..13) {
            let names: BTreeSet<Vec<u8>> =
                names.into_iter().filter(|name| !name.contains(&b'/')).collect();
            let list: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            let bytes = pack(&list, 1 << bits);
            let mut back = vec![];
            for chunk in bytes.chunks(1 << bits) {
                let block = DirBlock::parse(chunk).unwrap();
                for entry in block.iter() {
                    prop_assert_eq!(block.find(entry.name), Some(entry));
                    prop_assert_eq!(list[entry.nid.0 as usize], entry.name);
                    back.push(entry.name.to_vec());
                }
            }
            prop_assert_eq!(back, list.iter().map(|n| n.to_vec()).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(block) = DirBlock::parse(&bytes) {
                prop_assert_eq!(block.iter().count(), block.len());
            }
            let _ = find_unchecked(&bytes, b"x");
        }
    }
}
