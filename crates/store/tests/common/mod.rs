// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs and a source in memory that can do everything wrong.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(unreachable_pub, reason = "a module of several tests")]

use ferrofs_store::{
    Algorithm, BlobSpec, Cache, CacheConfig, FetchContext, FetchError, FetchErrorKind, Geometry,
    Identity, Limits, Origin, OriginConfig, RangeSource, Sink, SystemClock, TableBuilder,
    TableSpec, Thresholds,
};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes that no two places have in common.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// What goes wrong, each in so many of 1000 requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub error: u32,
    pub short: u32,
    pub wrong: u32,
    pub whole: u32,
    pub delay: u32,
}

/// A source in memory.
#[derive(Debug)]
pub struct Memory {
    pub bytes: Vec<u8>,
    pub faults: Mutex<Faults>,
    pub random: Mutex<fastrand::Rng>,
    pub requests: AtomicU64,
    pub served: AtomicU64,
    pub delay: Mutex<Duration>,
    /// Every range that was asked for.
    pub asked: Mutex<Vec<Range<u64>>>,
}

impl Memory {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            faults: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(1)),
            requests: AtomicU64::new(0),
            served: AtomicU64::new(0),
            delay: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.random.lock().unwrap().u32(0..1000) < per_mille
    }
}

impl RangeSource for Memory {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn identity(&self, _: &FetchContext) -> Result<Identity, FetchError> {
        Ok(Identity { size: self.bytes.len() as u64, validator: Some("one".into()) })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().unwrap().push(range.clone());
        let faults = *self.faults.lock().unwrap();
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        if self.happens(faults.delay) {
            std::thread::sleep(Duration::from_millis(3));
        }
        if self.happens(faults.error) {
            return Err(FetchError::new(FetchErrorKind::Unreachable, "memory: no connection"));
        }
        let total = self.bytes.len() as u64;
        let whole = self.happens(faults.whole);
        let mut range = if whole { 0..total } else { range };
        let wrong = !context.fresh && self.happens(faults.wrong);
        let is_short = self.happens(faults.short);
        if is_short {
            range.end = range.start + (range.end - range.start) / 2;
        }
        if sink.begin(range.start, Some(total)).is_err() {
            return Ok(());
        }
        let mut at = range.start as usize;
        while at < range.end as usize {
            let room = sink.room();
            let len = room.len().min(range.end as usize - at);
            room[..len].copy_from_slice(&self.bytes[at..at + len]);
            if wrong {
                room[len / 2] ^= 1;
            }
            self.served.fetch_add(len as u64, Ordering::Relaxed);
            at += len;
            if sink.filled(len).is_err() {
                return Ok(());
            }
        }
        if is_short {
            return Err(FetchError::new(FetchErrorKind::Length, "memory: ended early"));
        }
        Ok(())
    }
}

/// An origin that tries again at once, and always.
pub fn origin(source: &Arc<Memory>) -> Origin {
    let config = OriginConfig {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        breaker_failures: 1 << 20,
        ..OriginConfig::default()
    };
    let limits = Arc::new(Limits::default());
    Origin::with(vec![], source.clone(), config, limits, Arc::new(SystemClock))
}

/// A blob of this source with a digest table of the usual shape.
pub fn spec(source: &Arc<Memory>) -> BlobSpec {
    let size = source.bytes.len() as u64;
    let geometry = Geometry::new(Algorithm::Blake3);
    let built = TableBuilder::new(geometry).unwrap().build(&source.bytes[..]).unwrap();
    let table = TableSpec::Pinned { pin: built.pin(), source: Memory::new(built.to_bytes()) };
    BlobSpec { size: Some(size), table, ..BlobSpec::new(origin(source)) }
}

pub fn cache(path: &Path) -> Cache {
    Cache::open(config(path)).unwrap()
}

/// Keeps what it gets on a nearly full disk, too: the machine's free space is not what is tested.
pub fn config(path: &Path) -> CacheConfig {
    let low = Thresholds { run: 2, cull: 1, stop: 0 };
    CacheConfig { blocks: low, files: low, ..CacheConfig::new(path) }
}
