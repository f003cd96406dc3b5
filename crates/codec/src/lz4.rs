// SPDX-License-Identifier: MIT OR Apache-2.0
//! LZ4 and LZ4HC over the C library, and the only place that calls it.
//!
//! `lz4-sys` builds the library but declares neither the fixed-output compressors nor the partial
//! decoder, so they are declared here, as in `lz4.h` and `lz4hc.h` of LZ4 1.10.0, the version it
//! bundles. Nothing here keeps a pointer to a caller's buffer that the library would follow later.

use core::ffi::{c_char, c_int, c_void};
use core::fmt;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

// Links the C library.
use lz4_sys as _;

use crate::{Algorithm, Corruption, DecodeError, EncodeError, FixedOutput, Prefix};

unsafe extern "C" {
    fn LZ4_compress_destSize(
        src: *const c_char,
        dst: *mut c_char,
        src_size: *mut c_int,
        target_dst_size: c_int,
    ) -> c_int;
    fn LZ4_initStreamHC(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_resetStreamHC_fast(stream: *mut c_void, level: c_int);
    fn LZ4_compress_HC_continue_destSize(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: *mut c_int,
        target_dst_size: c_int,
    ) -> c_int;
    fn LZ4_decompress_safe(
        src: *const c_char,
        dst: *mut c_char,
        compressed_size: c_int,
        dst_capacity: c_int,
    ) -> c_int;
    fn LZ4_decompress_safe_partial(
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        target_output_size: c_int,
        dst_capacity: c_int,
    ) -> c_int;
}

/// `LZ4_STREAMHC_MINSIZE`: the same in every version of the library, for static allocation.
const HC_STATE: Layout = match Layout::from_size_align(262_200, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("262200 bytes aligned to 8 is a valid layout"),
};

/// No LZ4 stream decodes to more than this many bytes a byte: each byte of a match length adds 255.
const RATIO_MAX: usize = 255;
/// `LZ4_MAX_INPUT_SIZE`.
const INPUT_MAX: usize = 0x7E00_0000;

// Matches at distance 0. No compressor writes them, but the library takes them and leaves what was
// in the output before, which may be bytes of another file. Looking for them costs nearly half of
// the speed of decoding, so that is for the strict; the others clear the output first, for a
// thirtieth. Then what comes out depends on the block alone, and is its author's own.

/// Decodes a whole block that must become exactly `dst.len()` bytes.
pub(crate) fn decode_exact(src: &[u8], dst: &mut [u8]) -> Result<(), DecodeError> {
    dst.fill(0);
    let (src_len, dst_len) = (decode_len(src.len())?, decode_len(dst.len())?);
    // SAFETY: both pointers are valid for the lengths given with them, which are the slices' own;
    // `src` and `dst` do not overlap, being a shared and an exclusive borrow. The function reads
    // and writes only inside them, whatever the bytes are.
    let decoded = unsafe {
        LZ4_decompress_safe(src.as_ptr().cast(), dst.as_mut_ptr().cast(), src_len, dst_len)
    };
    check_decoded(decoded, dst.len())
}

/// Decodes the head of a block.
pub(crate) fn decode_prefix(src: &[u8], dst: &mut [u8]) -> Result<(), DecodeError> {
    dst.fill(0);
    let (src_len, dst_len) = (decode_len(src.len())?, decode_len(dst.len())?);
    // SAFETY: as in `decode_exact`; target size and capacity are both the length of `dst`.
    let decoded = unsafe {
        LZ4_decompress_safe_partial(
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            src_len,
            dst_len,
            dst_len,
        )
    };
    check_decoded(decoded, dst.len())
}

/// How many bytes an in-place buffer must be longer than the decoded data, for `src_len` encoded
/// bytes (format.md §13.6).
pub const fn lz4_in_place_margin(src_len: usize) -> usize {
    (src_len >> 8) + 32
}

/// Decodes in place: the last `src_len` bytes of `buf` are a whole LZ4 block, without padding, and
/// become the first `out_len` bytes of `buf`. The rest of `buf` is unspecified afterwards.
///
/// `buf` must be at least [`lz4_in_place_margin`] longer than `out_len`; then what is written never
/// overtakes what is still to be read of a valid block. If it is not, that is an error and `buf` is
/// untouched. After any other error `buf` is unspecified.
pub(crate) fn decode_in_place(
    buf: &mut [u8],
    src_len: usize,
    out_len: usize,
) -> Result<(), DecodeError> {
    let room = buf.len().checked_sub(out_len);
    if src_len > buf.len() || room.is_none_or(|room| room < lz4_in_place_margin(src_len)) {
        return Err(DecodeError::InPlaceMargin {
            buffer: buf.len(),
            encoded: src_len,
            decoded: out_len,
        });
    }
    let (src_size, dst_size) = (decode_len(src_len)?, decode_len(out_len)?);
    let start = buf.len() - src_len;
    buf[..start.min(out_len)].fill(0);
    let base = buf.as_mut_ptr();
    // SAFETY: `start <= buf.len()`, so the result points into `buf` or one past its end.
    let src = unsafe { base.add(start) };
    // SAFETY: `src` is valid for reading `src_len` bytes and `base` for writing `out_len` bytes;
    // both derive from the one exclusive borrow of `buf`, so Rust holds no other reference to these
    // bytes. The ranges may overlap: the library documents this for exactly this placement and
    // margin (`LZ4_DECOMPRESS_INPLACE_MARGIN`), and checks every single access against the two
    // ranges, so that an invalid block can only yield wrong bytes or an error.
    let decoded =
        unsafe { LZ4_decompress_safe(src.cast_const().cast(), base.cast(), src_size, dst_size) };
    check_decoded(decoded, out_len)
}

/// Refuses matches at distance 0. Looks no further than `wanted` bytes of output, since padding may
/// follow there.
pub(crate) fn check_distances(src: &[u8], wanted: usize) -> Result<(), DecodeError> {
    // Such a distance is two zero bytes. Most blocks have none, and a search for them costs little.
    if has_zero_pair(src) && has_zero_distance(src, wanted).unwrap_or(false) {
        let reason = Corruption::Malformed;
        return Err(DecodeError::Corrupt { algorithm: Algorithm::Lz4, reason });
    }
    Ok(())
}

/// Whether two zero bytes stand side by side; may say yes if they do not.
fn has_zero_pair(src: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let words = src.chunks_exact(8);
    let rest = words.remainder();
    let mut before = 0;
    for word in words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        // The top bit of every zero byte, and sometimes of a byte behind one.
        let zeros = word.wrapping_sub(ONES) & !word & TOPS;
        if zeros & (zeros << 8 | before) != 0 {
            return true;
        }
        before = zeros >> 56;
    }
    before != 0 || rest.windows(2).any(|pair| pair == [0, 0])
}

