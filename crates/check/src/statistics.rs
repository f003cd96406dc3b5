// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of an image go.

use crate::listing::{encoding_name, type_name};
use crate::nidset::NidSet;
use crate::{Context, Error, Result};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode, Location, Nid, Source};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Content that is encoded in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EncodingStatistics {
    /// Extents, all uses counted.
    pub extents: u64,
    /// Bytes of files that they are.
    pub decoded_bytes: u64,
    /// Different clusters.
    pub clusters: u64,
    /// Bytes that those take.
    pub encoded_bytes: u64,
}

/// Statistics of an image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Bytes of each device that is there, the primary one first.
    pub device_bytes: Vec<u64>,
    /// Block size in bytes.
    pub block_size: u32,
    /// Inodes found in directories.
    pub inodes: u64,
    /// Inodes by type.
    pub types: BTreeMap<&'static str, u64>,
    /// Inodes by data layout, of those with content.
    pub layouts: BTreeMap<&'static str, u64>,
    /// Records of 32 bytes.
    pub compact_inodes: u64,
    /// Records of 64 bytes.
    pub extended_inodes: u64,
    /// Names of inodes beyond the first.
    pub hard_links: u64,
    /// Regular files by size: entry n counts sizes from 2^(n-1) to 2^n - 1, entry 0 empty files.
    pub sizes: Vec<u64>,
    /// Bytes of content of regular files.
    pub file_bytes: u64,
    /// Bytes of directories and targets of symbolic links.
    pub name_bytes: u64,
    /// Bytes of content that are holes.
    pub hole_bytes: u64,
    /// Bytes of content inside the metadata.
    pub inline_bytes: u64,
    /// Extents in the packed inode.
    pub fragments: u64,
    /// Bytes of content in the packed inode, all uses counted.
    pub fragment_bytes: u64,
    /// Bytes of the packed inode's content.
    pub packed_bytes: u64,
    /// Bytes of inode records.
    pub record_bytes: u64,
    /// Inodes with extended attributes.
    pub xattr_inodes: u64,
    /// Bytes of their bodies.
    pub xattr_bytes: u64,
    /// Content by encoding: `plain` blocks, `stored` and `interlaced` clusters, and algorithms.
    pub encodings: BTreeMap<&'static str, EncodingStatistics>,
    /// Uses of clusters that another file, or another place, uses too.
    pub shared_uses: u64,
    /// Bytes that those uses would take otherwise.
    pub shared_bytes: u64,
    /// Inodes that could not be read; see the check.
    pub unreadable: u64,
}

impl Statistics {
    /// Bytes of content for each byte stored, over all files.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let stored: u64 = self.encodings.values().map(|found| found.encoded_bytes).sum();
        self.file_bytes as f64 / stored.saturating_add(self.inline_bytes).max(1) as f64
    }
}

/// Who else wants to know what a walk meets. Folders and entries of the root have numbers that it
/// gives them.
pub(crate) trait Watch {
    /// A directory that is going to be read; gives its number. The root is above itself.
    fn folder(&mut self, above: usize, name: &[u8]) -> usize;

    /// An inode at its first name, and the entry of the root that it is below, unless it is one; gives
    /// the number of that. Its clusters follow.
    fn inode(&mut self, folder: usize, top: Option<usize>, name: &[u8], inode: &Inode) -> usize;

    /// A cluster that was not met before.
    fn cluster(&mut self, kind: &'static str, location: &Location, len: u64);
}

/// Nobody.
impl Watch for () {
    fn folder(&mut self, _: usize, _: &[u8]) -> usize {
        0
    }

    fn inode(&mut self, _: usize, _: Option<usize>, _: &[u8], _: &Inode) -> usize {
        0
    }

