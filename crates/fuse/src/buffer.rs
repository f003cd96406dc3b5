// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room to make long answers in.
//!
//! [`PageBuffer`] is a page-aligned byte buffer that grows to a bound and is reused;
//! [`Payload`] is memory that the kernel reads the answer from.
//!
//! Aligned because the kernel copies a reply page by page: data that starts at a page boundary
//! needs one copy for each page of the page cache instead of two.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const PAGE_LEN: usize = 4096;

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_LEN]);

/// Where the body of a long answer is made.
pub(crate) trait Room {
    /// The first `len` bytes, with whatever an earlier use left in them; empty if there is not so
    /// much room. The caller bounds `len`.
    fn get(&mut self, len: usize) -> &mut [u8];

    /// The first `len` bytes as they are; empty if `len` was never asked for.
    fn bytes(&self, len: usize) -> &[u8];
}

/// The buffer. Starts empty, so that a thread which never reads data costs nothing.
#[derive(Default)]
pub(crate) struct PageBuffer {
    pages: Vec<Page>,
}

impl std::fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageBuffer").field("pages", &self.pages.len()).finish()
    }
}

impl Room for PageBuffer {
    fn get(&mut self, len: usize) -> &mut [u8] {
        let wanted = len.div_ceil(PAGE_LEN);
        if self.pages.len() < wanted {
            // Replaced, not extended: what was in it is not needed and need not be copied. Zeroed
            // by the allocator, so that pages which are never used need no memory.
            self.pages = Vec::new();
            self.pages = Page::new_vec_zeroed(wanted).unwrap_or_default();
        }
        self.pages.as_mut_slice().as_mut_bytes().get_mut(..len).unwrap_or_default()
    }

    fn bytes(&self, len: usize) -> &[u8] {
        self.pages.as_slice().as_bytes().get(..len).unwrap_or_default()
    }
}

/// Room of a fixed size that belongs to somebody else.
#[derive(Debug)]
pub(crate) struct Payload<'a>(pub(crate) &'a mut [u8]);

impl Room for Payload<'_> {
    fn get(&mut self, len: usize) -> &mut [u8] {
        self.0.get_mut(..len).unwrap_or_default()
    }

    fn bytes(&self, len: usize) -> &[u8] {
        self.0.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_aligned() {
        let mut buffer = PageBuffer::default();
        assert!(buffer.bytes(1).is_empty());
        for len in [1, 4096, 4097, 100_000, 5] {
            let bytes = buffer.get(len);
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes.as_ptr() as usize % PAGE_LEN, 0);
            bytes.fill(7);
            assert_eq!(buffer.bytes(len), vec![7; len]);
        }
    }
}
