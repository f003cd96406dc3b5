// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened to a blob, and to all of them.

use serde::Serialize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Slots of a histogram of waits: slot N counts waits of 2^N up to 2^(N+1) nanoseconds.
pub const WAIT_SLOTS: usize = 40;

/// Counters of a blob, or of all blobs of a cache, since it was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BlobStats {
    /// Bytes of the blob that came from its sources.
    pub fetched_bytes: u64,
    /// Bytes that readers missed and then got: of whole grains.
    pub wanted_bytes: u64,
    /// Bytes that came and that nobody has read yet: what was fetched beyond what was missed.
    pub wasted_bytes: u64,
    /// Reads of what was present.
    pub hits: u64,
    /// Reads of what was not.
    pub misses: u64,
    /// Misses that another thread's or process' fetch satisfied.
    pub joins: u64,
    /// Requests that were made.
    pub fetches: u64,
    /// Fetches that are under way.
    pub in_flight: u64,
    /// Fetches that failed, after all retries.
    pub failures: u64,
    /// Pieces whose bytes were not those that the digest table tells.
    pub verification_failures: u64,
    /// Bytes that were given out without being kept, for want of room.
    pub uncached_bytes: u64,
    /// Bytes that were evicted while the blob was in use.
    pub evicted_bytes: u64,
    /// Bytes that are present now.
    pub present_bytes: u64,
    /// How long misses took: 2^slot nanoseconds, [`WAIT_SLOTS`] slots.
    pub waits: Vec<u64>,
}

impl BlobStats {
    /// The time (an upper bound: a power of two) within which `percent` of the misses ended.
    #[must_use]
    pub fn wait_percentile(&self, percent: f64) -> Option<Duration> {
        let total: u64 = self.waits.iter().sum();
        let goal = (total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (slot, count) in self.waits.iter().enumerate() {
            sum += count;
            if sum >= goal && total > 0 {
                return Some(Duration::from_nanos(2 << slot));
            }
        }
        None
    }

    /// Adds another blob's.
    pub fn add(&mut self, other: &Self) {
        self.fetched_bytes += other.fetched_bytes;
        self.wanted_bytes += other.wanted_bytes;
        self.wasted_bytes += other.wasted_bytes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.joins += other.joins;
        self.fetches += other.fetches;
        self.in_flight += other.in_flight;
        self.failures += other.failures;
        self.verification_failures += other.verification_failures;
        self.uncached_bytes += other.uncached_bytes;
        self.evicted_bytes += other.evicted_bytes;
        self.present_bytes += other.present_bytes;
        self.waits.resize(self.waits.len().max(other.waits.len()), 0);
        for (slot, count) in other.waits.iter().enumerate() {
            self.waits[slot] += count;
        }
    }
}

/// Counters as they are counted. All relaxed: nothing hangs on their order.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) wanted_bytes: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) joins: AtomicU64,
    pub(crate) fetches: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) verification_failures: AtomicU64,
    pub(crate) uncached_bytes: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    waits: Waits,
}

#[derive(Debug)]
struct Waits([AtomicU32; WAIT_SLOTS]);

impl Default for Waits {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; WAIT_SLOTS])
    }
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn wait(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let slot = (nanos.ilog2() as usize).min(WAIT_SLOTS - 1);
        self.waits.0[slot].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, present_bytes: u64) -> BlobStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (fetched_bytes, wanted_bytes) = (load(&self.fetched_bytes), load(&self.wanted_bytes));
        BlobStats {
            fetched_bytes,
            wanted_bytes,
            wasted_bytes: fetched_bytes.saturating_sub(wanted_bytes),
            hits: load(&self.hits),
            misses: load(&self.misses),
            joins: load(&self.joins),
            fetches: load(&self.fetches),
            in_flight: load(&self.in_flight),
            failures: load(&self.failures),
            verification_failures: load(&self.verification_failures),
            uncached_bytes: load(&self.uncached_bytes),
            evicted_bytes: load(&self.evicted_bytes),
            present_bytes,
            waits: self
                .waits
                .0
                .iter()
                .map(|slot| u64::from(slot.load(Ordering::Relaxed)))
                .collect(),
        }
    }
}
