// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of what a copy leaves out of its pieces, and where that lies behind them.
//!
//! Ends of files lie among an image's metadata, and whoever has such a file need not fetch its end. So
//! pieces have zeros in their place, and the ends themselves come in *frames* of some KiB. The layout is in
//! `docs/digest-table.md`. Invariants: tails lie in pieces, in order, without touching each other's bytes;
//! what is decoded is never larger than the list says, and that never larger than [`FRAME_MAX`].

use super::{CopyError, Piece};
use std::ops::Range;

/// Decoded bytes of a list.
pub(super) const LIST_MAX: usize = 16 << 20;
/// Decoded bytes of a frame are so many or a tail more: larger ones pack better, but those of a new version bring
/// more that is not new.
pub(super) const FRAME: usize = 2 << 10;
/// A tail is shorter than the largest block.
pub(super) const TAIL_MAX: u64 = 64 << 10;
const FRAME_MAX: u64 = FRAME as u64 + TAIL_MAX;

/// A piece of the blob that lies among others and is the end of some content, which readers may have.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what there is to say of it")]
pub struct Tail {
    /// Of the blob.
    pub range: Range<u64>,
    /// Where in the blob, before it, the SHA-256 of the content lies, if it does.
    pub digest_at: Option<u64>,
}

impl Tail {
    /// Its bytes in those of a piece that it lies in.
    pub(crate) fn bytes<'a>(&self, piece: &Range<u64>, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let at = |offset: u64| (offset - piece.start) as usize;
        &mut bytes[at(self.range.start)..at(self.range.end)]
    }
}

/// A tail as it is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Listed {
    pub(crate) tail: Tail,
    /// Where its bytes are in what all frames hold together.
    pub(crate) at: u64,
}

impl Listed {
    pub(crate) const fn len(&self) -> u64 {
        self.tail.range.end - self.tail.range.start
    }
}

/// Encoded bytes of the copy, behind the pieces, and what they hold of all frames together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) encoded: Range<u64>,
    pub(crate) content: Range<u64>,
}

/// What a copy tells of its tails.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tails {
    pub(crate) list: Vec<Listed>,
    pub(crate) frames: Vec<Frame>,
}

impl Tails {
    /// The frames that hold `at..at + len`.
    pub(crate) fn frames_of(&self, at: u64, len: u64) -> Range<usize> {
        let start = self.frames.partition_point(|frame| frame.content.end <= at);
        let end = self.frames.partition_point(|frame| frame.content.start < at.saturating_add(len));
        start..end.max(start)
    }

    /// Reads a list; frames begin at byte `start` of the copy.
    pub(super) fn parse(list: &[u8], pieces: &[Piece], start: u64) -> Result<Self, CopyError> {
        Self::read(list, pieces, start).ok_or(CopyError::Tails)
    }

    fn read(list: &[u8], pieces: &[Piece], start: u64) -> Option<Self> {
        let mut numbers = Numbers(list);
        let mut frames = Vec::new();
        let (mut encoded, mut content) = (start, 0u64);
        for _ in 0..numbers.count()? {
            let encoded_end = encoded.checked_add(numbers.next()?)?;
            let content_end = content.checked_add(numbers.next()?)?;
            let (encoded_len, len) = (encoded_end - encoded, content_end - content);
            // What does not shrink grows by a little.
            if len == 0 || len > FRAME_MAX || encoded_len > len + len / 128 + 64 {
                return None;
            }
            frames.push(Frame { encoded: encoded..encoded_end, content: content..content_end });
            (encoded, content) = (encoded_end, content_end);
        }
        let mut all: Vec<Listed> = Vec::new();
        let (mut at, mut next, mut pieces) = (0u64, 0u64, pieces.iter().peekable());
        for _ in 0..numbers.count()? {
            let range_start = at.checked_add(numbers.next()?)?;
            at = range_start.checked_add(numbers.next()?)?;
            let back = numbers.next()?;
            let digest_at = (back > 0).then(|| range_start.checked_sub(back));
            let range = range_start..at;
            let len = at - range_start;
            while pieces.next_if(|piece| piece.range.end <= range_start).is_some() {}
            let piece = pieces.peek()?;
            let inside = |range: &Range<u64>| {
                piece.range.start <= range.start && range.end <= piece.range.end
            };
            if len == 0 || len > TAIL_MAX || !inside(&range) {
                return None;
            }
            let digest_at = match digest_at {
                Some(at) => Some(at.filter(|at| inside(&(*at..range_start)))?),
                None => None,
            };
            // The digest itself must not be left out.
            let before = all.last().map_or(0, |last| last.tail.range.end);
            if digest_at.is_some_and(|at| at < before || range_start - at < DIGEST_LEN) {
                return None;
            }
            let body = match numbers.next()? {
                0 => {
                    let body = next;
                    next = next.checked_add(len)?;
                    body
                }
                before => {
                    let index = all.len().checked_sub(usize::try_from(before).ok()?)?;
                    let same = all.get(index)?;
                    (same.tail.range.end - same.tail.range.start == len).then_some(same.at)?
                }
            };
            all.push(Listed { tail: Tail { range, digest_at }, at: body });
        }
        (numbers.0.is_empty() && next == content).then_some(Self { list: all, frames })
    }
}

/// Bytes of a digest.
pub(crate) const DIGEST_LEN: u64 = 32;

/// Numbers as they are listed: 7 bits a byte, the lowest first, all but the last with the highest bit set.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of things that take a byte at least.
    fn count(&mut self) -> Option<u64> {
        self.next().filter(|count| usize::try_from(*count).is_ok_and(|count| count <= self.0.len()))
    }
}

/// Appends a number to a list.
pub(super) fn put(list: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        list.push(number as u8 | 0x80);
        number >>= 7;
    }
    list.push(number as u8);
}

/// Makes the list of tails, with how many before it each has the bytes of another one (0: none), and of
/// frames by their encoded and decoded bytes.
pub(super) fn emit(tails: &[(Tail, u64)], frames: &[(usize, usize)]) -> Vec<u8> {
    let mut list = Vec::new();
    put(&mut list, frames.len() as u64);
    for (encoded_len, len) in frames {
        put(&mut list, *encoded_len as u64);
        put(&mut list, *len as u64);
    }
    put(&mut list, tails.len() as u64);
    let mut at = 0;
    for (tail, same) in tails {
        let Range { start, end } = tail.range;
        put(&mut list, start - at);
        put(&mut list, end - start);
        put(&mut list, tail.digest_at.map_or(0, |digest_at| start - digest_at));
        put(&mut list, *same);
        at = end;
    }
    list
}
