// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are in a table: header, top, coarse digests, fine digests.

use super::{Algorithm, TableError};
use std::ops::Range;

/// Bytes of a page of the body, each of which has its digest in the top.
pub const PAGE_LEN: usize = 4096;

/// No grain is smaller.
pub(super) const GRAIN_MIN: u64 = 1 << 12;
/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 64;
/// Digests in a page.
const SLOTS: u64 = PAGE_LEN as u64 / DIGEST_LEN;
pub(super) const DIGEST_LEN: u64 = 32;
const MAGIC: [u8; 8] = *b"frfsdgst";
const VERSION: u16 = 1;
/// No more pages than this, so that the top (fetched before anything is verified) stays at 64 MiB.
/// Grains of 4 KiB reach to 0.94 TiB.
const PAGES_MAX: u64 = 1 << 21;

/// The choices of a table's maker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "as in the header")]
pub struct Geometry {
    /// How bytes are digested.
    pub algorithm: Algorithm,
    /// log2 of the bytes of a grain, the unit of small reads: 12 to 24.
    pub grain_bits: u8,
    /// log2 of the bytes of a group, the unit of large reads: from the grain's to 24.
    pub group_bits: u8,
}

impl Geometry {
    /// Grains of 4 KiB, groups of 64 KiB.
    #[must_use]
    pub const fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, grain_bits: 12, group_bits: 16 }
    }

    /// Bytes of a grain.
    #[must_use]
    pub const fn grain_len(&self) -> u64 {
        1 << self.grain_bits
    }

    /// Bytes of a group.
    #[must_use]
    pub const fn group_len(&self) -> u64 {
        1 << self.group_bits
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self::new(Algorithm::default())
    }
}

/// The shape of one blob's table. All positions follow from geometry and size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    geometry: Geometry,
    blob_size: u64,
}

impl Layout {
    /// The shape of the table of a blob of `blob_size` bytes.
    pub fn new(geometry: Geometry, blob_size: u64) -> Result<Self, TableError> {
        let Geometry { grain_bits, group_bits, .. } = geometry;
        if !(12..=24).contains(&grain_bits) || !(grain_bits..=24).contains(&group_bits) {
            return Err(TableError::Geometry { grain_bits, group_bits });
        }
        let layout = Self { geometry, blob_size };
        if layout.page_count() > PAGES_MAX {
            return Err(TableError::BlobSize(blob_size));
        }
        Ok(layout)
    }

    /// Reads a header, of which nothing is verified yet.
    pub fn parse(header: &[u8]) -> Result<Self, TableError> {
        let Some((header, _)) = header.split_first_chunk::<HEADER_LEN>() else {
            return Err(TableError::Length {
                expected: HEADER_LEN as u64,
                found: header.len() as u64,
            });
        };
        if header[..8] != MAGIC {
            return Err(TableError::Magic);
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(TableError::Version(version));
        }
        let algorithm =
            Algorithm::from_code(header[10]).ok_or(TableError::Algorithm(header[10]))?;
        let mut size = [0; 8];
        size.copy_from_slice(&header[16..24]);
        let reserved = (13..16).chain(24..HEADER_LEN);
        for offset in reserved {
            if header[offset] != 0 {
                return Err(TableError::Reserved { offset });
            }
        }
        let geometry = Geometry { algorithm, grain_bits: header[11], group_bits: header[12] };
        Self::new(geometry, u64::from_le_bytes(size))
    }

