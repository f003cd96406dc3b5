// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which xattrs are stored once, and the bodies behind inodes. format.md §6.
//!
//! Both parts of a body are sorted by name, and so is the pool of shared ones.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ferrofs_format::xattr::{
    HEADER_LEN, InodeDigest, LONG_PREFIX_FLAG, LongPrefix, XattrBody, XattrEntry, filter_bit,
    icount, split_name,
};
use ferrofs_format::{FormatError, limits};
use ferrofs_tree::{Content, InodeId, Tree, Xattr, XattrSetId};

use crate::blob::SealEntry;
use crate::{BuildOptions, Error, Result};

/// What a digest adds to a body: a header, no name, its value, and padding.
const DIGEST_ENTRY_LEN: u32 =
    (XattrEntry::HEADER_LEN + InodeDigest::LEN).next_multiple_of(4) as u32;

/// Xattrs of a whole image.
#[derive(Debug, Default)]
pub(crate) struct XattrPlan {
    /// Bytes of the body of each set.
    lens: Vec<u32>,
    /// Bodies with shared ids counted from the start of the pool; see [`XattrPlan::body`].
    bodies: Vec<Vec<u8>>,
    /// Shared entries, one behind the other.
    pub(crate) pool: Vec<u8>,
    /// Number of them.
    pub(crate) shared: u64,
    /// Prefixes that attributes of the tree are stored with.
    prefixes: Vec<LongPrefix>,
    /// The name of the digests' attribute: the last of the long prefixes, of which it is the whole.
    digest: Option<LongPrefix>,
    /// The root's attribute about the blob.
    seal: Option<SealEntry>,
    pub(crate) filter: bool,
}

/// Values that are known only when all data is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late<'a> {
    /// Of the inode.
    pub(crate) digest: Option<&'a InodeDigest>,
    /// Of the blob.
    pub(crate) sealed: Option<&'a [u8]>,
}

impl XattrPlan {
    pub(crate) fn new(
        tree: &Tree,
        options: &BuildOptions,
        seal: Option<SealEntry>,
    ) -> Result<Self> {
        let digest = options.inode_digest.as_deref().map(LongPrefix::from_full);
        let Some(options) = &options.xattrs else {
            let sets = tree.xattr_sets();
            return Ok(Self {
                lens: vec![0; sets],
                bodies: vec![Vec::new(); sets],
                filter: digest.is_some() || seal.is_some(),
                digest,
                seal,
                ..<_>::default()
            });
        };
        let prefixes: Vec<_> = options.prefixes.iter().map(|p| LongPrefix::from_full(p)).collect();
        let mut users = vec![0u64; tree.xattr_sets()];
        let mut first_user: HashMap<XattrSetId, InodeId> = HashMap::new();
        for id in tree.ids() {
            let set = tree.inode(id).metadata().xattrs;
            users[set.index()] += 1;
            first_user.entry(set).or_insert(id);
        }
        let filter = options.name_filter;
        let mut plan = Self { prefixes, digest, seal, filter, ..Self::default() };
        let pool = plan.share(tree, &users, &first_user, options.shared_above)?;
        plan.lens = vec![0; users.len()];
        plan.bodies = vec![Vec::new(); users.len()];
        for (&set, &user) in &first_user {
            let body = plan.make_body(tree, set, &pool).map_err(|error| {
                let path = PathBuf::from(OsStr::from_bytes(&tree.path(user)));
                Error::File { path, error }
            })?;
            plan.lens[set.index()] = body.len() as u32;
            plan.bodies[set.index()] = body;
        }
        Ok(plan)
    }

