// SPDX-License-Identifier: MIT OR Apache-2.0
//! What encoders write, decoders read back, and nothing in an encoder's past shows in its output.

use crate::testdata::Kind;
use crate::{DecodeLimits, Decoder, FixedOutput, Method, Prefix};

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

fn encoder(method: &str) -> Box<dyn FixedOutput> {
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
        for (seed, size) in (0..).zip([4096, 512, 16_384, 65_536, 4096, 16_384, 4096, 65_536]) {
            for kind in Kind::ALL {
                let src = kind.bytes(250_000, seed);
                let (mut first, mut second) = (vec![0; size], vec![0; size]);
                let first_prefix = used.compress_prefix(&src, &mut first).unwrap();
                let second_prefix = encoder(method).compress_prefix(&src, &mut second).unwrap();
                assert_eq!(first_prefix, second_prefix, "{method} {kind:?} {size}");
                assert!(first == second, "{method} {kind:?} {size}");
            }
        }
    }
}
