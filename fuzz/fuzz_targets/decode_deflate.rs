// SPDX-License-Identifier: MIT OR Apache-2.0
//! Deflate streams. Invariants: those of `ferrofs_fuzz::decoders`, against a decoder in pure Rust.
#![no_main]

use ferrofs_codec::Algorithm;
use ferrofs_fuzz::decoders::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(Algorithm::Deflate, data, |stream, len| {
        miniz_oxide::inflate::decompress_to_vec_with_limit(stream, len).ok()
    });
});