/// Walks the sequences of a block; `None` if it is malformed, which decoding will find.
fn has_zero_distance(src: &[u8], wanted: usize) -> Option<bool> {
    let mut bytes = src;
    let mut decoded = 0_usize;
    loop {
        let token = usize::from(*bytes.split_off_first()?);
        let literals = run_len(&mut bytes, token >> 4)?;
        bytes = bytes.get(literals..)?;
        decoded += literals;
        if decoded >= wanted || bytes.is_empty() {
            return Some(false);
        }
        let (distance, behind) = bytes.split_first_chunk::<2>()?;
        if distance == &[0, 0] {
            return Some(true);
        }
        bytes = behind;
        decoded += run_len(&mut bytes, token & 15)? + 4;
        if decoded >= wanted {
            return Some(false);
        }
    }
}

/// A length whose first four bits stand in the token. Grows by at most 255 a byte of input.
fn run_len(bytes: &mut &[u8], nibble: usize) -> Option<usize> {
    let mut len = nibble;
    if nibble == 15 {
        loop {
            let byte = *bytes.split_off_first()?;
            len += usize::from(byte);
            if byte < 255 {
                break;
            }
        }
    }
    Some(len)
}

fn decode_len(len: usize) -> Result<c_int, DecodeError> {
    c_int::try_from(len).map_err(|_| DecodeError::BufferTooLarge { algorithm: Algorithm::Lz4, len })
}

fn check_decoded(decoded: c_int, expected: usize) -> Result<(), DecodeError> {
    let reason = match usize::try_from(decoded) {
        Ok(decoded) if decoded == expected => return Ok(()),
        Ok(decoded) => Corruption::TooShort { decoded, expected },
        Err(_) => Corruption::Malformed,
    };
    Err(DecodeError::Corrupt { algorithm: Algorithm::Lz4, reason })
}

/// The fast compressor. Its table lives on the stack of each call.
#[derive(Debug, Default)]
pub(crate) struct Lz4Encoder {
    trials: u64,
}

impl FixedOutput for Lz4Encoder {
    fn compress_prefix_hinted(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        _hint: usize,
    ) -> Result<Prefix, EncodeError> {
        if src.is_empty() {
            return Ok(Prefix::default());
        }
        let (src, mut src_len, dst_len) = encode_lens(src, dst)?;
        self.trials += 1;
        // SAFETY: `src` and `dst` are valid for the lengths given, which are the slices' own, and
        // do not overlap; `src_len` is a live local.
        let written = unsafe {
            LZ4_compress_destSize(
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                &raw mut src_len,
                dst_len,
            )
        };
        prefix(src_len, written, dst.len())
    }

