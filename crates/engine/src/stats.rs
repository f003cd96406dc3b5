// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters and latencies: what an engine has done.

use crate::cache::Caches;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a [`Histogram`]: bucket n counts what took less than 2^n * 256 nanoseconds and not
/// less than half of that; the last one all that took longer.
pub const BUCKETS: usize = 28;

/// How long something took, how often.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// How often, by time; see [`BUCKETS`].
    pub buckets: [u64; BUCKETS],
    /// Sum of all times in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// How often in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of bucket `index`; the last one has none.
    #[must_use]
    pub fn bound(index: usize) -> Option<Duration> {
        (index + 1 < BUCKETS).then(|| Duration::from_nanos(256 << index))
    }

    /// The time that `percent` of all did not exceed: the bound of its bucket. `None` if nothing was
    /// counted, or if it lies in the last bucket.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = (count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            sum += bucket;
            if sum >= wanted {
                return Self::bound(index);
            }
        }
        None
    }
}

#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Times {
    pub(crate) fn note(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let index = (64 - (ns >> 8).leading_zeros()) as usize;
        self.buckets[index.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        let mut histogram =
            Histogram { sum_ns: self.sum_ns.load(Ordering::Relaxed), ..Histogram::default() };
        for (to, from) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        histogram
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What an engine has done since it was made, and what it holds now.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        #[non_exhaustive]
        pub struct EngineStats {
            $($(#[$doc])* pub $name: u64,)*
            /// Bytes of decoded extents in memory now.
            pub extent_cache_bytes: u64,
            /// Bytes of single decoded pages in memory now.
            pub page_cache_bytes: u64,
            /// Bytes of encoded pclusters in memory now.
            pub encoded_cache_bytes: u64,
            /// Limit of the three together.
            pub cache_limit: u64,
            /// The part of the limit that is for encoded pclusters now.
            pub encoded_share: u64,
            /// Time of whole requests.
            pub request_time: Histogram,
            /// Time of single reads of devices.
            pub device_time: Histogram,
            /// Time of single decodes.
            pub decode_time: Histogram,
            /// Time of waiting for other readers' decodes.
            pub wait_time: Histogram,
        }

        impl EngineStats {
            /// All counters with their names, for those who print them.
            #[must_use]
            pub fn counters(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
            pub(crate) request_time: Times,
            pub(crate) device_time: Times,
            pub(crate) decode_time: Times,
            pub(crate) wait_time: Times,
        }

        impl Counters {
            $(pub(crate) fn $name(&self, amount: usize) {
                self.$name.fetch_add(amount as u64, Ordering::Relaxed);
            })*

            pub(crate) fn snapshot(&self, caches: &Caches) -> EngineStats {
                let usage = caches.usage();
                EngineStats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    extent_cache_bytes: usage.extents,
                    page_cache_bytes: usage.pages,
                    encoded_cache_bytes: usage.encoded,
                    cache_limit: usage.limit,
                    encoded_share: usage.encoded_share,
                    request_time: self.request_time.snapshot(),
                    device_time: self.device_time.snapshot(),
                    decode_time: self.decode_time.snapshot(),
                    wait_time: self.wait_time.snapshot(),
                }
            }
        }
    };
}

counters! {
    /// Requests that had anything to read.
    requests,
    /// Of these, requests of which a part could not be read.
    failed_requests,
    /// Bytes delivered to callers.
    bytes,
    /// Parts of compressed extents that were wanted: each is a hit, a wait or a claim.
    lookups,
    /// Parts found in a decoded extent.
    extent_hits,
    /// Parts found in decoded pages.
    page_hits,
    /// Parts whose pcluster another reader was decoding.
    waits,
    /// Of these, those that had to try again, because that reader left nothing that helped.
    retries,
    /// Pclusters claimed for decoding. Each ends as a decode or as a failure.
    claims,
    /// Claimed pclusters whose encoded bytes were in memory: no device was read for them.
    encoded_hits,
    /// Reads of devices.
    device_reads,
    /// Bytes read from devices.
    device_bytes,
    /// Encoded bytes decoded where the device has them in memory.
    borrowed_bytes,
    /// Pclusters read together with the one before them.
    merged,
    /// Requests of compressed data that read no device.
    bypassed,
    /// Bytes of stored (not compressed) data read straight into callers' buffers.
    stored_bytes,
    /// Encoded bytes that were read elsewhere than into the caller's buffer or the cache.
    staging_bytes,
    /// Decoded bytes that were copied to get to a caller.
    copied_bytes,
    /// Pclusters decoded.
    decodes,
    /// Bytes decoded.
    decoded_bytes,
    /// Of the decodes, those straight into a caller's buffer.
    direct_decodes,
    /// Of these, those whose encoded bytes were read into the caller's buffer too.
    in_place_decodes,
    /// Decodes of only the head of an extent.
    partial_decodes,
    /// Claimed pclusters that could not be read.
    io_failures,
    /// Claimed pclusters that did not decode.
    decode_failures,
    /// Requests that workers helped with.
    assisted,
    /// Background jobs done.
    background_jobs,
    /// Background jobs refused because too many waited.
    background_refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_again() {
        let times = Times::default();
        for micros in 1..=1000 {
            times.note(Duration::from_micros(micros));
        }
        times.note(Duration::from_secs(3600));
        let histogram = times.snapshot();
        assert_eq!(histogram.count(), 1001);
        let half = histogram.percentile(50.0).unwrap();
        assert!(
            half >= Duration::from_micros(500) && half < Duration::from_micros(1050),
            "{half:?}"
        );
        assert_eq!(histogram.percentile(100.0), None);
        assert_eq!(Histogram::default().percentile(50.0), None);
        times.note(Duration::from_nanos(3));
        assert_eq!(times.snapshot().buckets[0], 1);
    }
}
