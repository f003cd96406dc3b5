// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged, truncated and crafted streams: an error or other bytes, but never a panic or a hang, and
//! never `Ok` where exactness is violated.

use proptest::prelude::*;

use super::roundtrip::{METHODS, encoder};
use crate::testdata::{Kind, Random};
use crate::{
    Algorithm, Corruption, DecodeError, DecodeLimits, Decoder, lz4_in_place_margin,
    strip_zero_padding,
};

const LIMITS: DecodeLimits = DecodeLimits { lzma_dict_size: 8 << 20, zstd_window_log: 20 };

/// A stream of `method` and what it decodes to.
fn stream(method: &str, kind: Kind, seed: u64, size: usize) -> (Algorithm, Vec<u8>, Vec<u8>) {
    let mut src = kind.bytes(size * 4, seed);
    let mut encoder = encoder(method);
    let mut encoded = vec![0; size];
    let prefix = encoder.compress_prefix(&src, &mut encoded).unwrap();
    encoded.truncate(prefix.written);
    src.truncate(prefix.consumed);
    (encoder.algorithm(), encoded, src)
}

#[test]
fn exactness_violated_is_an_error() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        for kind in [Kind::Text, Kind::Random, Kind::Mixed] {
            let (algorithm, encoded, src) = stream(method, kind, 1, 2000);
            let mut decode = |encoded: &[u8], len: usize| {
                decoder.decode_exact(algorithm, &LIMITS, encoded, &mut vec![0; len])
            };
            decode(&encoded, src.len()).unwrap();
            let mut lengths = vec![0, 1, src.len() / 2, src.len() * 2, src.len() + 70_000];
            // The end of an LZMA stream without a marker is blurred by a few symbols.
            if algorithm != Algorithm::Lzma {
                lengths.extend([src.len() - 1, src.len() + 1]);
            }
            for len in lengths {
                decode(&encoded, len).expect_err("output of another length");
            }
            for extra in [&[0][..], &[1], &[0xFF; 9], &[0; 5000]] {
                let longer = [&encoded, extra].concat();
                decode(&longer, src.len()).expect_err("something behind the stream");
            }
            for len in (0..encoded.len()).step_by(1 + encoded.len() / 300) {
                decode(&encoded[..len], src.len()).expect_err("truncated");
            }
            decode(&encoded[..encoded.len() - 1], src.len()).expect_err("truncated by one");
            let twice = [&encoded[..], &encoded].concat();
            decode(&twice, src.len()).expect_err("two streams");
            decode(&twice, src.len() * 2).expect_err("two streams");
        }
    }
}

#[test]
fn prefixes_need_their_bytes() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        let (algorithm, encoded, src) = stream(method, Kind::Text, 1, 2000);
        let mut decode = |encoded: &[u8], len: usize| {
            let mut head = vec![0; len];
            decoder.decode_prefix(algorithm, &LIMITS, encoded, &mut head).map(|()| head)
        };
        decode(&encoded, src.len() + 2000).expect_err("more than there is");
        for len in 0..encoded.len() {
            // What a cut stream still yields must be right, and it cannot be everything.
            if let Ok(head) = decode(&encoded[..len], src.len() / 2) {
                assert!(head == src[..head.len()]);
            }
        }
        decode(&encoded[..encoded.len() / 2], src.len()).expect_err("half a stream");
        // Garbage behind does not matter.
        let longer = [&encoded[..], &[0xA5; 100]].concat();
        assert!(decode(&longer, src.len() - 20).unwrap() == src[..src.len() - 20]);
    }
}

#[test]
fn padding_is_stripped_within_bounds() {
    assert_eq!(strip_zero_padding(&[0, 0, 7, 0], 4).unwrap(), [7, 0]);
    assert_eq!(strip_zero_padding(&[0, 0, 7, 0], 3).unwrap(), [7, 0]);
    assert_eq!(strip_zero_padding(&[7, 0], 1).unwrap(), [7, 0]);
    for (bytes, within, searched) in
        [(&[0, 0, 7, 0][..], 2, 2), (&[0; 3], 100, 3), (&[], 100, 0), (&[7], 0, 0)]
    {
        assert_eq!(strip_zero_padding(bytes, within), Err(DecodeError::AllPadding { searched }));
    }
    for algorithm in Algorithm::ALL {
        let mut decoder = Decoder::new();
        let result = decoder.decode_exact(algorithm, &LIMITS, &[0; 4096], &mut [0; 10]);
        assert_eq!(result, Err(DecodeError::AllPadding { searched: 4096 }));
        decoder.decode_prefix(algorithm, &LIMITS, &[], &mut [0; 10]).unwrap_err();
    }
}

