// SPDX-License-Identifier: MIT OR Apache-2.0
//! What encoders write, decoders read back, and nothing in an encoder's past shows in its output.

use proptest::prelude::*;

use crate::testdata::Kind;
use crate::{
    DecodeError, DecodeLimits, Decoder, EncodeError, FixedOutput, Method, Prefix,
    lz4_in_place_margin,
};

/// One method per code path of the libraries.
pub(crate) const METHODS: [&str; 17] = [
    "lz4",
    "lz4hc,level=1",
    "lz4hc,level=2",
    "lz4hc,level=3",
    "lz4hc,level=9",
    "lz4hc,level=12",
    "lzma,level=0,dictsize=4096",
    "lzma,level=6,dictsize=262144",
    "lzma,level=101,dictsize=65536",
    "deflate,level=1",
    "deflate,level=6",
    "deflate,level=12",
    "zstd,level=1",
    "zstd,level=3,dictsize=32768",
    "zstd,level=9",
    "zstd,level=16,dictsize=1024",
    "zstd,level=22",
];

pub(crate) fn encoder(method: &str) -> Box<dyn FixedOutput> {
    Method::parse(method).unwrap().encoder().unwrap()
}

/// Encodes a prefix, checks that it decodes in every way, and returns it.
fn roundtrip(
    encoder: &mut dyn FixedOutput,
    decoder: &mut Decoder,
    src: &[u8],
    size: usize,
) -> (Prefix, Vec<u8>) {
    let algorithm = encoder.algorithm();
    let limits = DecodeLimits::default();
    let mut encoded = vec![0xA5; size];
    let prefix = encoder.compress_prefix(src, &mut encoded).unwrap();
    assert!(prefix.consumed > 0 && prefix.consumed <= src.len());
    assert!(prefix.written <= size);
    encoded.truncate(prefix.written);
    assert_ne!(encoded[0], 0, "{algorithm}: a stream must not begin with a zero");

    let src = &src[..prefix.consumed];
    let mut decoded = vec![0x5A; src.len()];
    decoder.decode_exact(algorithm, &limits, &encoded, &mut decoded).unwrap();
    assert!(decoded == src);
    let mut padded = vec![0; size - prefix.written];
    padded.extend_from_slice(&encoded);
    decoded.fill(0x5A);
    decoder.decode_exact(algorithm, &limits, &padded, &mut decoded).unwrap();
    assert!(decoded == src);
    for len in [1, src.len() / 3, src.len() - 1, src.len()] {
        let mut head = vec![0x5A; len];
        decoder.decode_prefix(algorithm, &limits, &padded, &mut head).unwrap();
        assert!(head == src[..len]);
    }
    (prefix, encoded)
}

#[test]
fn every_method_every_kind_every_size() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        let mut encoder = encoder(method);
        for kind in Kind::ALL {
            let src = kind.bytes(300_000, 1);
            for size in [64, 512, 1024, 4096, 16_384, 65_536] {
                let src = &src[..src.len().min(size * 20)];
                roundtrip(&mut *encoder, &mut decoder, src, size);
            }
        }
    }
}

#[test]
fn output_does_not_depend_on_the_past() {
    for method in METHODS {
        let mut used = encoder(method);
        for (seed, size) in (0..).zip([4096, 512, 16_384, 4096, 30_000]) {
            for kind in Kind::ALL {
                let src = kind.bytes(100_000, seed);
                let (mut first, mut second) = (vec![0; size], vec![0; size]);
                let first_prefix = used.compress_prefix(&src, &mut first).unwrap();
                let second_prefix = encoder(method).compress_prefix(&src, &mut second).unwrap();
                assert_eq!(first_prefix, second_prefix, "{method} {kind:?} {size}");
                assert!(first == second, "{method} {kind:?} {size}");
            }
        }
    }
}

