// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended attributes, each pair of name and value stored once, and each set of pairs once.
//!
//! Labels repeat on every file of a tree; so an inode holds the number of a set and nothing else.

use std::collections::HashMap;

/// Number of a set of xattrs; 0 is the empty set.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct XattrSetId(u32);

impl XattrSetId {
    /// The set without xattrs.
    pub const NONE: Self = Self(0);

    /// As an index into per-set tables: sets are numbered from 0 without gaps.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One attribute.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "name and value are all there is")]
pub struct Xattr {
    /// Full name, such as `user.comment`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// All xattrs of a tree.
#[derive(Debug)]
pub(crate) struct XattrStore {
    pairs: Vec<Xattr>,
    pair_ids: HashMap<Xattr, u32>,
    sets: Vec<Box<[u32]>>,
    set_ids: HashMap<Box<[u32]>, u32>,
}

impl Default for XattrStore {
    fn default() -> Self {
        let empty: Box<[u32]> = Box::default();
        Self {
            pairs: Vec::new(),
            pair_ids: HashMap::new(),
            sets: vec![empty.clone()],
            set_ids: HashMap::from([(empty, 0)]),
        }
    }
}

impl XattrStore {
    /// The number of this set; order does not matter, of two equal names the last one counts.
    pub(crate) fn intern(&mut self, mut xattrs: Vec<Xattr>) -> XattrSetId {
        if xattrs.is_empty() {
            return XattrSetId::NONE;
        }
        // Stable, so the last of equal names stays last; `dedup_by` keeps the first of a run.
        xattrs.reverse();
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|later, first| later.name == first.name);
        let set: Box<[u32]> = xattrs.into_iter().map(|xattr| self.pair(xattr)).collect();
        if let Some(&id) = self.set_ids.get(&set) {
            return XattrSetId(id);
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.set_ids.insert(set, id);
        XattrSetId(id)
    }

    fn pair(&mut self, xattr: Xattr) -> u32 {
        if let Some(&id) = self.pair_ids.get(&xattr) {
            return id;
        }
        let id = self.pairs.len() as u32;
        self.pairs.push(xattr.clone());
        self.pair_ids.insert(xattr, id);
        id
    }

    pub(crate) fn set(&self, id: XattrSetId) -> impl Iterator<Item = &Xattr> {
        let set = self.sets.get(id.index()).map_or(&[][..], |set| set);
        set.iter().map(|&pair| &self.pairs[pair as usize])
    }

    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &str) -> Xattr {
        Xattr { name: name.into(), value: value.into() }
    }

    #[test]
    fn equal_sets_are_one_whatever_their_order() {
        let mut store = XattrStore::default();
        let one = store.intern(vec![xattr("user.b", "2"), xattr("user.a", "1")]);
        let two = store.intern(vec![xattr("user.a", "1"), xattr("user.b", "2")]);
        assert_eq!(one, two);
        let names: Vec<_> = store.set(one).map(|x| x.name.clone()).collect();
        assert_eq!(names, [b"user.a", b"user.b"]);
        assert_eq!(store.intern(Vec::new()), XattrSetId::NONE);
        assert_eq!(store.set(XattrSetId::NONE).count(), 0);
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        let mut store = XattrStore::default();
        let id = store.intern(vec![xattr("user.a", "old"), xattr("user.a", "new")]);
        assert_eq!(store.set(id).map(|x| x.value.clone()).collect::<Vec<_>>(), [b"new"]);
    }
}
