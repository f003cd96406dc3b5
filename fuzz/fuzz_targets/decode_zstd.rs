// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zstd streams. Invariants: those of `ferrofs_fuzz::decoders`, against a decoder in pure Rust.
#![no_main]

use ferrofs_codec::Algorithm;
use ferrofs_fuzz::decoders::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(Algorithm::Zstd, data, |stream, len| {
        use std::io::Read;
        let mut reader = ruzstd::decoding::StreamingDecoder::new(stream).ok()?;
        let mut out = vec![];
        reader.by_ref().take(len as u64 + 1).read_to_end(&mut out).ok()?;
        Some(out)
    });
});
