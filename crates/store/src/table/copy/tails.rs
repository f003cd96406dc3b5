// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of what a copy leaves out of a piece, and where that lies behind it.
//!
//! Ends of files lie among an image's metadata, and whoever has such a file need not fetch its end. So a
//! piece has zeros in their place, and the ends themselves come in *frames* of some KiB. The layout is in
//! `docs/digest-table.md`. Invariants: tails lie in their piece, in order, without touching each other's
//! bytes; what is decoded is never larger than the list says, and that never larger than [`FRAME_MAX`].

use super::{CopyError, decode};
use std::collections::BTreeMap;
use std::ops::Range;

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
    /// Where its bytes are in what the piece's frames hold together.
    pub(crate) at: u64,
}

impl Listed {
    pub(crate) const fn len(&self) -> u64 {
        self.tail.range.end - self.tail.range.start
    }

    /// Fills its bytes in; whether frames that are there hold all of them.
    pub(crate) fn fill(&self, contents: &Contents, bytes: &mut [u8]) -> bool {
        let (mut at, mut left) = (self.at, bytes);
        while !left.is_empty() {
            let Some((start, content)) = contents.range(..=at).next_back() else { return false };
            let rest = content.get((at - start) as usize..).unwrap_or_default();
            let len = rest.len().min(left.len());
            if len == 0 {
                return false;
            }
            let (now, later) = left.split_at_mut(len);
            now.copy_from_slice(&rest[..len]);
            at += len as u64;
            left = later;
        }
        true
    }
}

/// Encoded bytes of the copy, behind a piece's body, and what they hold of all its frames together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) encoded: Range<u64>,
    pub(crate) content: Range<u64>,
}

impl Frame {
    /// What it holds.
    pub(crate) fn decode(&self, encoded: &[u8]) -> Result<Vec<u8>, CopyError> {
        decode(encoded, self.content.end - self.content.start).ok_or(CopyError::Frame)
    }
}

/// What a piece tells of its tails.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tails {
    pub(crate) list: Vec<Listed>,
    pub(crate) frames: Vec<Frame>,
}

/// What some frames hold, by where that is in all of the piece's.
pub(crate) type Contents = BTreeMap<u64, Vec<u8>>;

impl Tails {
    /// The frames that hold a tail.
    pub(crate) fn frames_of(&self, tail: &Listed) -> Range<usize> {
        let end = tail.at.saturating_add(tail.len());
        let first = self.frames.partition_point(|frame| frame.content.end <= tail.at);
        first..self.frames.partition_point(|frame| frame.content.start < end).max(first)
    }

    /// Fills all tails in; `encoded` are all frames.
    pub(super) fn complete(
        &self,
        range: &Range<u64>,
        bytes: &mut [u8],
        encoded: &[u8],
    ) -> Result<(), CopyError> {
        let (mut contents, mut rest) = (Contents::new(), encoded);
        for frame in &self.frames {
            let len = usize::try_from(frame.encoded.end - frame.encoded.start);
            let parts = len.ok().and_then(|len| rest.split_at_checked(len));
            let (encoded, behind) = parts.ok_or(CopyError::Frame)?;
            contents.insert(frame.content.start, frame.decode(encoded)?);
            rest = behind;
        }
        for listed in &self.list {
            if !listed.fill(&contents, listed.tail.bytes(range, bytes)) {
                return Err(CopyError::Frame);
            }
        }
        Ok(())
    }

    /// Reads the list of a piece's tails; its frames are these bytes of the copy.
    pub(super) fn parse(
        list: &[u8],
        piece: &Range<u64>,
        frames: Range<u64>,
    ) -> Result<Self, CopyError> {
        if list.is_empty() && frames.is_empty() {
            return Ok(Self::default());
        }
        Self::read(list, piece, frames).ok_or(CopyError::Tails)
    }

    fn read(list: &[u8], piece: &Range<u64>, Range { start, end }: Range<u64>) -> Option<Self> {
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
        if encoded != end {
            return None;
        }
        let mut all: Vec<Listed> = Vec::new();
        let (mut at, mut next) = (piece.start, 0u64);
        for _ in 0..numbers.count()? {
            let range_start = at.checked_add(numbers.next()?)?;
            at = range_start.checked_add(numbers.next()?)?;
            let back = numbers.next()?;
            let digest_at = (back > 0).then(|| range_start.checked_sub(back));
            let range = range_start..at;
            let len = at - range_start;
            if len == 0 || len > TAIL_MAX || at > piece.end {
                return None;
            }
            // The digest itself must not be left out.
            let before = all.last().map_or(piece.start, |last| last.tail.range.end);
            let digest_at = match digest_at {
                Some(at) => Some(at.filter(|at| *at >= before && back >= DIGEST_LEN)?),
                None => None,
            };
            let body = match numbers.next()? {
                0 => {
                    let body = next;
                    next = next.checked_add(len)?;
                    body
                }
                before => {
                    let index = all.len().checked_sub(usize::try_from(before).ok()?)?;
                    let same = all.get(index)?;
                    (same.len() == len).then_some(same.at)?
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

/// Makes the list of tails of a piece that begins at `start`, with how many before it each has the bytes
/// of another one (0: none), and of frames by their encoded and decoded bytes.
pub(super) fn emit(start: u64, tails: &[(Tail, u64)], frames: &[(usize, usize)]) -> Vec<u8> {
    let mut list = Vec::new();
    put(&mut list, frames.len() as u64);
    for (encoded_len, len) in frames {
        put(&mut list, *encoded_len as u64);
        put(&mut list, *len as u64);
    }
    put(&mut list, tails.len() as u64);
    let mut at = start;
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
