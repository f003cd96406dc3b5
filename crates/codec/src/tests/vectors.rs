// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams made by other programs, decoded to a text that is known.

use crate::{Algorithm, Corruption, DecodeError, DecodeLimits, Decoder};

/// 256 bytes, made by the expression `(b"EROFS keeps ... right-aligned. " * 6)[:256]`.
fn text() -> Vec<u8> {
    b"EROFS keeps its compressed data right-aligned. ".repeat(6)[..256].to_vec()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The block inside what `lz4 -12 --no-frame-crc` (1.9.4) wrote.
const LZ4: &str = "ff2045524f4653206b656570732069747320636f6d7072657373656420646174612072696768742d
                   616c69676e65642e202f00b950636f6d7072";
/// `zlib.compressobj(9, zlib.DEFLATED, -15)` of Python 3.
const DEFLATE: &str = "730df2770b56c84e4d2d2856c82c295648cecf2d284a2d2e4e4d5148492c495428ca4ccf28d1
                       4dccc94ccf4b4dd153701d6eca01";
/// `zstd -3 --zstd=wlog=17` (1.5.4) of a pipe: window descriptor, no content size, with checksum.
const ZSTD_CHECKSUM: &str = "28b52ffd0438c50100f40245524f4653206b656570732069747320636f6d7072657373
                             656420646174612072696768742d616c69676e65642e200100774a4a9501c3bda076";
/// `zstd -19 --no-check` (1.5.4) of a file: a single segment with its content size.
const ZSTD_SINGLE: &str =
    "28b52ffd600000b50100f2020b11a0ede0b35ba409693e84d47e08832aae010fba0df14a10
                           1362f88ca9d7ed5ef8983befc8efb7ab6e0629220100774a4a9501";
/// `lzma.compress(..., FORMAT_RAW, [{"id": FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, ...}])` of
/// Python 3; plain LZMA1, ending with an end marker.
const LZMA1_302: &str = "0022948600acbdb8a8eaa569228dcf0b890fdb1a6579552f8a114aadc0af5b28d1dae8206b
                         4594631b622c533fc6a801435fc7c1677fbfff92cea000";
/// The same with `"lc": 0, "lp": 2, "pb": 0`.
const LZMA1_020: &str = "0022952ad4a0fde181f7b16972514608e0188cced3d95a44f1db5630c35042f91a4b1b4587
                         e3719c667c07ee0875a0c9797c47a92a58a25bfee054c0";

/// Plain LZMA1 as MicroLZMA: the property byte, inverted, replaces the range coder's zero.
fn micro(lzma1: &str, lc: u8, lp: u8, pb: u8) -> Vec<u8> {
    let mut stream = unhex(lzma1);
    assert_eq!(stream[0], 0);
    stream[0] = !((pb * 5 + lp) * 9 + lc);
    stream
}

#[test]
fn streams_of_other_programs_decode() {
    for (algorithm, stream) in [
        (Algorithm::Lz4, LZ4),
        (Algorithm::Deflate, DEFLATE),
        (Algorithm::Zstd, ZSTD_CHECKSUM),
        (Algorithm::Zstd, ZSTD_SINGLE),
    ] {
        let mut padded = vec![0; 20];
        padded.extend(unhex(stream));
        let mut decoder = Decoder::new();
        let mut decoded = vec![0; 256];
        decoder.decode_exact(algorithm, &DecodeLimits::default(), &padded, &mut decoded).unwrap();
        assert_eq!(decoded, text());
        for len in 0..=256 {
            let mut head = vec![0; len];
            decoder.decode_prefix(algorithm, &DecodeLimits::default(), &padded, &mut head).unwrap();
            assert_eq!(head, text()[..len]);
        }
    }
}

#[test]
fn lzma_streams_with_an_end_marker_decode_up_to_it() {
    for stream in [micro(LZMA1_302, 3, 0, 2), micro(LZMA1_020, 0, 2, 0)] {
        let mut decoder = Decoder::new();
        let limits = DecodeLimits::default();
        for len in 0..256 {
            let mut head = vec![0; len];
            decoder.decode_prefix(Algorithm::Lzma, &limits, &stream, &mut head).unwrap();
            assert_eq!(head, text()[..len]);
        }
        // MicroLZMA has no end marker.
        decoder.decode_exact(Algorithm::Lzma, &limits, &stream, &mut [0; 256]).unwrap_err();
    }
}

#[test]
fn property_bytes_out_of_range_are_refused() {
    for properties in [225, 255, 8 + 9 * 4, 3 + 9 * 2] {
        let mut stream = micro(LZMA1_302, 3, 0, 2);
        stream[0] = !properties;
        let mut decoded = vec![0; 256];
        let result = Decoder::new().decode_prefix(
            Algorithm::Lzma,
            &DecodeLimits::default(),
            // `!255` is a zero, which counts as padding.
            &stream,
            &mut decoded,
        );
        if properties != 255 {
            let (algorithm, reason) = (Algorithm::Lzma, Corruption::Header);
            assert_eq!(result, Err(DecodeError::Corrupt { algorithm, reason }));
        }
    }
}
