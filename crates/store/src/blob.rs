// SPDX-License-Identifier: MIT OR Apache-2.0
//! One blob: read what is present, fetch what is not.
//!
//! It refuses to know where bytes come from and how failures are retried. Invariant: bytes are
//! verified (as far as there is a table), then written, then their bits are set, then given out.

mod copy;
mod fetch;
mod hand;
mod keep;
mod sink;
mod stream;

pub use copy::FindEnd;

use crate::cache::{CacheInner, Files};
use crate::flight::Flights;
use crate::log::{Log, Runs};
use crate::map::{GRAIN, Map, bytes_of, grains_of};
use crate::stats::{Counters, count};
use crate::{
    BlobId, BlobRecorder, BlobStats, Demand, Fill, FillError, Origin, Policy, Priority, StoreError,
    Table, TableSpec, TableStats, Window,
};
pub(crate) use copy::CopyState;
use hand::Hand;
use std::fmt;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// A read that is evicted under again and again is answered from memory after so many tries.
const TRIES_MAX: u32 = 8;

/// A blob of a cache. Clones are the same; it stays in use, so that it is not removed, as long as
/// one is there.
#[derive(Clone)]
pub struct Blob {
    pub(crate) inner: Arc<BlobInner>,
}

/// What a blob is made of.
pub(crate) struct BlobInner {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    pub(crate) cache: Arc<CacheInner>,
    pub(crate) files: Files,
    pub(crate) map: Map,
    pub(crate) flights: Flights,
    pub(crate) origin: Origin,
    pub(crate) table_spec: TableSpec,
    pub(crate) table: Mutex<Option<Arc<Table>>>,
    /// What readers may take from behind it.
    pub(crate) copy: OnceLock<CopyState>,
    pub(crate) window: Mutex<Window>,
    /// No guess is out that a hit could use: hits need not tell the window.
    pub(crate) window_idle: AtomicBool,
    pub(crate) no_range_eviction: AtomicBool,
    pub(crate) counters: Counters,
    /// What this process has written and the log does not say yet.
    pub(crate) dirty: Mutex<Runs>,
    pub(crate) log: Mutex<Log>,
    /// A thread that takes everything from a source that gives no parts.
    pub(crate) streaming: AtomicBool,
    /// Who is told what is read.
    pub(crate) recorder: OnceLock<BlobRecorder>,
}

impl fmt::Debug for BlobInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("id", &self.id)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Blob {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &BlobId {
        &self.inner.id
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    /// Fills `buf` from `offset` on; waits for what is not present as long as `demand` allows.
    pub fn read_exact_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        demand: &Demand,
    ) -> Result<(), StoreError> {
        let inner = &self.inner;
        let range = inner.range(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        inner.record(&range, demand);
        if inner.read_present(buf, &range)? {
            inner.hit(&range);
            return Ok(());
        }
        let start = Instant::now();
        let result = BlobInner::read_missing(inner, buf, &range, demand, start);
        inner.counters.wait(start.elapsed());
        result
    }

    /// As [`Blob::read_exact_at`], into several buffers one after the other.
    pub fn read_vectored_exact_at(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
        demand: &Demand,
    ) -> Result<(), StoreError> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.inner.range(offset, len)?;
        let mut at = offset;
        for buf in bufs {
            self.read_exact_at(buf, at, demand)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Fetches what is missing of `range`. With a policy that allows the eviction of ranges what is
    /// present now may be gone a moment later; without, it stays as long as the blob is in use.
    pub fn ensure(&self, range: Range<u64>, demand: &Demand) -> Result<(), StoreError> {
        let len = range.end.saturating_sub(range.start);
        let range = self.inner.range(range.start, len)?;
        if range.is_empty() {
            return Ok(());
        }
        self.inner.record(&range, demand);
        if self.inner.map.bits().all(grains_of(&range)) {
            self.inner.hit(&range);
            return Ok(());
        }
        let start = Instant::now();
        count(&self.inner.counters.misses, 1);
        let result = BlobInner::fill_read(&self.inner, &range, None, demand, start);
        self.inner.counters.wait(start.elapsed());
        result
    }

    /// Fetches what is missing of `range`, and not a byte more: what somebody has planned.
    pub fn fill(&self, range: Range<u64>, demand: &Demand) -> Result<(), StoreError> {
        let len = range.end.saturating_sub(range.start);
        let range = self.inner.range(range.start, len)?;
        if range.is_empty() {
            return Ok(());
        }
        BlobInner::fill(&self.inner, &range, demand, Instant::now())
    }

    /// Whether all of `range` is present.
    pub fn is_present(&self, range: Range<u64>) -> bool {
        range.end <= self.inner.size && self.inner.map.bits().all(grains_of(&range))
    }

    /// What is present, in bytes and in order.
    pub fn presence(&self) -> Vec<Range<u64>> {
        self.inner.runs(0..self.inner.size, true)
    }

    /// What is missing of `range`, in bytes and in order, of whole grains.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.inner.runs(range, false)
    }

    /// The file that holds what is present, at its place, and zeros elsewhere. For those who let the
    /// kernel read it after [`Blob::ensure`]; they must have said so in the blob's policy.
    pub fn data_file(&self) -> &File {
        &self.inner.files.data
    }

    /// Where the bytes come from.
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// What happened since it was opened.
    pub fn stats(&self) -> BlobStats {
        self.inner.stats()
    }

    /// What happened to its digest table, if it was needed.
    pub fn table_stats(&self) -> Option<TableStats> {
        crate::cache::lock(&self.inner.table).as_ref().map(|table| table.stats())
    }

    /// Lets `recorder` know from now on what readers read, fetched or not. Once for each opened blob;
    /// whether this was the first time.
    pub fn record(&self, recorder: BlobRecorder) -> bool {
        self.inner.recorder.set(recorder).is_ok()
    }

    /// Fetches nothing of `ranges` because something near was read: readers are likely to have it from
    /// elsewhere. Who does ask for it gets it. Takes the place of what was told before.
    pub fn leave_out(&self, ranges: &[Range<u64>]) {
        crate::cache::lock(&self.inner.window).leave_out(ranges);
    }

    /// Makes what is present durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.commit()
    }
}

