// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing what was verified, telling the log, and taking away again.

use super::BlobInner;
use crate::cache::{Reserved, lock};
use crate::flight::Lead;
use crate::log::{Runs, commit, evict};
use crate::map::{GRAIN, GROUP_GRAINS, bytes_of, grains_of};
use crate::stats::count;
use crate::{FetchContext, StoreError, Table};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A group that is present, and how long nobody has used it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) age: u16,
    pub(crate) group: u64,
}

impl BlobInner {
    /// Writes verified bytes as far as `lead` has claimed them, into `room`, and sets their bits.
    pub(super) fn keep(
        &self,
        (lead, room): (&Lead<'_>, &Reserved<'_>),
        range: &Range<u64>,
        bytes: &[u8],
    ) -> io::Result<()> {
        // A file that somebody has cut would grow again, with zeros where bits say that bytes are:
        // from then on everything goes through memory. The next opening makes a new file.
        if rustix::fs::fstat(&self.files.data)?.st_size.cast_unsigned() != self.size {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "somebody has cut the file"));
        }
        let claim = lead.range();
        let bits = self.map.bits();
        let grains = grains_of(range);
        let mine = grains.start.max(claim.start)..grains.end.min(claim.end);
        for run in bits.runs(mine, false) {
            let part = bytes_of(&run, self.size);
            let from = (part.start - range.start) as usize;
            let to = (part.end - range.start) as usize;
            self.files.write(&bytes[from..to], part.start)?;
            // After the write: a reader that sees the bits reads the bytes.
            bits.set(run.clone());
            lock(&self.dirty).add(run);
            self.cache.wrote(room, part.end - part.start);
        }
        lead.publish();
        Ok(())
    }

    /// Keeps the first bytes of the blob, which somebody has fetched, as far as they verify and
    /// nobody else fetches them. What is wrong with them is not told.
    pub(crate) fn give(&self, table: &Arc<Table>, bytes: &[u8]) {
        let group = table.layout().geometry().group_len();
        let len = (bytes.len() as u64).min(self.size);
        let end = if len == self.size { len } else { len / group * group };
        let Some(bytes) = bytes.get(..end as usize).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let context = FetchContext { deadline: Some(Instant::now()), ..FetchContext::default() };
        let digests = match table.cached(0..end) {
            Some(digests) => Ok(digests),
            None => table.digests(0..end, &context),
        };
        if digests.and_then(|digests| digests.verify(0, bytes)).is_err() {
            return;
        }
        let grains = grains_of(&(0..end));
        let Some(lead) = self.flights.claim_whole(grains.clone()) else { return };
        let Ok(Some(_held)) = self.files.try_grains(&self.id, &grains) else { return };
        let Some(room) = self.cache.admit(end) else { return };
        if let Err(error) = self.keep((&lead, &room), &(0..end), bytes)
            && super::fetch::is_full(&error)
        {
            self.cache.is_full();
        }
    }

    /// Makes what this process wrote durable, and says so in the log.
    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        if dirty.is_empty() {
            return Ok(());
        }
        let mut log = lock(&self.log);
        let result = self.files.log_lock(&self.id).and_then(|_held| {
            let lost = |runs: &Runs| {
                // The system has dropped what it could not write, or may at any time: what was read
                // of it until now was right, but nothing more must be.
                for run in runs.iter() {
                    self.map.bits().clear(run);
                }
                self.map.raise();
            };
            let (folder, data) = (&self.files.folder, &self.files.data);
            commit(folder, data, &mut log, self.size, self.map.bits(), &dirty, lost)
                .map_err(StoreError::io(&self.id, "make data durable"))
        });
        if result.is_err() {
            let mut again = lock(&self.dirty);
            dirty.iter().for_each(|run| again.add(run));
        }
        result
    }

    /// The groups that are present.
    pub(crate) fn kept(&self, now: u16) -> Vec<Kept> {
        let bits = self.map.bits();
        let mut kept = vec![];
        for run in bits.runs(0..bits.count(), true) {
            for group in run.start / GROUP_GRAINS..run.end.div_ceil(GROUP_GRAINS) {
                if kept.last().is_none_or(|last: &Kept| last.group != group) {
                    kept.push(Kept { age: now.wrapping_sub(self.map.epoch(group)), group });
                }
            }
        }
        kept
    }

    /// Takes groups away that nobody fetches now; how many bytes.
    pub(crate) fn evict(&self, groups: &[u64]) -> Result<u64, StoreError> {
        let mut log = lock(&self.log);
        if self.no_range_eviction.load(Ordering::SeqCst) {
            return Ok(0);
        }
        let Some(_eviction) = self.files.try_range_eviction(&self.id)? else { return Ok(0) };
        let bits = self.map.bits();
        let (mut gone, mut leads) = (Runs::default(), vec![]);
        let mut wanted = Runs::default();
        for group in groups {
            let start = group * GROUP_GRAINS;
            wanted.add(start..(start + GROUP_GRAINS).min(bits.count()));
        }
        for run in wanted.iter() {
            // Who fetches a part of it would set bits of what is punched: it is left alone.
            let Some(lead) = self.flights.claim_whole(run.clone()) else { continue };
            let Some(held) = self.files.try_grains(&self.id, &run)? else { continue };
            leads.push((held, lead));
            gone.add(run);
        }
        let freed = gone.iter().map(|run| bits.ones(run) * GRAIN).sum();
        if freed == 0 {
            return Ok(0);
        }
        let _held = self.files.log_lock(&self.id)?;
        let clear = || {
            for run in gone.iter() {
                bits.clear(run);
            }
            self.map.raise();
        };
        evict(&self.files.folder, &self.files.data, &mut log, self.size, &gone, clear)
            .map_err(StoreError::io(&self.id, "evict"))?;
        count(&self.counters.evicted_bytes, freed);
        Ok(freed)
    }
}
