// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoding every cluster once, in the order of the device, and looking for overlaps.

use super::Check;
use super::content::{Kind, Record};
use crate::{Code, pool};
use ferrofs_image::{
    Decoder, DeviceAddress, Encoding, Error, Extent, Location, Pcluster, Place, Source,
    decode_extent,
};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Records of one task.
const TASK: usize = 64;
/// Bytes read at once; a longer cluster does not exist.
const WINDOW: u64 = 1 << 20;
/// Bytes between clusters that are rather read than skipped.
const GAP: u64 = 32 << 10;

/// Memory of one thread, reused.
#[derive(Default)]
struct Worker {
    decoder: Decoder,
    window: Vec<u8>,
    device: u16,
    start: u64,
    out: Vec<u8>,
}

impl Check<'_> {
    /// Checks sorted records with `threads` threads.
    pub(super) fn decode(&self, mut records: Vec<Record>, threads: usize) {
        self.overlaps(&mut records);
        if !self.options.data {
            return;
        }
        let mut tasks: Vec<Range<usize>> = vec![];
        let mut start = 0;
        while start < records.len() {
            let mut end = (start + TASK).min(records.len());
            // Uses of one cluster stay together.
            while end < records.len() && same_cluster(&records[end - 1], &records[end]) {
                end += 1;
            }
            tasks.push(start..end);
            start = end;
        }
        tasks.reverse();
        pool::run(threads, tasks, Worker::default, |tasks, worker, range| {
            if self.is_over() {
                return tasks.stop();
            }
            let records = &records[range];
            let mut index = 0;
            while index < records.len() && !self.is_over() {
                let count = records[index..]
                    .iter()
                    .take_while(|record| same_cluster(&records[index], record))
                    .count();
                self.cluster(worker, &records[index..], count);
                index += count;
            }
        });
    }

    /// Reports overlaps, and drops clusters that overlap another: they would make the work
    /// quadratic.
    fn overlaps(&self, records: &mut Vec<Record>) {
        let mut cluster: Option<Record> = None;
        let mut plain: Option<Record> = None;
        records.retain(|record| {
            let crosses = |other: &Option<Record>| {
                other.is_some_and(|other| {
                    other.device == record.device && record.offset < other.end()
                })
            };
            let text = |other: &Option<Record>| {
                let other = other.map_or((0, 0, 0), |other| (other.offset, other.len, other.nid.0));
                format!(
                    "{} bytes at {:#x} of device {}; another has {} at {:#x} (nid {})",
                    record.len, record.offset, record.device, other.1, other.0, other.2
                )
            };
            if record.kind == Kind::Plain {
                if crosses(&cluster) {
                    let text = text(&cluster);
                    self.find(Code::PlainOverlap, Some(record.nid), Some(record.at), text);
                }
                if plain
                    .is_none_or(|other| other.device != record.device || other.end() < record.end())
                {
                    plain = Some(*record);
                }
                return true;
            }
            if crosses(&plain) {
                self.find(Code::PlainOverlap, Some(record.nid), Some(record.at), text(&plain));
            }
            let same = cluster
                .is_some_and(|other| same_cluster(&other, record) && other.len == record.len);
            if !same && crosses(&cluster) {
                self.find(Code::Overlap, Some(record.nid), Some(record.at), text(&cluster));
                return false;
            }
            cluster = Some(*record);
            true
        });
    }

    /// The first `count` of `records` are uses of one cluster, or one run of plain blocks.
    fn cluster(&self, worker: &mut Worker, records: &[Record], count: usize) {
        let first = &records[0];
        let Kind::Cluster(encoding) = first.kind else {
            for record in &records[..count] {
                self.plain(worker, record);
            }
            return;
        };
        for other in &records[1..count] {
            // Sorted: full uses first, then the longest.
            if other.kind != first.kind || !other.partial || other.need > first.need {
                let text = format!(
                    "{} bytes{} and {} bytes{} (nid {})",
                    first.need,
                    if first.partial { " or more" } else { "" },
                    other.need,
                    if other.partial { " or more" } else { "" },
                    first.nid,
                );
                self.find(Code::Contradiction, Some(other.nid), Some(other.at), text);
            }
        }
        if let Err(error) = self.fill(worker, records, count) {
            return self.image_error(Code::DeviceRead, Some(first.nid), &error);
        }
        if !matches!(encoding, Encoding::Compressed(_)) {
            return;
        }
        if !self.charge(u64::from(first.need) >> 12) {
            return;
        }
        let at = DeviceAddress { device: first.device, offset: first.offset };
        let pcluster = Pcluster {
            location: Location::Device(at),
            len: u32::try_from(first.len).unwrap_or(u32::MAX),
            encoding,
            partial: first.partial,
        };
        let extent = Extent {
            start: first.at,
            len: u64::from(first.need),
            source: Source::Pcluster(pcluster),
        };
        // At most 12 MiB.
        worker.out.resize((first.need as usize).max(worker.out.len()), 0);
        let from = (first.offset - worker.start) as usize;
        let raw = &worker.window[from..from + first.len as usize];
        let out = &mut worker.out[..first.need as usize];
        let rules = self.image.rules();
        if let Err(source) = decode_extent(&mut worker.decoder, rules, &extent, &pcluster, raw, out)
        {
            let place = Place::content(first.nid, first.at);
            let error = Error::Undecodable { place, address: first.offset, source };
            self.image_error(Code::Undecodable, Some(first.nid), &error);
        }
        self.pclusters.fetch_add(1, Ordering::Relaxed);
        self.decoded_bytes.fetch_add(u64::from(first.need), Ordering::Relaxed);
    }

    /// Makes sure that the first record's bytes are in the window; reads those behind with them.
    fn fill(
        &self,
        worker: &mut Worker,
        records: &[Record],
        count: usize,
    ) -> ferrofs_image::Result<()> {
        let first = &records[0];
        let held = worker.start..worker.start + worker.window.len() as u64;
        if worker.device == first.device && held.start <= first.offset && first.end() <= held.end {
            return Ok(());
        }
        let mut end = first.end();
        for next in &records[count..] {
            let fits = next.device == first.device
                && next.kind != Kind::Plain
                && next.offset <= end.saturating_add(GAP)
                && next.end() - first.offset <= WINDOW;
            if !fits {
                break;
            }
            end = end.max(next.end());
        }
        let result = self.read_window(worker, first, end);
        if result.is_err() && end > first.end() {
            // Perhaps only a neighbour cannot be read.
            return self.read_window(worker, first, first.end());
        }
        result
    }

    fn read_window(
        &self,
        worker: &mut Worker,
        first: &Record,
        end: u64,
    ) -> ferrofs_image::Result<()> {
        let at = DeviceAddress { device: first.device, offset: first.offset };
        worker.device = first.device;
        worker.start = first.offset;
        // At most a window, or one cluster.
        worker.window.resize((end - first.offset) as usize, 0);
        let result = self.image.read_device(at, &mut worker.window);
        if result.is_err() {
            worker.window.clear();
        }
        self.read_bytes.fetch_add(worker.window.len() as u64, Ordering::Relaxed);
        result
    }

    /// Reads blocks that are used as they are: only to see that they can be read.
    fn plain(&self, worker: &mut Worker, record: &Record) {
        let mut offset = record.offset;
        worker.window.clear();
        while offset < record.end() && !self.is_over() {
            let len = (record.end() - offset).min(WINDOW);
            worker.out.resize((len as usize).max(worker.out.len()), 0);
            let at = DeviceAddress { device: record.device, offset };
            if let Err(error) = self.image.read_device(at, &mut worker.out[..len as usize]) {
                self.image_error(Code::DeviceRead, Some(record.nid), &error);
                return;
            }
            self.charge(len >> 12);
            self.read_bytes.fetch_add(len, Ordering::Relaxed);
            offset += len;
        }
    }
}

/// Whether two records begin at one place and are of one sort.
fn same_cluster(a: &Record, b: &Record) -> bool {
    a.device == b.device
        && a.offset == b.offset
        && (a.kind == Kind::Plain) == (b.kind == Kind::Plain)
        && a.len == b.len
}
