// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which xattrs are stored once, and the bodies behind inodes. format.md §6.
//!
//! Both parts of a body are sorted by name, and so is the pool of shared ones.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ferrofs_format::xattr::{
    HEADER_LEN, LONG_PREFIX_FLAG, LongPrefix, XattrBody, XattrEntry, filter_bit, icount, split_name,
};
use ferrofs_format::{FormatError, limits};
use ferrofs_tree::{InodeId, Tree, Xattr, XattrSetId};

use crate::{Error, Result, XattrOptions};

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
    /// The long-prefix table.
    pub(crate) prefixes: Vec<LongPrefix>,
    pub(crate) filter: bool,
}

impl XattrPlan {
    pub(crate) fn new(tree: &Tree, options: Option<&XattrOptions>) -> Result<Self> {
        let Some(options) = options else {
            let sets = tree.xattr_sets();
            return Ok(Self {
                lens: vec![0; sets],
                bodies: vec![Vec::new(); sets],
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
        let mut plan = Self { prefixes, filter: options.name_filter, ..Self::default() };
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
            for xattr in tree.xattrs(set) {
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
        for xattr in tree.xattrs(set) {
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

    /// Bytes of the body of a set.
    pub(crate) fn body_len(&self, set: XattrSetId) -> u32 {
        self.lens[set.index()]
    }

    /// Appends the body of a set; `first_id` is the id of the pool's first byte.
    pub(crate) fn emit_body(&self, set: XattrSetId, first_id: u32, out: &mut Vec<u8>) {
        let at = out.len();
        let body = &self.bodies[set.index()];
        out.extend_from_slice(body);
        let shared = body.get(4).map_or(0, |&count| usize::from(count));
        for index in 0..shared {
            let place = at + HEADER_LEN + index * 4;
            let raw = [out[place], out[place + 1], out[place + 2], out[place + 3]];
            let id = u32::from_le_bytes(raw) + first_id;
            out[place..place + 4].copy_from_slice(&id.to_le_bytes());
        }
    }

    /// The long-prefix table.
    pub(crate) fn prefix_table(&self) -> core::result::Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.prefixes.iter().try_for_each(|prefix| prefix.emit(&mut out))?;
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
