// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a directory is to be seen.

use std::path::PathBuf;

use super::Exclude;
use crate::Timestamp;

/// Options of a walk. The default takes everything as it is.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..WalkOptions::default()`")]
pub struct WalkOptions {
    /// What to leave out.
    pub exclude: Exclude,
    /// Directories on other file systems stay empty.
    pub one_file_system: bool,
    /// Reads extended attributes.
    pub xattrs: bool,
    /// Whom files belong to.
    pub ownership: Ownership,
    /// When they were modified.
    pub times: Times,
    /// Each hard link becomes an inode of its own.
    pub hard_dereference: bool,
    /// Files that must not become part of their own image: those that the build is going to
    /// replace. They are recognised by device and inode number.
    pub avoid: Vec<PathBuf>,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self {
            exclude: Exclude::default(),
            one_file_system: false,
            xattrs: true,
            ownership: Ownership::default(),
            times: Times::default(),
            hard_dereference: false,
            avoid: Vec::new(),
        }
    }
}

/// Rewrites owners. The default keeps them.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Ownership::default()`")]
pub struct Ownership {
    /// This owner for all.
    pub force_uid: Option<u32>,
    /// This group for all.
    pub force_gid: Option<u32>,
    /// Added to every owner, after forcing; wraps.
    pub uid_offset: i64,
    /// Added to every group, after forcing; wraps.
    pub gid_offset: i64,
}

impl Ownership {
    /// Everything belongs to root.
    #[must_use]
    pub const fn all_root() -> Self {
        Self { force_uid: Some(0), force_gid: Some(0), uid_offset: 0, gid_offset: 0 }
    }

    pub(super) fn apply(self, uid: u32, gid: u32) -> (u32, u32) {
        let shift = |id: u32, offset: i64| (i64::from(id).wrapping_add(offset)) as u32;
        (
            shift(self.force_uid.unwrap_or(uid), self.uid_offset),
            shift(self.force_gid.unwrap_or(gid), self.gid_offset),
        )
    }
}

/// Rewrites modification times. The default keeps them.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Times {
    /// As they are.
    #[default]
    Keep,
    /// This second for all.
    All(i64),
    /// Later ones become this second (what SOURCE_DATE_EPOCH asks for).
    Clamp(i64),
}

impl Times {
    pub(super) fn apply(self, mtime: Timestamp) -> Timestamp {
        match self {
            Self::All(seconds) => Timestamp { seconds, nanoseconds: 0 },
            Self::Clamp(seconds) if mtime > (Timestamp { seconds, nanoseconds: 0 }) => {
                Timestamp { seconds, nanoseconds: 0 }
            }
            Self::Keep | Self::Clamp(_) => mtime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert_eq!(Ownership::default().apply(5, 6), (5, 6));
        assert_eq!(Ownership::all_root().apply(5, 6), (0, 0));
        let moved = Ownership { uid_offset: 100_000, gid_offset: -6, ..Ownership::default() };
        assert_eq!(moved.apply(5, 6), (100_005, 0));
        let both = Ownership { force_uid: Some(1), uid_offset: 10, ..Ownership::default() };
        assert_eq!(both.apply(5, 6), (11, 6));
    }

    #[test]
    fn times() {
        let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        assert_eq!(Times::Keep.apply(at(5, 6)), at(5, 6));
        assert_eq!(Times::All(1).apply(at(5, 6)), at(1, 0));
        assert_eq!(Times::Clamp(5).apply(at(5, 6)), at(5, 0));
        assert_eq!(Times::Clamp(5).apply(at(4, 999)), at(4, 999));
    }
}
