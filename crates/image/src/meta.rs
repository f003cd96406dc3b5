// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata spaces and the pages of them that stay in memory. format.md §1.
//!
//! Invariant: at most the configured bytes are kept, and nothing here is ever file data.

use crate::{DeviceAddress, Error, Extent, FileMap, Image, MapCursor, Place, Result, Source};
use ferrofs_format::Nid;
use ferrofs_format::limits::DECODED_SIZE_MAX;
use ferrofs_format::num::{u64_from_usize, usize_from_u64};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Unit of reading metadata.
pub(crate) const PAGE: u64 = 4096;
const PAGES_BYTES: u64 = 4 << 20;
const DECODED_BYTES: u64 = 16 << 20;
/// One decoded extent of the largest size and a bit, so that none is decoded for every page.
const DECODED_BYTES_MIN: u64 = DECODED_SIZE_MAX + (1 << 20);

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
    /// Decoded extents of metadata (packed and metabox inodes, directories), by inode and start.
    decoded: Cache<(Nid, u64), Page, ByLen>,
    /// Bytes decoded for it so far.
    decoded_total: AtomicU64,
}

impl MetaCache {
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        let pages = bytes.unwrap_or(PAGES_BYTES);
        let decoded = bytes.unwrap_or(DECODED_BYTES).max(DECODED_BYTES_MIN);
        let items = |bytes: u64, each: u64| usize_from_u64(bytes.checked_div(each).unwrap_or(0));
        Self {
            pages: Cache::with_weighter(items(pages, PAGE).max(16), pages, ByLen),
            decoded: whole(items(decoded, 1 << 16), decoded),
            decoded_total: AtomicU64::new(0),
        }
    }
}

/// A cache in one piece: of several, each would have a share of the bytes, and an extent larger than
/// that would never be kept.
fn whole(items: usize, bytes: u64) -> Cache<(Nid, u64), Page, ByLen> {
    let mut options = OptionsBuilder::new();
    options.shards(1).estimated_items_capacity(items).weight_capacity(bytes);
    match options.build() {
        Ok(options) => Cache::with_options(
            options,
            ByLen,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ),
        // Only if a capacity were missing.
        Err(_) => Cache::with_weighter(items, bytes, ByLen),
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
        let mut reader = ContentReader { paged: false, ..ContentReader::new(self, map) };
        reader.read(start, buf).map(|_| ())
    }

    /// Bytes of metadata (packed and metabox inodes, directories) that were decoded since the image
    /// was opened, each time anew. Whoever walks a hostile image can bound its work by it.
    #[must_use]
    pub fn metadata_decoded(&self) -> u64 {
        self.meta.decoded_total.load(Ordering::Relaxed)
    }

    /// All of an encoded extent.
    fn decoded(&self, map: &FileMap, extent: &Extent) -> Result<Page> {
        let key = (map.nid(), extent.start);
        if let Some(decoded) = self.meta.decoded.get(&key) {
            return Ok(decoded);
        }
        // At most 12 MiB, checked by the map.
        let mut bytes = vec![0; usize_from_u64(extent.len)];
        self.meta.decoded_total.fetch_add(extent.len, Ordering::Relaxed);
        self.read_extent(map, extent, 0, &mut bytes)?;
        let decoded: Page = bytes.into();
        self.meta.decoded.insert(key, Arc::clone(&decoded));
        Ok(decoded)
    }
}

/// Reads content that is metadata, piece by piece: directories, packed and metabox inodes.
///
/// Invariant: of each extent that is encoded all is decoded at once and kept, at least until another
/// one is needed. Reading from the front to the end decodes each extent once, whatever else goes on.
#[derive(Debug)]
pub(crate) struct ContentReader<'a> {
    image: &'a Image,
    map: &'a FileMap,
    cursor: MapCursor<'a>,
    held: Option<(Extent, Page)>,
    /// What is not encoded comes from pages in memory.
    paged: bool,
}

impl<'a> ContentReader<'a> {
    pub(crate) const fn new(image: &'a Image, map: &'a FileMap) -> Self {
        Self { image, map, cursor: map.cursor(image), held: None, paged: true }
    }

    /// Fills `buf` from `offset` on; returns how many bytes, less than asked only at the end.
    pub(crate) fn read(&mut self, mut offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = self.map.size().saturating_sub(offset);
        let total = usize_from_u64(left).min(buf.len());
        let mut rest = buf.get_mut(..total).unwrap_or_default();
        while !rest.is_empty() {
            let count = self.read_some(offset, rest).map_err(|e| e.with_nid(self.map.nid()))?;
            offset = offset.saturating_add(u64_from_usize(count));
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(total)
    }

    /// What one extent has for `rest`, which is not empty; never nothing.
    fn read_some(&mut self, offset: u64, rest: &mut [u8]) -> Result<usize> {
        if let Some((extent, page)) = &self.held
            && let Some(count) = copy_decoded(extent, page, offset, rest)
        {
            return Ok(count);
        }
        let extent = self.cursor.extent_at(offset)?;
        let within = offset.saturating_sub(extent.start);
        let count = usize_from_u64(extent.len.saturating_sub(within)).min(rest.len());
        let now = rest.get_mut(..count).unwrap_or_default();
        match extent.source {
            Source::Pcluster(_) => {
                let page = self.image.decoded(self.map, &extent)?;
                let copied = copy_decoded(&extent, &page, offset, now);
                self.held = Some((extent, page));
                return copied.ok_or(Error::corrupt(
                    Place::content(self.map.nid(), offset),
                    "decoded extent is shorter than its map says",
                    extent.len,
                ));
            }
            Source::Plain(DeviceAddress { device: 0, offset }) if self.paged => {
                self.image.read_meta(Space::Primary, offset.saturating_add(within), now)?;
            }
            _ => self.image.read_extent(self.map, &extent, within, now)?,
        }
        Ok(count)
    }
}

/// Copies what `page`, all of `extent`, has of the bytes from `offset` on, if it has any.
fn copy_decoded(extent: &Extent, page: &Page, offset: u64, to: &mut [u8]) -> Option<usize> {
    let from = usize_from_u64(offset.checked_sub(extent.start)?);
    let bytes = page.get(from..).filter(|bytes| !bytes.is_empty())?;
    let count = bytes.len().min(to.len());
    to.get_mut(..count)?.copy_from_slice(bytes.get(..count)?);
    Some(count)
}
