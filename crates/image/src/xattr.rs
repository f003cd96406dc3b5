// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended attributes of an inode. format.md §6.

use crate::{Error, Image, Inode, Place, Result, Space};
use ferrofs_format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_format::inode::FileType;
use ferrofs_format::limits;
use ferrofs_format::num::{u64_from_usize, usize_from_u32};
use ferrofs_format::xattr::{
    InodeDigest, LONG_PREFIX_FLAG, LongPrefix, XattrBody, XattrEntry, base_prefix, filter_bit,
    split_name,
};
use std::collections::HashSet;

/// One attribute with its full name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Xattr {
    /// Full name, such as `user.comment`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Whether a mount shows it: names without a namespace that Linux handles are hidden.
    pub visible: bool,
    /// Whether it is stored once for several inodes.
    pub shared: bool,
}

/// The long-prefix table.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    table: Vec<LongPrefix>,
    /// The one that names the inode digest.
    digest: Option<usize>,
}

impl Prefixes {
    pub(crate) fn table(&self) -> &[LongPrefix] {
        &self.table
    }

    pub(crate) fn read(image: &Image) -> Result<Self> {
        let superblock = &image.superblock;
        let mut table = Vec::new();
        if !superblock.incompat.has(IncompatFeatures::XATTR_PREFIXES) {
            return Ok(Self { table, digest: None });
        }
        // format.md §6.4.
        let space = if superblock.compat.has(CompatFeatures::PLAIN_XATTR_PFX) {
            Space::Primary
        } else if superblock.metabox.is_some() {
            Space::Metabox
        } else if superblock.packed.is_some() {
            Space::Packed
        } else {
            Space::Primary
        };
        let mut offset = u64::from(superblock.xattr_prefix_start).saturating_mul(4);
        for _ in 0..superblock.xattr_prefix_count {
            let mut record = [0; 2 + 256];
            let have = image.space_len(space).saturating_sub(offset);
            let most = record.len().min(ferrofs_format::num::usize_from_u64(have));
            let bytes = record.get_mut(..most).unwrap_or_default();
            image.read_meta(space, offset, bytes)?;
            let (prefix, len) = LongPrefix::parse(bytes)
                .map_err(|error| Error::format(error, Place::meta(space, offset)))?;
            table.push(prefix);
            offset = offset.saturating_add(u64_from_usize(len));
        }
        // That it is in the table was checked with the superblock.
        let digest = superblock.compat.has(CompatFeatures::ISHARE_XATTRS);
        let digest = digest.then_some(usize::from(superblock.ishare_prefix_id));
        Ok(Self { table, digest })
    }

    /// Built-in index and infix of an entry's index; `None`: the entry is to be ignored.
    fn expand(&self, index: u8) -> Option<(u8, &[u8])> {
        if index & LONG_PREFIX_FLAG == 0 {
            return Some((index, &[]));
        }
        let prefix = self.table.get(usize::from(index & !LONG_PREFIX_FLAG))?;
        Some((prefix.base_index, &prefix.infix))
    }
}

impl Image {
    /// Reads the xattr body; empty for inodes without one.
    fn xattr_body(&self, inode: &Inode) -> Result<Vec<u8>> {
        let len = inode.record.xattr_len();
        // At most 256 KiB, and inside its space: checked when the inode was read.
        let mut body = vec![0; usize_from_u32(len)];
        self.read_meta(inode.space, inode.xattr_at(), &mut body)
            .map_err(|error| error.with_nid(inode.nid))?;
        Ok(body)
    }

    fn shared_place(&self, id: u32) -> (Space, u64) {
        let in_metabox = self.superblock.compat.has(CompatFeatures::SHARED_EA_IN_METABOX)
            && self.superblock.metabox.is_some();
        let space = if in_metabox { Space::Metabox } else { Space::Primary };
        let id = u64::from(id).saturating_mul(4);
        (space, self.superblock.xattr_base().saturating_add(id))
    }

    /// Reads a shared entry whole: its header first, then as much as that says.
    fn shared_entry(&self, inode: &Inode, id: u32, buf: &mut Vec<u8>) -> Result<()> {
        let (space, offset) = self.shared_place(id);
        let place = Place::meta(space, offset).of(inode.nid);
        let with_nid = |error: Error| error.with_nid(inode.nid);
        let mut header = [0; XattrEntry::HEADER_LEN];
        self.read_meta(space, offset, &mut header).map_err(with_nid)?;
        let len =
            XattrEntry::len_from_header(&header).map_err(|error| Error::format(error, place))?;
        // The padding of the last entry may be cut off by the end of the space.
        let left = self.space_len(space).saturating_sub(offset);
        buf.resize(len.min(ferrofs_format::num::usize_from_u64(left)), 0);
        self.read_meta(space, offset, buf).map_err(with_nid)
    }

