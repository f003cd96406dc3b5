// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check for all decoders.
//!
//! Input: two bytes of decoded length, one that scales it, then the stream. Asserted of any stream:
//! no panic; what is decoded does not depend on what was in the output before, nor on earlier
//! calls; a whole decode that succeeds has heads of every length, which are its own; an independent
//! decoder, if it can decode the stream at all, gets the same bytes.

use ferrofs_codec::{Algorithm, DecodeError, DecodeLimits, Decoder};

/// Decodes with a library that shares no code with the one under test; `None` if it cannot.
pub type Reference = fn(&[u8], usize) -> Option<Vec<u8>>;

/// Length and stream of an input, if it is long enough.
#[must_use]
pub fn split(data: &[u8]) -> Option<(usize, &[u8])> {
    let (head, stream) = data.split_first_chunk::<3>()?;
    let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
    Some((len << (head[2] & 3), stream))
}

/// Runs the check; returns the whole decode, if it succeeded.
pub fn check(algorithm: Algorithm, data: &[u8], reference: Reference) -> Option<Vec<u8>> {
    let (len, stream) = split(data)?;
    let mut decoder = Decoder::strict();
    let whole = both(len, |dst| decoder.decode_exact(algorithm, &limits(data), stream, dst));
    let mut longer: Option<Vec<u8>> = whole.as_ref().ok().cloned();
    let start = stream.iter().position(|&byte| byte != 0).unwrap_or(stream.len());
    // Heads of DEFLATE are decoded by another library than whole streams, and that one refuses some
    // incomplete codes. An error is all right where a third party sees one, too.
    let agreed = if whole.is_ok() { reference(&stream[start..], len) } else { None };
    // From long to short: what has a head has every shorter one.
    for len in [len, len / 2, (len / 2).min(100)] {
        let head = both(len, |dst| decoder.decode_prefix(algorithm, &limits(data), stream, dst));
        match (&longer, head) {
            (Some(longer), Ok(head)) => {
                let len = head.len().min(longer.len());
                assert!(head[..len] == longer[..len], "a head of {len} bytes is another");
            }
            (Some(_), Err(error)) => {
                let sound = whole.is_err() || agreed.is_some();
                assert!(!sound, "what decodes whole has no head of {len}: {error}");
            }
            (None, Ok(head)) => longer = Some(head),
            (None, Err(_)) => {}
        }
    }
    let whole = whole.ok()?;
    if let Some(decoded) = agreed {
        let first = decoded.iter().zip(&whole).position(|(theirs, ours)| theirs != ours);
        assert!(
            decoded == whole,
            "another decoder gets other bytes: {} and {}, first at {first:?}",
            decoded.len(),
            whole.len(),
        );
    }
    Some(whole)
}

fn limits(data: &[u8]) -> DecodeLimits {
    match data[2] >> 2 & 3 {
        0 => DecodeLimits { lzma_dict_size: 4096, zstd_window_log: 10 },
        1 => DecodeLimits { lzma_dict_size: 65536, zstd_window_log: 16 },
        _ => DecodeLimits::default(),
    }
}

/// Decodes twice, over different old bytes.
fn both(
    len: usize,
    mut decode: impl FnMut(&mut [u8]) -> Result<(), DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    let (mut first, mut second) = (vec![0xA5; len], vec![0x5A; len]);
    let results = (decode(&mut first), decode(&mut second));
    match results {
        (Ok(()), Ok(())) => assert!(first == second, "old bytes of the output shine through"),
        (Err(_), Err(_)) => {}
        _ => panic!("the same stream decodes once: {results:?}"),
    }
    results.0.map(|()| first)
}
