// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copy behind a table: parts of the blob once more, compressed.
//!
//! Whoever needs all of an image's metadata before anything else gets it in one request and a third
//! of the bytes; who misses something of it gets a piece; who has files that an image has too need not
//! fetch their ends with it. The layout is in `docs/digest-table.md`. Invariants: nothing of a copy is
//! trusted, for what comes out of it is verified like bytes of the blob; what is decoded is never larger
//! than the index says, and that never larger than [`PIECE_MAX`].

mod make;
mod tails;
#[cfg(test)]
mod tests;

pub use make::make_copy;
pub use tails::Tail;
pub(crate) use tails::{DIGEST_LEN, Frame, Tails};

use super::layout::GRAIN_MIN;
use std::ops::Range;

const MAGIC: [u8; 8] = *b"frfscopy";
const VERSION: u16 = 2;
const HEADER_LEN: usize = 16;
const ENTRY_LEN: usize = 24;
/// Decoded bytes of a piece, and of the list of its tails.
const PIECE_MAX: u64 = 1 << 20;
const PIECES_MAX: usize = 1 << 12;
/// Bytes of the blob that are copied: the first metadata of larger images is that of their directories.
const COPIED_MAX: u64 = 64 << 20;
/// Bytes of the longest index, with what stands before it.
pub(crate) const INDEX_MAX: u64 = (HEADER_LEN + PIECES_MAX * ENTRY_LEN) as u64;

/// A part of the blob, and where it is in the copy: its body, and behind that the frames of its tails.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    pub(crate) body: Range<u64>,
    /// Where its frames end.
    pub(crate) end: u64,
    /// Decoded bytes behind those of the blob in its body.
    list_len: u64,
}

impl Piece {
    /// Its body and its frames.
    pub(crate) const fn encoded(&self) -> Range<u64> {
        self.body.start..self.end
    }

    pub(crate) const fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Bytes of its body, which are no more than [`PIECE_MAX`].
    const fn body_len(&self) -> usize {
        (self.body.end - self.body.start) as usize
    }

    /// Decodes its body.
    pub(crate) fn decode(&self, body: &[u8]) -> Result<Body, CopyError> {
        let mut bytes = decode(body, self.len() + self.list_len).ok_or(CopyError::Piece)?;
        let list = bytes.split_off(self.len() as usize);
        let tails = Tails::parse(&list, &self.range, self.body.end..self.end)?;
        Ok(Body { range: self.range.clone(), bytes, tails })
    }
}

/// A piece with anything where its tails are left out: with zeros, if the maker is ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Body {
    pub(crate) range: Range<u64>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tails: Tails,
}

/// Bytes of the blob, and where they are in it.
pub(crate) type Decoded = (Range<u64>, Vec<u8>);

/// What is wrong with a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CopyError {
    Magic,
    Version,
    Pieces,
    Piece,
    Tails,
    Frame,
}

/// Decodes one Zstandard frame of exactly `len` bytes.
fn decode(encoded: &[u8], len: u64) -> Option<Vec<u8>> {
    let mut raw = vec![0; usize::try_from(len).ok()?];
    (zstd_safe::decompress(raw.as_mut_slice(), encoded) == Ok(raw.len())).then_some(raw)
}

/// Reads a copy as it comes, or a run of its pieces.
#[derive(Debug, Default)]
pub(crate) struct CopyReader {
    size: u64,
    /// What came and was not used yet.
    bytes: Vec<u8>,
    pieces: Option<std::vec::IntoIter<Piece>>,
}

