// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raw DEFLATE (format.md §13.3) over libdeflate, and the only place that calls it.
//!
//! libdeflate is the fastest at whole buffers but cannot stop early, so heads of streams are decoded
//! by `miniz_oxide`, which can.

use core::fmt;
use std::ptr::{self, NonNull};

use libdeflate_sys::{
    libdeflate_alloc_compressor, libdeflate_alloc_decompressor, libdeflate_compressor,
    libdeflate_decompressor, libdeflate_deflate_compress, libdeflate_deflate_decompress_ex,
    libdeflate_free_compressor, libdeflate_free_decompressor,
    libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE, libdeflate_result_LIBDEFLATE_SHORT_OUTPUT,
    libdeflate_result_LIBDEFLATE_SUCCESS,
};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::search::WholeCompress;
use crate::{Algorithm, Corruption, DecodeError, EncodeError};

const ALGORITHM: Algorithm = Algorithm::Deflate;

/// Both decoders, made when first needed.
#[derive(Default)]
pub(crate) struct Inflater {
    whole: Option<RawDecompressor>,
    head: Option<Box<DecompressorOxide>>,
}

struct RawDecompressor(NonNull<libdeflate_decompressor>);

// SAFETY: the pointer is the only one to its state, and libdeflate keeps no thread-local data and
// no global data about it.
unsafe impl Send for RawDecompressor {}

impl Drop for RawDecompressor {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `libdeflate_alloc_decompressor` and is freed once, here.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

impl RawDecompressor {
    fn new() -> Result<Self, DecodeError> {
        // SAFETY: no preconditions.
        let raw = unsafe { libdeflate_alloc_decompressor() };
        NonNull::new(raw).map(Self).ok_or(DecodeError::OutOfMemory { algorithm: ALGORITHM })
    }
}

impl Inflater {
    pub(crate) fn decode_exact(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), DecodeError> {
        let raw = match &mut self.whole {
            Some(raw) => raw,
            empty => empty.insert(RawDecompressor::new()?),
        };
        let mut consumed = 0;
        // SAFETY: the decompressor is alive and used by no one else; `src` and `dst` are valid for
        // the lengths given and do not overlap; `consumed` is a live local. A null pointer for the
        // actual output length is documented: the output must then be filled exactly.
        let result = unsafe {
            libdeflate_deflate_decompress_ex(
                raw.0.as_ptr(),
                src.as_ptr().cast(),
                src.len(),
                dst.as_mut_ptr().cast(),
                dst.len(),
                &raw mut consumed,
                ptr::null_mut(),
            )
        };
        #[expect(non_upper_case_globals, reason = "the C library's names")]
        let reason = match result {
            libdeflate_result_LIBDEFLATE_SUCCESS if consumed == src.len() => return Ok(()),
            libdeflate_result_LIBDEFLATE_SUCCESS => {
                Corruption::InputLeft { left: src.len().saturating_sub(consumed) }
            }
            libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => {
                Corruption::TooLong { expected: dst.len() }
            }
            libdeflate_result_LIBDEFLATE_SHORT_OUTPUT => Corruption::Truncated,
            _ => Corruption::Malformed,
        };
        Err(DecodeError::Corrupt { algorithm: ALGORITHM, reason })
    }

    pub(crate) fn decode_prefix(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), DecodeError> {
        let head = self.head.get_or_insert_with(Box::default);
        head.init();
        let (status, _, decoded) =
            decompress(head, src, dst, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
        let reason = match status {
            TINFLStatus::Done | TINFLStatus::HasMoreOutput if decoded == dst.len() => {
                return Ok(());
            }
            TINFLStatus::Done => Corruption::TooShort { decoded, expected: dst.len() },
            TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput => {
                Corruption::Truncated
            }
            _ => Corruption::Malformed,
        };
        Err(DecodeError::Corrupt { algorithm: ALGORITHM, reason })
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// Compresses whole buffers; [`Search`](crate::search::Search) makes fixed output of it.
pub(crate) struct Deflate {
    raw: NonNull<libdeflate_compressor>,
    level: u8,
}

// SAFETY: as for `RawDecompressor`.
unsafe impl Send for Deflate {}

impl Deflate {
    pub(crate) fn new(level: u8) -> Result<Self, EncodeError> {
        if !(1..=12).contains(&level) {
            return Err(EncodeError::Options { algorithm: ALGORITHM });
        }
        // SAFETY: no preconditions; unknown levels give null.
        let raw = unsafe { libdeflate_alloc_compressor(level.into()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, level }),
            None => Err(EncodeError::OutOfMemory { algorithm: ALGORITHM }),
        }
    }
}

impl WholeCompress for Deflate {
    fn algorithm(&self) -> Algorithm {
        ALGORITHM
    }

    fn compress(&mut self, src: &[u8], out: &mut [u8]) -> Result<Option<usize>, EncodeError> {
        // SAFETY: the compressor is alive and used by no one else; `src` and `out` are valid for
        // the lengths given and do not overlap.
        let written = unsafe {
            libdeflate_deflate_compress(
                self.raw.as_ptr(),
                src.as_ptr().cast(),
                src.len(),
                out.as_mut_ptr().cast(),
                out.len(),
            )
        };
        if written == 0 {
            return Ok(None);
        }
        // Readers skip zeros in front of the stream (format.md §13), so its first byte must not be
        // one. It is only if the stream starts with a stored block that is not the last: three
        // header bits of zero. The other five bits are then padding up to the byte boundary, which
        // RFC 1951 section 3.2.4 has every decoder ignore; set one.
        if out[0] == 0 {
            out[0] = 0x08;
        }
        Ok(Some(written))
    }

    fn incompressible_len(&self, len: usize) -> usize {
        // Stored blocks: five bytes for each 65535 at most (libdeflate counts on at least 10000 a
        // block when it bounds its own output), and one byte for the last bits.
        len.saturating_sub(16 + len / 1500)
    }
}

impl fmt::Debug for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflate").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Drop for Deflate {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `libdeflate_alloc_compressor` and is freed once, here.
        unsafe { libdeflate_free_compressor(self.raw.as_ptr()) }
    }
}
