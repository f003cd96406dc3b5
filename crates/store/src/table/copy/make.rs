// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a copy.

use super::tails::{DIGEST_LEN, FRAME, LIST_MAX, TAIL_MAX, Tail, emit};
use super::{COPIED_MAX, GRAIN_MIN, MAGIC, PIECES_MAX, VERSION, VERSION_WHOLE};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A multiple of all usual groups, so that pieces need few digests.
const PIECE: u64 = 512 << 10;
/// A level that packs metadata nearly as well as the highest, at 30 MB/s.
const LEVEL: i32 = 9;

/// Makes the copy of some ranges of a blob, the first ones if they are too many: what is to be written
/// behind its table. `tails`, in order, are left out of it as far as they lie in what is copied, and put
/// behind it. Empty if it would save nothing.
///
/// # Errors
/// If the blob cannot be read.
pub fn make_copy(blob: &File, ranges: &[Range<u64>], tails: &[Tail]) -> io::Result<Vec<u8>> {
    let size = blob.metadata()?.len();
    let (mut index, mut body) = (Vec::new(), Vec::new());
    let (mut count, mut left): (u16, u64) = (0, COPIED_MAX);
    let mut raw = Vec::new();
    let mut ends = Ends::default();
    for range in ranges {
        let mut at = range.start.next_multiple_of(GRAIN_MIN);
        let end = if range.end >= size { size } else { range.end / GRAIN_MIN * GRAIN_MIN };
        while at < end && usize::from(count) < PIECES_MAX && left > 0 {
            let piece_end = (at / PIECE * PIECE).saturating_add(PIECE).min(end).min(at + left);
            left -= piece_end - at;
            raw.resize(usize::try_from(piece_end - at).unwrap_or_default(), 0);
            blob.read_exact_at(&mut raw, at)?;
            let piece = at..piece_end;
            let tails = inside(&piece, tails);
            let mut rest = raw.clone();
            for tail in &tails {
                tail.bytes(&piece, &mut rest).fill(0);
            }
            let encoded = encode(&rest)?;
            // What hardly shrinks is as well fetched from the blob.
            if encoded.len() < raw.len() / 8 * 7 {
                for tail in tails {
                    let bytes = tail.bytes(&piece, &mut raw);
                    ends.add(&tail, bytes)?;
                }
                index.extend_from_slice(&at.to_le_bytes());
                index.extend_from_slice(&(raw.len() as u32).to_le_bytes());
                index.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
                body.extend_from_slice(&encoded);
                count += 1;
            }
            at = piece_end;
        }
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let (list, frames) = ends.finish()?;
    let version = if list.is_empty() { VERSION_WHOLE } else { VERSION };
    let mut copy = MAGIC.to_vec();
    copy.extend_from_slice(&version.to_le_bytes());
    copy.extend_from_slice(&count.to_le_bytes());
    copy.extend_from_slice(&(list.len() as u32).to_le_bytes());
    for mut part in [index, list, body, frames] {
        copy.append(&mut part);
    }
    Ok(copy)
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

/// What was left out.
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

    /// The list, encoded, and all frames; empty if nothing was left out.
    fn finish(mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        self.end_frame()?;
        if self.list.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let list = emit(&self.list, &self.frames);
        debug_assert!(list.len() <= LIST_MAX, "{}", list.len());
        Ok((encode(&list)?, self.encoded))
    }
}
