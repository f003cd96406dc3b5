// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zstandard (format.md §13.4) over `zstd-safe`.
//!
//! A pcluster holds one frame with its magic number: no dictionary, no skippable frames, nothing
//! behind it, and a window within the image's limit. The library would accept more, so the header is
//! looked at here first.

use core::fmt;

use zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, ResetDirective,
    find_frame_compressed_size,
};

use crate::method::{ZSTD_WINDOW_LOG_MAX, ZSTD_WINDOW_LOG_MIN};
use crate::search::WholeCompress;
use crate::{Algorithm, Corruption, DecodeError, EncodeError};

const ALGORITHM: Algorithm = Algorithm::Zstd;
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Codes of `zstd_errors.h`; those below 100 are stable. The library returns them negated.
const MEMORY_ALLOCATION: ErrorCode = 64_usize.wrapping_neg();
const DST_SIZE_TOO_SMALL: ErrorCode = 70_usize.wrapping_neg();
const SRC_SIZE_WRONG: ErrorCode = 72_usize.wrapping_neg();

pub(crate) struct ZstdDecoder {
    context: DCtx<'static>,
}

impl ZstdDecoder {
    pub(crate) fn new() -> Result<Self, DecodeError> {
        match DCtx::try_create() {
            Some(context) => Ok(Self { context }),
            None => Err(DecodeError::OutOfMemory { algorithm: ALGORITHM }),
        }
    }

    pub(crate) fn decode_exact(
        &mut self,
        window_log: u8,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<(), DecodeError> {
        check_header(window_log, src)?;
        let frame =
            find_frame_compressed_size(src).map_err(|code| decode_error(code, dst.len()))?;
        if frame != src.len() {
            return Err(corrupt(Corruption::InputLeft { left: src.len() - frame }));
        }
        match self.context.decompress(&mut *dst, src) {
            Ok(decoded) if decoded == dst.len() => Ok(()),
            Ok(decoded) => Err(corrupt(Corruption::TooShort { decoded, expected: dst.len() })),
            Err(code) => Err(decode_error(code, dst.len())),
        }
    }

    pub(crate) fn decode_prefix(
        &mut self,
        window_log: u8,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<(), DecodeError> {
        check_header(window_log, src)?;
        let expected = dst.len();
        // Also recovers from an earlier failure, and from a stream that was left in its middle.
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(|code| decode_error(code, expected))?;
        self.context
            .set_parameter(DParameter::WindowLogMax(window_log_limit(window_log).into()))
            .map_err(|code| decode_error(code, expected))?;
        let mut input = InBuffer::around(src);
        let mut output = OutBuffer::around(&mut *dst);
        loop {
            let before = (input.pos(), output.pos());
            let left = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| decode_error(code, expected))?;
            if output.pos() == expected {
                return Ok(());
            }
            // End of the frame; going on would start a second one.
            if left == 0 {
                let decoded = output.pos();
                return Err(corrupt(Corruption::TooShort { decoded, expected }));
            }
            if (input.pos(), output.pos()) == before {
                return Err(corrupt(Corruption::Truncated));
            }
        }
    }
}

impl fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdDecoder").finish_non_exhaustive()
    }
}

fn window_log_limit(window_log: u8) -> u8 {
    window_log.clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX)
}

/// Refuses what the format does not allow though the library would, by the frame header of RFC 8878
/// section 3.1.1.1.
fn check_header(window_log: u8, src: &[u8]) -> Result<(), DecodeError> {
    let Some(header) = src.strip_prefix(&MAGIC) else {
        return Err(corrupt(Corruption::Header));
    };
    let Some((&descriptor, fields)) = header.split_first() else {
        return Err(corrupt(Corruption::Truncated));
    };
    let dictionary_id_flag = descriptor & 0b11;
    let reserved_bit = descriptor >> 3 & 1;
    if dictionary_id_flag != 0 || reserved_bit != 0 {
        return Err(corrupt(Corruption::Header));
    }
    let single_segment = descriptor >> 5 & 1 == 1;
    let window = if single_segment {
        let len = match descriptor >> 6 {
            0 => 1,
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let Some(field) = fields.get(..len) else {
            return Err(corrupt(Corruption::Truncated));
        };
        let value = field.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        // The two-byte form counts from 256.
        if len == 2 { value + 256 } else { value }
    } else {
        let Some(&window) = fields.first() else {
            return Err(corrupt(Corruption::Truncated));
        };
        let base = 1_u64 << (10 + (window >> 3));
        base + base / 8 * u64::from(window & 7)
    };
    let limit = 1 << window_log_limit(window_log);
    if window > limit {
        return Err(DecodeError::WindowTooLarge { algorithm: ALGORITHM, window, limit });
    }
    Ok(())
}

fn corrupt(reason: Corruption) -> DecodeError {
    DecodeError::Corrupt { algorithm: ALGORITHM, reason }
}

fn decode_error(code: ErrorCode, expected: usize) -> DecodeError {
    match code {
        MEMORY_ALLOCATION => DecodeError::OutOfMemory { algorithm: ALGORITHM },
        DST_SIZE_TOO_SMALL => corrupt(Corruption::TooLong { expected }),
        SRC_SIZE_WRONG => corrupt(Corruption::Truncated),
        _ => corrupt(Corruption::Malformed),
    }
}

/// Compresses whole buffers; [`Search`](crate::search::Search) makes fixed output of it.
pub(crate) struct Zstd {
    context: CCtx<'static>,
    level: u8,
}

impl Zstd {
    pub(crate) fn new(level: u8, window_log: u8) -> Result<Self, EncodeError> {
        let windows = ZSTD_WINDOW_LOG_MIN..=ZSTD_WINDOW_LOG_MAX;
        if !(1..=22).contains(&level) || !windows.contains(&window_log) {
            return Err(EncodeError::Options { algorithm: ALGORITHM });
        }
        let Some(mut context) = CCtx::try_create() else {
            return Err(EncodeError::OutOfMemory { algorithm: ALGORITHM });
        };
        let parameters =
            [CParameter::CompressionLevel(level.into()), CParameter::WindowLog(window_log.into())];
        for parameter in parameters {
            context.set_parameter(parameter).map_err(encode_error)?;
        }
        Ok(Self { context, level })
    }
}

impl WholeCompress for Zstd {
    fn algorithm(&self) -> Algorithm {
        ALGORITHM
    }

    fn compress(&mut self, src: &[u8], out: &mut [u8]) -> Result<Option<usize>, EncodeError> {
        match self.context.compress2(out, src) {
            Ok(written) => Ok(Some(written)),
            Err(DST_SIZE_TOO_SMALL) => Ok(None),
            Err(code) => Err(encode_error(code)),
        }
    }

    fn incompressible_len(&self, len: usize) -> usize {
        // Frame header of 18 bytes at most, three bytes for each raw block. Blocks have 128 KiB, or
        // the size of a smaller window, which is 1 KiB at least.
        len.saturating_sub(24 + len / 256)
    }
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("level", &self.level).finish_non_exhaustive()
    }
}

fn encode_error(code: ErrorCode) -> EncodeError {
    match code {
        MEMORY_ALLOCATION => EncodeError::OutOfMemory { algorithm: ALGORITHM },
        code => EncodeError::Codec { algorithm: ALGORITHM, code: -(code.wrapping_neg() as i64) },
    }
}
