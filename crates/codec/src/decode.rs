// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoding one stream, wholly or its head.
//!
//! [`Decoder`] makes each codec's state when it is first needed and keeps it. It refuses to know
//! where pclusters begin and end; it gets exactly their bytes. The invariant: `Ok` means that all of
//! the output buffer holds decoded bytes.

use crate::deflate::Inflater;
use crate::lzma::LzmaDecoder;
use crate::method::{LZMA_DICT_SIZE_MAX, ZSTD_WINDOW_LOG_MAX};
use crate::zstd::ZstdDecoder;
use crate::{Algorithm, DecodeError, lz4};

/// Limits from an image's configuration records (format.md §2.6) that a decoder must keep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "mirrors the configuration records of the format")]
pub struct DecodeLimits {
    /// Size of the LZMA dictionary in bytes.
    pub lzma_dict_size: u32,
    /// Binary logarithm of the largest Zstandard window.
    pub zstd_window_log: u8,
}

impl Default for DecodeLimits {
    /// The largest windows the format knows: 8 MiB for LZMA, 1 MiB for Zstandard.
    fn default() -> Self {
        Self { lzma_dict_size: LZMA_DICT_SIZE_MAX, zstd_window_log: ZSTD_WINDOW_LOG_MAX }
    }
}

/// Decodes streams of every algorithm. Reusable; one per thread.
///
/// A failed call leaves it fit for the next one.
#[derive(Debug, Default)]
pub struct Decoder {
    strict: bool,
    lzma: Option<LzmaDecoder>,
    inflater: Inflater,
    zstd: Option<ZstdDecoder>,
}

impl Decoder {
    /// A decoder that has not allocated anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that also refuses LZ4 blocks with a match at distance 0, which the format does not
    /// define and every other decoder but the C library refuses. Takes twice as long for LZ4. The
    /// bytes that [`new`](Self::new) gives for such a block are its own or zeros, never older
    /// content of the output.
    pub fn strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// Decodes `src` into the whole of `dst`. The stream must decode to exactly `dst.len()` bytes
    /// and end exactly at the end of `src`.
    ///
    /// An LZMA stream does not say where it ends; a length that is wrong by a few bytes may go
    /// unnoticed there, as in every other reader.
    ///
    /// Zeros in front of the stream are skipped (format.md §13). How many there may be is for the
    /// caller to check, with [`strip_zero_padding`].
    pub fn decode_exact(
        &mut self,
        algorithm: Algorithm,
        limits: &DecodeLimits,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<(), DecodeError> {
        let src = strip_zero_padding(src, src.len())?;
        match algorithm {
            Algorithm::Lz4 => {
                self.check_lz4(src, dst.len())?;
                lz4::decode_exact(src, dst)
            }
            Algorithm::Lzma => self.lzma().decode(limits.lzma_dict_size, src, dst, true),
            Algorithm::Deflate => self.inflater.decode_exact(src, dst),
            Algorithm::Zstd => self.zstd()?.decode_exact(limits.zstd_window_log, src, dst),
        }
    }

    /// Fills `dst` with the first `dst.len()` bytes that `src` decodes to. The stream may go on
    /// behind them, and its end is not looked at; it must have at least `dst.len()` bytes.
    ///
    /// Zeros in front of the stream are skipped, as in [`decode_exact`](Self::decode_exact).
    pub fn decode_prefix(
        &mut self,
        algorithm: Algorithm,
        limits: &DecodeLimits,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<(), DecodeError> {
        let src = strip_zero_padding(src, src.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        match algorithm {
            Algorithm::Lz4 => self.decode_lz4_unpadded(src, dst),
            Algorithm::Lzma => self.lzma().decode(limits.lzma_dict_size, src, dst, false),
            Algorithm::Deflate => self.inflater.decode_prefix(src, dst),
            Algorithm::Zstd => self.zstd()?.decode_prefix(limits.zstd_window_log, src, dst),
        }
    }

    /// Decodes the ancient kind of LZ4 pcluster, with the data at its beginning and an unknown
    /// number of padding bytes behind (format.md §13.1): fills `dst` and ignores the rest of `src`.
    pub fn decode_lz4_unpadded(&self, src: &[u8], dst: &mut [u8]) -> Result<(), DecodeError> {
        if dst.is_empty() {
            return Ok(());
        }
        self.check_lz4(src, dst.len())?;
        lz4::decode_prefix(src, dst)
    }

    /// Decodes in place: the last `src_len` bytes of `buf` are a whole LZ4 block, without padding,
    /// and become the first `out_len` bytes of `buf`. The rest of `buf` is unspecified afterwards.
    ///
    /// `buf` must be at least [`lz4_in_place_margin`](crate::lz4_in_place_margin) longer than
    /// `out_len`; then what is written never overtakes what is still to be read of a valid block.
    /// If it is not, that is an error and `buf` is untouched. After any other error `buf` is
    /// unspecified. format.md §13.6.
    pub fn decode_lz4_in_place(
        &self,
        buf: &mut [u8],
        src_len: usize,
        out_len: usize,
    ) -> Result<(), DecodeError> {
        if let Some(start) = buf.len().checked_sub(src_len) {
            self.check_lz4(&buf[start..], out_len)?;
        }
        lz4::decode_in_place(buf, src_len, out_len)
    }

    fn check_lz4(&self, src: &[u8], wanted: usize) -> Result<(), DecodeError> {
        if self.strict { lz4::check_distances(src, wanted) } else { Ok(()) }
    }

    fn lzma(&mut self) -> &mut LzmaDecoder {
        self.lzma.get_or_insert_with(LzmaDecoder::new)
    }

    fn zstd(&mut self) -> Result<&mut ZstdDecoder, DecodeError> {
        match &mut self.zstd {
            Some(decoder) => Ok(decoder),
            empty => Ok(empty.insert(ZstdDecoder::new()?)),
        }
    }
}

/// `src` without the zeros in front of the stream (format.md §13).
///
/// The stream must start within the first `within` bytes; the format wants that to be the first
/// block of the pcluster. No valid stream starts with a zero byte.
pub fn strip_zero_padding(src: &[u8], within: usize) -> Result<&[u8], DecodeError> {
    /// Bytes looked at together: a block is half full on average, and that is half a microsecond byte
    /// by byte.
    const STEP: usize = 64;
    let searched = within.min(src.len());
    let head = &src[..searched];
    let is_zero = |step: &&[u8; STEP]| step.iter().fold(0, |all, byte| all | byte) == 0;
    let skip = head.as_chunks().0.iter().take_while(is_zero).count() * STEP;
    match head[skip..].iter().position(|&byte| byte != 0) {
        Some(start) => Ok(&src[skip + start..]),
        None => Err(DecodeError::AllPadding { searched }),
    }
}