    fn cluster(&mut self, _: &'static str, _: &Location, _: u64) {}
}

/// Walks an image and counts.
pub fn statistics(image: &Image, context: Context<'_>) -> Result<Statistics> {
    walk(image, context, &mut ())
}

/// A directory that waits to be read.
struct Pending {
    nid: Nid,
    folder: usize,
    top: Option<usize>,
}

pub(crate) fn walk(
    image: &Image,
    context: Context<'_>,
    watch: &mut impl Watch,
) -> Result<Statistics> {
    let mut count = Count { image, known: Known::default(), found: Statistics::default(), watch };
    let superblock = image.superblock();
    count.found.block_size = superblock.block_bits.size();
    count.found.device_bytes = (0..=u16::try_from(image.device_slots().len()).unwrap_or(u16::MAX))
        .map_while(|device| image.device_size(device))
        .collect();
    for nid in [superblock.packed, superblock.metabox].into_iter().flatten() {
        let inode = image.inode(nid)?;
        if superblock.packed == Some(nid) {
            count.found.packed_bytes = inode.size;
        }
        count.content(&inode)?;
    }
    let root = image.root();
    let mut seen = NidSet::default();
    seen.insert(root);
    count.inode(&image.inode(root)?);
    let folder = count.watch.folder(0, b"");
    let mut pending = vec![Pending { nid: root, folder, top: None }];
    while let Some(Pending { nid, folder, top }) = pending.pop() {
        if context.cancelled() {
            return Err(Error::Cancelled);
        }
        let Ok(directory) = image.inode(nid).and_then(|inode| image.directory(&inode)) else {
            continue;
        };
        for entry in directory.cursor() {
            let Ok(entry) = entry else {
                count.found.unreadable += 1;
                break;
            };
            if entry.is_dot() {
                continue;
            }
            context.entries(1);
            if !seen.insert(entry.nid) {
                count.found.hard_links += 1;
                continue;
            }
            match image.inode(entry.nid) {
                Ok(inode) => {
                    let top = count.watch.inode(folder, top, &entry.name, &inode);
                    count.inode(&inode);
                    if inode.file_type == FileType::Directory {
                        let folder = count.watch.folder(folder, &entry.name);
                        pending.push(Pending { nid: entry.nid, folder, top: Some(top) });
                    }
                }
                Err(_) => count.found.unreadable += 1,
            }
        }
    }
    count.found.inodes = seen.len();
    Ok(count.found)
}

/// Clusters seen before. Their addresses are nearly always multiples of 512.
#[derive(Default)]
struct Known {
    aligned: NidSet,
    others: HashSet<(u16, u64)>,
}

impl Known {
    fn insert(&mut self, device: u16, offset: u64) -> bool {
        if offset.is_multiple_of(512) && offset >> 57 == 0 {
            self.aligned.insert(Nid(offset >> 9 | u64::from(device) << 48))
        } else {
            self.others.insert((device, offset))
        }
    }
}

struct Count<'a, W> {
    image: &'a Image,
    watch: &'a mut W,
    known: Known,
    found: Statistics,
}

impl<W: Watch> Count<'_, W> {
    fn inode(&mut self, inode: &Inode) {
        let found = &mut self.found;
        *found.types.entry(type_name(inode.file_type)).or_default() += 1;
        if inode.record.is_extended() {
            found.extended_inodes += 1;
        } else {
            found.compact_inodes += 1;
        }
        found.record_bytes += inode.record.record_len() as u64;
        if inode.record.xattr_len() > 0 {
            found.xattr_inodes += 1;
            found.xattr_bytes += u64::from(inode.record.xattr_len());
        }
        match inode.file_type {
            FileType::Regular => {
                found.file_bytes = found.file_bytes.saturating_add(inode.size);
                let class = (u64::BITS - inode.size.leading_zeros()) as usize;
                if found.sizes.len() <= class {
                    found.sizes.resize(class + 1, 0);
                }
                found.sizes[class] += 1;
            }
            FileType::Directory | FileType::Symlink => {
                found.name_bytes = found.name_bytes.saturating_add(inode.size);
            }
            _ => return,
        }
        *found.layouts.entry(inode.layout().name()).or_default() += 1;
        if self.content(inode).is_err() {
            self.found.unreadable += 1;
        }
    }

    fn content(&mut self, inode: &Inode) -> ferrofs_image::Result<()> {
        let map = self.image.map(inode)?;
        let mut cursor = map.cursor(self.image);
        let mut offset = 0;
        while offset < map.size() {
            let extent = cursor.extent_at(offset)?;
            offset = extent.end();
            let found = &mut self.found;
            let (name, location, len) = match extent.source {
                Source::Hole => {
                    found.hole_bytes = found.hole_bytes.saturating_add(extent.len);
                    continue;
                }
                Source::Inline { .. } => {
                    found.inline_bytes += extent.len;
                    continue;
                }
                Source::Fragment { .. } => {
                    found.fragments += 1;
                    found.fragment_bytes = found.fragment_bytes.saturating_add(extent.len);
                    continue;
                }
                Source::Plain(at) => ("plain", Location::Device(at), extent.len),
                Source::Pcluster(pcluster) => {
                    (encoding_name(pcluster.encoding), pcluster.location, u64::from(pcluster.len))
                }
            };
            let row = found.encodings.entry(name).or_default();
            row.extents += 1;
            row.decoded_bytes = row.decoded_bytes.saturating_add(extent.len);
            let new = match location {
                Location::Device(at) => self.known.insert(at.device, at.offset),
                Location::Meta { .. } => true,
            };
            if new {
                row.clusters += 1;
                row.encoded_bytes = row.encoded_bytes.saturating_add(len);
                self.watch.cluster(name, &location, len);
            } else {
                found.shared_uses += 1;
                found.shared_bytes = found.shared_bytes.saturating_add(len);
            }
        }
        Ok(())
    }
}
