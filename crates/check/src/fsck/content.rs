// SPDX-License-Identifier: MIT OR Apache-2.0
//! What files are made of: extents are walked and checked, and collected for decoding.

use super::{Check, lock};
use crate::Code;
use ferrofs_image::format::limits::DECODED_SIZE_MAX;
use ferrofs_image::{Encoding, Extent, FileMap, Inode, Location, Nid, Pcluster, Source};
use std::sync::atomic::Ordering;

/// Extents walked between two looks at the budget.
const CHARGE_EVERY: u64 = 1024;

/// Encoded or plain bytes on a device that a file uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) device: u16,
    pub(super) offset: u64,
    /// Bytes on the device.
    pub(super) len: u64,
    pub(super) kind: Kind,
    /// Decoded bytes that are needed of a compressed cluster.
    pub(super) need: u32,
    /// It decodes to more than is needed.
    pub(super) partial: bool,
    pub(super) nid: Nid,
    /// Offset in the file.
    pub(super) at: u64,
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Blocks, used as they are.
    Plain,
    /// A cluster.
    Cluster(Encoding),
}

impl Record {
    /// Order of the device; full uses of a cluster before partial ones, the longest first.
    fn key(&self) -> (u16, u64, u64, bool, bool, std::cmp::Reverse<u32>, u64) {
        let plain = self.kind == Kind::Plain;
        let need = std::cmp::Reverse(self.need);
        (self.device, self.offset, self.len, plain, self.partial, need, self.nid.0)
    }

    /// Whether `other` asks for nothing that this one does not.
    fn covers(&self, other: &Self) -> bool {
        self.device == other.device
            && self.offset == other.offset
            && self.len == other.len
            && self.kind == other.kind
            && (self.need == other.need && self.partial == other.partial
                || other.partial && other.need <= self.need)
    }

    /// Offset behind it.
    pub(super) const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Records collected so far.
#[derive(Debug, Default)]
pub(super) struct Records {
    list: Vec<Record>,
    /// Some were handed out before the end.
    pub(super) rounds: u32,
}

impl Records {
    /// Sorts, and drops what others cover.
    fn compact(&mut self) {
        self.list.sort_unstable_by_key(Record::key);
        self.list.dedup_by(|next, kept| kept.covers(next));
    }

    /// Adds records; when they pass `max` even without duplicates, gives them all back.
    fn add(&mut self, records: &[Record], max: usize) -> Option<Vec<Record>> {
        self.list.extend_from_slice(records);
        if self.list.len() < max {
            return None;
        }
        self.compact();
        // With little room left, compacting would come too often.
        (self.list.len() > max / 4 * 3).then(|| {
            self.rounds += 1;
            std::mem::take(&mut self.list)
        })
    }

    pub(super) fn take(&mut self) -> Vec<Record> {
        self.compact();
        std::mem::take(&mut self.list)
    }
}

impl Check<'_> {
    /// Walks the extents of an inode.
    pub(super) fn content(&self, inode: &Inode) {
        let map = match self.image.map(inode) {
            Ok(map) => map,
            Err(error) => return self.image_error(Code::Layout, Some(inode.nid), &error),
        };
        let mut records = vec![];
        self.extents(&map, &mut records);
        self.collect(&mut records);
    }

    fn extents(&self, map: &FileMap, records: &mut Vec<Record>) {
        let mut cursor = map.cursor(self.image);
        let (mut offset, mut count) = (0, 0u64);
        while offset < map.size() {
            let extent = match cursor.extent_at(offset) {
                Ok(extent) => extent,
                Err(error) => {
                    self.image_error(Code::Extent, Some(map.nid()), &error);
                    break;
                }
            };
            count += 1;
            if count % CHARGE_EVERY == 0 {
                if !self.charge(CHARGE_EVERY) || self.is_over() {
                    break;
                }
                self.collect(records);
            }
            if extent.source != Source::Hole {
                self.context.bytes(extent.len);
            }
            self.extent(map, &extent, records);
            offset = extent.end();
        }
        self.charge(count % CHARGE_EVERY);
        self.extents.fetch_add(count, Ordering::Relaxed);
    }

