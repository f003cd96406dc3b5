// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our streams through pure Rust decoders, and their streams through ours.

use std::io::Read;

use super::roundtrip::{METHODS, encoder};
use crate::testdata::Kind;
use crate::{Algorithm, DecodeLimits, Decoder};

/// Decodes with a library that shares no code with the one under test.
fn decode_independently(algorithm: Algorithm, stream: &[u8], len: usize) -> Vec<u8> {
    let mut decoded = Vec::new();
    match algorithm {
        Algorithm::Lz4 => decoded = lz4_flex::block::decompress(stream, len).unwrap(),
        Algorithm::Deflate => {
            decoded = miniz_oxide::inflate::decompress_to_vec(stream).unwrap();
        }
        Algorithm::Zstd => {
            let mut reader = ruzstd::decoding::StreamingDecoder::new(stream).unwrap();
            reader.read_to_end(&mut decoded).unwrap();
        }
        Algorithm::Lzma => {
            let lzma1 = [&[0], &stream[1..]].concat();
            let mut reader = lzma_rust2::LzmaReader::new_with_props(
                &lzma1[..],
                len as u64,
                !stream[0],
                8 << 20,
                None,
            )
            .unwrap();
            reader.read_to_end(&mut decoded).unwrap();
        }
    }
    decoded
}

#[test]
fn others_decode_our_streams() {
    for method in METHODS {
        let mut encoder = encoder(method);
        for kind in Kind::ALL {
            for size in [512, 4096, 30_000] {
                let src = kind.bytes(size * 6, 21);
                let mut stream = vec![0; size];
                let prefix = encoder.compress_prefix(&src, &mut stream).unwrap();
                stream.truncate(prefix.written);
                let decoded = decode_independently(encoder.algorithm(), &stream, prefix.consumed);
                assert!(decoded == src[..prefix.consumed], "{method} {kind:?} {size}");
            }
        }
    }
}

#[test]
fn we_decode_their_streams() {
    let limits = DecodeLimits::default();
    let mut decoder = Decoder::new();
    for kind in Kind::ALL {
        for len in [1, 100, 5000, 150_000] {
            let src = kind.bytes(len, 22);
            let mut check = |algorithm, stream: &[u8], src: &[u8]| {
                let mut decoded = vec![0; src.len()];
                decoder.decode_exact(algorithm, &limits, stream, &mut decoded).unwrap();
                assert!(decoded == src, "{algorithm} {kind:?} {len}");
                let mut head = vec![0; src.len().div_ceil(2)];
                decoder.decode_prefix(algorithm, &limits, stream, &mut head).unwrap();
                assert!(head == src[..head.len()], "{algorithm} {kind:?} {len}");
            };
            check(Algorithm::Lz4, &lz4_flex::block::compress(&src), &src);
            for level in [1, 6, 9] {
                let mut stream = miniz_oxide::deflate::compress_to_vec(&src, level);
                // What a writer of images must do to a stored block that is not the last.
                if stream[0] == 0 {
                    stream[0] = 0x08;
                }
                check(Algorithm::Deflate, &stream, &src);
            }
            let options = lzma_rust2::LzmaOptions::with_preset(4);
            let mut lzma = lzma_rust2::MicroLzmaEncoder::new(&options).unwrap();
            let mut stream = vec![0; 4096];
            let (consumed, written) = lzma.compress_prefix(&src, &mut stream).unwrap();
            check(Algorithm::Lzma, &stream[..written], &src[..consumed]);
        }
    }
}
