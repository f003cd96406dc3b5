// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints what each method does with a file: `throughput FILE [METHOD]...`.
//!
//! The file is cut into pclusters as a writer would do it, then decoded, then only the first 4 KiB of
//! each pcluster are decoded. Ratio counts whole pclusters.

use std::error::Error;
use std::time::Instant;

use ferrofs_codec::{DecodeLimits, Decoder, Method};

/// No extent decodes to more (format.md §13.7).
const DECODED_MAX: usize = 12 << 20;
const METHODS: [&str; 7] =
    ["lz4", "lz4hc,9", "lz4hc,12", "lzma,6", "deflate,6", "zstd,3", "zstd,9"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else {
        return Err("usage: throughput FILE [METHOD]...".into());
    };
    let mut methods: Vec<String> = arguments.collect();
    if methods.is_empty() {
        methods = METHODS.map(String::from).to_vec();
    }
    let data = std::fs::read(file)?;
    println!(
        "{:<24} {:>8} {:>8} {:>7} {:>10} {:>10} {:>12}",
        "method", "size", "ratio", "trials", "enc MB/s", "dec MB/s", "us/4K head"
    );
    for method in &methods {
        for size in [4096, 16_384, 65_536, 1 << 20] {
            measure(method, &data, size)?;
        }
    }
    Ok(())
}

fn measure(method: &str, data: &[u8], size: usize) -> Result<(), Box<dyn Error>> {
    let method = Method::parse(method)?.resolve(size);
    let mut encoder = method.encoder()?;
    let mut streams = Vec::new();
    let (mut position, mut hint) = (0, 0);
    let start = Instant::now();
    while position < data.len() {
        let rest = &data[position..];
        let mut stream = vec![0; size];
        let src = &rest[..rest.len().min(DECODED_MAX)];
        let prefix = encoder.compress_prefix_hinted(src, &mut stream, hint)?;
        stream.truncate(prefix.written);
        streams.push((position, prefix.consumed, stream));
        position += prefix.consumed;
        hint = prefix.consumed;
    }
    let encoding = start.elapsed().as_secs_f64();

    let (limits, mut decoder) = (DecodeLimits::default(), Decoder::new());
    let mut output = vec![0; DECODED_MAX];
    let start = Instant::now();
    for (position, len, stream) in &streams {
        let output = &mut output[..*len];
        decoder.decode_exact(method.algorithm(), &limits, stream, output)?;
        if *output != data[*position..*position + *len] {
            return Err("decoded data differ".into());
        }
    }
    let decoding = start.elapsed().as_secs_f64();

    let start = Instant::now();
    for (_, len, stream) in &streams {
        let output = &mut output[..4096.min(*len)];
        decoder.decode_prefix(method.algorithm(), &limits, stream, output)?;
    }
    let heads = start.elapsed().as_secs_f64();

    let megabytes = data.len() as f64 / 1e6;
    println!(
        "{:<24} {:>8} {:>8.4} {:>7.2} {:>10.1} {:>10.0} {:>12.1}",
        method.to_string(),
        size,
        (streams.len() * size) as f64 / data.len() as f64,
        encoder.trials() as f64 / streams.len() as f64,
        megabytes / encoding,
        megabytes / decoding,
        heads * 1e6 / streams.len() as f64,
    );
    Ok(())
}
