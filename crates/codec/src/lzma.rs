// SPDX-License-Identifier: MIT OR Apache-2.0
//! MicroLZMA (format.md §13.2) over liblzma, and the only place that calls it.
//!
//! liblzma does the two differences from plain LZMA1 itself: the inverted property byte in place of
//! the header, and the range coder's first byte that is always zero and not stored.

use core::fmt;
use core::mem::MaybeUninit;

use liblzma_sys::{
    LZMA_FINISH, LZMA_MEM_ERROR, LZMA_OK, LZMA_OPTIONS_ERROR, LZMA_PRESET_EXTREME, LZMA_STREAM_END,
    lzma_code, lzma_end, lzma_lzma_preset, lzma_microlzma_decoder, lzma_microlzma_encoder,
    lzma_options_lzma, lzma_ret, lzma_stream,
};

use crate::method::{LZMA_DICT_SIZE_MAX, LZMA_DICT_SIZE_MIN};
use crate::{Algorithm, Corruption, DecodeError, EncodeError, FixedOutput, Prefix};

const ALGORITHM: Algorithm = Algorithm::Lzma;
/// The smallest output `lzma_microlzma_encoder` can do anything with.
const OUTPUT_MIN: usize = 6;

/// A coder of liblzma, kept between calls so that it can reuse its memory.
struct Stream(lzma_stream);

// SAFETY: the stream owns everything it points to, except for the buffers given for the duration of
// one `code` call, and liblzma keeps no thread-local or global data about it.
unsafe impl Send for Stream {}

impl Stream {
    fn new() -> Self {
        // SAFETY: `LZMA_STREAM_INIT` is defined as all zeros and null pointers, all valid values
        // for the integer and pointer fields of the structure.
        Self(unsafe { MaybeUninit::zeroed().assume_init() })
    }

    /// Runs the coder over the two buffers until it ends or gets stuck; returns its last code and
    /// how much it read and wrote.
    fn code(&mut self, src: &[u8], dst: &mut [u8]) -> (lzma_ret, Prefix) {
        self.0.next_in = src.as_ptr();
        self.0.avail_in = src.len();
        self.0.next_out = dst.as_mut_ptr();
        self.0.avail_out = dst.len();
        let code = loop {
            // SAFETY: one of the two `lzma_microlzma_*` functions succeeded on this stream just
            // before; input and output are valid for the lengths set, do not overlap, and outlive
            // the call.
            let code = unsafe { lzma_code(&raw mut self.0, LZMA_FINISH) };
            // Ends: two calls in a row without progress give LZMA_BUF_ERROR.
            if code != LZMA_OK {
                break code;
            }
        };
        let consumed = src.len() - self.0.avail_in;
        let written = dst.len() - self.0.avail_out;
        self.0.next_in = core::ptr::null();
        self.0.avail_in = 0;
        self.0.next_out = core::ptr::null_mut();
        self.0.avail_out = 0;
        (code, Prefix { consumed, written })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is initialised (maybe to zeros, which is allowed) and not used again.
        unsafe { lzma_end(&raw mut self.0) }
    }
}

pub(crate) struct LzmaDecoder {
    stream: Stream,
    /// The dictionary liblzma holds at the moment; it allocates anew when that changes.
    dict_size: u32,
}

impl LzmaDecoder {
    pub(crate) fn new() -> Self {
        Self { stream: Stream::new(), dict_size: 0 }
    }

    /// Fills `dst`; with `exact` the stream must end there and with `src`.
    pub(crate) fn decode(
        &mut self,
        dict_limit: u32,
        src: &[u8],
        dst: &mut [u8],
        exact: bool,
    ) -> Result<(), DecodeError> {
        self.init(dict_limit, src.len(), dst.len(), exact)?;
        let (code, done) = self.stream.code(src, dst);
        let reason = match code {
            LZMA_STREAM_END if done.written != dst.len() => {
                Corruption::TooShort { decoded: done.written, expected: dst.len() }
            }
            LZMA_STREAM_END if exact && done.consumed != src.len() => {
                Corruption::InputLeft { left: src.len() - done.consumed }
            }
            LZMA_STREAM_END => return Ok(()),
            LZMA_MEM_ERROR => return Err(DecodeError::OutOfMemory { algorithm: ALGORITHM }),
            LZMA_OPTIONS_ERROR => Corruption::Header,
            _ if done.consumed == src.len() && done.written < dst.len() => Corruption::Truncated,
            _ => Corruption::Malformed,
        };
        Err(DecodeError::Corrupt { algorithm: ALGORITHM, reason })
    }

