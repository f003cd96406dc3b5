// SPDX-License-Identifier: MIT OR Apache-2.0
//! From paths in an image to the bytes of its blobs.
//!
//! Knows directories and extents; refuses to know how bytes are fetched. Its own view of the image
//! reads at the priority of prefetches, so that readers of the mount go first also here. Invariant:
//! whatever an image says, no more than so many nodes and runs are looked at and kept.

use crate::control::Prefetched;
use crate::lazy::LazyDevice;
use ferrofs_format::inode::FileType;
use ferrofs_format::limits::INODE_SLOT;
use ferrofs_image::{Image, Inode, Nid, OpenOptions};
use ferrofs_store::{Blob, Demand, Touch, Trace};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Files and directories of one wish.
const NODES_MAX: usize = 1 << 18;

/// Entries of the root directory that are looked at for where metadata is.
const ENTRIES_MAX: usize = 1024;

/// Where the metadata begins, most likely: with the first of what the root directory names. Behind
/// the superblock or behind all data, as builders have it.
pub(crate) fn metadata_start(image: &Image) -> Result<u64, String> {
    let find = || {
        let root = image.inode(image.root())?;
        let (mut first, mut left) = (None::<Nid>, ENTRIES_MAX);
        image.directory(&root)?.walk(0, |entry, _| {
            if !matches!(entry.name, b"." | b"..") {
                first = Some(first.map_or(entry.nid, |first| Nid(first.0.min(entry.nid.0))));
            }
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let base = image.superblock().meta_base();
        // Numbers are places, but for those in the metabox: then it is not known.
        let offset = first.and_then(|nid| nid.0.checked_mul(INODE_SLOT)?.checked_add(base));
        Ok(offset.unwrap_or(base))
    };
    find().map_err(|error: ferrofs_image::Error| error.to_string())
}

/// What was found of paths.
pub(super) struct Found {
    image: Image,
    trace: Trace,
    prefetched: Prefetched,
    seen: HashSet<Nid>,
}

impl Found {
    /// Opens the image anew, over the same blobs.
    pub(super) fn new(blobs: &[Blob]) -> Result<Self, String> {
        let device = |blob: &Blob| LazyDevice::new(blob.clone(), Demand::prefetch());
        let (primary, others) =
            blobs.split_first().ok_or_else(|| String::from("the image has no blobs"))?;
        let options =
            others.iter().fold(OpenOptions::new(), |options, blob| options.device(device(blob)));
        let image = options.open(device(primary)).map_err(|error| error.to_string())?;
        let blobs = blobs.iter().map(|blob| blob.id().to_string()).collect();
        Ok(Self {
            image,
            trace: Trace { blobs, runs: 1, touches: Vec::new() },
            prefetched: Prefetched { complete: true, ..Prefetched::default() },
            seen: HashSet::new(),
        })
    }

    pub(super) const fn image(&self) -> &Image {
        &self.image
    }

    /// Adds a file, or all that is below a directory.
    pub(super) fn add(&mut self, path: &[u8]) -> Result<(), String> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let inode = self.image.resolve(path).map_err(|error| format!("{}: {error}", shown()))?;
        let mut pending = vec![inode.nid];
        while let Some(nid) = pending.pop() {
            if self.seen.len() >= NODES_MAX || self.trace.touches.len() >= Trace::TOUCHES_MAX {
                self.prefetched.complete = false;
                return Ok(());
            }
            // Hard links, and directories in circles.
            if !self.seen.insert(nid) {
                continue;
            }
            let added = self.image.inode(nid).and_then(|inode| self.node(&inode, &mut pending));
            added.map_err(|error| format!("{}: {error}", shown()))?;
        }
        Ok(())
    }

    fn node(&mut self, inode: &Inode, pending: &mut Vec<Nid>) -> ferrofs_image::Result<()> {
        if inode.file_type == FileType::Directory {
            let mut below = Vec::new();
            let mut is_full = false;
            self.image.directory(inode)?.walk(0, |entry, _| {
                if !matches!(entry.name, b"." | b"..") {
                    below.push(entry.nid);
                }
                is_full = pending.len() + below.len() >= NODES_MAX;
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            self.prefetched.complete &= !is_full;
            pending.extend(below.into_iter().rev());
        } else if inode.file_type == FileType::Regular {
            let map = self.image.map(inode)?;
            let Self { image, trace, prefetched, .. } = self;
            image.stored_runs(&map, |device, range| {
                let (blob, start) = (u32::from(device), range.start);
                let len = range.end.saturating_sub(start);
                let micros = trace.touches.len() as u64;
                let next = Touch { micros, blob, start, len, runs: 1 };
                match trace.touches.last_mut().filter(|last| last.blob == blob) {
                    Some(last) if last.end() == start => last.len = last.len.saturating_add(len),
                    // Extents that share a pcluster.
                    Some(last) if last.start <= start && next.end() <= last.end() => {}
                    _ if micros >= Trace::TOUCHES_MAX as u64 => prefetched.complete = false,
                    _ => trace.touches.push(next),
                }
            })?;
            prefetched.files += 1;
            prefetched.bytes = prefetched.bytes.saturating_add(inode.size);
        }
        Ok(())
    }

    /// What is to be fetched, and what it is.
    pub(super) fn into_trace(self) -> (Trace, Prefetched) {
        (self.trace, self.prefetched)
    }
}