#[test]
fn zstd_frames_the_format_does_not_have() {
    let (algorithm, encoded, src) = stream("zstd,3", Kind::Text, 1, 2000);
    let mut decoder = Decoder::new();
    let mut decode = |encoded: &[u8]| {
        let mut output = vec![0; src.len()];
        let prefix = decoder.decode_prefix(algorithm, &LIMITS, encoded, &mut output);
        let exact = decoder.decode_exact(algorithm, &LIMITS, encoded, &mut output);
        assert_eq!(prefix.is_ok(), exact.is_ok());
        exact
    };
    decode(&encoded).unwrap();
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &encoded].concat();
    let header = DecodeError::Corrupt { algorithm, reason: Corruption::Header };
    assert_eq!(decode(&skippable), Err(header));
    // The reserved bit and the dictionary flag of the frame header descriptor.
    for bits in [0x08, 0x01, 0x02, 0x03] {
        let mut changed = encoded.clone();
        changed[4] |= bits;
        assert_eq!(decode(&changed), Err(header));
    }
    // Magic number of version 0.7, which the library may have been built to know.
    let mut legacy = encoded.clone();
    legacy[0] = 0x27;
    assert_eq!(decode(&legacy), Err(header));
}

#[test]
fn zstd_windows_are_limited() {
    let mut decoder = Decoder::new();
    // Frame headers: window descriptors, and single segments with content sizes of 1 to 8 bytes.
    for (header, window) in [
        (&[0x00, 0x58][..], 2 << 20),
        (&[0x00, 0x51], (1 << 20) + (1 << 17)),
        (&[0x00, 0xFF], (1 << 41) + (7 << 38)),
        (&[0xA0, 0x01, 0x00, 0x10, 0x00], (1 << 20) + 1),
        (&[0xE0, 0, 0, 0, 0, 0, 0, 0, 0x80], 1 << 63),
    ] {
        let frame = [&[0x28, 0xB5, 0x2F, 0xFD], header, &[1, 0, 0]].concat();
        let (algorithm, limit) = (Algorithm::Zstd, 1 << 20);
        let error = Err(DecodeError::WindowTooLarge { algorithm, window, limit });
        assert_eq!(decoder.decode_exact(algorithm, &LIMITS, &frame, &mut [0; 9]), error);
        assert_eq!(decoder.decode_prefix(algorithm, &LIMITS, &frame, &mut [0; 9]), error);
    }
    // A frame with a window of 32 KiB, for readers of an image with 16 KiB or with 32.
    let src = Kind::Text.bytes(200_000, 1);
    let mut encoded = vec![0; 30_000];
    let prefix = encoder("zstd,3,dictsize=32768").compress_prefix(&src, &mut encoded).unwrap();
    encoded.truncate(prefix.written);
    let mut decoded = vec![0; prefix.consumed];
    for (zstd_window_log, accepted) in [(0, false), (14, false), (15, true), (255, true)] {
        let limits = DecodeLimits { zstd_window_log, ..LIMITS };
        let exact = decoder.decode_exact(Algorithm::Zstd, &limits, &encoded, &mut decoded);
        let prefix = decoder.decode_prefix(Algorithm::Zstd, &limits, &encoded, &mut decoded);
        assert_eq!((exact.is_ok(), prefix.is_ok()), (accepted, accepted));
    }
}

#[test]
fn lzma_dictionaries_are_limited() {
    // Random bytes twice, so that matches reach back 20000 bytes.
    let half = Kind::Random.bytes(20_000, 4);
    let src = [&half[..], &half].concat();
    let mut encoded = vec![0; 30_000];
    let size = encoder("lzma,6").compress_all(&src, &mut encoded).unwrap().unwrap();
    assert!(size < 25_000);
    let mut decoder = Decoder::new();
    for (lzma_dict_size, accepted) in [(0, false), (8192, false), (20_480, true), (u32::MAX, true)]
    {
        let limits = DecodeLimits { lzma_dict_size, ..LIMITS };
        let mut decoded = vec![0; src.len()];
        let result = decoder.decode_exact(Algorithm::Lzma, &limits, &encoded[..size], &mut decoded);
        assert_eq!(result.is_ok(), accepted, "{lzma_dict_size}");
    }
}

#[test]
fn empty_outputs() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        let (algorithm, encoded, _) = stream(method, Kind::Text, 1, 512);
        decoder.decode_prefix(algorithm, &LIMITS, &encoded, &mut []).unwrap();
        decoder.decode_exact(algorithm, &LIMITS, &encoded, &mut []).unwrap_err();
    }
}

#[test]
fn in_place_misuse_is_an_error() {
    let error =
        |buffer, encoded, decoded| Err(DecodeError::InPlaceMargin { buffer, encoded, decoded });
    assert_eq!(Decoder::new().decode_lz4_in_place(&mut [1; 100], 101, 10), error(100, 101, 10));
    assert_eq!(Decoder::new().decode_lz4_in_place(&mut [1; 100], 10, 101), error(100, 10, 101));
    assert_eq!(Decoder::new().decode_lz4_in_place(&mut [1; 100], 10, 69), error(100, 10, 69));
    assert_eq!(Decoder::new().decode_lz4_in_place(&mut [], 0, 0), error(0, 0, 0));
    assert!(Decoder::new().decode_lz4_in_place(&mut [1; 9], usize::MAX, usize::MAX).is_err());
}

