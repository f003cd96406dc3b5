// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories: blocks, names, order, dots, types, and the shape of the tree.

use super::{Check, lock};
use crate::Code;
use crate::pool::Tasks;
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Entry, Error, Inode, Nid, Place};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Entries taken at once.
const BATCH: usize = 1024;
/// Bad blocks after which a directory is given up: its size may be a lie.
const BAD_BLOCKS_MAX: u32 = 16;
/// Walk positions count entries in the low 16 bits, blocks above.
const POSITION_BITS: u32 = 16;

/// A directory and the way to it.
#[derive(Debug)]
pub(super) struct Node {
    nid: Nid,
    parent: Option<Arc<Self>>,
}

impl Node {
    pub(super) fn root(nid: Nid) -> Arc<Self> {
        Arc::new(Self { nid, parent: None })
    }

    /// Whether `nid` is this directory or above it.
    fn is_below(&self, nid: Nid) -> bool {
        let mut node = Some(self);
        while let Some(at) = node {
            if at.nid == nid {
                return true;
            }
            node = at.parent.as_deref();
        }
        false
    }
}

impl Drop for Node {
    /// Not by recursion: chains may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.parent.take();
        }
    }
}

/// A directory being listed.
#[derive(Debug)]
pub(super) struct Listing {
    node: Arc<Node>,
    inode: Inode,
    position: u64,
    last: Vec<u8>,
    dot: bool,
    dot_dot: bool,
    subdirectories: u64,
    bad_blocks: u32,
}

impl Listing {
    pub(super) fn new(node: Arc<Node>, inode: Inode) -> Self {
        Self {
            node,
            inode,
            position: 0,
            last: vec![],
            dot: false,
            dot_dot: false,
            subdirectories: 0,
            bad_blocks: 0,
        }
    }
}

