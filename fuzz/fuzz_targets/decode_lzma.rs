// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lzma streams. Invariants: those of `ferrofs_fuzz::decoders`, against a decoder in pure Rust.
#![no_main]

use ferrofs_codec::Algorithm;
use ferrofs_fuzz::decoders::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(Algorithm::Lzma, data, |stream, len| {
        use std::io::Read;
        let lzma1 = [&[0], &stream[1..]].concat();
        let props = !stream[0];
        let mut reader =
            lzma_rust2::LzmaReader::new_with_props(&lzma1[..], len as u64, props, 8 << 20, None)
                .ok()?;
        let mut out = vec![];
        reader.read_to_end(&mut out).ok()?;
        (out.len() == len).then_some(out)
    });
});