    fn init(
        &mut self,
        dict_limit: u32,
        src_len: usize,
        dst_len: usize,
        exact: bool,
    ) -> Result<(), DecodeError> {
        // A match cannot reach behind the beginning of the output, so a dictionary as large as the
        // output is as good as any larger one. It never shrinks within the limit, lest inputs of
        // different sizes make liblzma allocate again and again.
        let limit = dict_limit.clamp(LZMA_DICT_SIZE_MIN, LZMA_DICT_SIZE_MAX);
        let useful = u32::try_from(dst_len).unwrap_or(limit).min(limit);
        let useful = useful.max(LZMA_DICT_SIZE_MIN).next_power_of_two();
        self.dict_size = self.dict_size.max(useful).min(limit);
        // SAFETY: the stream is zeroed or was initialised by an earlier call of this function.
        let code = unsafe {
            lzma_microlzma_decoder(
                &raw mut self.stream.0,
                src_len as u64,
                dst_len as u64,
                exact.into(),
                self.dict_size,
            )
        };
        match code {
            LZMA_OK => Ok(()),
            LZMA_MEM_ERROR => Err(DecodeError::OutOfMemory { algorithm: ALGORITHM }),
            // Only for lengths beyond 2^63.
            _ => Err(DecodeError::BufferTooLarge { algorithm: ALGORITHM, len: dst_len }),
        }
    }
}

impl fmt::Debug for LzmaDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LzmaDecoder").field("dict_size", &self.dict_size).finish_non_exhaustive()
    }
}

pub(crate) struct LzmaEncoder {
    stream: Stream,
    options: lzma_options_lzma,
    trials: u64,
}

// SAFETY: the pointers in `options` are null (a preset sets no dictionary); for `stream` see above.
unsafe impl Send for LzmaEncoder {}

impl LzmaEncoder {
    pub(crate) fn new(level: u8, extreme: bool, dict_size: u32) -> Result<Self, EncodeError> {
        if level > 9 || !(LZMA_DICT_SIZE_MIN..=LZMA_DICT_SIZE_MAX).contains(&dict_size) {
            return Err(EncodeError::Options { algorithm: ALGORITHM });
        }
        let preset = u32::from(level) | if extreme { LZMA_PRESET_EXTREME } else { 0 };
        // SAFETY: all fields are integers and pointers, for which zero is a valid value.
        let mut options: lzma_options_lzma = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `options` is a live local of the right type.
        let unknown = unsafe { lzma_lzma_preset(&raw mut options, preset) };
        if unknown != 0 {
            return Err(EncodeError::Options { algorithm: ALGORITHM });
        }
        options.dict_size = dict_size;
        Ok(Self { stream: Stream::new(), options, trials: 0 })
    }
}

impl FixedOutput for LzmaEncoder {
    fn compress_prefix_hinted(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        _hint: usize,
    ) -> Result<Prefix, EncodeError> {
        if src.is_empty() {
            return Ok(Prefix::default());
        }
        if dst.len() < OUTPUT_MIN {
            return Err(EncodeError::OutputTooSmall { algorithm: ALGORITHM, len: dst.len() });
        }
        self.trials += 1;
        // SAFETY: the stream is zeroed or was initialised by an earlier call; `options` is alive
        // and fully initialised, and liblzma copies what it needs of it.
        let code =
            unsafe { lzma_microlzma_encoder(&raw mut self.stream.0, &raw const self.options) };
        let (code, prefix) = match code {
            LZMA_OK => self.stream.code(src, dst),
            code => (code, Prefix::default()),
        };
        match code {
            LZMA_STREAM_END if prefix.consumed == 0 => {
                Err(EncodeError::OutputTooSmall { algorithm: ALGORITHM, len: dst.len() })
            }
            LZMA_STREAM_END => Ok(prefix),
            LZMA_MEM_ERROR => Err(EncodeError::OutOfMemory { algorithm: ALGORITHM }),
            code => Err(EncodeError::Codec { algorithm: ALGORITHM, code: code.into() }),
        }
    }

    fn algorithm(&self) -> Algorithm {
        ALGORITHM
    }

    fn trials(&self) -> u64 {
        self.trials
    }
}

impl fmt::Debug for LzmaEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LzmaEncoder")
            .field("dict_size", &self.options.dict_size)
            .finish_non_exhaustive()
    }
}
