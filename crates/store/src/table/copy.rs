// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copy behind a table: parts of the blob once more, compressed.
//!
//! Whoever needs all of an image's metadata before anything else gets it in one request and a third
//! of the bytes; who has files that an image has too need not fetch their ends with it. The layout is in
//! `docs/digest-table.md`. Invariants: nothing of a copy is trusted, for what comes out of it is verified
//! like bytes of the blob; what is decoded is never larger than the index says, and that never larger than
//! [`PIECE_MAX`].

mod make;
mod tails;

pub use make::make_copy;
pub use tails::Tail;
pub(crate) use tails::{DIGEST_LEN, Frame, Listed, Tails};

use super::layout::GRAIN_MIN;
use std::ops::Range;

const MAGIC: [u8; 8] = *b"frfscopy";
/// Of a copy without tails, which the readers of this version take, too.
const VERSION_WHOLE: u16 = 1;
const VERSION: u16 = 2;
const HEADER_LEN: usize = 16;
const ENTRY_LEN: usize = 16;
/// Decoded bytes of a piece.
const PIECE_MAX: u64 = 1 << 20;
const PIECES_MAX: usize = 1 << 12;
/// Bytes of the blob that are copied: the first metadata of larger images is that of their directories.
const COPIED_MAX: u64 = 64 << 20;

/// A part of the blob, and how many bytes it has in the copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    pub(crate) encoded_len: usize,
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

/// Decodes what a frame of tails holds.
pub(crate) fn decode_frame(frame: &Frame, encoded: &[u8]) -> Result<Vec<u8>, CopyError> {
    decode(encoded, frame.content.end - frame.content.start).ok_or(CopyError::Frame)
}

/// Reads a copy as it comes.
#[derive(Debug, Default)]
pub(crate) struct CopyReader {
    size: u64,
    /// What came and was not used yet.
    bytes: Vec<u8>,
    index: Option<Index>,
}

/// What stands before the pieces.
#[derive(Debug)]
struct Index {
    pieces: std::vec::IntoIter<Piece>,
    tails: Tails,
    /// Where the last piece ends in the copy.
    end: u64,
}

impl CopyReader {
    /// Of a blob of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The pieces that are to come, if the index has come.
    pub(crate) fn pieces(&mut self) -> Result<Option<&[Piece]>, CopyError> {
        self.look()?;
        Ok(self.index.as_ref().map(|index| index.pieces.as_slice()))
    }

    /// What is left out of the pieces, if the index has come.
    pub(crate) fn tails(&self) -> Option<&Tails> {
        self.index.as_ref().map(|index| &index.tails)
    }

    /// How many bytes of the copy the index and all pieces are, if the index has come.
    pub(crate) fn pieces_end(&self) -> Option<u64> {
        self.index.as_ref().map(|index| index.end)
    }