    fn extent(&self, map: &FileMap, extent: &Extent, records: &mut Vec<Record>) {
        let nid = map.nid();
        match extent.source {
            Source::Hole | Source::Fragment { .. } => {} // A fragment's range was checked.
            Source::Plain(at) => {
                let record = Record {
                    device: at.device,
                    offset: at.offset,
                    len: extent.len,
                    kind: Kind::Plain,
                    need: 0,
                    partial: false,
                    nid,
                    at: extent.start,
                };
                match records.last_mut() {
                    Some(last)
                        if last.kind == Kind::Plain
                            && last.device == record.device
                            && last.end() == record.offset =>
                    {
                        last.len = last.len.saturating_add(record.len);
                    }
                    _ => records.push(record),
                }
            }
            Source::Inline { space, offset } => {
                // Less than a block, checked by the map.
                let mut bytes = vec![0; extent.len.min(1 << 16) as usize];
                if let Err(error) = self.image.read_metadata(space, offset, &mut bytes) {
                    self.image_error(Code::InlineRead, Some(nid), &error);
                }
            }
            Source::Pcluster(pcluster) => self.pcluster(map, extent, &pcluster, records),
        }
    }

    fn pcluster(
        &self,
        map: &FileMap,
        extent: &Extent,
        pcluster: &Pcluster,
        records: &mut Vec<Record>,
    ) {
        match pcluster.location {
            Location::Device(at) => records.push(Record {
                device: at.device,
                offset: at.offset,
                len: u64::from(pcluster.len),
                kind: Kind::Cluster(pcluster.encoding),
                // At most 12 MiB, checked by the map.
                need: extent.len.min(DECODED_SIZE_MAX) as u32,
                partial: pcluster.partial,
                nid: map.nid(),
                at: extent.start,
            }),
            // Inside the metadata: no other file's.
            Location::Meta { .. } if self.options.data => {
                let len = extent.len.min(DECODED_SIZE_MAX);
                if !self.charge(len >> 12) {
                    return;
                }
                let mut bytes = vec![0; len as usize];
                if let Err(error) = self.image.read_extent(map, extent, 0, &mut bytes) {
                    self.image_error(Code::InlineRead, Some(map.nid()), &error);
                }
                self.pclusters.fetch_add(1, Ordering::Relaxed);
                self.decoded_bytes.fetch_add(len, Ordering::Relaxed);
            }
            Location::Meta { .. } => {}
        }
    }

    /// Hands records over. When there are too many, this thread decodes what there is.
    fn collect(&self, records: &mut Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let each = size_of::<Record>() * (self.context.threads() + 1);
        let max = (self.options.memory_bytes / each).max(1024);
        let full = lock(&self.records).add(records, max);
        records.clear();
        if let Some(full) = full {
            self.decode(full, 1);
        }
    }

    /// Decodes what is left, with all threads.
    pub(super) fn finish_records(&self) {
        let (records, rounds) = {
            let mut held = lock(&self.records);
            (held.take(), held.rounds)
        };
        if rounds > 0 {
            let text = format!("{} parts", rounds + 1);
            self.find(Code::Rounds, None, None, text);
        }
        self.decode(records, self.context.threads());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrofs_image::Algorithm;

    fn record(offset: u64, need: u32, partial: bool, nid: u64) -> Record {
        Record {
            device: 0,
            offset,
            len: 4096,
            kind: Kind::Cluster(Encoding::Compressed(Algorithm::Lz4)),
            need,
            partial,
            nid: Nid(nid),
            at: 0,
        }
    }

    #[test]
    fn the_longest_need_stays() {
        let mut records = Records::default();
        let list = [
            record(0, 500, true, 1),
            record(0, 900, true, 2),
            record(4096, 70, true, 3),
            record(4096, 80, false, 4),
            record(0, 900, true, 5),
        ];
        assert!(records.add(&list, 100).is_none());
        assert_eq!(records.take(), [record(0, 900, true, 2), record(4096, 80, false, 4)]);
        let mut records = Records::default();
        records.add(&[record(0, 5, false, 1), record(0, 6, false, 2)], 100);
        assert_eq!(records.take().len(), 2, "a contradiction is kept");
    }

    #[test]
    fn too_many_are_given_back() {
        let mut records = Records::default();
        let mut given = 0;
        for index in 0..1000 {
            if let Some(full) = records.add(&[record(index * 4096, 1, false, index)], 64) {
                given += full.len();
            }
        }
        assert_eq!(given + records.take().len(), 1000);
        assert!(records.rounds > 10);
    }
}
