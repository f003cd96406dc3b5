// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies are made and read; what is wrong with one is seen.

use super::*;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use tails::Listed;

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
    assert!(make_copy(&file, &[], &[]).unwrap().is_empty());
}

#[test]
fn what_is_wrong_is_refused() {
    let (_, file) = blob(1_000_000);
    let tail = Tail { range: 5000..9000, digest_at: None };
    let copy = make_copy(&file, std::slice::from_ref(&(0..1_000_000)), &[tail]).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut wrong = copy.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        read(1_000_000, &wrong, 50_000).unwrap_err()
    };
    let number = |at: usize| u32::from_le_bytes(*copy[at..].first_chunk().unwrap());
    assert_eq!(with(0, b"x"), CopyError::Magic);
    assert_eq!(with(8, &[1]), CopyError::Version);
    assert_eq!(with(13, &[1]), CopyError::Version);
    assert_eq!(with(10, &[0, 0]), CopyError::Pieces);
    assert_eq!(with(10, &[255, 255]), CopyError::Pieces);
    assert_eq!(with(16, &[1]), CopyError::Pieces, "no whole grain");
    assert_eq!(with(24, &u32::MAX.to_le_bytes()), CopyError::Pieces, "too large");
    assert_eq!(with(32, &u32::MAX.to_le_bytes()), CopyError::Pieces, "a list too large");
    assert_eq!(with(36, &u32::MAX.to_le_bytes()), CopyError::Pieces, "frames too large");
    assert_eq!(with(40, &[0; 8]), CopyError::Pieces, "overlap");
    let less = (128_u32 << 10).to_le_bytes();
    assert_eq!(with(24, &less), CopyError::Piece, "more comes out than it says");
    let more = (number(32) + 4096).to_le_bytes();
    let less = (number(24) - 4096).to_le_bytes();
    let wrong = [&less[..], &copy[28..32], &more].concat();
    assert_eq!(with(24, &wrong), CopyError::Tails, "no list");
    assert_eq!(with(36, &(number(36) + 1).to_le_bytes()), CopyError::Tails, "more than frames");
    let body = 16 + 4 * 24;
    assert_eq!(with(body, b"no frame"), CopyError::Piece);
    assert_eq!(with(body + number(28) as usize, b"no frame"), CopyError::Frame);
    assert_eq!(read(900_000, &copy, 50_000).unwrap_err(), CopyError::Pieces, "another blob");
}

#[test]
fn no_more_is_copied_than_may_be_kept() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(COPIED_MAX + (1 << 20)).unwrap();
    let all = 0..COPIED_MAX + (1 << 20);
    let mut copy = make_copy(&file, std::slice::from_ref(&all), &[]).unwrap();
    let mut reader = CopyReader::new(all.end);
    reader.push(&copy);
    let pieces = reader.pieces().unwrap().unwrap();
    assert_eq!(pieces.iter().map(Piece::len).sum::<u64>(), COPIED_MAX);
    let last = HEADER_LEN + (pieces.len() - 1) * ENTRY_LEN;
    copy[last + 8..last + 12].copy_from_slice(&(512_u32 << 10).to_le_bytes());
    let mut reader = CopyReader::new(all.end);
    reader.push(&copy);
    assert_eq!(reader.pieces(), Err(CopyError::Pieces));
}

const FRAMES: Range<u64> = 1000..1070;

/// What a piece makes of a list of numbers.
fn listed(numbers: &[u64]) -> Result<Tails, CopyError> {
    let mut list = Vec::new();
    for number in numbers {
        tails::put(&mut list, *number);
    }
    Tails::parse(&list, &(4096..12_288), FRAMES)
}

