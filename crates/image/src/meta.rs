// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata spaces and the pages of them that stay in memory. format.md §1.
//!
//! Invariant: at most the configured bytes are kept, and nothing here is ever file data.

use crate::{DeviceAddress, Error, Image, Place, Result};
use ferrofs_format::num::{u64_from_usize, usize_from_u64};
use quick_cache::{Weighter, sync::Cache};
use std::fmt;
use std::sync::Arc;

/// Unit of reading metadata.
pub(crate) const PAGE: u64 = 4096;
const PAGES_BYTES: u64 = 4 << 20;
/// More than one decoded extent of the largest size, so that none is decoded for every page.
const DECODED_BYTES: u64 = 16 << 20;

/// A byte-addressed space that metadata lives in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Space {
    /// The primary device.
    Primary,
    /// The packed inode's content.
    Packed,
    /// The metabox inode's content.
    Metabox,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary device",
            Self::Packed => "packed inode",
            Self::Metabox => "metabox",
        })
    }
}

/// One page; the last of a space is shorter.
pub(crate) type Page = Arc<[u8]>;

#[derive(Clone, Debug)]
struct ByLen;

impl<K> Weighter<K, Page> for ByLen {
    fn weight(&self, _key: &K, page: &Page) -> u64 {
        u64_from_usize(page.len()).max(1)
    }
}

pub(crate) struct MetaCache {
    pages: Cache<(Space, u64), Page, ByLen>,
    /// Decoded extents of packed and metabox content, by the extent's start.
    decoded: Cache<(Space, u64), Page, ByLen>,
}

impl MetaCache {
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        let pages = bytes.unwrap_or(PAGES_BYTES);
        let decoded = bytes.unwrap_or(DECODED_BYTES);
        let items = |bytes: u64, each: u64| usize_from_u64(bytes.checked_div(each).unwrap_or(0));
        Self {
            pages: Cache::with_weighter(items(pages, PAGE).max(16), pages, ByLen),
            decoded: Cache::with_weighter(items(decoded, 1 << 16).max(16), decoded, ByLen),
        }
    }
}

impl Image {
    /// The page of `space` that holds `offset`, and its first byte's offset.
    pub(crate) fn page(&self, space: Space, offset: u64) -> Result<(u64, Page)> {
        let start = offset & !PAGE.wrapping_sub(1);
        let key = (space, start);
        if let Some(page) = self.meta.pages.get(&key) {
            return Ok((start, page));
        }
        let len = self.space_len(space).saturating_sub(start).min(PAGE);
        let mut bytes = vec![0; usize_from_u64(len)];
        match space {
            Space::Primary => {
                self.devices.read(DeviceAddress { device: 0, offset: start }, &mut bytes)?;
            }
            Space::Packed | Space::Metabox => self.read_decoded(space, start, &mut bytes)?,
        }
        let page: Page = bytes.into();
        self.meta.pages.insert(key, Arc::clone(&page));
        Ok((start, page))
    }

    /// Fills `buf` from `offset` of `space`.
    pub(crate) fn read_meta(&self, space: Space, mut offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_space(space, offset, u64_from_usize(buf.len()))?;
        let mut rest = buf;
        while !rest.is_empty() {
            let (start, page) = self.page(space, offset)?;
            let within = usize_from_u64(offset.saturating_sub(start));
            let have = page.get(within..).unwrap_or(&[]);
            let count = have.len().min(rest.len());
            if count == 0 {
                return Err(Error::corrupt(
                    Place::meta(space, offset),
                    "metadata lies behind the end of its space",
                    0,
                ));
            }
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(have.get(..count).unwrap_or(&[]));
            rest = later;
            offset = offset.saturating_add(u64_from_usize(count));
        }
        Ok(())
    }

    /// Fills `buf` from `offset` of a metadata space: inline tails and inline pclusters, for whoever
    /// reads content elsewhere.
    pub fn read_metadata(&self, space: Space, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_meta(space, offset, buf)
    }

    /// Content of the packed or metabox inode, through the cache of decoded extents.
    fn read_decoded(&self, space: Space, start: u64, buf: &mut [u8]) -> Result<()> {
        let map = match space {
            Space::Packed => self.packed_map(),
            Space::Metabox | Space::Primary => self.metabox_map(),
        };
        let Some(map) = map else {
            return Err(Error::corrupt(
                Place::meta(space, start),
                "address in a metadata space that the image does not have",
                start,
            ));
        };
        let mut cursor = map.cursor(self);
        let mut rest = buf;
        let mut offset = start;
        while !rest.is_empty() {
            let extent = cursor.extent_at(offset)?;
            let within = offset.saturating_sub(extent.start);
            let left = usize_from_u64(extent.len.saturating_sub(within));
            let count = left.min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            if extent.is_encoded() {
                let key = (space, extent.start);
                let decoded = if let Some(decoded) = self.meta.decoded.get(&key) {
                    decoded
                } else {
                    let mut bytes = vec![0; usize_from_u64(extent.len)];
                    self.read_extent(map, &extent, 0, &mut bytes)?;
                    let decoded: Page = bytes.into();
                    self.meta.decoded.insert(key, Arc::clone(&decoded));
                    decoded
                };
                let from = usize_from_u64(within);
                let bytes = decoded.get(from..from.saturating_add(count)).unwrap_or(&[]);
                if bytes.len() != count {
                    return Err(Error::corrupt(
                        Place::content(map.nid(), offset),
                        "decoded extent is shorter than its map says",
                        u64_from_usize(bytes.len()),
                    ));
                }
                now.copy_from_slice(bytes);
            } else {
                self.read_extent(map, &extent, within, now)?;
            }
            rest = later;
            offset = offset.saturating_add(u64_from_usize(count));
        }
        Ok(())
    }
}
