// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, in numbers: small, `Copy`, and without any memory of the bytes.

use core::error::Error;
use core::fmt;

use crate::Algorithm;

/// Why some encoded bytes could not be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not what a writer of this algorithm makes.
    Corrupt {
        /// The algorithm the bytes were taken for.
        algorithm: Algorithm,
        /// What is wrong with them.
        reason: Corruption,
    },
    /// Where a stream must start there are only zeros.
    AllPadding {
        /// Number of bytes looked at.
        searched: usize,
    },
    /// The stream wants a larger window than the image's configuration allows.
    WindowTooLarge {
        /// The algorithm of the stream.
        algorithm: Algorithm,
        /// Window the stream asks for, in bytes.
        window: u64,
        /// Largest window allowed, in bytes.
        limit: u64,
    },
    /// Misuse: the buffer leaves less room than decoding in place needs.
    InPlaceMargin {
        /// Length of the whole buffer.
        buffer: usize,
        /// Length of the encoded bytes at its end.
        encoded: usize,
        /// Length to be decoded.
        decoded: usize,
    },
    /// Misuse: a buffer is larger than the codec can address.
    BufferTooLarge {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Length of the buffer.
        len: usize,
    },
    /// The codec could not get the memory for its state.
    OutOfMemory {
        /// The algorithm asked for.
        algorithm: Algorithm,
    },
}

/// What is wrong with encoded bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Corruption {
    /// No valid stream starts like this (property byte, magic number, dictionary, reserved bits).
    Header,
    /// The codec met something its format does not have, or, where the codec cannot tell, the
    /// stream decodes to more or fewer bytes than wanted.
    Malformed,
    /// The input ends before the wanted number of bytes is decoded.
    Truncated,
    /// The stream ends after fewer bytes than wanted.
    TooShort {
        /// Bytes it decodes to.
        decoded: usize,
        /// Bytes wanted.
        expected: usize,
    },
    /// The stream goes on after the wanted number of bytes.
    TooLong {
        /// Bytes wanted.
        expected: usize,
    },
    /// The stream ends before its input does.
    InputLeft {
        /// Bytes behind the end of the stream.
        left: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { algorithm, reason } => write!(f, "corrupt {algorithm} data: {reason}"),
            Self::AllPadding { searched } => {
                write!(f, "corrupt data: only zeros in the first {searched} bytes")
            }
            Self::WindowTooLarge { algorithm, window, limit } => write!(
                f,
                "corrupt {algorithm} data: needs a window of {window} bytes, \
                 the image allows {limit}"
            ),
            Self::InPlaceMargin { buffer, encoded, decoded } => write!(
                f,
                "buffer of {buffer} bytes is too small to decode {encoded} to {decoded} in place"
            ),
            Self::BufferTooLarge { algorithm, len } => {
                write!(f, "buffer of {len} bytes is too large for {algorithm}")
            }
            Self::OutOfMemory { algorithm } => write!(f, "out of memory for {algorithm} decoder"),
        }
    }
}

impl Error for DecodeError {}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("not the start of a stream"),
            Self::Malformed => f.write_str("malformed stream"),
            Self::Truncated => f.write_str("input ends inside the stream"),
            Self::TooShort { decoded, expected } => {
                write!(f, "stream has {decoded} bytes, expected {expected}")
            }
            Self::TooLong { expected } => write!(f, "stream has more than {expected} bytes"),
            Self::InputLeft { left } => write!(f, "{left} bytes behind the end of the stream"),
        }
    }
}

/// Why some bytes could not be encoded. None of these depends on the content of the input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The output buffer is too small for any stream of this algorithm.
    OutputTooSmall {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Length of the output buffer.
        len: usize,
    },
    /// The output buffer is larger than the codec can address.
    BufferTooLarge {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Length of the buffer.
        len: usize,
    },
    /// The codec could not get the memory for its state.
    OutOfMemory {
        /// The algorithm asked for.
        algorithm: Algorithm,
    },
    /// A level, dictionary or window outside the range documented at [`Method`](crate::Method).
    Options {
        /// The algorithm asked for.
        algorithm: Algorithm,
    },
    /// The codec failed in a way it should not.
    Codec {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// The C library's code.
        code: i64,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutputTooSmall { algorithm, len } => {
                write!(f, "output of {len} bytes is too small for {algorithm}")
            }
            Self::BufferTooLarge { algorithm, len } => {
                write!(f, "buffer of {len} bytes is too large for {algorithm}")
            }
            Self::OutOfMemory { algorithm } => write!(f, "out of memory for {algorithm} encoder"),
            Self::Options { algorithm } => {
                write!(f, "level or window out of range for {algorithm}")
            }
            Self::Codec { algorithm, code } => {
                write!(f, "{algorithm} encoder failed with code {code}")
            }
        }
    }
}

impl Error for EncodeError {}
