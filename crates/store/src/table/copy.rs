// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copy behind a table: parts of the blob once more, compressed.
//!
//! Whoever needs all of an image's metadata before anything else gets it in one request and a third
//! of the bytes. The layout is in `docs/digest-table.md`. Invariants: nothing of a copy is trusted, for
//! what comes out of it is verified like bytes of the blob; what is decoded is never larger than the
//! index says, and that never larger than [`PIECE_MAX`].

use super::layout::GRAIN_MIN;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const MAGIC: [u8; 8] = *b"frfscopy";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
const ENTRY_LEN: usize = 16;
/// Decoded bytes of a piece.
const PIECE_MAX: u64 = 1 << 20;
/// A multiple of all usual groups, so that pieces need few digests; so small that a reader who wants a page
/// of it waits hardly longer than for the page (one of metadata has 45 KB here, encoded).
const PIECE: u64 = 256 << 10;
const PIECES_MAX: usize = 1 << 12;
/// Bytes of the blob that are copied: the first metadata of larger images is that of their directories.
const COPIED_MAX: u64 = 64 << 20;
/// A level that packs metadata nearly as well as the highest, at 30 MB/s.
const LEVEL: i32 = 9;

/// A part of the blob, and where it is in the copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    pub(crate) encoded: Range<u64>,
}

impl Piece {
    /// Encoded bytes, which are no more than [`PIECE_MAX`].
    const fn encoded_len(&self) -> usize {
        (self.encoded.end - self.encoded.start) as usize
    }
}

/// Bytes of the blob, and where they are in it.
type Decoded = (Range<u64>, Vec<u8>);

/// What is wrong with a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CopyError {
    Magic,
    Version,
    Pieces,
    Piece,
}

/// Makes the copy of some ranges of a blob, the first ones if they are too many: what is to be written
/// behind its table. Empty if it would save nothing.
///
/// # Errors
/// If the blob cannot be read.
pub fn make_copy(blob: &File, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    let size = blob.metadata()?.len();
    let (mut index, mut body) = (Vec::new(), Vec::new());
    let (mut count, mut left): (u16, u64) = (0, COPIED_MAX);
    let mut raw = Vec::new();
    for range in ranges {
        let mut at = range.start.next_multiple_of(GRAIN_MIN);
        let end = if range.end >= size { size } else { range.end / GRAIN_MIN * GRAIN_MIN };
        while at < end && usize::from(count) < PIECES_MAX && left > 0 {
            let piece_end = (at / PIECE * PIECE).saturating_add(PIECE).min(end);
            left = left.saturating_sub(piece_end - at);
            raw.resize(usize::try_from(piece_end - at).unwrap_or_default(), 0);
            blob.read_exact_at(&mut raw, at)?;
            let encoded = encode(&raw)?;
            // What hardly shrinks is as well fetched from the blob.
            if encoded.len() < raw.len() / 8 * 7 {
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
    let mut copy = MAGIC.to_vec();
    copy.extend_from_slice(&VERSION.to_le_bytes());
    copy.extend_from_slice(&count.to_le_bytes());
    copy.extend_from_slice(&[0; 4]);
    copy.append(&mut index);
    copy.append(&mut body);
    Ok(copy)
}

fn encode(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    zstd_safe::compress(&mut encoded, raw, LEVEL)
        .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
    Ok(encoded)
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
        let next = self.pieces.as_ref()?.as_slice().first()?.encoded.start;
        Some((next, self.bytes)).filter(|(_, bytes)| !bytes.is_empty())
    }

    /// The next piece, decoded, if all of it has come.
    pub(crate) fn next(&mut self) -> Result<Option<Decoded>, CopyError> {
        self.pieces()?;
        let Some(pieces) = &mut self.pieces else { return Ok(None) };
        let Some(piece) = pieces.as_slice().first().cloned() else { return Ok(None) };
        let Some(encoded) = self.bytes.get(..piece.encoded_len()) else { return Ok(None) };
        let len = usize::try_from(piece.range.end - piece.range.start);
        let mut raw = vec![0; len.map_err(|_| CopyError::Piece)?];
        let decoded = zstd_safe::decompress(raw.as_mut_slice(), encoded);
        if decoded != Ok(raw.len()) {
            return Err(CopyError::Piece);
        }
        self.bytes.drain(..piece.encoded_len());
        pieces.next();
        Ok(Some((piece.range, raw)))
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
        for entry in entries.chunks_exact(ENTRY_LEN) {
            let at = pieces.last().map_or(end as u64, |last| last.encoded.end);
            let piece = self.piece(entry, at).ok_or(CopyError::Pieces)?;
            if pieces.last().is_some_and(|last| piece.range.start < last.range.end) {
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
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let encoded_len = u64::from(u32::from_le_bytes(*rest.first_chunk::<4>()?));
        let (start, len) = (u64::from_le_bytes(*start), u64::from(u32::from_le_bytes(*len)));
        let end = start.checked_add(len)?;
        let whole = |at: u64| at.is_multiple_of(GRAIN_MIN) || at == self.size;
        let fits = len > 0 && len <= PIECE_MAX && encoded_len <= len;
        (fits && end <= self.size && whole(start) && whole(end))
            .then_some(Piece { range: start..end, encoded: at..at.checked_add(encoded_len)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let copy = make_copy(&file, &ranges).unwrap();
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
                524_288..786_432,
                786_432..1_048_576,
                1_048_576..1_310_720,
                1_310_720..1_572_864,
                1_572_864..1_699_840,
                2_904_064..3_000_001,
            ];
            assert_eq!(ranges, expected);
        }
        // Cut off: what came whole is there.
        assert_eq!(read(3_000_001, &copy[..copy.len() - 1], 1000).unwrap().len(), 7);
        assert!(make_copy(&file, &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let (_, file) = blob(1_000_000);
        let copy = make_copy(&file, std::slice::from_ref(&(0..1_000_000))).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut wrong = copy.clone();
            wrong[at..at + bytes.len()].copy_from_slice(bytes);
            read(1_000_000, &wrong, 50_000).unwrap_err()
        };
        assert_eq!(with(0, b"x"), CopyError::Magic);
        assert_eq!(with(8, &[2]), CopyError::Version);
        assert_eq!(with(13, &[1]), CopyError::Version);
        assert_eq!(with(10, &[0, 0]), CopyError::Pieces);
        assert_eq!(with(10, &[255, 255]), CopyError::Pieces);
        assert_eq!(with(16, &[1]), CopyError::Pieces, "no whole grain");
        assert_eq!(with(24, &u32::MAX.to_le_bytes()), CopyError::Pieces, "too large");
        assert_eq!(with(32, &[0; 8]), CopyError::Pieces, "overlap");
        let less = (128_u32 << 10).to_le_bytes();
        assert_eq!(with(24, &less), CopyError::Piece, "more comes out than it says");
        assert_eq!(with(16 + 64, b"no frame"), CopyError::Piece);
        assert_eq!(read(900_000, &copy, 50_000).unwrap_err(), CopyError::Pieces, "another blob");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let start = MAGIC.len().min(bytes.len());
            bytes[..start].copy_from_slice(&MAGIC[..start]);
            let _ = read(1 << 30, &bytes, 16);
        }
    }
}
