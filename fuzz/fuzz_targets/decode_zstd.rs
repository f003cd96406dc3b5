// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zstandard frames. Invariants: those of `ferrofs_fuzz::decoders`; and the input as a text, encoded
//! by us, is decoded to itself by us and by a decoder in pure Rust.
//!
//! Damaged frames are not compared with that decoder: without a checksum both may accept one and
//! make different bytes of it. Kernels decode with the C library that is under test.
#![no_main]

use ferrofs_codec::{Algorithm, Method};
use ferrofs_fuzz::decoders::check;
use libfuzzer_sys::fuzz_target;
use std::io::Read;

fuzz_target!(|data: &[u8]| {
    check(Algorithm::Zstd, data, |_, _| None);
    let mut encoder = Method::parse("zstd,1").expect("a method").encoder().expect("an encoder");
    let mut frame = vec![0; 512];
    let prefix = encoder.compress_prefix(data, &mut frame).expect("room for something");
    if prefix.consumed == 0 {
        return;
    }
    let frame = &frame[..prefix.written];
    let mut theirs = vec![];
    let reader = ruzstd::decoding::StreamingDecoder::new(frame);
    reader.expect("a frame").read_to_end(&mut theirs).expect("it decodes");
    assert!(theirs == data[..prefix.consumed], "another decoder gets other bytes");
    let mut ours = vec![0; prefix.consumed];
    ferrofs_codec::Decoder::new()
        .decode_exact(Algorithm::Zstd, &Default::default(), frame, &mut ours)
        .expect("our own frame");
    assert!(ours == theirs, "our own frame decodes to other bytes");
});
