// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths for the inodes that were found wanting: one more walk over names, only when there are any.

use super::Check;
use crate::nidset::NidSet;
use crate::{Finding, RawPath};
use ferrofs_image::Nid;
use ferrofs_image::format::inode::FileType;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Part of a path, shared by all below.
struct Part {
    name: Vec<u8>,
    parent: Option<Arc<Self>>,
}

impl Drop for Part {
    /// Not by recursion: chains may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut part) = next.and_then(Arc::into_inner) {
            next = part.parent.take();
        }
    }
}

/// Bytes of compressed metadata that may be decoded to find paths.
const DECODED_MAX: u64 = 4 << 30;
/// Longer paths are not shown.
const PATH_MAX: usize = 64 << 10;

impl Check<'_> {
    pub(super) fn resolve_paths(&self, findings: &mut [Finding]) {
        let root = self.image.root();
        let mut wanted: HashMap<Nid, Option<RawPath>> =
            findings.iter().filter_map(|finding| finding.nid).map(|nid| (Nid(nid), None)).collect();
        let superblock = self.image.superblock();
        let mut missing = wanted.len();
        for (nid, path) in [
            (Some(root), &b"/"[..]),
            (superblock.packed, b"(packed inode)"),
            (superblock.metabox, b"(metabox inode)"),
        ] {
            if let Some(slot) = nid.and_then(|nid| wanted.get_mut(&nid)) {
                *slot = Some(RawPath::from(path));
                missing -= 1;
            }
        }
        let mut entered = NidSet::default();
        entered.insert(root);
        let mut pending = vec![(root, Arc::new(Part { name: vec![], parent: None }))];
        let decoded = self.image.metadata_decoded();
        while let Some((nid, part)) = pending.pop() {
            let too_much = self.image.metadata_decoded() - decoded > DECODED_MAX;
            if missing == 0 || too_much || self.context.cancelled() {
                break;
            }
            let Ok(directory) =
                self.image.inode(nid).and_then(|inode| self.image.directory(&inode))
            else {
                continue;
            };
            // What a bad block hides has no path to show.
            let _ = directory.walk(0, |entry, _| {
                if matches!(entry.name, b"." | b"..") {
                    return ControlFlow::Continue(());
                }
                if let Some(slot @ None) = wanted.get_mut(&entry.nid) {
                    *slot = Some(path_of(&part, entry.name));
                    missing -= 1;
                }
                let is_directory = match entry.file_type {
                    Some(kind) => kind == FileType::Directory,
                    None => true,
                };
                if is_directory && entered.insert(entry.nid) {
                    let part = Part { name: entry.name.to_vec(), parent: Some(Arc::clone(&part)) };
                    pending.push((entry.nid, Arc::new(part)));
                }
                if missing == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        for finding in findings {
            let known = finding.nid.and_then(|nid| wanted.get(&Nid(nid)));
            finding.path = known.and_then(Clone::clone);
        }
    }
}

fn path_of(part: &Part, name: &[u8]) -> RawPath {
    let mut names = vec![name];
    let mut len = name.len();
    let mut at = Some(part);
    while let Some(part) = at {
        len += part.name.len() + 1;
        names.push(&part.name);
        at = part.parent.as_deref();
        if len > PATH_MAX {
            names.push(b"...");
            break;
        }
    }
    names.reverse();
    RawPath(names.join(&b'/'))
}