/// Changes some bytes of a stream.
fn damage(stream: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if stream.is_empty() {
            return;
        }
        let position = random.below(stream.len());
        match random.below(5) {
            0 => stream[position] ^= 1 << random.below(8),
            1 => stream[position] = random.next() as u8,
            2 => stream.truncate(position),
            3 => stream.insert(position, random.next() as u8),
            _ => {
                let end = (position + random.below(20)).min(stream.len());
                stream[position..end].fill(0xFF);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damaged_streams_never_panic(
        method in proptest::sample::select(METHODS.to_vec()),
        kind in proptest::sample::select(Kind::ALL.to_vec()),
        seed: u64,
        size in 64_usize..3000,
    ) {
        let mut decoder = Decoder::new();
        let mut random = Random::new(seed);
        let (algorithm, encoded, src) = stream(method, kind, seed, size);
        for _ in 0..32 {
            let mut damaged = encoded.clone();
            damage(&mut damaged, &mut random);
            for len in [src.len(), random.below(src.len() * 2), random.below(100_000)] {
                let mut output = vec![0; len];
                let _ = decoder.decode_exact(algorithm, &LIMITS, &damaged, &mut output);
                let _ = decoder.decode_prefix(algorithm, &LIMITS, &damaged, &mut output);
            }
            if algorithm == Algorithm::Lz4 {
                let room = src.len() + lz4_in_place_margin(damaged.len());
                let mut buffer = vec![0; room.max(damaged.len())];
                let start = buffer.len() - damaged.len();
                buffer[start..].copy_from_slice(&damaged);
                let _ = Decoder::new().decode_lz4_in_place(&mut buffer, damaged.len(), src.len());
            }
            // And after all that it still works.
            let mut output = vec![0; src.len()];
            decoder.decode_exact(algorithm, &LIMITS, &encoded, &mut output).unwrap();
            prop_assert!(output == src);
        }
    }

    #[test]
    fn noise_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        len in 0_usize..5000,
    ) {
        let mut decoder = Decoder::new();
        for algorithm in Algorithm::ALL {
            let mut output = vec![0; len];
            let _ = decoder.decode_exact(algorithm, &LIMITS, &bytes, &mut output);
            let _ = decoder.decode_prefix(algorithm, &LIMITS, &bytes, &mut output);
            // The same behind a plausible beginning.
            let header: &[u8] = match algorithm {
                Algorithm::Lz4 => &[0x11, 0x41],
                Algorithm::Lzma => &[!0x5D],
                Algorithm::Deflate => &[0x05],
                Algorithm::Zstd => &[0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x40],
            };
            let bytes = [header, &bytes].concat();
            let _ = decoder.decode_exact(algorithm, &LIMITS, &bytes, &mut output);
            let _ = decoder.decode_prefix(algorithm, &LIMITS, &bytes, &mut output);
        }
    }
}

/// The C library takes a match at distance 0 and gives the old bytes of the output for it.
#[test]
fn lz4_matches_at_distance_zero() {
    // One literal, a match of 19 bytes at distance 0, five literals; and the same at distance 1.
    let block = |distance| [0x1F, b'a', distance, 0, 0, 0x50, b'b', b'c', b'd', b'e', b'f'];
    for old in [0, 0xEE] {
        let mut out = [old; 25];
        let mut decoder = Decoder::strict();
        decoder.decode_exact(Algorithm::Lz4, &LIMITS, &block(1), &mut out).unwrap();
        assert_eq!(&out, b"aaaaaaaaaaaaaaaaaaaabcdef");
        decoder.decode_exact(Algorithm::Lz4, &LIMITS, &block(0), &mut out).unwrap_err();
        decoder.decode_prefix(Algorithm::Lz4, &LIMITS, &block(0), &mut out[..9]).unwrap_err();
        // It is behind what is wanted.
        decoder.decode_prefix(Algorithm::Lz4, &LIMITS, &block(0), &mut out[..1]).unwrap();
        let mut buf = [&[old; 57 - 11][..], &block(0)].concat();
        decoder.decode_lz4_in_place(&mut buf, 11, 25).unwrap_err();

        // Not strict: whatever comes out, it is not what was there before.
        let mut decoder = Decoder::new();
        for len in [9, 25] {
            let mut out = vec![old; len];
            let _ = decoder.decode_exact(Algorithm::Lz4, &LIMITS, &block(0), &mut out);
            assert!(!out.contains(&0xEE));
            out.fill(old);
            let _ = decoder.decode_prefix(Algorithm::Lz4, &LIMITS, &block(0), &mut out);
            assert!(!out.contains(&0xEE));
        }
        let mut buf = [&[old; 57 - 11][..], &block(0)].concat();
        let _ = decoder.decode_lz4_in_place(&mut buf, 11, 25);
        assert!(!buf[..25].contains(&0xEE));
    }
}
