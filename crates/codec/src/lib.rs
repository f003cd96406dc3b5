// SPDX-License-Identifier: MIT OR Apache-2.0
//! The codecs of EROFS images: LZ4, LZ4HC, MicroLZMA, DEFLATE and Zstandard.
//!
//! Two directions:
//!
//! * [`Decoder`] turns the encoded bytes of one pcluster into decoded bytes, wholly
//!   ([`Decoder::decode_exact`]) or only its head ([`Decoder::decode_prefix`]); LZ4 also in place
//!   ([`Decoder::decode_lz4_in_place`]).
//! * [`FixedOutput`] is the operation an EROFS writer needs: *take the longest prefix of the input
//!   whose encoded form fits this output buffer* (format.md §13.7). [`Method`] names an encoder
//!   with its options and makes one.
//!
//! This crate knows buffers, levels and windows. It refuses to know blocks, inodes, extents, and
//! where padding goes; callers align the encoded bytes and say how long they are.
//!
//! The invariants it keeps:
//!
//! * Encoded bytes are hostile. Decoding ends with the exact bytes or an error: no panic, no hang,
//!   no allocation beyond the window sizes of [`DecodeLimits`].
//! * What an encoder writes is a pure function of its [`Method`], the input, the size of the output
//!   buffer and the hint given to that very call. It never depends on what the encoder did before,
//!   so images come out the same whichever worker compressed which file.
//! * A stream written here never begins with a zero byte, so that readers can strip the zeros in
//!   front of it (format.md §13).

mod decode;
mod deflate;
mod encode;
mod error;
mod lz4;
mod lzma;
mod method;
mod search;
#[cfg(test)]
mod testdata;
#[cfg(test)]
mod tests;
mod zstd;

use core::fmt;

pub use decode::{DecodeLimits, Decoder, strip_zero_padding};
pub use encode::{FixedOutput, Prefix};
pub use error::{Corruption, DecodeError, EncodeError};
pub use lz4::lz4_in_place_margin;
pub use method::{
    LZMA_DICT_SIZE_MAX, LZMA_DICT_SIZE_MIN, Method, ParseMethodError, ZSTD_WINDOW_LOG_MAX,
    ZSTD_WINDOW_LOG_MIN,
};

/// A compression algorithm, with its number in images (format.md §2.6).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "the format has these four; a fifth breaks readers")]
#[repr(u8)]
pub enum Algorithm {
    /// Raw LZ4 blocks, whichever compressor made them (format.md §13.1).
    Lz4 = 0,
    /// LZMA1 without headers (format.md §13.2).
    Lzma = 1,
    /// Raw DEFLATE, RFC 1951 (format.md §13.3).
    Deflate = 2,
    /// One Zstandard frame, RFC 8878 (format.md §13.4).
    Zstd = 3,
}

impl Algorithm {
    /// All of them, by ascending number.
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    /// The algorithm an image calls `id`, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Lz4),
            1 => Some(Self::Lzma),
            2 => Some(Self::Deflate),
            3 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in images.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Its name in options and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