impl Check<'_> {
    /// One batch of a directory; the rest becomes a task, for whoever is free.
    pub(super) fn list(&self, tasks: &Tasks<Listing>, mut listing: Listing) {
        let mut batch: Vec<Entry> = vec![];
        let mut next = listing.position;
        let result = self.image.directory(&listing.inode).and_then(|directory| {
            directory.walk(listing.position, |entry, after| {
                if batch.len() == BATCH {
                    return ControlFlow::Break(());
                }
                next = after;
                let name = entry.name.to_vec();
                batch.push(Entry { name, nid: entry.nid, file_type: entry.file_type });
                ControlFlow::Continue(())
            })
        });
        let more = match result {
            Ok(()) => (batch.len() == BATCH).then_some(next),
            Err(error) => self.bad_block(&mut listing, &error),
        };
        self.context.entries(batch.len() as u64);
        if !self.charge(batch.len() as u64 + 1) {
            return;
        }
        self.names(&mut listing, &batch);
        // The types that the entries claim; they are compared with the inodes below.
        let claimed = |entry: &&Entry| entry.file_type == Some(FileType::Directory);
        let dotless = batch.iter().filter(|entry| !entry.is_dot());
        listing.subdirectories += dotless.filter(claimed).count() as u64;
        let node = Arc::clone(&listing.node);
        match more {
            Some(position) => {
                listing.position = position;
                tasks.push(listing);
            }
            None => self.end_of_directory(&listing),
        }
        let mut below = vec![];
        for entry in batch.iter().filter(|entry| !entry.is_dot()) {
            if self.is_over() || !self.charge_metadata() {
                return;
            }
            if let Some(inode) = self.entry(&node, entry) {
                let child = Arc::new(Node { nid: entry.nid, parent: Some(Arc::clone(&node)) });
                below.push(Listing::new(child, inode));
            }
        }
        tasks.extend(below.into_iter().rev());
    }

    /// Where to go on after an error: behind the block, if there is one to blame.
    fn bad_block(&self, listing: &mut Listing, error: &Error) -> Option<u64> {
        let nid = listing.node.nid;
        let Error::Corrupt { place: Place { space: None, offset: Some(offset), .. }, .. } = error
        else {
            self.image_error(Code::DirectoryBlock, Some(nid), error);
            return None;
        };
        let block = offset >> self.image.superblock().block_bits.bits();
        let start = block << POSITION_BITS;
        if start > listing.position {
            // Perhaps it is only in the wrong order; seen alone it tells more.
            return Some(start);
        }
        self.image_error(Code::DirectoryBlock, Some(nid), error);
        listing.bad_blocks += 1;
        let blocks = self.image.superblock().block_bits.blocks_for(listing.inode.size);
        (listing.bad_blocks < BAD_BLOCKS_MAX && block + 1 < blocks)
            .then_some((block + 1) << POSITION_BITS)
    }

    fn names(&self, listing: &mut Listing, batch: &[Entry]) {
        let nid = listing.node.nid;
        for entry in batch {
            match entry.name.as_slice() {
                b"." => {
                    listing.dot = true;
                    if entry.nid != nid {
                        let text = format!("it is nid {}", entry.nid);
                        self.find(Code::DotTarget, Some(nid), None, text);
                    }
                    if listing.inode.record.dot_omitted {
                        continue; // Made up by the reader, behind all others.
                    }
                }
                b".." => {
                    listing.dot_dot = true;
                    let parent = listing.node.parent.as_ref().map_or(nid, |parent| parent.nid);
                    if entry.nid != parent {
                        let text = format!("it is nid {}, the parent is {parent}", entry.nid);
                        self.find(Code::DotDotTarget, Some(nid), None, text);
                    }
                }
                _ => {}
            }
            if !listing.last.is_empty() && listing.last >= entry.name {
                let name = crate::RawPath::from(&entry.name[..]);
                let (code, text) = if listing.last == entry.name {
                    (Code::NameTwice, name.to_string())
                } else {
                    let last = crate::RawPath::from(&listing.last[..]);
                    (Code::NameOrder, format!("{name} follows {last}"))
                };
                self.find(code, Some(nid), None, text);
            }
            listing.last.clone_from(&entry.name);
        }
    }

    fn end_of_directory(&self, listing: &Listing) {
        let nid = Some(listing.node.nid);
        if listing.inode.size == 0 {
            return self.find(Code::DirectoryEmpty, nid, None, "size 0".to_owned());
        }
        if listing.bad_blocks > 0 {
            return; // What is missing may be in those.
        }
        for (there, name) in [(listing.dot, "."), (listing.dot_dot, "..")] {
            if !there {
                self.find(Code::DotMissing, nid, None, name.to_owned());
            }
        }
        let expected = listing.subdirectories + 2;
        let count = u64::from(listing.inode.nlink);
        if count != expected && count != 1 {
            let text = format!("link count {count}, expected {expected}");
            self.find(Code::DirectoryLinkCount, nid, None, text);
        }
    }

    /// Checks an entry and, the first time, its inode; gives that back if it is a directory to list.
    fn entry(&self, parent: &Node, entry: &Entry) -> Option<Inode> {
        let nid = entry.nid;
        let new = lock(&self.seen).inodes.insert(nid);
        let inode = match self.image.inode(nid) {
            Ok(inode) => inode,
            Err(error) => {
                if new {
                    self.image_error(Code::Inode, Some(nid), &error);
                }
                return None;
            }
        };
        let name = || crate::RawPath::from(&entry.name[..]);
        match entry.file_type {
            None => self.find(Code::FileTypeUnknown, Some(parent.nid), None, name().to_string()),
            Some(kind) if kind != inode.file_type => {
                let text = format!("{}: {kind:?}, inode is {:?}", name(), inode.file_type);
                self.find(Code::FileType, Some(parent.nid), None, text);
            }
            Some(_) => {}
        }
        if inode.file_type == FileType::Directory {
            if !lock(&self.seen).directories.insert(nid) {
                let is_loop = parent.is_below(nid);
                let code = if is_loop { Code::Loop } else { Code::TwoParents };
                let text = format!("again as {} in nid {}", name(), parent.nid);
                self.find(code, Some(nid), None, text);
                return None;
            }
        } else {
            let mut seen = lock(&self.seen);
            if !new {
                seen.links.entry(nid).or_insert((1, 1)).1 += 1;
                return None;
            }
            if inode.nlink != 1 {
                seen.links.insert(nid, (inode.nlink, 1));
            }
        }
        let superblock = self.image.superblock();
        if superblock.packed == Some(nid) || superblock.metabox == Some(nid) {
            self.find(Code::SpecialNamed, Some(nid), None, name().to_string());
        }
        self.inode(&inode);
        (inode.file_type == FileType::Directory).then_some(inode)
    }
}