#[test]
fn the_longest_prefix_is_taken() {
    for method in METHODS {
        for kind in [Kind::Text, Kind::Binary, Kind::Random, Kind::Mixed] {
            let src = kind.bytes(200_000, 7);
            for size in [512, 4096, 16_384] {
                let mut encoder = encoder(method);
                let mut encoded = vec![0; size];
                let prefix = encoder.compress_prefix(&src, &mut encoded).unwrap();
                // More than the slack, but codecs are not monotonic to the byte.
                let more = prefix.consumed + prefix.consumed / 8 + 64;
                if let Some(more) = src.get(..more) {
                    let all = encoder.compress_all(more, &mut encoded).unwrap();
                    assert_eq!(all, None, "{method} {kind:?} {size} {prefix:?}");
                }
            }
        }
    }
}

#[test]
fn whole_inputs_fit_or_do_not() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        let mut encoder = encoder(method);
        for kind in Kind::ALL {
            for len in [1, 2, 13, 100, 1000, 5000] {
                let src = kind.bytes(len, 3);
                let mut encoded = vec![0; len + len / 8 + 64];
                let size = encoder.compress_all(&src, &mut encoded).unwrap().unwrap();
                let mut decoded = vec![0; len];
                let limits = DecodeLimits::default();
                decoder
                    .decode_exact(encoder.algorithm(), &limits, &encoded[..size], &mut decoded)
                    .unwrap();
                assert!(decoded == src);
                // Half of it cannot do.
                let half = &mut encoded[..size / 2];
                match encoder.compress_all(&src, half) {
                    Ok(None) | Err(EncodeError::OutputTooSmall { .. }) => {}
                    other => panic!("{method} {kind:?} {len}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn empty_input_is_empty_output() {
    for method in METHODS {
        let mut encoder = encoder(method);
        assert_eq!(encoder.compress_prefix(&[], &mut [0; 100]).unwrap(), Prefix::default());
        assert_eq!(encoder.compress_all(&[], &mut [0; 100]).unwrap(), Some(0));
    }
}

#[test]
fn tiny_outputs_work_or_are_errors() {
    let mut decoder = Decoder::new();
    for method in METHODS {
        let mut encoder = encoder(method);
        for kind in Kind::ALL {
            let src = kind.bytes(1000, 3);
            for size in 0..64 {
                let mut encoded = vec![0; size];
                match encoder.compress_prefix(&src, &mut encoded) {
                    Ok(Prefix { consumed, written }) => {
                        assert!(consumed > 0 && written <= size);
                        let mut decoded = vec![0; consumed];
                        decoder
                            .decode_exact(
                                encoder.algorithm(),
                                &DecodeLimits::default(),
                                &encoded[..written],
                                &mut decoded,
                            )
                            .unwrap();
                        assert!(decoded == src[..consumed]);
                    }
                    Err(EncodeError::OutputTooSmall { len, .. }) => assert_eq!(len, size),
                    Err(error) => panic!("{method} {kind:?} {size}: {error}"),
                }
            }
        }
    }
}

#[test]
fn a_hint_saves_trials() {
    for method in ["zstd,3", "deflate,6"] {
        let src = Kind::Text.bytes(2_000_000, 5);
        let mut encoded = vec![0; 4096];
        let (mut with, mut without) = (encoder(method), encoder(method));
        let (mut position, mut hint) = (0, 0);
        while position < src.len() {
            let src = &src[position..];
            without.compress_prefix(src, &mut encoded).unwrap();
            hint = with.compress_prefix_hinted(src, &mut encoded, hint).unwrap().consumed;
            position += hint;
        }
        assert!(with.trials() < without.trials(), "{} {}", with.trials(), without.trials());
    }
}

#[test]
fn megabyte_outputs() {
    let mut decoder = Decoder::new();
    let src = Kind::Mixed.bytes(4 << 20, 11);
    for method in ["lz4", "lz4hc,level=3", "lzma,level=0", "deflate,level=1", "zstd,level=3"] {
        roundtrip(&mut *encoder(method), &mut decoder, &src, 1 << 20);
    }
    let zeros = vec![0; 12 << 20];
    for method in ["lz4", "lz4hc,level=9", "lzma,level=0", "deflate,level=1", "zstd,level=3"] {
        let (prefix, _) = roundtrip(&mut *encoder(method), &mut decoder, &zeros, 65_536);
        assert_eq!(prefix.consumed, 12 << 20);
    }
}

#[test]
fn deflate_streams_of_stored_blocks_do_not_begin_with_zero() {
    let src = Kind::Random.bytes(200_000, 9);
    let mut encoder = encoder("deflate,level=1");
    let (_, encoded) = roundtrip(&mut *encoder, &mut Decoder::new(), &src, 150_000);
    // The case this is about: a stored block that is not the last one.
    assert_eq!(encoded[0], 0x08);
    let decoded = miniz_oxide::inflate::decompress_to_vec(&encoded).unwrap();
    assert!(decoded == src[..decoded.len()]);
}

#[test]
fn lz4_in_place_is_the_same_as_out_of_place() {
    for kind in Kind::ALL {
        let src = kind.bytes(300_000, 2);
        for size in [512, 4096, 65_536] {
            let mut encoded = vec![0; size];
            let Prefix { consumed, written } =
                encoder("lz4hc,level=9").compress_prefix(&src, &mut encoded).unwrap();
            let encoded = &encoded[..written];
            let margin = lz4_in_place_margin(written);
            for extra in [0, 1, 100] {
                let len = (consumed + margin).max(written) + extra;
                let mut buffer = vec![0xEE; len];
                buffer[len - written..].copy_from_slice(encoded);
                Decoder::new().decode_lz4_in_place(&mut buffer, written, consumed).unwrap();
                assert!(buffer[..consumed] == src[..consumed]);
            }
            let mut buffer = vec![0xEE; (consumed + margin).max(written) - 1];
            let untouched = buffer.clone();
            if buffer.len() < consumed + margin {
                let error =
                    Decoder::new().decode_lz4_in_place(&mut buffer, written, consumed).unwrap_err();
                assert!(matches!(error, DecodeError::InPlaceMargin { .. }));
                assert!(buffer == untouched);
            }
        }
    }
}

#[test]
fn unpadded_lz4_ignores_what_is_behind() {
    let src = Kind::Text.bytes(50_000, 2);
    let mut encoded = vec![0; 4096];
    let Prefix { consumed, written } =
        encoder("lz4").compress_prefix(&src, &mut encoded[..4000]).unwrap();
    for garbage in [0, 0xFF, 0x10] {
        encoded[written..].fill(garbage);
        let mut decoded = vec![0; consumed];
        Decoder::new().decode_lz4_unpadded(&encoded, &mut decoded).unwrap();
        assert!(decoded == src[..consumed]);
    }
    Decoder::new().decode_lz4_unpadded(&[], &mut []).unwrap();
    Decoder::new().decode_lz4_unpadded(&[], &mut [0]).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn anything_comes_back(
        method in proptest::sample::select(METHODS.to_vec()),
        kind in proptest::sample::select(Kind::ALL.to_vec()),
        seed: u64,
        len in 1_usize..150_000,
        size in 512_usize..40_000,
        hint in 0_usize..200_000,
    ) {
        let src = kind.bytes(len, seed);
        let mut encoder = encoder(method);
        let (prefix, encoded) = roundtrip(&mut *encoder, &mut Decoder::new(), &src, size);
        if prefix.consumed == len {
            let mut all = vec![0; size];
            let whole = encoder.compress_all(&src, &mut all).unwrap();
            prop_assert_eq!(whole, Some(prefix.written));
            prop_assert!(all[..prefix.written] == encoded[..]);
        }
        let mut hinted = vec![0; size];
        let hinted_prefix = encoder.compress_prefix_hinted(&src, &mut hinted, hint).unwrap();
        let mut decoded = vec![0; hinted_prefix.consumed];
        Decoder::new().decode_exact(
            encoder.algorithm(),
            &DecodeLimits::default(),
            &hinted[..hinted_prefix.written],
            &mut decoded,
        ).unwrap();
        prop_assert!(decoded == src[..hinted_prefix.consumed]);
    }
}
