// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content-defined chunks, each in memory once.
//!
//! A file is decoded by segments, so that a read anywhere decodes a bounded amount. Of a segment stays
//! the list of its chunks; lists and chunks are in one cache with one limit. If a chunk is gone, its
//! segment is decoded again. Invariant: eviction costs time, never bytes, and a segment is decoded by
//! one reader at a time.

use super::{Domain, DomainStats};
use fastcdc::v2020::FastCDC;
use ferrofs_engine::{Engine, OpenFile};
use ferrofs_image::Result;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of a file, decoded at a time.
const SEGMENT: u64 = 4 << 20;
/// Chunks on average; the least is a quarter of that, the greatest four times. With 16 KiB the second
/// image of real pairs took 2 to 17 % more.
const AVERAGE: usize = 8 << 10;
/// What an entry of the cache costs besides its bytes, about.
const OVERHEAD: usize = 160;
/// Each shard has its part of the limit only.
const SHARDS: usize = 4;
/// How often a reader takes a list whose chunks are gone, before it decodes for itself alone.
const TRIES: usize = 3;

/// Bytes by what they are, or a segment of a file by its number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Name {
    Chunk { hash: [u8; 32], len: u32 },
    List { file: u64, segment: u64 },
}

#[derive(Clone, Debug)]
enum Kept {
    Chunk(Arc<[u8]>),
    List(Arc<[Name]>),
}

#[derive(Clone, Copy, Debug)]
struct ByBytes;

impl Weighter<Name, Kept> for ByBytes {
    fn weight(&self, _: &Name, kept: &Kept) -> u64 {
        let bytes = match kept {
            Kept::Chunk(bytes) => bytes.len(),
            Kept::List(names) => size_of_val::<[Name]>(names),
        };
        (bytes + OVERHEAD) as u64
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct Chunks {
    cache: Cache<Name, Kept, ByBytes>,
    files: AtomicU64,
    decoded: AtomicU64,
    new_bytes: AtomicU64,
    equal_bytes: AtomicU64,
}

impl Chunks {
    pub(super) fn new(limit: u64) -> Self {
        let items = usize::try_from(limit / AVERAGE as u64).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(items.clamp(64, 1 << 20));
        options.weight_capacity(limit).shards(SHARDS);
        let options = options.build().unwrap_or_else(|_| unreachable!("both capacities are set"));
        let hasher = DefaultHashBuilder::default();
        let lifecycle = DefaultLifecycle::default();
        Self {
            cache: Cache::with_options(options, ByBytes, hasher, lifecycle),
            files: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            equal_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn add_to(&self, stats: &mut DomainStats) {
        stats.chunk_memory = self.cache.weight();
        stats.chunk_limit = self.cache.capacity();
        stats.segments_decoded = self.decoded.load(Ordering::Relaxed);
        stats.chunk_new_bytes = self.new_bytes.load(Ordering::Relaxed);
        stats.chunk_equal_bytes = self.equal_bytes.load(Ordering::Relaxed);
    }

    /// Cuts a segment and keeps what is new of it; gives its chunks.
    fn keep(&self, segment: &[u8]) -> Arc<[Name]> {
        let (mut new, mut equal) = (0, 0);
        let names = FastCDC::new(segment, AVERAGE / 4, AVERAGE, AVERAGE * 4).map(|chunk| {
            let bytes = &segment[chunk.offset..chunk.offset + chunk.length];
            let hash = *blake3::hash(bytes).as_bytes();
            let name = Name::Chunk { hash, len: bytes.len() as u32 };
            if self.cache.get(&name).is_some() {
                equal += bytes.len() as u64;
            } else {
                self.cache.insert(name, Kept::Chunk(bytes.into()));
                new += bytes.len() as u64;
            }
            name
        });
        let names = names.collect();
        self.new_bytes.fetch_add(new, Ordering::Relaxed);
        self.equal_bytes.fetch_add(equal, Ordering::Relaxed);
        names
    }

    /// Copies bytes of a segment from its chunks, if all that are needed are there.
    fn copy(&self, names: &[Name], start: usize, out: &mut [u8]) -> bool {
        let (mut at, end) = (0, start + out.len());
        for name in names {
            let Name::Chunk { len, .. } = name else { return false };
            let (first, last) = (at, at + *len as usize);
            at = last;
            if last <= start {
                continue;
            }
            if first >= end {
                break;
            }
            let Some(Kept::Chunk(bytes)) = self.cache.get(name) else { return false };
            let (from, to) = (first.max(start), last.min(end));
            out[from - start..to - start].copy_from_slice(&bytes[from - first..to - first]);
        }
        at >= end
    }
}

/// A file that is read through a domain's chunks, by any number of threads.
#[derive(Debug)]
pub struct SharedFile {
    domain: Domain,
    engine: Arc<Engine>,
    file: OpenFile,
    number: u64,
}

impl SharedFile {
    pub(super) fn new(domain: Domain, engine: Arc<Engine>, file: OpenFile) -> Self {
        let number = domain.inner.chunks.files.fetch_add(1, Ordering::Relaxed);
        Self { domain, engine, file, number }
    }

    /// Bytes of content.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.file.size()
    }

    /// Reads content from `offset` on into `buf`; returns how many bytes, less than `buf` holds only
    /// at the end of the file. If part of the range cannot be read, the error of its first such byte
    /// is returned and the content of `buf` is unspecified.
    pub fn read_into(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (segment, start) = (at / SEGMENT, at % SEGMENT);
            let count = (len - done).min((SEGMENT - start) as usize);
            self.read_segment(segment, start as usize, &mut buf[done..done + count])?;
            done += count;
        }
        Ok(len)
    }

    fn read_segment(&self, segment: u64, start: usize, out: &mut [u8]) -> Result<()> {
        let chunks = &self.domain.inner.chunks;
        let name = Name::List { file: self.number, segment };
        for _ in 0..TRIES {
            match chunks.cache.get_value_or_guard(&name, None) {
                GuardResult::Value(Kept::List(names)) => {
                    if chunks.copy(&names, start, out) {
                        return Ok(());
                    }
                    chunks.cache.remove(&name);
                }
                GuardResult::Guard(guard) => {
                    let Some(bytes) = self.decode(segment) else { break };
                    // If it does not fit it is decoded again the next time.
                    let _ = guard.insert(Kept::List(chunks.keep(&bytes)));
                    out.copy_from_slice(&bytes[start..start + out.len()]);
                    return Ok(());
                }
                _ => break,
            }
        }
        // The segment cannot be decoded, or not be kept: only what is wanted, past the pool.
        self.engine.read_into(&self.file, segment * SEGMENT + start as u64, out)?;
        Ok(())
    }

    /// Bytes of a segment, if all of it can be read.
    fn decode(&self, segment: u64) -> Option<Vec<u8>> {
        self.domain.inner.chunks.decoded.fetch_add(1, Ordering::Relaxed);
        let offset = segment * SEGMENT;
        let mut bytes = vec![0; (self.size() - offset).min(SEGMENT) as usize];
        self.engine.read_into(&self.file, offset, &mut bytes).ok()?;
        Some(bytes)
    }
}
