// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching all of an image that the kernel reads without asking.
//!
//! Kernels up to 6.18 at least ask (fanotify) before they read file data, and read everything else,
//! a hole in the file included, as it is. Invariant: afterwards everything is present but what is
//! the data of regular files or of the packed inode, as the image's own indexes tell; and of that,
//! too, whatever was read as something else on the way.

use super::LazyDevice;
use crate::{Error, Result};
use ferrofs_format::inode::FileType;
use ferrofs_image::{FileMap, Image, Location, Source};
use std::collections::HashSet;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

/// Ranges that are kept before neighbours are put together.
const RANGES_MAX: usize = 1 << 16;

/// Fetches what is not file data. `primary` is what `image` is read from; `path` is for messages.
pub(crate) fn complete(image: &Image, primary: &LazyDevice, path: &Path) -> Result<()> {
    let fail = |error| Error::Image { path: PathBuf::from(path), error };
    let data = data_of_primary(image).map_err(fail)?;
    for range in complement(&data, primary.blob.size()) {
        primary.ensure(range)?;
    }
    Ok(())
}

impl LazyDevice {
    fn ensure(&self, range: Range<u64>) -> Result<()> {
        Ok(self.blob.ensure(range, &self.demand)?)
    }
}

/// Where file data lies on the primary device, in order, none touching the next. Everything else of
/// every inode is read on the way.
fn data_of_primary(image: &Image) -> ferrofs_image::Result<Vec<Range<u64>>> {
    let mut ranges = Ranges::default();
    let block = u64::from(image.superblock().block_bits.size());
    if let Some(packed) = image.packed_map() {
        add_data(image, packed, block, &mut ranges)?;
    }
    let mut pending = vec![image.root()];
    let mut seen = HashSet::from([image.root()]);
    while let Some(nid) = pending.pop() {
        let inode = image.inode(nid)?;
        image.xattrs(&inode)?;
        match inode.file_type {
            FileType::Directory => {
                image.directory(&inode)?.walk(0, |entry, _| {
                    if seen.insert(entry.nid) {
                        pending.push(entry.nid);
                    }
                    ControlFlow::Continue(())
                })?;
            }
            FileType::Regular => add_data(image, &image.map(&inode)?, block, &mut ranges)?,
            FileType::Symlink => {
                image.readlink(&inode)?;
            }
            _ => {}
        }
    }
    Ok(ranges.settled())
}

/// Adds where a file's data lies.
fn add_data(
    image: &Image,
    map: &FileMap,
    block: u64,
    ranges: &mut Ranges,
) -> ferrofs_image::Result<()> {
    let mut cursor = map.cursor(image);
    let mut at = 0;
    while at < map.size() {
        let extent = cursor.extent_at(at)?;
        let found = match extent.source {
            Source::Plain(address) => Some((address, extent.len)),
            Source::Pcluster(pcluster) => match pcluster.location {
                Location::Device(address) => Some((address, pcluster.len.into())),
                Location::Meta { space, offset } => {
                    let mut bytes = vec![0; pcluster.len as usize];
                    image.read_metadata(space, offset, &mut bytes)?;
                    None
                }
            },
            Source::Inline { space, offset } => {
                let mut bytes = vec![0; extent.len as usize];
                image.read_metadata(space, offset, &mut bytes)?;
                None
            }
            Source::Hole | Source::Fragment { .. } => None,
        };
        if let Some((address, len)) = found
            && address.device == 0
        {
            // The kernel reads whole blocks, and nothing else lies in them.
            let start = address.offset / block * block;
            let end = address.offset.saturating_add(len).div_ceil(block).saturating_mul(block);
            ranges.add(start..end);
        }
        at = extent.end();
    }
    Ok(())
}

/// Ranges, many of which touch.
#[derive(Default)]
struct Ranges {
    list: Vec<Range<u64>>,
    settled_len: usize,
}

impl Ranges {
    fn add(&mut self, range: Range<u64>) {
        match self.list.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.list.push(range),
        }
        // Never more than twice what must be kept.
        if self.list.len() >= RANGES_MAX.max(self.settled_len.saturating_mul(2)) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.list.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in self.list.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.settled_len = merged.len();
        self.list = merged;
    }

    fn settled(mut self) -> Vec<Range<u64>> {
        self.settle();
        self.list
    }
}

/// What of `0..size` is in none of `ranges`, which are in order.
fn complement(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    for range in ranges {
        if at < range.start.min(size) {
            found.push(at..range.start.min(size));
        }
        at = at.max(range.end);
    }
    if at < size {
        found.push(at..size);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_data_is_the_rest() {
        let mut ranges = Ranges::default();
        for range in [8..12, 12..16, 40..50, 0..4, 45..60, 10..11] {
            ranges.add(range);
        }
        let settled = ranges.settled();
        assert_eq!(settled, [0..4, 8..16, 40..60]);
        assert_eq!(complement(&settled, 100), [4..8, 16..40, 60..100]);
        assert_eq!(complement(&settled, 50), [4..8, 16..40]);
        assert_eq!(complement(&settled, 20), [4..8, 16..20]);
        assert_eq!(complement(&[], 7).first(), Some(&(0..7)));
        assert_eq!(complement(&settled, 0), []);
    }
}
