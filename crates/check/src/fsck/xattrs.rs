// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended attributes: bodies, shared entries, names and the name filter. format.md §6.

use super::{Check, lock};
use crate::Code;
use ferrofs_image::format::features::CompatFeatures;
use ferrofs_image::format::limits::NAME_LEN_MAX;
use ferrofs_image::format::xattr::{
    LONG_PREFIX_FLAG, XattrBody, XattrEntry, base_prefix, filter_bit,
};
use ferrofs_image::{Inode, Space};
use std::collections::HashMap;
use std::sync::Arc;

/// Shared entries kept.
const SHARED_MAX: usize = 16_384;

/// An entry's name: prefix and rest, as stored, and what its value is if that matters.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Name {
    index: u8,
    rest: Box<[u8]>,
    bad_acl: bool,
}

/// Shared entries that were read: most inodes of an image share a few.
#[derive(Debug, Default)]
pub(super) struct SharedCache {
    entries: HashMap<u32, Arc<Name>>,
}

impl Check<'_> {
    pub(super) fn xattrs(&self, inode: &Inode) {
        let len = inode.record.xattr_len();
        if len == 0 {
            return;
        }
        let nid = Some(inode.nid);
        if !self.charge(u64::from(len) / 16 + 1) {
            return;
        }
        // At most 256 KiB, and inside its space: checked when the inode was read.
        let mut bytes = vec![0; len as usize];
        let at = inode.offset() + inode.record.record_len() as u64;
        if let Err(error) = self.image.read_metadata(inode.space(), at, &mut bytes) {
            return self.image_error(Code::XattrBody, nid, &error);
        }
        let body = match XattrBody::parse(&bytes) {
            Ok(body) => body,
            Err(error) => return self.find(Code::XattrBody, nid, None, error.to_string()),
        };
        let mut names: Vec<Arc<Name>> = vec![];
        for entry in body.inline_entries() {
            match entry {
                Ok(entry) => names.push(Arc::new(name_of(&entry))),
                Err(error) => self.find(Code::XattrEntry, nid, None, error.to_string()),
            }
        }
        for id in body.shared_ids() {
            match self.shared(id) {
                Ok(name) => names.push(name),
                Err(text) => {
                    self.find(Code::XattrShared, nid, None, format!("id {id}: {text}"));
                }
            }
        }
        self.xattr_names(inode, body.filter, &names);
    }

    fn xattr_names(&self, inode: &Inode, filter: u32, names: &[Arc<Name>]) {
        let nid = Some(inode.nid);
        let superblock = self.image.superblock();
        let filtered = superblock.compat.has(CompatFeatures::XATTR_FILTER)
            && superblock.xattr_filter_reserved == 0;
        let mut full: Vec<(u8, Vec<u8>)> = Vec::with_capacity(names.len());
        for name in names {
            let Some((base, infix)) = self.expand(name.index) else {
                let text = format!("prefix {:#x}", name.index);
                self.find(Code::XattrPrefix, nid, None, text);
                continue;
            };
            let shown = || {
                let prefix = base_prefix(base).unwrap_or_default();
                crate::RawPath([prefix, infix, &name.rest].concat()).to_string()
            };
            if filtered && filter & filter_bit(base, infix, &name.rest) != 0 {
                self.find(Code::XattrFilter, nid, None, shown());
            }
            if infix.len() + name.rest.len() > NAME_LEN_MAX {
                self.find(Code::XattrName, nid, None, shown());
            }
            if name.bad_acl {
                self.find(Code::XattrAcl, nid, None, shown());
            }
            full.push((base, [infix, &name.rest].concat()));
        }
        full.sort_unstable();
        for pair in full.windows(2).filter(|pair| pair[0] == pair[1]) {
            let prefix = base_prefix(pair[0].0).unwrap_or_default();
            let name = crate::RawPath([prefix, &pair[0].1].concat());
            self.find(Code::XattrTwice, nid, None, name.to_string());
        }
    }

    /// Built-in index and infix of an entry's index.
    fn expand(&self, index: u8) -> Option<(u8, &[u8])> {
        if index & LONG_PREFIX_FLAG == 0 {
            return base_prefix(index).map(|_| (index, &[][..]));
        }
        let prefix = self.image.long_prefixes().get(usize::from(index & !LONG_PREFIX_FLAG))?;
        Some((prefix.base_index, &prefix.infix))
    }

    fn shared(&self, id: u32) -> Result<Arc<Name>, String> {
        if let Some(name) = lock(&self.shared).entries.get(&id) {
            return Ok(Arc::clone(name));
        }
        let superblock = self.image.superblock();
        let in_metabox = superblock.compat.has(CompatFeatures::SHARED_EA_IN_METABOX)
            && superblock.metabox.is_some();
        let space = if in_metabox { Space::Metabox } else { Space::Primary };
        let offset = superblock.xattr_base() + u64::from(id) * 4;
        let mut header = [0; XattrEntry::HEADER_LEN];
        let failed = |error: ferrofs_image::Error| error.to_string();
        self.image.read_metadata(space, offset, &mut header).map_err(failed)?;
        // Without the padding, which the end of the space may cut off.
        let value_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let len = XattrEntry::HEADER_LEN + usize::from(header[0]) + value_len;
        if !self.charge(len as u64 / 16 + 1) {
            return Err("work budget used up".to_owned());
        }
        let mut bytes = vec![0; len];
        self.image.read_metadata(space, offset, &mut bytes).map_err(failed)?;
        let (entry, _) = XattrEntry::parse(&bytes).map_err(|error| error.to_string())?;
        if entry.is_padding() {
            return Err("no entry there".to_owned());
        }
        let name = Arc::new(name_of(&entry));
        let mut cache = lock(&self.shared);
        if cache.entries.len() < SHARED_MAX {
            cache.entries.insert(id, Arc::clone(&name));
        }
        Ok(name)
    }
}

fn name_of(entry: &XattrEntry<'_>) -> Name {
    // Indexes 2 and 3 are the two access control lists: version 2, then entries of 8 bytes.
    let is_acl = matches!(entry.index, 2 | 3);
    let good = entry.value.starts_with(&[2, 0, 0, 0]) && entry.value.len() % 8 == 4;
    Name { index: entry.index, rest: entry.name.into(), bad_acl: is_acl && !good }
}
