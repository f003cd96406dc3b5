// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching all of an image that the kernel reads without asking.
//!
//! Kernels up to 6.18 at least ask (fanotify) before they read file data, and read everything else,
//! a hole in the file included, as it is. Invariant: afterwards everything is present but what is
//! the data of regular files or of the packed inode, as the image's own indexes tell; and of that,
//! too, whatever was read as something else on the way.

use super::LazyDevice;
use super::ranges::{Ranges, complement};
use crate::{Error, Result};
use ferrofs_format::inode::FileType;
use ferrofs_image::{FileMap, Image, Location, Source};
use std::collections::HashSet;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

/// Where an image has what is not file data, on its primary device of `size` bytes; in order.
///
/// # Errors
/// If its metadata cannot be read.
pub fn metadata_ranges(image: &Image, size: u64) -> ferrofs_image::Result<Vec<Range<u64>>> {
    Ok(complement(&data_of_primary(image)?, size))
}

/// Fetches what is not file data. `primary` is what `image` is read from; `path` is for messages.
pub(crate) fn complete(image: &Image, primary: &LazyDevice, path: &Path) -> Result<()> {
    let fail = |error| Error::Image { path: PathBuf::from(path), error };
    for range in metadata_ranges(image, primary.blob.size()).map_err(fail)? {
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