    /// Fills the pool; says where each shared xattr is in it.
    fn share<'t>(
        &mut self,
        tree: &'t Tree,
        users: &[u64],
        sets: &HashMap<XattrSetId, InodeId>,
        above: u64,
    ) -> Result<HashMap<&'t Xattr, u32>> {
        let mut counts: BTreeMap<&Xattr, u64> = BTreeMap::new();
        for &set in sets.keys() {
            for xattr in tree.xattrs(set).filter(|xattr| !self.is_ours(xattr)) {
                *counts.entry(xattr).or_default() += users[set.index()];
            }
        }
        let mut places = HashMap::new();
        for (xattr, count) in counts {
            if count > above {
                places.insert(xattr, self.pool.len() as u32);
                let entry = entry(xattr, &self.prefixes);
                entry.emit(&mut self.pool)?;
                self.shared += 1;
            }
        }
        Ok(places)
    }

    fn make_body(
        &self,
        tree: &Tree,
        set: XattrSetId,
        pool: &HashMap<&Xattr, u32>,
    ) -> core::result::Result<Vec<u8>, FormatError> {
        let mut filter = if self.filter { u32::MAX } else { 0 };
        let (mut shared, mut inline) = (Vec::new(), Vec::new());
        for xattr in tree.xattrs(set).filter(|xattr| !self.is_ours(xattr)) {
            let (base, rest) = split_name(&xattr.name);
            if self.filter {
                filter &= !filter_bit(base, b"", rest);
            }
            match pool.get(xattr) {
                Some(&place) if shared.len() < limits::SHARED_XATTRS_MAX => shared.push(place / 4),
                _ => inline.push(entry(xattr, &self.prefixes)),
            }
        }
        let mut body = Vec::new();
        if !shared.is_empty() || !inline.is_empty() {
            XattrBody::emit(filter, &shared, &inline, &mut body)?;
            icount(body.len())?;
        }
        Ok(body)
    }

    /// An attribute of the tree with the name that belongs to the digests, or to the blob's seal.
    fn is_ours(&self, xattr: &Xattr) -> bool {
        let (base, rest) = split_name(&xattr.name);
        self.digest.as_ref().is_some_and(|name| name.base_index == base && name.infix == rest)
            || self.seal.as_ref().is_some_and(|seal| seal.base == base && seal.rest == rest)
    }

    /// Whether an inode gets a digest.
    fn has_digest(&self, tree: &Tree, id: InodeId) -> bool {
        let content = tree.content(id);
        self.digest.is_some() && matches!(content, Content::File { size, .. } if size > 0)
    }

    /// Number of the long prefix that names the digests.
    pub(crate) fn digest_prefix(&self) -> Option<u8> {
        // At most 128 of them.
        self.digest.as_ref().map(|_| self.prefixes.len() as u8)
    }

    /// Number of long prefixes.
    pub(crate) fn prefix_count(&self) -> u8 {
        self.prefixes.len() as u8 + u8::from(self.digest.is_some())
    }

    /// Bytes of the body of an inode.
    pub(crate) fn body_len(&self, tree: &Tree, id: InodeId) -> u32 {
        let len = self.lens[tree.inode(id).metadata().xattrs.index()];
        let seal = self.seal.as_ref().filter(|_| id == InodeId::ROOT);
        // The root is no file: it has no digest.
        let more = match seal {
            Some(seal) => seal.entry_len(),
            None if self.has_digest(tree, id) => DIGEST_ENTRY_LEN,
            None => return len,
        };
        len.max(HEADER_LEN as u32) + more
    }

    /// Appends the body of an inode; `first_id` is the id of the pool's first byte.
    pub(crate) fn emit_body(
        &self,
        tree: &Tree,
        id: InodeId,
        first_id: u32,
        late: Late<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let at = out.len();
        let body = &self.bodies[tree.inode(id).metadata().xattrs.index()];
        out.extend_from_slice(body);
        if self.has_digest(tree, id) {
            // A worker that gave no digest has failed.
            self.emit_digest(at, late.digest.ok_or(Error::Worker)?, out)?;
        }
        if let Some(seal) = self.seal.as_ref().filter(|_| id == InodeId::ROOT) {
            let entry = late.sealed.and_then(|value| seal.entry(value)).ok_or(Error::Seal)?;
            self.append(at, filter_bit(seal.base, b"", &seal.rest), &entry, out)?;
        }
        let shared = body.get(4).map_or(0, |&count| usize::from(count));
        for index in 0..shared {
            let place = at + HEADER_LEN + index * 4;
            let raw = [out[place], out[place + 1], out[place + 2], out[place + 3]];
            let id = u32::from_le_bytes(raw) + first_id;
            out[place..place + 4].copy_from_slice(&id.to_le_bytes());
        }
        Ok(())
    }

    /// Appends a digest to the body that begins at `at`.
    fn emit_digest(&self, at: usize, digest: &InodeDigest, out: &mut Vec<u8>) -> Result<()> {
        let (Some(prefix), Some(name)) = (self.digest_prefix(), &self.digest) else {
            return Ok(());
        };
        let value = digest.emit();
        let entry = XattrEntry { index: LONG_PREFIX_FLAG | prefix, name: b"", value: &value };
        self.append(at, filter_bit(name.base_index, &name.infix, b""), &entry, out)
    }

    /// Appends an attribute to the body that begins at `at`, which may not be there yet.
    fn append(
        &self,
        at: usize,
        filter_bit: u32,
        entry: &XattrEntry<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if out.len() == at {
            let filter = if self.filter { u32::MAX } else { 0 };
            XattrBody::emit(filter, &[], &[], out)?;
        }
        if self.filter {
            let word = [out[at], out[at + 1], out[at + 2], out[at + 3]];
            let filter = u32::from_le_bytes(word) & !filter_bit;
            out[at..at + 4].copy_from_slice(&filter.to_le_bytes());
        }
        Ok(entry.emit(out)?)
    }

    /// The long-prefix table.
    pub(crate) fn prefix_table(&self) -> core::result::Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.prefixes.iter().chain(&self.digest).try_for_each(|prefix| prefix.emit(&mut out))?;
        Ok(out)
    }
}

fn entry<'a>(xattr: &'a Xattr, prefixes: &[LongPrefix]) -> XattrEntry<'a> {
    let (base, rest) = split_name(&xattr.name);
    let long = prefixes
        .iter()
        .position(|prefix| prefix.base_index == base && rest.starts_with(&prefix.infix));
    match long {
        Some(number) => XattrEntry {
            // At most 128 of them.
            index: LONG_PREFIX_FLAG | number as u8,
            name: &rest[prefixes[number].infix.len()..],
            value: &xattr.value,
        },
        None => XattrEntry { index: base, name: rest, value: &xattr.value },
    }
}
