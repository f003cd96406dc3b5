// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cuts files in every way, and counts what is new of it.
//!
//! Invariant: a window of a file and at most one chunk in front of it are in memory for each thread,
//! and 16 bytes for each different piece.

use super::trees::{Claim, Content, Tree};
use super::{EstimateOptions, TreeFacts, check_cancel};
use crate::Result;
use fastcdc::v2020::FastCDC;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;
const FIXED: usize = 64 << 10;
/// Average lengths of content-defined chunks; the least is a quarter, the greatest four times that.
const AVERAGES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// Of a file in memory; a multiple of the others.
const WINDOW: usize = 4 << 20;
/// Shorter holes are read.
const HOLE_MIN: u64 = 1 << 20;

/// Ways of sharing, and whether they count pages.
pub(super) const METHODS: [(&str, bool); 6] = [
    ("whole", true),
    ("page4k", true),
    ("fix64k", true),
    ("cdc4k", false),
    ("cdc16k", false),
    ("cdc64k", false),
];
const WHOLE: usize = 0;
const PAGES: usize = 1;
const CHUNKS: usize = 2;
const DEFINED: usize = 3;

/// Unique bytes of each way.
pub(super) type Totals = [u64; METHODS.len()];

/// Half of a BLAKE3 hash: nobody finds two pieces that share it.
type Key = [u8; 16];

fn key(bytes: &[u8]) -> Key {
    first_half(&blake3::hash(bytes))
}

