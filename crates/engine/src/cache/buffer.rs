// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers of decoded bytes, and a few kept for the next decode.

use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a page: the unit in which use is noted and hot data is kept.
pub(crate) const PAGE: usize = 4096;

/// Decoded bytes from the start of an extent on. Its buffer goes back to the pool in the end.
#[derive(Debug)]
pub(crate) struct Decoded {
    buffer: Vec<u8>,
    len: usize,
    /// Offset of the extent in the page of its file: pages are cut where the file's are.
    phase: u16,
    /// One bit for each page that was wanted.
    touched: Box<[AtomicU64]>,
    /// End of what was wanted last.
    next: AtomicUsize,
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

    /// Memory it takes.
    pub(crate) fn weight(&self) -> u64 {
        (self.buffer.len() + self.touched.len() * 8 + 160) as u64
    }

    pub(crate) const fn phase(&self) -> u16 {
        self.phase
    }

    /// Notes that bytes of `range` were wanted. True if they go on where the last ones ended, and to
    /// the end: the extent was read from front to back, as one that is wanted whole.
    pub(crate) fn touch(&self, range: &Range<usize>) -> bool {
        for page in page_range(self.phase, range) {
            if let Some(word) = self.touched.get(page as usize / 64) {
                word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
        }
        let before = self.next.swap(range.end, Ordering::Relaxed);
        range.end == self.len && range.start > 0 && before == range.start
    }

    /// Pages that were wanted, if they are the smaller part: what was read whole by and by has been
    /// delivered and is not hot.
    pub(crate) fn sparse_pages(&self) -> Vec<u32> {
        let total = page_range(self.phase, &(0..self.len)).end;
        let bit = |page: &u32| {
            let word = self.touched.get(*page as usize / 64);
            word.is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
        };
        let pages: Vec<u32> = (0..total).filter(bit).collect();
        if pages.len() * 2 > total as usize && total > 2 { Vec::new() } else { pages }
    }

    /// The pages at both ends, as far as they are not whole.
    pub(crate) fn end_pages(&self) -> impl Iterator<Item = u32> + use<> {
        let all = page_range(self.phase, &(0..self.len));
        let first = (self.phase > 0).then_some(all.start);
        let last = all
            .end
            .checked_sub(1)
            .filter(|last| page_bytes(self.phase, *last).end > self.len && first != Some(*last));
        first.into_iter().chain(last)
    }

    /// Bytes of a page, in this buffer.
    pub(crate) fn page(&self, page: u32) -> &[u8] {
        let range = page_bytes(self.phase, page);
        &self[range.start.min(self.len)..range.end.min(self.len)]
    }
}

/// The pages of an extent with `phase` that `range` of it touches.
pub(crate) fn page_range(phase: u16, range: &Range<usize>) -> Range<u32> {
    let phase = usize::from(phase);
    // Extents are at most 12 MiB.
    ((range.start + phase) / PAGE) as u32..(range.end + phase).div_ceil(PAGE) as u32
}

/// The bytes of an extent with `phase` that make a page; the last page may end before.
pub(crate) fn page_bytes(phase: u16, page: u32) -> Range<usize> {
    let phase = usize::from(phase);
    let start = page as usize * PAGE;
    start.saturating_sub(phase)..start + PAGE - phase
}

impl Drop for Decoded {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

/// Encoded bytes of a pcluster. Their buffer goes back to the pool in the end, too.
#[derive(Debug)]
pub(crate) struct Raw {
    buffer: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Raw {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    /// Memory it takes.
    pub(crate) fn weight(&self) -> u64 {
        self.buffer.len() as u64 + 160
    }
}

impl Drop for Raw {
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
    /// A buffer for `len` bytes of an extent that begins `phase` bytes behind a page of its file.
    pub(crate) fn buffer(pool: &Arc<Self>, len: usize, phase: u16) -> Decoded {
        let words = page_range(phase, &(0..len)).end.div_ceil(64) as usize;
        Decoded {
            buffer: pool.take(len),
            len,
            phase,
            touched: (0..words).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
            pool: Arc::clone(pool),
        }
    }

    /// A buffer for `len` encoded bytes.
    pub(crate) fn raw(pool: &Arc<Self>, len: usize) -> Raw {
        Raw { buffer: pool.take(len), len, pool: Arc::clone(pool) }
    }

    fn take(&self, len: usize) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A buffer much too large would waste the cache's budget without its knowing. The one that was
        // used last is most likely to be in the processor's cache still.
        let found = free.iter().rposition(|buffer| buffer.len() >= len && buffer.len() / 2 <= len);
        let found = found.map(|index| free.remove(index));
        drop(free);
        found.unwrap_or_else(|| vec![0; len])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= POOL_BUFFERS_MAX {
            // The oldest goes, so that the pool follows the sizes in use.
            free.remove(0);
        }
        free.push(buffer);
    }

    pub(crate) fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let pool = Pool::default();
        pool.put(vec![7; 1000]);
        assert!(pool.take(400).iter().all(|&byte| byte == 0), "far too large: a fresh one");
        assert_eq!(pool.take(800).len(), 1000);
    }

    #[test]
    fn pages_are_those_of_the_file() {
        // The extent begins 4000 bytes behind a page, so its first page has 96 bytes.
        assert_eq!(page_range(4000, &(0..96)), 0..1);
        assert_eq!(page_range(4000, &(95..97)), 0..2);
        assert_eq!(page_bytes(4000, 0), 0..96);
        assert_eq!(page_bytes(4000, 1), 96..4192);
        let pool = Arc::default();
        let mut decoded = Pool::buffer(&pool, 20_000, 4000);
        for (index, byte) in decoded.bytes_mut().iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        assert!(!decoded.touch(&(100..200)));
        assert!(!decoded.touch(&(96..4192)));
        assert_eq!(decoded.sparse_pages(), [1]);
        assert_eq!(decoded.page(1), &decoded[96..4192]);
        assert_eq!(decoded.page(5), &decoded[16_480..]);
        assert!(decoded.touch(&(4192..20_000)), "read through");
        assert!(!decoded.touch(&(0..20_000)));
        assert_eq!(decoded.sparse_pages(), [0; 0], "all of it: a stream, not a hot spot");
    }

    #[test]
    fn ends_are_pages_that_are_not_whole() {
        let pool = Arc::default();
        let ends = |len, phase| Pool::buffer(&pool, len, phase).end_pages().collect::<Vec<_>>();
        assert_eq!(ends(8192, 0), [0; 0]);
        assert_eq!(ends(8193, 0), [2]);
        assert_eq!(ends(8192, 1), [0, 2]);
        assert_eq!(ends(8191, 1), [0]);
        assert_eq!(ends(100, 1), [0], "once");
        assert_eq!(ends(100, 0), [0]);
    }
}
