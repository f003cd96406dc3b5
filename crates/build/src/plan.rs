// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions that need no data: the order of inodes, the epoch, which inodes are small.
//!
//! Order: the root, then directory by directory, parents before children, all children of a
//! directory next to each other and sorted by name; an inode with several names counts where it is
//! met first. What was asked to come first does, after the root, each behind the directories that
//! lead to it. File data follows the same order.

use std::collections::HashMap;

use ferrofs_format::inode::{COMPACT_LEN, EXTENDED_LEN};
use ferrofs_tree::{Content, FileType, InodeId, Timestamp, Tree};

use crate::report::BuildReport;
use crate::xattr::XattrPlan;
use crate::{BuildOptions, InodeForm, Uuid};

/// The decisions.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All inodes.
    pub(crate) order: Vec<InodeId>,
    /// Regular files.
    pub(crate) files: Vec<InodeId>,
    /// What compact inodes have as their time.
    pub(crate) epoch: Timestamp,
    pub(crate) form: InodeForm,
    pub(crate) ignore_mtime: bool,
    pub(crate) xattrs: XattrPlan,
    /// The UUID is derived from the content.
    pub(crate) derived_uuid: bool,
}

impl Plan {
    pub(crate) fn new(
        tree: &Tree,
        options: &BuildOptions,
        xattrs: XattrPlan,
        report: &mut BuildReport,
    ) -> Self {
        let order = put_first(tree, order(tree, report), &options.first, report);
        let files: Vec<InodeId> = order
            .iter()
            .copied()
            .filter(|&id| tree.inode(id).file_type() == FileType::Regular)
            .collect();
        let epoch = match options.build_time {
            Some(seconds) => Timestamp { seconds, nanoseconds: 0 },
            None => most_frequent_mtime(tree, &order),
        };
        let derived_uuid = match options.uuid {
            Uuid::Content => true,
            Uuid::Auto => options.build_time.is_some(),
            _ => false,
        };
        let form = options.inode_form;
        let ignore_mtime = options.ignore_mtime || form == InodeForm::Compact;
        count(tree, &order, report);
        Self { order, files, epoch, form, ignore_mtime, xattrs, derived_uuid }
    }

    /// Whether an inode of `size` bytes needs the large record. format.md §3.5.
    pub(crate) fn extended(&self, tree: &Tree, id: InodeId, size: u64) -> bool {
        let inode = tree.inode(id);
        let metadata = inode.metadata();
        self.form == InodeForm::Extended
            || size > u64::from(u32::MAX)
            || metadata.uid > u32::from(u16::MAX)
            || metadata.gid > u32::from(u16::MAX)
            || inode.nlink() > u32::from(u16::MAX)
            || (!self.ignore_mtime && metadata.mtime != self.epoch)
    }

    /// Bytes of the record and the xattrs behind it.
    pub(crate) fn body_len(&self, tree: &Tree, id: InodeId, size: u64) -> u64 {
        let record = if self.extended(tree, id, size) { EXTENDED_LEN } else { COMPACT_LEN };
        record as u64 + u64::from(self.xattrs.body_len(tree, id))
    }

    /// Where the map header of a compressed file begins, counted from its inode.
    pub(crate) fn body_end(&self, tree: &Tree, id: InodeId) -> u64 {
        let size = match tree.content(id) {
            Content::File { size, .. } => size,
            _ => 0,
        };
        self.body_len(tree, id, size).next_multiple_of(8)
    }
}

fn order(tree: &Tree, report: &mut BuildReport) -> Vec<InodeId> {
    let mut order = Vec::with_capacity(tree.len());
    let mut met = vec![false; tree.len()];
    let mut pending = vec![InodeId::ROOT];
    order.push(InodeId::ROOT);
    while let Some(directory) = pending.pop() {
        let first = pending.len();
        for entry in tree.entries(directory) {
            let id = entry.inode();
            if core::mem::replace(&mut met[id.index()], true) {
                report.hard_links += 1;
                continue;
            }
            order.push(id);
            if tree.inode(id).file_type() == FileType::Directory {
                pending.push(id);
            }
        }
        pending[first..].reverse();
    }
    order
}

/// Moves inodes of `paths`, and the directories on the way, behind the root.
fn put_first(
    tree: &Tree,
    order: Vec<InodeId>,
    paths: &[Vec<u8>],
    report: &mut BuildReport,
) -> Vec<InodeId> {
    if paths.is_empty() {
        return order;
    }
    let mut first = Vec::with_capacity(order.len());
    let mut met = vec![false; tree.len()];
    let mut take = |id: InodeId| {
        if !core::mem::replace(&mut met[id.index()], true) {
            first.push(id);
        }
    };
    take(InodeId::ROOT);
    for path in paths {
        let Some(way) = way(tree, path) else {
            report.first_missing += 1;
            continue;
        };
        way.into_iter().for_each(&mut take);
    }
    order.into_iter().for_each(take);
    first
}

/// The inodes that a path leads through, the last included; `None` if it leads nowhere.
fn way(tree: &Tree, path: &[u8]) -> Option<Vec<InodeId>> {
    let mut at = InodeId::ROOT;
    let mut way = Vec::new();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let entries = tree.entries(at);
        let found = entries.binary_search_by(|entry| tree.entry_name(entry).cmp(name)).ok()?;
        at = entries[found].inode();
        way.push(at);
    }
    Some(way)
}

fn count(tree: &Tree, order: &[InodeId], report: &mut BuildReport) {
    report.inodes = order.len() as u64;
    for &id in order {
        match tree.content(id) {
            Content::Directory(_) => report.directories += 1,
            Content::File { size, .. } => {
                report.files += 1;
                report.input_bytes += size;
            }
            Content::Symlink(_) => report.symlinks += 1,
            _ => report.special += 1,
        }
    }
}

/// The earliest of those that are most frequent.
fn most_frequent_mtime(tree: &Tree, order: &[InodeId]) -> Timestamp {
    let mut counts: HashMap<Timestamp, u64> = HashMap::new();
    for &id in order {
        *counts.entry(tree.inode(id).metadata().mtime).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))
        .map_or_else(Timestamp::default, |(mtime, _)| mtime)
}