#[test]
fn lists_say_where_tails_are() {
    // Two frames; four tails, the third one with the bytes of the first.
    let list = [2, 50, 60, 20, 30, 4, 904, 59, 32, 0, 41, 30, 0, 0, 100, 59, 100, 2, 0, 1, 0, 0];
    let found = listed(&list).unwrap();
    let tail = |start, end, digest_at| Tail { range: start..end, digest_at };
    let expected = [
        Listed { tail: tail(5000, 5059, Some(4968)), at: 0 },
        Listed { tail: tail(5100, 5130, None), at: 59 },
        Listed { tail: tail(5230, 5289, Some(5130)), at: 0 },
        Listed { tail: tail(5289, 5290, None), at: 89 },
    ];
    assert_eq!(found.list, expected);
    let frame = |encoded, content| Frame { encoded, content };
    assert_eq!(found.frames, [frame(1000..1050, 0..60), frame(1050..1070, 60..90)]);
    let frames: Vec<_> = expected.iter().map(|listed| found.frames_of(listed)).collect();
    assert_eq!(frames, [0..1, 0..2, 0..1, 1..2]);
    let wrong = |at: usize, number: u64| {
        let mut list = list;
        list[at] = number;
        listed(&list).is_err()
    };
    for (at, number, why) in [
        (0, 3, "more frames"),
        (0, u64::MAX, "no such count"),
        (1, 1 << 40, "a frame larger than what it holds"),
        (1, 51, "more bytes than there are of frames"),
        (1, 49, "fewer bytes than there are of frames"),
        (2, 0, "an empty frame"),
        (2, 61, "more in frames than in tails"),
        (5, 5, "more tails"),
        (6, 8150, "over the end of the piece"),
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
    assert!(listed(&list[..21]).is_err() && listed(&[&list[..], &[0]].concat()).is_err());
    assert!(Tails::parse(&[], &(0..4096), 5..5).is_ok_and(|tails| tails.list.is_empty()));
    assert!(Tails::parse(&[], &(0..4096), 5..6).is_err(), "frames of nothing");
}

#[test]
fn tails_are_left_out_and_come_back() {
    let (mut bytes, file) = blob(1_100_000);
    let tail = |start, len| Tail { range: start..start + len, digest_at: Some(start - 40) };
    // One lies in no piece, one in two of them, two overlap.
    let mut tails = vec![tail(2000, 100), tail(5000, 700), tail(5600, 50), tail(9000, 3000)];
    tails.extend([tail(524_200, 300), tail(600_000, 1000), tail(700_000, 1000)]);
    bytes.copy_within(600_000..601_000, 700_000);
    file.write_all_at(&bytes, 0).unwrap();
    let copy = make_copy(&file, std::slice::from_ref(&(4096..1_100_000)), &tails).unwrap();
    for (range, piece) in read(1_100_000, &copy, 5000).unwrap() {
        assert!(bytes[range.start as usize..range.end as usize] == *piece);
    }
    let mut reader = CopyReader::new(1_100_000);
    reader.push(&copy);
    let pieces = reader.pieces().unwrap().unwrap();
    let bodies: Vec<Body> = pieces
        .iter()
        .map(|piece| piece.decode(&copy[piece.body.start as usize..piece.body.end as usize]))
        .map(Result::unwrap)
        .collect();
    let found: Vec<&Tail> =
        bodies.iter().flat_map(|body| &body.tails.list).map(|listed| &listed.tail).collect();
    assert_eq!(found, [&tails[1], &tails[3], &tails[5], &tails[6]]);
    for mut body in bodies {
        for listed in &body.tails.list {
            let left = listed.tail.bytes(&body.range, &mut body.bytes);
            assert!(left.iter().all(|byte| *byte == 0));
        }
        // Equal ones are there once.
        let held: u64 =
            body.tails.frames.iter().map(|frame| frame.content.end - frame.content.start).sum();
        let same = body.range.contains(&600_000);
        assert!(!same || held == 1000, "{held}");
    }
}

proptest! {
    #[test]
    fn any_list_is_refused_or_read(
        numbers in proptest::collection::vec(0u64..9000, 0..40),
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let _ = listed(&numbers);
        let _ = Tails::parse(&bytes, &(0..1 << 20), u64::MAX - 100..u64::MAX);
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