    /// The header.
    #[must_use]
    pub fn emit(&self) -> [u8; 64] {
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10] = self.geometry.algorithm.code();
        header[11] = self.geometry.grain_bits;
        header[12] = self.geometry.group_bits;
        header[16..24].copy_from_slice(&self.blob_size.to_le_bytes());
        header
    }

    /// The choices of its maker.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes of the blob.
    #[must_use]
    pub const fn blob_size(&self) -> u64 {
        self.blob_size
    }

    /// Groups of the blob; the last may be short.
    #[must_use]
    pub const fn group_count(&self) -> u64 {
        self.blob_size.div_ceil(self.geometry.group_len())
    }

    /// Grains of the blob; the last may be short.
    #[must_use]
    pub const fn grain_count(&self) -> u64 {
        self.blob_size.div_ceil(self.geometry.grain_len())
    }

    /// Pages of coarse digests, which are the first of the body.
    #[must_use]
    pub const fn coarse_page_count(&self) -> u64 {
        self.group_count().div_ceil(SLOTS)
    }

    /// Pages of the body.
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.coarse_page_count() + self.fine_count().div_ceil(SLOTS)
    }

    /// Digests of grains: none if grains are groups.
    pub(super) const fn fine_count(&self) -> u64 {
        if self.has_fine() { self.grain_count() } else { 0 }
    }

    pub(super) const fn has_fine(&self) -> bool {
        self.geometry.grain_bits < self.geometry.group_bits
    }

    /// Bytes of header and top: what the pin covers, and what is fetched first.
    #[must_use]
    pub const fn head_len(&self) -> u64 {
        HEADER_LEN as u64 + self.page_count() * DIGEST_LEN
    }

    /// Bytes of the table.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub const fn len(&self) -> u64 {
        self.page_offset(self.page_count())
    }

    /// Where a page begins in the table.
    #[must_use]
    pub const fn page_offset(&self, page: u64) -> u64 {
        self.head_len() + page * PAGE_LEN as u64
    }

    /// Page and byte within it where the digest of a group is.
    pub(super) const fn group_slot(group: u64) -> (u64, usize) {
        (group / SLOTS, ((group % SLOTS) * DIGEST_LEN) as usize)
    }

    /// Page and byte within it where the digest of a grain is.
    pub(super) const fn grain_slot(&self, grain: u64) -> (u64, usize) {
        if !self.has_fine() {
            return Self::group_slot(grain);
        }
        let (page, byte) = Self::group_slot(grain);
        (self.coarse_page_count() + page, byte)
    }

    /// `range` of the blob made larger to whole grains, within the blob.
    #[must_use]
    pub const fn whole_grains(&self, range: &Range<u64>) -> Range<u64> {
        self.whole(range, self.geometry.grain_len())
    }

    /// `range` of the blob made larger to whole groups, within the blob.
    #[must_use]
    pub const fn whole_groups(&self, range: &Range<u64>) -> Range<u64> {
        self.whole(range, self.geometry.group_len())
    }

    const fn whole(&self, range: &Range<u64>, unit: u64) -> Range<u64> {
        let end = range.end.div_ceil(unit).saturating_mul(unit);
        let end = if end < self.blob_size { end } else { self.blob_size };
        let start = range.start / unit * unit;
        if start < end { start..end } else { end..end }
    }

    /// The pieces of a range of whole grains in the order of the blob, each with the page and byte
    /// of its digest: whole groups where the range has them, grains at its edges. `None` if the
    /// range is not of whole grains or not of the blob.
    pub(super) fn pieces(
        &self,
        range: Range<u64>,
    ) -> Option<impl Iterator<Item = (Range<u64>, u64, usize)> + use<>> {
        if range.start > range.end || self.whole_grains(&range) != range {
            return None;
        }
        let layout = *self;
        let (grain_len, group_len) = (self.geometry.grain_len(), self.geometry.group_len());
        let mut at = range.start;
        Some(std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let group_end = at.saturating_add(group_len).min(layout.blob_size);
            let (end, (page, byte)) = if at.is_multiple_of(group_len) && group_end <= range.end {
                (group_end, Self::group_slot(at / group_len))
            } else {
                let end = at.saturating_add(grain_len).min(layout.blob_size);
                (end, layout.grain_slot(at / grain_len))
            };
            let piece = at..end;
            at = end;
            Some((piece, page, byte))
        }))
    }
}
