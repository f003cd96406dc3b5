// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a copy.

use super::tails::{DIGEST_LEN, FRAME, TAIL_MAX, Tail, emit};
use super::{COPIED_MAX, GRAIN_MIN, MAGIC, PIECE_MAX, PIECES_MAX, VERSION};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A multiple of all usual groups, so that pieces need few digests; so small that a reader who wants a page
/// of it waits hardly longer than for the page (one of metadata has 45 KB here, encoded).
const PIECE: u64 = 256 << 10;
/// A level that packs metadata nearly as well as the highest, at 30 MB/s.
const LEVEL: i32 = 9;

/// Makes the copy of some ranges of a blob, the first ones if they are too many: what is to be written
/// behind its table. `tails`, in order, are left out of pieces as far as they lie in what is copied, and
/// put behind each. Empty if it would save nothing.
///
/// # Errors
/// If the blob cannot be read.
pub fn make_copy(blob: &File, ranges: &[Range<u64>], tails: &[Tail]) -> io::Result<Vec<u8>> {
    let size = blob.metadata()?.len();
    let (mut index, mut pieces) = (Vec::new(), Vec::new());
    let (mut count, mut left): (u16, u64) = (0, COPIED_MAX);
    let mut raw = Vec::new();
    for range in ranges {
        let mut at = range.start.next_multiple_of(GRAIN_MIN);
        let end = if range.end >= size { size } else { range.end / GRAIN_MIN * GRAIN_MIN };
        while at < end && usize::from(count) < PIECES_MAX && left > 0 {
            let piece_end = (at / PIECE * PIECE).saturating_add(PIECE).min(end).min(at + left);
            left -= piece_end - at;
            raw.resize(usize::try_from(piece_end - at).unwrap_or_default(), 0);
            blob.read_exact_at(&mut raw, at)?;
            let piece = Encoded::new(&(at..piece_end), &mut raw, tails)?;
            // What hardly shrinks is as well fetched from the blob.
            if piece.body.len() < raw.len() / 8 * 7 {
                index.extend_from_slice(&at.to_le_bytes());
                for len in [raw.len(), piece.body.len(), piece.list_len, piece.frames.len()] {
                    index.extend_from_slice(&(len as u32).to_le_bytes());
                }
                pieces.extend_from_slice(&piece.body);
                pieces.extend_from_slice(&piece.frames);
                count += 1;
            }
            at = piece_end;
        }
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut copy = MAGIC.to_vec();
    copy.extend_from_slice(&VERSION.to_le_bytes());
    copy.extend_from_slice(&count.to_le_bytes());
    copy.extend_from_slice(&[0; 4]);
    copy.append(&mut index);
    copy.append(&mut pieces);
    Ok(copy)
}

/// A piece as it is written.
struct Encoded {
    body: Vec<u8>,
    /// Bytes of the list at the body's end, decoded.
    list_len: usize,
    frames: Vec<u8>,
}

impl Encoded {
    /// `raw` is what the blob has there; its tails are blanked.
    fn new(piece: &Range<u64>, raw: &mut [u8], tails: &[Tail]) -> io::Result<Self> {
        let mut ends = Ends::default();
        for tail in inside(piece, tails) {
            let bytes = tail.bytes(piece, raw);
            ends.add(&tail, bytes)?;
            bytes.fill(0);
        }
        let (list, frames) = ends.finish(piece.start)?;
        debug_assert!(list.len() as u64 <= PIECE_MAX, "{}", list.len());
        let body = encode(&[&*raw, &list].concat())?;
        Ok(Self { body, list_len: list.len(), frames })
    }
}

fn encode(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    zstd_safe::compress(&mut encoded, raw, LEVEL)
        .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
    Ok(encoded)
}

/// The tails that can be left out of a piece.
fn inside(piece: &Range<u64>, tails: &[Tail]) -> Vec<Tail> {
    let first = tails.partition_point(|tail| tail.range.start < piece.start);
    let mut before = piece.start;
    let mut found = Vec::new();
    for Tail { range, digest_at } in &tails[first..] {
        if range.end > piece.end {
            break;
        }
        let len = range.end.saturating_sub(range.start);
        if range.start < before || len == 0 || len > TAIL_MAX {
            continue;
        }
        let is_here = |at: &u64| *at >= before && at.saturating_add(DIGEST_LEN) <= range.start;
        found.push(Tail { range: range.clone(), digest_at: digest_at.filter(is_here) });
        before = range.end;
    }
    found
}

/// What was left out of a piece.
#[derive(Default)]
struct Ends {
    /// With how many before it each has the bytes of another one, or 0.
    list: Vec<(Tail, u64)>,
    /// Which tail had these bytes first.
    met: HashMap<[u8; 32], usize>,
    /// Of the frame that is filled.
    raw: Vec<u8>,
    frames: Vec<(usize, usize)>,
    encoded: Vec<u8>,
}

impl Ends {
    fn add(&mut self, tail: &Tail, bytes: &[u8]) -> io::Result<()> {
        let next = self.list.len();
        let first = *self.met.entry(*blake3::hash(bytes).as_bytes()).or_insert(next);
        self.list.push((tail.clone(), (next - first) as u64));
        if first == next {
            self.raw.extend_from_slice(bytes);
        }
        if self.raw.len() >= FRAME { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            let encoded = encode(&self.raw)?;
            self.frames.push((encoded.len(), self.raw.len()));
            self.encoded.extend_from_slice(&encoded);
            self.raw.clear();
        }
        Ok(())
    }

    /// The list, and all frames; empty if nothing was left out of the piece, which begins at `start`.
    fn finish(mut self, start: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
        self.end_frame()?;
        if self.list.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        Ok((emit(start, &self.list, &self.frames), self.encoded))
    }
}