impl Fill for Blob {
    fn size(&self) -> u64 {
        self.inner.size
    }

    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        Self::missing(self, range)
    }

    fn fill(&self, range: Range<u64>, demand: &Demand) -> Result<(), FillError> {
        Self::fill(self, range, demand).map_err(|error| match error {
            StoreError::Cancelled { .. } => FillError::Cancelled,
            StoreError::NoSpace { .. } => FillError::Pressure,
            error => FillError::Failed(error.to_string()),
        })
    }

    fn prepare(&self, ranges: &[Range<u64>], demand: &Demand) {
        self.inner.prepare(ranges, demand);
    }
}

impl BlobInner {
    pub(crate) fn stats(&self) -> BlobStats {
        let bits = self.map.bits();
        let present = (bits.ones(0..bits.count()) * GRAIN).min(self.size);
        self.counters.snapshot(present)
    }

    #[inline]
    fn record(&self, range: &Range<u64>, demand: &Demand) {
        if let Some(recorder) = self.recorder.get()
            && demand.priority == Priority::Demand
        {
            recorder.touch(range);
        }
    }

    fn range(&self, offset: u64, len: u64) -> Result<Range<u64>, StoreError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(offset..end),
            _ => {
                let (blob, size) = (self.id.clone(), self.size);
                Err(StoreError::Range { blob, offset, len, size })
            }
        }
    }

    fn runs(&self, range: Range<u64>, set: bool) -> Vec<Range<u64>> {
        let bits = self.map.bits();
        bits.runs(grains_of(&range), set).map(|run| bytes_of(&run, self.size)).collect()
    }

    /// Reads what is present; whether it was.
    #[inline]
    fn read_present(&self, buf: &mut [u8], range: &Range<u64>) -> Result<bool, StoreError> {
        let grains = grains_of(range);
        loop {
            let generation = self.map.generation();
            if !self.map.bits().all(grains.clone()) {
                return Ok(false);
            }
            let read = self.files.data.read_exact_at(buf, range.start);
            if self.map.is_same(generation) {
                return match read {
                    Ok(()) => Ok(true),
                    // Somebody has cut the file. It is fetched again, and not kept.
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
                    Err(error) => Err(StoreError::io(&self.id, "read the data")(error)),
                };
            }
        }
    }

    fn hit(self: &Arc<Self>, range: &Range<u64>) {
        count(&self.counters.hits, 1);
        self.map.touch(range, self.cache.epoch());
        if !self.window_idle.load(Ordering::Relaxed) {
            self.plan(range);
        }
    }

    fn read_missing(
        this: &Arc<Self>,
        buf: &mut [u8],
        range: &Range<u64>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        count(&this.counters.misses, 1);
        let mut hand = Hand::new(buf, range.start);
        for _ in 0..TRIES_MAX {
            match Self::fill_read(this, &hand.rest(), Some(&mut hand), demand, start) {
                Err(StoreError::NoSpace { .. }) => break,
                result => result?,
            }
            // What others fetched, or was there before.
            let rest = hand.rest();
            if rest.is_empty() || this.read_present(hand.room(), &rest)? {
                this.map.touch(range, this.cache.epoch());
                return Ok(());
            }
        }
        let rest = hand.rest();
        this.read_uncached(hand.room(), &rest, demand, start)
    }
}

impl Drop for BlobInner {
    fn drop(&mut self) {
        if let Err(error) = self.commit() {
            // Not lost for readers, only for the time after a loss of power.
            self.cache.note(&error);
        }
        self.files.touch();
        self.cache.closing(&self.stats());
    }
}

/// How a blob is to be treated by this process from now on: the stricter wish holds.
pub(crate) fn apply(blob: &BlobInner, policy: Policy) -> Result<(), StoreError> {
    // The evictor of this process looks at the mark under the same lock.
    let _log = crate::cache::lock(&blob.log);
    if !policy.range_eviction && !blob.no_range_eviction.swap(true, Ordering::SeqCst) {
        blob.files.forbid_range_eviction(&blob.id)?;
    }
    Ok(())
}
