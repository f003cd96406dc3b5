// SPDX-License-Identifier: MIT OR Apache-2.0
//! LZ4 blocks. Invariants: those of `ferrofs_fuzz::decoders`, against a decoder in pure Rust; and
//! decoding in place gives the same bytes as decoding elsewhere.
#![no_main]

use ferrofs_codec::{Algorithm, Decoder, lz4_in_place_margin};
use ferrofs_fuzz::decoders::{check, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = check(Algorithm::Lz4, data, |stream, len| {
        lz4_flex::block::decompress(stream, len).ok().filter(|out| out.len() == len)
    });
    let Some((len, stream)) = split(data) else { return };
    let start = stream.iter().position(|&byte| byte != 0).unwrap_or(stream.len());
    let stream = &stream[start..];
    let mut buf = vec![0; (len + lz4_in_place_margin(stream.len())).max(stream.len())];
    let at = buf.len() - stream.len();
    buf[at..].copy_from_slice(stream);
    let in_place = Decoder::strict().decode_lz4_in_place(&mut buf, stream.len(), len);
    if let Some(whole) = whole {
        in_place.expect("what decodes elsewhere decodes in place");
        assert!(buf[..len] == whole[..], "in place gives other bytes");
        let mut padded = stream.to_vec();
        padded.extend_from_slice(&[0; 64]);
        let mut out = vec![0; len];
        Decoder::strict()
            .decode_lz4_unpadded(&padded, &mut out)
            .expect("padding behind is ignored");
        assert!(out == whole, "padding behind changes the bytes");
    }
});