    /// Whether the last piece was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.index.as_ref().is_some_and(|index| index.pieces.as_slice().is_empty())
    }

    /// What came behind the last piece.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        if self.is_over() { std::mem::take(&mut self.bytes) } else { Vec::new() }
    }

    /// The next piece, decoded, if all of it has come. Where tails are left out it has zeros, or
    /// anything else.
    pub(crate) fn next(&mut self) -> Result<Option<Decoded>, CopyError> {
        self.look()?;
        let Some(index) = &mut self.index else { return Ok(None) };
        let Some(piece) = index.pieces.as_slice().first().cloned() else { return Ok(None) };
        let Some(encoded) = self.bytes.get(..piece.encoded_len) else { return Ok(None) };
        let raw = decode(encoded, piece.range.end - piece.range.start).ok_or(CopyError::Piece)?;
        self.bytes.drain(..piece.encoded_len);
        index.pieces.next();
        Ok(Some((piece.range, raw)))
    }

    /// Takes the index, if it has come.
    fn look(&mut self) -> Result<(), CopyError> {
        if self.index.is_none()
            && let Some((index, len)) = self.index()?
        {
            self.bytes.drain(..len);
            self.index = Some(index);
        }
        Ok(())
    }

    fn index(&self) -> Result<Option<(Index, usize)>, CopyError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        if header[..8] != MAGIC {
            return Err(CopyError::Magic);
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        let list_len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        if !matches!((version, list_len), (VERSION_WHOLE, 0) | (VERSION, 1..)) {
            return Err(CopyError::Version);
        }
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        if count == 0 || count > PIECES_MAX {
            return Err(CopyError::Pieces);
        }
        let entries_end = HEADER_LEN + count * ENTRY_LEN;
        let Some(entries) = self.bytes.get(HEADER_LEN..entries_end) else { return Ok(None) };
        let mut pieces: Vec<Piece> = Vec::with_capacity(count);
        for entry in entries.chunks_exact(ENTRY_LEN) {
            let piece = self.piece(entry).ok_or(CopyError::Pieces)?;
            if pieces.last().is_some_and(|last| piece.range.start < last.range.end) {
                return Err(CopyError::Pieces);
            }
            pieces.push(piece);
        }
        let list_len = usize::try_from(list_len).map_err(|_| CopyError::Tails)?;
        if list_len > tails::LIST_MAX {
            return Err(CopyError::Tails);
        }
        let start = entries_end + list_len;
        let Some(list) = self.bytes.get(entries_end..start) else { return Ok(None) };
        let encoded: u64 = pieces.iter().map(|piece| piece.encoded_len as u64).sum();
        let decoded: u64 = pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
        let end = start as u64 + encoded;
        let tails = match list_len {
            0 => Tails::default(),
            // All of it is kept until the last tail is there.
            _ if decoded > COPIED_MAX => return Err(CopyError::Pieces),
            _ => Self::list(list, &pieces, end)?,
        };
        Ok(Some((Index { pieces: pieces.into_iter(), tails, end }, start)))
    }

    fn list(encoded: &[u8], pieces: &[Piece], end: u64) -> Result<Tails, CopyError> {
        let len = zstd_safe::get_frame_content_size(encoded).ok().flatten();
        let len = len.filter(|len| *len <= tails::LIST_MAX as u64).ok_or(CopyError::Tails)?;
        let list = decode(encoded, len).ok_or(CopyError::Tails)?;
        Tails::parse(&list, pieces, end)
    }

    fn piece(&self, entry: &[u8]) -> Option<Piece> {
        let (start, rest) = entry.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let encoded_len = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        let (start, len) = (u64::from_le_bytes(*start), u64::from(u32::from_le_bytes(*len)));
        let end = start.checked_add(len)?;
        let whole = |at: u64| at.is_multiple_of(GRAIN_MIN) || at == self.size;
        let fits = len > 0 && len <= PIECE_MAX && u64::from(encoded_len) <= len;
        (fits && end <= self.size && whole(start) && whole(end))
            .then_some(Piece { range: start..end, encoded_len: encoded_len as usize })
    }
}

/// Reads a copy that comes in pieces of `step` bytes, and what its frames hold: for fuzzing.
fn read_all(
    copy: &[u8],
    size: u64,
    step: usize,
) -> Result<(Vec<Decoded>, Vec<Vec<u8>>), CopyError> {
    let mut reader = CopyReader::new(size);
    let mut found = Vec::new();
    for bytes in copy.chunks(step) {
        reader.push(bytes);
        while let Some(piece) = reader.next()? {
            found.push(piece);
        }
    }
    let rest = reader.rest();
    let (Some(tails), Some(end)) = (reader.tails(), reader.pieces_end()) else {
        return Ok((found, Vec::new()));
    };
    for Listed { tail, .. } in &tails.list {
        assert!(tail.range.start < tail.range.end && tail.range.end <= size, "{tail:?}");
        assert!(tail.digest_at.is_none_or(|at| at + DIGEST_LEN <= tail.range.start), "{tail:?}");
        for (range, bytes) in &mut found {
            if range.contains(&tail.range.start) {
                tail.bytes(range, bytes).fill(0);
            }
        }
    }
    let mut contents = Vec::new();
    for frame in &tails.frames {
        let at = |offset: u64| usize::try_from(offset.checked_sub(end)?).ok();
        let bytes = at(frame.encoded.start).zip(at(frame.encoded.end));
        let Some(bytes) = bytes.and_then(|(from, to)| rest.get(from..to)) else { break };
        contents.push(decode_frame(frame, bytes)?);
    }
    Ok((found, contents))
}

