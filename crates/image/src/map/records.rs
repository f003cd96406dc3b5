// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoded extents. format.md §12.

use super::{Encoding, Extent, FileMap, Head, Location, MetaReader, Pcluster, Source, algorithm};
use crate::{Error, Place, Result, Space};
use ferrofs_format::lcluster::extents::{EncodedLen, ExtentRecord};
use ferrofs_format::lcluster::header::{Advise, MapFields};
use ferrofs_format::num::{round_up, usize_from_u64};

/// Records between two remembered addresses of the 4-byte form.
const CHECKPOINT: u64 = 128;

#[derive(Clone, Debug)]
pub(super) struct RecordMap {
    header: MapFields,
    record_len: u8,
    /// Logical size exponent of every extent, for 4- and 8-byte records.
    cluster_bits: u8,
    space: Space,
    table: u64,
    count: u64,
    /// Physical start of every [`CHECKPOINT`]th extent, for 4-byte records, whose addresses are
    /// running sums.
    checkpoints: Vec<u64>,
}

/// A record with what it takes from its neighbours.
struct Found {
    index: u64,
    record: ExtentRecord,
    start: u64,
    end: u64,
    physical: u64,
}

impl RecordMap {
    pub(super) fn new(head: &Head<'_>, header: MapFields, at: u64) -> Result<Self> {
        let inode = head.inode;
        let record_len = header.advise.record_len();
        let unit = u64::from(record_len);
        let impossible = Error::corrupt(head.place, "extent table is impossibly long", 0);
        let start =
            at.checked_add(8).and_then(|at| round_up(at, unit)).ok_or(impossible.clone())?;
        let cluster_bits = header.lcluster_bits(head.image.superblock().block_bits);
        let (table, count) = match record_len {
            4 => (
                start.checked_add(8).ok_or(impossible.clone())?,
                inode.size.div_ceil(1 << cluster_bits),
            ),
            8 => (start, inode.size.div_ceil(1 << cluster_bits)),
            _ => (start, header.extent_count()),
        };
        if count == 0 {
            return Err(Error::corrupt(head.place, "file without extents", inode.size));
        }
        let bytes = count.checked_mul(unit).ok_or(impossible)?;
        let check = |offset, len| {
            head.image.check_space(inode.space, offset, len).map_err(|e| e.with_nid(inode.nid))
        };
        check(start, 8)?;
        check(table, bytes)?;
        let mut map = Self {
            header,
            record_len,
            cluster_bits,
            space: inode.space,
            table,
            count,
            checkpoints: Vec::new(),
        };
        if record_len == 4 {
            map.sum_addresses(head, start)?;
        }
        Ok(map)
    }

    pub(super) const fn header(&self) -> MapFields {
        self.header
    }

    pub(super) const fn has_fragment(&self) -> bool {
        self.header.advise.has(Advise::FRAGMENT)
    }

    /// One pass over the 4-byte records, so that later lookups add up at most a few.
    ///
    /// The pass is long if the table is, so the table must not be longer than what is stored at all:
    /// a metabox can claim 2^62 bytes of holes, which cost the image nothing.
    fn sum_addresses(&mut self, head: &Head<'_>, start: u64) -> Result<()> {
        let stored = head.image.devices.total_size();
        if self.count.saturating_mul(4) > stored {
            return Err(Error::corrupt(
                head.place,
                "extent table is longer than the image",
                self.count,
            ));
        }
        let mut meta = MetaReader { image: head.image, page: None };
        let mut first = [0; 8];
        meta.read(self.space, start, &mut first)?;
        let mut physical = u64::from_le_bytes(first);
        for index in 0..self.count {
            if index.checked_rem(CHECKPOINT) == Some(0) {
                self.checkpoints.push(physical);
            }
            let record = self.record(head.place, &mut meta, index)?;
            physical = Self::advance(physical, &record, head.place)?;
        }
        Ok(())
    }

    fn advance(physical: u64, record: &ExtentRecord, place: Place) -> Result<u64> {
        // The tail's word may be half of a fragment's offset, but nothing follows it.
        let len = EncodedLen::parse(record.word).map_or(0, |word| word.len);
        physical.checked_add(u64::from(len)).ok_or(Error::corrupt(
            place,
            "extent address past 2^64",
            physical,
        ))
    }

