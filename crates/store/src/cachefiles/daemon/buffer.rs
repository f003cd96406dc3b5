// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that direct I/O takes.

/// What a page is to direct I/O.
pub(super) const PAGE: usize = 4096;
/// The most that is fetched and written at once.
pub(super) const BUFFER_LEN: usize = 1 << 20;

/// [`BUFFER_LEN`] bytes that begin at a page.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        let bytes = vec![0; BUFFER_LEN + PAGE];
        // Never moves: the vector never grows.
        let start = bytes.as_ptr().addr().next_multiple_of(PAGE) - bytes.as_ptr().addr();
        Self { bytes, start }
    }

    pub(super) fn pages(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BUFFER_LEN]
    }
}
