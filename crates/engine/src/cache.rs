// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoded pclusters in bounded memory, and the buffers they are made in.
//!
//! Invariant: the bytes of all entries never exceed the limit. A value that readers still hold
//! outlives its entry; it is theirs, not the cache's.

use ferrofs_image::{Encoding, Location, Pcluster};
use quick_cache::{Weighter, sync};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a decoded pcluster is known by: equal keys decode to equal bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    location: Location,
    len: u32,
    encoding: Encoding,
}

impl Key {
    pub(crate) const fn new(pcluster: &Pcluster) -> Self {
        Self { location: pcluster.location, len: pcluster.len, encoding: pcluster.encoding }
    }
}

/// Decoded bytes from the start of a pcluster on. Its buffer goes back to the pool in the end.
#[derive(Debug)]
pub(crate) struct Decoded {
    buffer: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Deref for Decoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Decoded {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

/// Free buffers. Large ones come fresh from the kernel page by page otherwise, which costs more
/// than decoding LZ4 into them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

const POOL_BUFFERS_MAX: usize = 8;

impl Pool {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A buffer much too large would waste the cache's budget without its knowing.
        let found = free.iter().position(|buffer| buffer.len() >= len && buffer.len() / 2 <= len);
        let found = found.map(|index| free.swap_remove(index));
        drop(free);
        found.unwrap_or_else(|| vec![0; len])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= POOL_BUFFERS_MAX {
            // The oldest goes, so that the pool follows the sizes in use.
            free.swap_remove(0);
        }
        free.push(buffer);
    }

    fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Clone, Debug)]
struct ByBuffer;

impl Weighter<Key, Arc<Decoded>> for ByBuffer {
    fn weight(&self, _key: &Key, value: &Arc<Decoded>) -> u64 {
        value.buffer.len() as u64 + 128
    }
}

pub(crate) struct Cache {
    entries: sync::Cache<Key, Arc<Decoded>, ByBuffer>,
    pool: Arc<Pool>,
    limit: AtomicU64,
}

impl Cache {
    pub(crate) fn new(limit: u64) -> Self {
        let items = usize::try_from(limit >> 16).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        Self {
            entries: sync::Cache::with_weighter(items, limit, ByBuffer),
            pool: Arc::default(),
            limit: AtomicU64::new(limit),
        }
    }

    /// The decoded bytes of `key` if they are there and at least `need` long.
    pub(crate) fn get(&self, key: &Key, need: usize) -> Option<Arc<Decoded>> {
        self.entries.get(key).filter(|decoded| decoded.len >= need)
    }

    pub(crate) fn insert(&self, key: Key, decoded: Arc<Decoded>) {
        self.entries.insert(key, decoded);
    }

    /// A buffer to decode `len` bytes into.
    pub(crate) fn buffer(&self, len: usize) -> Decoded {
        Decoded { buffer: self.pool.take(len), len, pool: Arc::clone(&self.pool) }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.entries.set_capacity(limit);
    }

    pub(crate) fn clear(&self) {
        self.entries.clear();
        self.pool.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrofs_image::{Algorithm, DeviceAddress};

    fn key(offset: u64) -> Key {
        Key {
            location: Location::Device(DeviceAddress { device: 0, offset }),
            len: 4096,
            encoding: Encoding::Compressed(Algorithm::Lz4),
        }
    }

    #[test]
    fn stays_below_its_limit_and_shrinks() {
        let cache = Cache::new(1 << 20);
        for index in 0..1000 {
            cache.insert(key(index * 4096), Arc::new(cache.buffer(10_000)));
            assert!(cache.bytes() <= 1 << 20, "{}", cache.bytes());
        }
        assert!(cache.bytes() > 1 << 19);
        cache.set_limit(100_000);
        assert!(cache.bytes() <= 100_000, "{}", cache.bytes());
        cache.clear();
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_short_prefix_is_not_enough() {
        let cache = Cache::new(1 << 20);
        cache.insert(key(0), Arc::new(cache.buffer(100)));
        assert!(cache.get(&key(0), 100).is_some());
        assert!(cache.get(&key(0), 101).is_none());
    }

    #[test]
    fn buffers_are_used_again() {
        let pool = Pool::default();
        pool.put(vec![7; 1000]);
        assert!(pool.take(400).iter().all(|&byte| byte == 0), "far too large: a fresh one");
        assert_eq!(pool.take(800).len(), 1000);
    }
}