    fn algorithm(&self) -> Algorithm {
        Algorithm::Lz4
    }

    fn trials(&self) -> u64 {
        self.trials
    }
}

/// The high-compression compressor with its 256 KiB of tables.
pub(crate) struct Lz4HcEncoder {
    state: NonNull<c_void>,
    level: c_int,
    trials: u64,
}

// SAFETY: `state` is memory owned by this value alone, and the library keeps no thread-local or
// global data about it.
unsafe impl Send for Lz4HcEncoder {}

impl Lz4HcEncoder {
    pub(crate) fn new(level: u8) -> Result<Self, EncodeError> {
        if !(1..=12).contains(&level) {
            return Err(EncodeError::Options { algorithm: Algorithm::Lz4 });
        }
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(HC_STATE) };
        let Some(state) = NonNull::new(memory.cast::<c_void>()) else {
            return Err(EncodeError::OutOfMemory { algorithm: Algorithm::Lz4 });
        };
        // SAFETY: `state` is valid for writing `HC_STATE.size()` bytes and aligned to 8.
        let stream = unsafe { LZ4_initStreamHC(state.as_ptr(), HC_STATE.size()) };
        let encoder = Self { state, level: c_int::from(level), trials: 0 };
        if stream.is_null() {
            // The library wants more memory or a stricter alignment than its header promises.
            return Err(EncodeError::Options { algorithm: Algorithm::Lz4 });
        }
        Ok(encoder)
    }
}

impl FixedOutput for Lz4HcEncoder {
    fn compress_prefix_hinted(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        _hint: usize,
    ) -> Result<Prefix, EncodeError> {
        if src.is_empty() {
            return Ok(Prefix::default());
        }
        let (src, mut src_len, dst_len) = encode_lens(src, dst)?;
        self.trials += 1;
        // Not `LZ4_compress_HC_destSize`: that one clears 256 KiB of tables each time, which for
        // small outputs costs as much as several percent of the compression. The fast reset moves
        // the window behind everything that is in the tables instead, with the same output.
        // SAFETY: `state` was initialised by `LZ4_initStreamHC` and is used by no one else.
        unsafe { LZ4_resetStreamHC_fast(self.state.as_ptr(), self.level) };
        // SAFETY: `state` is a reset stream, so it has no dictionary or previous input to look at;
        // `src` and `dst` are valid for the lengths given and do not overlap; `src_len` is a live
        // local. The library remembers the address of `src`, but the reset above forgets it before
        // the next use.
        let written = unsafe {
            LZ4_compress_HC_continue_destSize(
                self.state.as_ptr(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                &raw mut src_len,
                dst_len,
            )
        };
        prefix(src_len, written, dst.len())
    }

    fn algorithm(&self) -> Algorithm {
        Algorithm::Lz4
    }

    fn trials(&self) -> u64 {
        self.trials
    }
}

impl fmt::Debug for Lz4HcEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lz4HcEncoder").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Drop for Lz4HcEncoder {
    fn drop(&mut self) {
        // SAFETY: `state` came from `alloc_zeroed` with this layout and is freed once, here.
        unsafe { dealloc(self.state.as_ptr().cast(), HC_STATE) }
    }
}

/// What the compressors are given: the input, and both lengths in C. The input is cut to what can
/// possibly fit, which keeps the library's 32-bit positions small.
fn encode_lens<'a>(src: &'a [u8], dst: &[u8]) -> Result<(&'a [u8], c_int, c_int), EncodeError> {
    let dst_len = c_int::try_from(dst.len())
        .map_err(|_| EncodeError::BufferTooLarge { algorithm: Algorithm::Lz4, len: dst.len() })?;
    let reach = dst.len().saturating_mul(RATIO_MAX).saturating_add(4096).min(INPUT_MAX);
    let src = &src[..src.len().min(reach)];
    // `INPUT_MAX` fits.
    Ok((src, src.len() as c_int, dst_len))
}

fn prefix(consumed: c_int, written: c_int, dst_len: usize) -> Result<Prefix, EncodeError> {
    match (usize::try_from(consumed), usize::try_from(written)) {
        (Ok(consumed @ 1..), Ok(written @ 1..)) => Ok(Prefix { consumed, written }),
        _ => Err(EncodeError::OutputTooSmall { algorithm: Algorithm::Lz4, len: dst_len }),
    }
}