    fn record(&self, place: Place, meta: &mut MetaReader<'_>, index: u64) -> Result<ExtentRecord> {
        let len = usize::from(self.record_len);
        let at = self.table.saturating_add(index.saturating_mul(u64::from(self.record_len)));
        let mut bytes = [0; 32];
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        meta.read(self.space, at, bytes)?;
        ExtentRecord::parse(bytes, self.record_len).map_err(|error| Error::format(error, place))
    }

    pub(super) fn extent_at(
        &self,
        map: &FileMap,
        meta: &mut MetaReader<'_>,
        offset: u64,
    ) -> Result<Extent> {
        let found = if self.record_len <= 8 {
            self.find_regular(map, meta, offset)?
        } else {
            self.find_sorted(map, meta, offset)?
        };
        let place = Place::content(map.nid(), found.start);
        let last = found.index.saturating_add(1) == self.count;
        let len = found.end.saturating_sub(found.start);
        let source = if last && self.has_fragment() {
            Source::Fragment { offset: found.record.fragment_offset() }
        } else {
            self.source(map, meta, &found, place)?
        };
        Ok(Extent { start: found.start, len, source })
    }

    fn source(
        &self,
        map: &FileMap,
        meta: &MetaReader<'_>,
        found: &Found,
        place: Place,
    ) -> Result<Source> {
        let word =
            EncodedLen::parse(found.record.word).map_err(|error| Error::format(error, place))?;
        if word.len == 0 {
            return Ok(Source::Hole);
        }
        let bits = meta.image.superblock().block_bits;
        let aligned = bits.offset_in_block(found.physical | u64::from(word.len)) == 0;
        let encoding = match word.algorithm {
            Some(id) => Encoding::Compressed(algorithm(meta.image, id, place)?),
            None if aligned && self.header.advise.has(Advise::INTERLACED) => Encoding::Interlaced,
            None => Encoding::Shifted,
        };
        let at = meta.image.devices.resolve(0, found.physical, u64::from(word.len), map.nid())?;
        Ok(Source::Pcluster(Pcluster {
            location: Location::Device(at),
            len: word.len,
            encoding,
            partial: word.partial,
        }))
    }

    /// 4- and 8-byte records: every extent covers the same logical size.
    fn find_regular(&self, map: &FileMap, meta: &mut MetaReader<'_>, offset: u64) -> Result<Found> {
        let place = Place::content(map.nid(), offset);
        let index = offset >> self.cluster_bits;
        let record = self.record(place, meta, index)?;
        let physical = match record.physical {
            Some(physical) => physical,
            None => self.running_address(place, meta, index)?,
        };
        let start = index << self.cluster_bits;
        let end = start.saturating_add(1 << self.cluster_bits).min(map.size());
        Ok(Found { index, record, start, end, physical })
    }

    fn running_address(&self, place: Place, meta: &mut MetaReader<'_>, index: u64) -> Result<u64> {
        let slot = index.checked_div(CHECKPOINT).unwrap_or(0);
        let mut physical = self.checkpoints.get(usize_from_u64(slot)).copied().unwrap_or(0);
        for before in slot.saturating_mul(CHECKPOINT)..index {
            let record = self.record(place, meta, before)?;
            physical = Self::advance(physical, &record, place)?;
        }
        Ok(physical)
    }

    /// 16- and 32-byte records: binary search by logical start.
    fn find_sorted(&self, map: &FileMap, meta: &mut MetaReader<'_>, offset: u64) -> Result<Found> {
        let place = Place::content(map.nid(), offset);
        let start_of = |record: &ExtentRecord| record.logical.unwrap_or(0);
        let (mut low, mut high) = (0u64, self.count);
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            if start_of(&self.record(place, meta, middle)?) <= offset {
                low = middle;
            } else {
                high = middle;
            }
        }
        let record = self.record(place, meta, low)?;
        let start = start_of(&record);
        if low == 0 && start != 0 {
            return Err(Error::corrupt(place, "first extent does not begin at offset 0", start));
        }
        let next = low.saturating_add(1);
        let end =
            if next < self.count { start_of(&self.record(place, meta, next)?) } else { map.size() };
        if end <= start {
            return Err(Error::corrupt(place, "extents are not in ascending order", end));
        }
        let physical = record.physical.unwrap_or(0);
        Ok(Found { index: low, record, start, end: end.min(map.size()), physical })
    }
}