    /// Gives `visit` every entry, inline ones first, until it returns `false`.
    fn visit_xattrs(
        &self,
        inode: &Inode,
        bytes: &[u8],
        mut visit: impl FnMut(XattrEntry<'_>, bool) -> bool,
    ) -> Result<()> {
        let place = Place::meta(inode.space, inode.xattr_at()).of(inode.nid);
        let format = |error| Error::format(error, place);
        let body = XattrBody::parse(bytes).map_err(format)?;
        for entry in body.inline_entries() {
            if !visit(entry.map_err(format)?, false) {
                return Ok(());
            }
        }
        let mut buf = Vec::new();
        for id in body.shared_ids() {
            self.shared_entry(inode, id, &mut buf)?;
            let (entry, _) = XattrEntry::parse(&buf).map_err(format)?;
            if !visit(entry, true) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// All attributes: inline ones, then shared ones, each name once.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let body = self.xattr_body(inode)?;
        let mut found: Vec<Xattr> = Vec::new();
        // A set, since a body can hold tens of thousands of names. A hidden name is not the visible
        // one of the same spelling, which a long prefix without namespace can give it.
        let mut known: HashSet<(Vec<u8>, bool)> = HashSet::new();
        self.visit_xattrs(inode, &body, |entry, shared| {
            if let Some((name, visible)) = self.full_name(&entry)
                && known.insert((name.clone(), visible))
            {
                found.push(Xattr { name, value: entry.value.to_vec(), visible, shared });
            }
            true
        })?;
        Ok(found)
    }

    /// Full name of an entry and whether Linux shows it; `None` for entries to be ignored.
    fn full_name(&self, entry: &XattrEntry<'_>) -> Option<(Vec<u8>, bool)> {
        let (base, infix) = self.prefixes.expand(entry.index)?;
        let prefix = base_prefix(base)?;
        if infix.len().saturating_add(entry.name.len()) > limits::NAME_LEN_MAX {
            return None;
        }
        let visible = matches!(base, 1 | 2 | 3 | 4 | 6);
        Some(([prefix, infix, entry.name].concat(), visible))
    }

    /// One attribute by its full name. Consults the name filter first.
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let (base, rest) = split_name(name);
        self.xattr_of(inode, base, rest)
    }

    /// The digest of a regular file's content that the image claims; nobody has compared it with
    /// the content. `None` also if it is of a kind that is not known. format.md §6.5.
    pub fn inode_digest(&self, inode: &Inode) -> Result<Option<InodeDigest>> {
        let value = self.inode_digest_value(inode)?;
        Ok(value.and_then(|value| InodeDigest::parse(&value)))
    }

    /// The same as it is stored, whatever that is.
    pub fn inode_digest_value(&self, inode: &Inode) -> Result<Option<Vec<u8>>> {
        let prefix = self.prefixes.digest.and_then(|number| self.prefixes.table.get(number));
        match prefix {
            Some(prefix) if inode.file_type == FileType::Regular && inode.size > 0 => {
                self.xattr_of(inode, prefix.base_index, &prefix.infix)
            }
            _ => Ok(None),
        }
    }

    /// By built-in index, and what is behind its prefix.
    fn xattr_of(&self, inode: &Inode, base: u8, rest: &[u8]) -> Result<Option<Vec<u8>>> {
        if inode.record.xattr_icount == 0 {
            return Ok(None);
        }
        let body = self.xattr_body(inode)?;
        let filtered = self.superblock.compat.has(CompatFeatures::XATTR_FILTER)
            && self.superblock.xattr_filter_reserved == 0;
        if filtered
            && XattrBody::parse(&body)
                .is_ok_and(|body| body.filter & filter_bit(base, &[], rest) != 0)
        {
            return Ok(None);
        }
        let mut value = None;
        self.visit_xattrs(inode, &body, |entry, _| {
            let matches = self.prefixes.expand(entry.index).is_some_and(|(index, infix)| {
                index == base && rest.strip_prefix(infix).is_some_and(|rest| rest == entry.name)
            });
            if matches {
                value = Some(entry.value.to_vec());
            }
            !matches
        })?;
        Ok(value)
    }
}
