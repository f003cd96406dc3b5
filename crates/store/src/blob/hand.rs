// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reader's side of a miss: takes what was fetched for it as it comes, so that it need not be
//! read back from the cache's file.
//!
//! It refuses to know where bytes come from. Invariant: the buffer's first `done` bytes are those
//! of the blob; it is given verified bytes only, and takes them in the order of the blob.

use std::ops::Range;

/// A buffer that waits for bytes of the blob.
#[derive(Debug)]
pub(super) struct Hand<'a> {
    buf: &'a mut [u8],
    /// Where the buffer begins in the blob.
    start: u64,
    done: usize,
}

impl<'a> Hand<'a> {
    /// For the bytes of the blob from `start` on.
    pub(super) const fn new(buf: &'a mut [u8], start: u64) -> Self {
        Self { buf, start, done: 0 }
    }

    /// What it still waits for.
    pub(super) const fn rest(&self) -> Range<u64> {
        self.start + self.done as u64..self.start + self.buf.len() as u64
    }

    /// Where that goes.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buf[self.done..]
    }

    /// Verified bytes at `offset` of the blob: takes of them what comes next, if they have it.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8]) {
        let rest = self.rest();
        let end = rest.end.min(offset.saturating_add(bytes.len() as u64));
        if offset <= rest.start && rest.start < end {
            let from = (rest.start - offset) as usize;
            let count = (end - rest.start) as usize;
            self.buf[self.done..self.done + count].copy_from_slice(&bytes[from..from + count]);
            self.done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_next_is_taken() {
        let mut buf = [0; 4];
        let mut hand = Hand::new(&mut buf, 10);
        hand.take(12, &[3, 4]);
        assert_eq!(hand.rest(), 10..14, "a gap before it");
        hand.take(8, &[8, 9]);
        assert_eq!(hand.rest(), 10..14, "all of it before the buffer");
        hand.take(9, &[9, 1, 2]);
        assert_eq!(hand.rest(), 12..14);
        hand.take(10, &[7, 7]);
        assert_eq!(hand.rest(), 12..14, "taken already");
        hand.take(12, &[3]);
        assert_eq!(hand.room().len(), 1);
        hand.take(11, &[7, 7, 4, 5, 6]);
        assert_eq!(hand.rest(), 14..14);
        hand.take(0, &[7; 64]);
        assert_eq!(buf, [1, 2, 3, 4]);
    }
}
