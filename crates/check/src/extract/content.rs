// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content of regular files: what is stored is read in pieces that end where extents end, so that
//! each pcluster is decoded once and straight into the buffer, and written where it belongs.

use super::problem::Failure;
use super::walk::Job;
use ferrofs_engine::OpenFile;
use ferrofs_image::Source;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// A piece read at once ends with the extent that passes this length.
const PIECE: u64 = 1 << 20;
/// One step of a large file: what a thread does before others may.
pub(super) const STEP: u64 = 8 << 20;
/// Extents looked at in one step, so that one of many small ones ends, too.
const STEP_EXTENTS: u32 = 65_536;
/// Blocks of zeros of this size become holes.
const ZERO_BLOCK: usize = 64 << 10;

/// A run of bytes to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    start: u64,
    len: u64,
}

impl Segment {
    /// Offset behind it.
    pub(super) const fn end(&self) -> u64 {
        self.start + self.len
    }
}

impl Job<'_> {
    /// Finds what is stored from `start` on, up to about [`STEP`] bytes; returns where it stopped.
    /// Holes are passed over.
    pub(super) fn plan(
        &self,
        file: &OpenFile,
        start: u64,
        segments: &mut Vec<Segment>,
    ) -> ferrofs_image::Result<u64> {
        segments.clear();
        let mut cursor = file.map().cursor(self.image());
        let (mut offset, mut stored, mut holes) = (start, 0u64, 0u64);
        let mut extents = 0u32;
        while offset < file.size() && stored < STEP && extents < STEP_EXTENTS {
            let extent = cursor.extent_at(offset)?;
            extents += 1;
            // The first extent may have begun before: a plain one that was cut.
            let mut len = extent.end() - offset;
            if extent.source == Source::Hole {
                holes = holes.saturating_add(len);
                offset += len;
                continue;
            }
            let encoded = extent.is_encoded();
            if !encoded {
                // Bytes that are not decoded can be cut anywhere.
                len = len.min(PIECE);
            }
            match segments.last_mut() {
                Some(last) if last.end() == offset && last.len + len <= PIECE => {
                    last.len += len;
                }
                _ => segments.push(Segment { start: offset, len }),
            }
            offset += len;
            stored += len;
        }
        self.totals.hole_bytes.fetch_add(holes, Ordering::Relaxed);
        Ok(offset)
    }

    /// Copies what was planned. `sparse`: zeros become holes; the file has its size already.
    pub(super) fn copy(
        &self,
        file: &OpenFile,
        target: &File,
        segments: &[Segment],
        sparse: bool,
        buf: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        for segment in segments {
            if self.is_stopped() {
                return Err(Failure::Stopped);
            }
            self.count_bytes(segment.len)?;
            // At most 12 MiB, the largest extent.
            let len = segment.len as usize;
            if buf.len() < len {
                buf.resize(len, 0);
            }
            let piece = &mut buf[..len];
            let count = self.engine.read_into(file, segment.start, piece)?;
            if count != len {
                return Err(Failure::Short { offset: segment.start + count as u64 });
            }
            if sparse && len >= ZERO_BLOCK {
                write_sparse(target, piece, segment.start)?;
            } else {
                target.write_all_at(piece, segment.start)?;
            }
            self.context.bytes(segment.len);
        }
        Ok(())
    }
}

/// Writes all but blocks of zeros.
fn write_sparse(target: &File, bytes: &[u8], start: u64) -> std::io::Result<()> {
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + ZERO_BLOCK).min(bytes.len());
        if is_zero(&bytes[at..end]) {
            if from < at {
                target.write_all_at(&bytes[from..at], start + from as u64)?;
            }
            from = end;
        }
        at = end;
    }
    if from < bytes.len() {
        target.write_all_at(&bytes[from..], start + from as u64)?;
    }
    Ok(())
}

/// Stops at the first byte that is not zero in all but artificial content.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
        && bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_become_holes_and_read_as_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0u8; 5 * ZERO_BLOCK + 100];
        bytes[2 * ZERO_BLOCK + 5] = 7;
        bytes[5 * ZERO_BLOCK + 99] = 9;
        file.set_len(bytes.len() as u64).unwrap();
        write_sparse(&file, &bytes, 0).unwrap();
        let mut back = vec![];
        std::io::Read::read_to_end(&mut file, &mut back).unwrap();
        assert!(back == bytes);
        assert!(is_zero(&[0; 65]));
        assert!(!is_zero(&[0, 1]));
    }
}
