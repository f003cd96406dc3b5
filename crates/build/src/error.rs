// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why no image came to be.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ferrofs_codec::EncodeError;
use ferrofs_format::FormatError;

/// Result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Why no image came to be. What was there under its name is still there.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Options that contradict each other or the format.
    Options(OptionProblem),
    /// The source could not be read, or changed meanwhile.
    Source(ferrofs_tree::Error),
    /// The system refused to write.
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something about a file does not fit the format.
    File {
        /// Path from the root of the tree.
        path: PathBuf,
        /// What does not fit.
        error: FormatError,
    },
    /// Something about the whole image does not fit the format.
    Format(FormatError),
    /// The codec failed.
    Codec(EncodeError),
    /// A thread of the build died.
    Worker,
    /// A [`BlobSeal`](crate::BlobSeal) gave a value of another length than it had said.
    Seal,
    /// [`Progress::is_cancelled`](crate::Progress::is_cancelled) said so.
    Cancelled,
}

/// What is wrong with options.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OptionProblem {
    /// Chunks are never compressed.
    CompressedChunks,
    /// pclusters are whole blocks.
    PclusterSize {
        /// Asked for.
        size: u32,
        /// Block size.
        block: u32,
        /// Largest possible with this block size.
        most: u32,
    },
    /// Chunks are powers of two and whole blocks.
    ChunkSize {
        /// Asked for.
        size: u32,
        /// Block size.
        block: u32,
    },
    /// Volume names have at most 15 bytes, none of them NUL.
    VolumeName {
        /// Length.
        len: usize,
    },
    /// At most 128 xattr prefixes.
    PrefixCount {
        /// Number.
        count: usize,
    },
    /// An xattr prefix has 1 to 255 bytes.
    PrefixLength {
        /// Length.
        len: usize,
    },
    /// The name of the digests' attribute has 1 to 255 bytes behind its namespace, none of them NUL.
    DigestName {
        /// Length.
        len: usize,
    },
    /// A blob holds chunks; without chunks there is nothing to put there.
    BlobWithoutChunks,
    /// A blob's tag has up to 64 bytes, none of them NUL.
    BlobTag,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), error: error.into() }
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::Codec(error)
    }
}

impl From<ferrofs_tree::Error> for Error {
    fn from(error: ferrofs_tree::Error) -> Self {
        Self::Source(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(problem) => problem.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}", path.display())
            }
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Format(error) => error.fmt(f),
            Self::Codec(error) => error.fmt(f),
            Self::Worker => f.write_str("a worker thread died"),
            Self::Seal => f.write_str("the blob's seal has not the length that was said"),
            Self::Cancelled => f.write_str("interrupted"),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Source(error) => core::error::Error::source(error),
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for OptionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompressedChunks => f.write_str("chunk-based files cannot be compressed"),
            Self::PclusterSize { size, block, most } => write!(
                f,
                "pcluster size {size} is not a multiple of the block size {block} up to {most}"
            ),
            Self::ChunkSize { size, block } => write!(
                f,
                "chunk size {size} is not a power of two from the block size {block} to {}",
                crate::Chunks::SIZE_MAX
            ),
            Self::VolumeName { len } => {
                write!(f, "volume name of {len} bytes; at most 15 without NUL are possible")
            }
            Self::PrefixCount { count } => {
                write!(f, "{count} xattr prefixes; at most 128 are possible")
            }
            Self::PrefixLength { len } => {
                write!(f, "xattr prefix of {len} bytes; 1 to 255 are possible")
            }
            Self::DigestName { len } => write!(
                f,
                "attribute name of {len} bytes for digests; it needs 1 to 255 without NUL behind its \
                 namespace"
            ),
            Self::BlobWithoutChunks => f.write_str("a blob device needs a chunk size"),
            Self::BlobTag => f.write_str("a blob's tag has up to 64 bytes, and no NUL"),
        }
    }
}