impl CopyReader {
    /// Of a blob of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// Of these pieces, which follow each other in the copy, without the index before them.
    pub(crate) fn of_pieces(pieces: Vec<Piece>) -> Self {
        Self { pieces: Some(pieces.into_iter()), ..Self::default() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The pieces that are to come, if the index has come.
    pub(crate) fn pieces(&mut self) -> Result<Option<&[Piece]>, CopyError> {
        if self.pieces.is_none() {
            self.pieces = self.index()?.map(Vec::into_iter);
        }
        Ok(self.pieces.as_ref().map(std::vec::IntoIter::as_slice))
    }

    /// Whether the last piece was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.pieces.as_ref().is_some_and(|pieces| pieces.as_slice().is_empty())
    }

    /// What came of a piece that did not come whole, and where that begins in the copy.
    pub(crate) fn into_rest(self) -> Option<(u64, Vec<u8>)> {
        let next = self.pieces.as_ref()?.as_slice().first()?.body.start;
        Some((next, self.bytes)).filter(|(_, bytes)| !bytes.is_empty())
    }

    /// The next piece with its tails, decoded, if all of it has come.
    pub(crate) fn next(&mut self) -> Result<Option<Decoded>, CopyError> {
        self.pieces()?;
        let Some(pieces) = &mut self.pieces else { return Ok(None) };
        let Some(piece) = pieces.as_slice().first().cloned() else { return Ok(None) };
        let Range { start, end } = piece.encoded();
        let len = usize::try_from(end - start).map_err(|_| CopyError::Pieces)?;
        let Some(encoded) = self.bytes.get(..len) else { return Ok(None) };
        let (body, frames) = encoded.split_at(piece.body_len());
        let mut body = piece.decode(body)?;
        body.tails.complete(&body.range, &mut body.bytes, frames)?;
        self.bytes.drain(..len);
        pieces.next();
        Ok(Some((piece.range, body.bytes)))
    }

    /// Takes the index, if it has come.
    fn index(&mut self) -> Result<Option<Vec<Piece>>, CopyError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        if header[..8] != MAGIC {
            return Err(CopyError::Magic);
        }
        if u16::from_le_bytes([header[8], header[9]]) != VERSION || header[12..] != [0; 4] {
            return Err(CopyError::Version);
        }
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        if count == 0 || count > PIECES_MAX {
            return Err(CopyError::Pieces);
        }
        let end = HEADER_LEN + count * ENTRY_LEN;
        let Some(entries) = self.bytes.get(HEADER_LEN..end) else { return Ok(None) };
        let mut pieces: Vec<Piece> = Vec::with_capacity(count);
        let mut copied = 0;
        for entry in entries.chunks_exact(ENTRY_LEN) {
            let at = pieces.last().map_or(end as u64, |last| last.end);
            let piece = self.piece(entry, at).ok_or(CopyError::Pieces)?;
            copied += piece.len();
            let is_behind = pieces.last().is_none_or(|last| last.range.end <= piece.range.start);
            // All of it may be kept until the last tail is there.
            if !is_behind || copied > COPIED_MAX {
                return Err(CopyError::Pieces);
            }
            pieces.push(piece);
        }
        self.bytes.drain(..end);
        Ok(Some(pieces))
    }

    /// The piece that an entry tells, whose encoded bytes begin at `at` of the copy.
    fn piece(&self, entry: &[u8], at: u64) -> Option<Piece> {
        let (start, rest) = entry.split_first_chunk::<8>()?;
        let start = u64::from_le_bytes(*start);
        let (numbers, _) = rest.as_chunks::<4>();
        let [len, body_len, list_len, frames_len] = numbers else { return None };
        let number = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let (len, body_len) = (number(len), number(body_len));
        let (list_len, frames_len) = (number(list_len), number(frames_len));
        let end = start.checked_add(len)?;
        let whole = |at: u64| at.is_multiple_of(GRAIN_MIN) || at == self.size;
        let fits = len > 0 && len <= PIECE_MAX && body_len <= len && list_len <= PIECE_MAX;
        // What does not shrink grows by a little.
        if !fits || frames_len > len + len / 16 + 64 {
            return None;
        }
        let body = at..at.checked_add(body_len)?;
        let frames_end = body.end.checked_add(frames_len)?;
        (end <= self.size && whole(start) && whole(end)).then_some(Piece {
            range: start..end,
            body,
            end: frames_end,
            list_len,
        })
    }
}

/// Reads a copy that comes in pieces of `step` bytes: for fuzzing.
fn read_all(copy: &[u8], size: u64, step: usize) -> Result<Vec<Decoded>, CopyError> {
    let mut reader = CopyReader::new(size);
    let mut found = Vec::new();
    for bytes in copy.chunks(step) {
        reader.push(bytes);
        while let Some(piece) = reader.next()? {
            found.push(piece);
        }
    }
    Ok(found)
}

/// Looks at bytes as a copy, whole, in pieces, and by its bodies.
pub(crate) fn exercise(data: &[u8]) {
    // Of a size that fits where it begins and of one that cuts it.
    for size in [1 << 30, 100_000] {
        let whole = read_all(data, size, data.len().max(1));
        for step in [61, 4096] {
            assert_eq!(whole, read_all(data, size, step));
        }
        let mut reader = CopyReader::new(size);
        reader.push(data);
        let Ok(Some(pieces)) = reader.pieces() else { continue };
        for piece in pieces {
            let at = |offset: u64| usize::try_from(offset).ok();
            let body = at(piece.body.start).zip(at(piece.body.end));
            let Some(body) = body.and_then(|(from, to)| data.get(from..to)) else { return };
            let Ok(Body { range, mut bytes, tails }) = piece.decode(body) else { continue };
            for listed in &tails.list {
                let tail = &listed.tail;
                assert!(tail.range.start < tail.range.end, "{tail:?}");
                let digest_end = tail.digest_at.map_or(range.start, |at| at + DIGEST_LEN);
                assert!(digest_end <= tail.range.start, "{tail:?}");
                tail.bytes(&range, &mut bytes).fill(0);
                assert!(!tails.frames_of(listed).is_empty(), "{tail:?}");
            }
        }
    }
}