fn first_half(hash: &blake3::Hash) -> Key {
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn in_pages(bytes: u64) -> u64 {
    bytes.saturating_add(PAGE as u64 - 1) / PAGE as u64 * PAGE as u64
}

/// Different pieces, and their bytes.
#[derive(Debug, Default)]
struct Pieces {
    known: Mutex<HashSet<Key>>,
    bytes: AtomicU64,
}

impl Pieces {
    /// Adds pieces with their lengths; gives how many are new.
    fn add(&self, pieces: &[(Key, u64)]) -> usize {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (key, len) in pieces {
            if known.insert(*key) {
                count += 1;
                self.bytes.fetch_add(*len, Ordering::Relaxed);
            }
        }
        count
    }
}

/// What was seen so far, of all trees.
#[derive(Debug)]
pub(super) struct Counter {
    zeros: Zeros,
    pieces: [Pieces; METHODS.len()],
    claims: Mutex<HashSet<(Claim, u64)>>,
}

/// Memory of one thread, used again for each file.
#[derive(Debug, Default)]
pub(super) struct Work {
    buf: Vec<u8>,
    found: [Vec<(Key, u64)>; METHODS.len()],
}

/// The hash of a file, by its chunks. Zeros count the same, stored or not.
#[derive(Debug, Default)]
struct Whole {
    hash: blake3::Hasher,
    zeros: u64,
}

impl Whole {
    fn chunk(&mut self, key: &Key, zero_chunks: u64) {
        if zero_chunks > 0 {
            self.zeros += zero_chunks;
            return;
        }
        self.settle();
        self.hash.update(b"c");
        self.hash.update(key);
    }

    fn settle(&mut self) {
        if self.zeros > 0 {
            self.hash.update(b"z");
            self.hash.update(&self.zeros.to_le_bytes());
            self.zeros = 0;
        }
    }

    fn end(mut self, size: u64) -> Key {
        self.settle();
        self.hash.update(b"e");
        self.hash.update(&size.to_le_bytes());
        first_half(&self.hash.finalize())
    }
}

/// Keys of zeros.
#[derive(Clone, Copy, Debug)]
struct Zeros {
    page: Key,
    chunk: Key,
}

impl Counter {
    pub(super) fn new() -> Self {
        let zeros = vec![0; FIXED];
        Self {
            zeros: Zeros { page: key(&zeros[..PAGE]), chunk: key(&zeros) },
            pieces: Default::default(),
            claims: Mutex::default(),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        std::array::from_fn(|method| self.pieces[method].bytes.load(Ordering::Relaxed))
    }

    /// Reads a file and counts it.
    pub(super) fn file(
        &self,
        tree: &Tree<'_>,
        index: usize,
        options: EstimateOptions<'_>,
        work: &mut Work,
        facts: &mut TreeFacts,
    ) -> Result<()> {
        check_cancel(options)?;
        let content = tree.open(index)?;
        facts.files += 1;
        facts.bytes = facts.bytes.saturating_add(content.size);
        facts.page_bytes = facts.page_bytes.saturating_add(in_pages(content.size));
        if let Some(claim) = content.claim {
            let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever is first reads it; if that fails, there is no result.
            if !claims.insert((claim, content.size)) {
                return Ok(());
            }
        }
        let read = self.content(&content, options, work)?;
        facts.read_bytes = facts.read_bytes.saturating_add(read);
        Ok(())
    }

    /// Gives the bytes that were read.
    fn content(
        &self,
        content: &Content<'_>,
        options: EstimateOptions<'_>,
        work: &mut Work,
    ) -> Result<u64> {
        let zeros = self.zeros;
        let size = content.size;
        let Work { buf, found } = work;
        let room = size.min((WINDOW + 4 * AVERAGES[AVERAGES.len() - 1]) as u64) as usize;
        if buf.len() < room {
            buf.resize(room, 0);
        }
        let mut whole = Whole::default();
        // Where in the buffer the bytes end that chunks are still to be cut from, and where the next
        // chunk of each kind begins.
        let (mut end, mut starts) = (0, [0; AVERAGES.len()]);
        let (mut offset, mut read) = (0, 0);
        while offset < size {
            check_cancel(options)?;
            let data = content.next_data(offset)?.min(size) / FIXED as u64 * FIXED as u64;
            if let Some(hole) = data.checked_sub(offset).filter(|&len| len >= HOLE_MIN) {
                cut(&buf[..end], &mut starts, true, found);
                (end, starts) = (0, [0; AVERAGES.len()]);
                whole.chunk(&zeros.chunk, hole / FIXED as u64);
                found[PAGES].push((zeros.page, PAGE as u64));
                found[CHUNKS].push((zeros.chunk, FIXED as u64));
                offset = data;
                continue;
            }
            let len = (size - offset).min(WINDOW as u64) as usize;
            let window = &mut buf[end..end + len];
            content.read(offset, window)?;
            if let Some(progress) = options.progress {
                progress(len as u64);
            }
            chunks(window, zeros, &mut whole, &mut found[CHUNKS]);
            (offset, read) = (offset + len as u64, read + len as u64);
            if offset == size && len as u64 == size {
                // All of the file is here: look for it before it is cut finer.
                let piece = (std::mem::take(&mut whole).end(size), in_pages(size));
                if self.pieces[WHOLE].add(&[piece]) == 0 {
                    found.iter_mut().for_each(Vec::clear);
                    return Ok(read);
                }
            }
            pages(window, zeros, &mut found[PAGES]);
            end += len;
            cut(&buf[..end], &mut starts, offset == size, found);
            let done = starts.into_iter().min().unwrap_or(end);
            buf.copy_within(done..end, 0);
            end -= done;
            starts = starts.map(|start| start - done);
            self.settle(found);
        }
        if read != size || size > WINDOW as u64 {
            cut(&buf[..end], &mut starts, true, found);
            self.pieces[WHOLE].add(&[(whole.end(size), in_pages(size))]);
        }
        self.settle(found);
        Ok(read)
    }

    fn settle(&self, found: &mut [Vec<(Key, u64)>; METHODS.len()]) {
        for (pieces, found) in self.pieces.iter().zip(found) {
            if !found.is_empty() {
                pieces.add(found);
                found.clear();
            }
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn chunks(window: &[u8], zeros: Zeros, whole: &mut Whole, found: &mut Vec<(Key, u64)>) {
    for chunk in window.chunks(FIXED) {
        let zero = chunk.len() == FIXED && is_zero(chunk);
        let key = if zero { zeros.chunk } else { key(chunk) };
        whole.chunk(&key, zero.into());
        found.push((key, in_pages(chunk.len() as u64)));
    }
}

fn pages(window: &[u8], zeros: Zeros, found: &mut Vec<(Key, u64)>) {
    for page in window.chunks(PAGE) {
        let key = if is_zero(page) {
            zeros.page
        } else if page.len() == PAGE {
            key(page)
        } else {
            // In memory the rest of a last page is zero.
            let mut whole = [0; PAGE];
            whole[..page.len()].copy_from_slice(page);
            key(&whole)
        };
        found.push((key, PAGE as u64));
    }
}

/// Cuts content-defined chunks, as far as their ends do not depend on bytes that are not here.
fn cut(
    bytes: &[u8],
    starts: &mut [usize; AVERAGES.len()],
    is_end: bool,
    found: &mut [Vec<(Key, u64)>; METHODS.len()],
) {
    for ((average, start), found) in AVERAGES.into_iter().zip(starts).zip(&mut found[DEFINED..]) {
        let cutter = FastCDC::new(bytes, average / 4, average, average * 4);
        while *start < bytes.len() && (is_end || bytes.len() - *start >= average * 4) {
            let (_, end) = cutter.cut(*start, bytes.len() - *start);
            found.push((key(&bytes[*start..end]), (end - *start) as u64));
            *start = end;
        }
    }
}