/// Looks at bytes as a copy, whole and in pieces.
pub(crate) fn exercise(data: &[u8]) {
    // Of a size that fits where it begins and of one that cuts it.
    for size in [1 << 30, 100_000] {
        let whole = read_all(data, size, data.len().max(1));
        for step in [61, 4096] {
            assert_eq!(whole, read_all(data, size, step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn blob(len: usize) -> (Vec<u8>, File) {
        let bytes: Vec<u8> = (0..len).map(|at| (at / 300 % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (bytes, file)
    }

    fn read(size: u64, copy: &[u8], step: usize) -> Result<Vec<Decoded>, CopyError> {
        let mut reader = CopyReader::new(size);
        let mut found = Vec::new();
        for bytes in copy.chunks(step) {
            assert!(!reader.is_over(), "the last piece ends with the copy");
            reader.push(bytes);
            while let Some(piece) = reader.next()? {
                found.push(piece);
            }
        }
        Ok(found)
    }

    #[test]
    fn pieces_come_out_as_they_are_in_the_blob() {
        let (bytes, file) = blob(3_000_001);
        let ranges = [0..5000, 400_000..1_700_000, 2_900_000..3_000_001];
        let copy = make_copy(&file, &ranges, &[]).unwrap();
        assert!(copy.len() < 100_000, "{}", copy.len());
        for step in [1, 4000, copy.len()] {
            let pieces = read(3_000_001, &copy, step).unwrap();
            for (range, piece) in &pieces {
                assert!(bytes[range.start as usize..range.end as usize] == **piece);
            }
            let ranges: Vec<_> = pieces.into_iter().map(|(range, _)| range).collect();
            let expected = [
                0..4096,
                401_408..524_288,
                524_288..1_048_576,
                1_048_576..1_572_864,
                1_572_864..1_699_840,
                2_904_064..3_000_001,
            ];
            assert_eq!(ranges, expected);
        }
        // Cut off: what came whole is there.
        assert_eq!(read(3_000_001, &copy[..copy.len() - 1], 1000).unwrap().len(), 5);
        assert!(make_copy(&file, &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let (_, file) = blob(1_000_000);
        let copy = make_copy(&file, std::slice::from_ref(&(0..1_000_000)), &[]).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut wrong = copy.clone();
            wrong[at..at + bytes.len()].copy_from_slice(bytes);
            read(1_000_000, &wrong, 50_000).unwrap_err()
        };
        assert_eq!(with(0, b"x"), CopyError::Magic);
        assert_eq!(with(8, &[2]), CopyError::Version);
        assert_eq!(with(13, &[1]), CopyError::Version, "a list, which this version has not");
        assert_eq!(with(10, &[0, 0]), CopyError::Pieces);
        assert_eq!(with(10, &[255, 255]), CopyError::Pieces);
        assert_eq!(with(16, &[1]), CopyError::Pieces, "no whole grain");
        assert_eq!(with(24, &u32::MAX.to_le_bytes()), CopyError::Pieces, "too large");
        assert_eq!(with(32, &[0; 8]), CopyError::Pieces, "overlap");
        let less = (256_u32 << 10).to_le_bytes();
        assert_eq!(with(24, &less), CopyError::Piece, "more comes out than it says");
        assert_eq!(with(16 + 32, b"no frame"), CopyError::Piece);
        assert_eq!(read(900_000, &copy, 50_000).unwrap_err(), CopyError::Pieces, "another blob");
    }

    /// What a copy without its pieces' own bytes makes of a list of numbers.
    fn listed(numbers: &[u64]) -> Result<Tails, CopyError> {
        let mut list = Vec::new();
        for number in numbers {
            tails::put(&mut list, *number);
        }
        let pieces = [Piece { range: 4096..12_288, encoded_len: 10 }];
        Tails::parse(&list, &pieces, 1000)
    }

    #[test]
    fn lists_say_where_tails_are() {
        // Two frames; three tails, the last one with the bytes of the first.
        let list = [2, 50, 60, 20, 30, 3, 5000, 60, 32, 0, 40, 30, 0, 0, 100, 60, 100, 2];
        let found = listed(&list).unwrap();
        let tail = |start, end, digest_at| Tail { range: start..end, digest_at };
        let expected = [
            Listed { tail: tail(5000, 5060, Some(4968)), at: 0 },
            Listed { tail: tail(5100, 5130, None), at: 60 },
            Listed { tail: tail(5230, 5290, Some(5130)), at: 0 },
        ];
        assert_eq!(found.list, expected);
        let frame = |encoded, content| Frame { encoded, content };
        assert_eq!(found.frames, [frame(1000..1050, 0..60), frame(1050..1070, 60..90)]);
        assert_eq!(found.frames_of(0, 60), 0..1);
        assert_eq!(found.frames_of(59, 2), 0..2);
        assert_eq!(found.frames_of(60, 30), 1..2);
        let wrong = |at: usize, number: u64| {
            let mut list = list;
            list[at] = number;
            listed(&list).is_err()
        };
        for (at, number, why) in [
            (0, 3, "more frames"),
            (0, u64::MAX, "no such count"),
            (1, 1 << 40, "a frame larger than what it holds"),
            (2, 0, "an empty frame"),
            (2, 61, "more in frames than in tails"),
            (5, 4, "more tails"),
            (6, 4000, "before the piece"),
            (6, 12_280, "over the end of the piece"),
            (6, u64::MAX, "behind all"),
            (7, 0, "an empty tail"),
            (7, 70_000, "a tail of a whole block"),
            (8, 31, "a digest in the tail"),
            (8, 1000, "a digest before the piece"),
            (16, 110, "a digest in another tail"),
            (17, 3, "the same as none"),
            (17, 1, "the same as one of another length"),
        ] {
            assert!(wrong(at, number), "{why}");
        }
        assert!(listed(&list[..17]).is_err() && listed(&[&list[..], &[0]].concat()).is_err());
    }

    #[test]
    fn tails_are_left_out_and_come_back() {
        let (mut bytes, file) = blob(1_100_000);
        let tail = |start, len| Tail { range: start..start + len, digest_at: Some(start - 40) };
        // One lies in no piece, one in two of them, two overlap.
        let mut tails = vec![tail(2000, 100), tail(5000, 700), tail(5600, 50), tail(9000, 3000)];
        tails.extend([tail(524_200, 300), tail(600_000, 1000), tail(700_000, 50)]);
        bytes.copy_within(600_000..600_050, 700_000);
        file.write_all_at(&bytes, 0).unwrap();
        let copy = make_copy(&file, std::slice::from_ref(&(4096..1_100_000)), &tails).unwrap();
        let mut reader = CopyReader::new(1_100_000);
        reader.push(&copy);
        let pieces: Vec<Decoded> = std::iter::from_fn(|| reader.next().unwrap()).collect();
        let (found, end) = (reader.tails().unwrap().clone(), reader.pieces_end().unwrap());
        let listed: Vec<&Tail> = found.list.iter().map(|listed| &listed.tail).collect();
        assert_eq!(listed, [&tails[1], &tails[3], &tails[5], &tails[6]]);
        let frames = reader.rest();
        assert_eq!(end as usize + frames.len(), copy.len());
        let content: Vec<u8> = found
            .frames
            .iter()
            .flat_map(|frame| {
                let at = |offset: u64| (offset - end) as usize;
                let encoded = &frames[at(frame.encoded.start)..at(frame.encoded.end)];
                decode_frame(frame, encoded).unwrap()
            })
            .collect();
        for (range, mut piece) in pieces {
            for Listed { tail, at } in &found.list {
                if range.contains(&tail.range.start) {
                    let len = tail.range.end - tail.range.start;
                    let out = tail.bytes(&range, &mut piece);
                    assert!(out.iter().all(|byte| *byte == 0));
                    out.copy_from_slice(&content[*at as usize..(*at + len) as usize]);
                }
            }
            assert!(bytes[range.start as usize..range.end as usize] == *piece);
        }
    }

    proptest! {
        #[test]
        fn any_list_is_refused_or_read(
            numbers in proptest::collection::vec(0u64..9000, 0..40),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = listed(&numbers);
            let pieces = [Piece { range: 0..1 << 20, encoded_len: 10 }];
            let _ = Tails::parse(&bytes, &pieces, u64::MAX - 100);
        }

        #[test]
        fn a_copy_with_wrong_bytes_is_refused_or_read(
            wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let (_, file) = blob(100_000);
            let tail = |start: u64| Tail { range: start..start + 900, digest_at: Some(start - 40) };
            let tails = [tail(9000), tail(50_000), tail(60_000)];
            let mut copy = make_copy(&file, std::slice::from_ref(&(4096..100_000)), &tails).unwrap();
            for (index, byte) in wrong {
                let at = index.index(copy.len());
                copy[at] = byte;
            }
            exercise(&copy);
        }

        #[test]
        fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let start = MAGIC.len().min(bytes.len());
            bytes[..start].copy_from_slice(&MAGIC[..start]);
            let _ = read(1 << 30, &bytes, 16);
        }
    }
}
