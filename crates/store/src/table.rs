// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digest tables: what the bytes of a blob must be, pinned by one digest.
//!
//! The layout and its reasons are in `docs/digest-table.md`. A table has three levels: the pin
//! covers the head, the head covers each page of the body, and a page holds the digests of groups
//! or grains of the blob. So any part of a blob can be verified with the head and one or two pages.
//!
//! It refuses to know where a cache keeps what was verified. Invariant: a digest is used only after
//! the page that holds it has been found under the pin.

mod build;
pub(crate) mod copy;
pub(crate) mod gather;
mod head;
mod layout;
mod lazy;
mod pages;
mod pin;
mod shelf;
#[cfg(test)]
mod tests;

pub use build::{BuiltTable, TableBuilder};
pub use copy::{Tail, make_copy};
pub use head::Head;
pub use layout::{Geometry, Layout, PAGE_LEN};
pub use lazy::{Digests, Table, TableOptions, TableStats};
pub use pages::PageCache;
pub use pin::{Algorithm, Digest, Pin, PinError};
pub use shelf::{FileShelf, Shelf};

use crate::FetchError;
use std::fmt;

/// What is wrong with a table, or with what it was asked about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TableError {
    /// It does not begin as a table does.
    Magic,
    /// Of a version that is not known.
    Version(u16),
    /// Of an algorithm that is not known.
    Algorithm(u8),
    /// Bits of grain and group that no table has.
    Geometry {
        /// Bits of a grain's size.
        grain_bits: u8,
        /// Bits of a group's size.
        group_bits: u8,
    },
    /// A reserved byte is not zero.
    Reserved {
        /// Where in the header.
        offset: usize,
    },
    /// A blob too large for grains so small.
    BlobSize(u64),
    /// The table is of a blob of another size.
    OtherSize {
        /// The blob's.
        expected: u64,
        /// The table's.
        found: u64,
    },
    /// Fewer or more bytes than its header tells.
    Length {
        /// As the header tells.
        expected: u64,
        /// As there are.
        found: u64,
    },
    /// The head is not the one that was pinned.
    Pin {
        /// Wanted.
        expected: Pin,
        /// Of the bytes that came.
        found: Pin,
    },
    /// A page of the body is not the one that the head tells.
    Page(u32),
    /// Bytes of the blob are not those that the table tells.
    Blob {
        /// Where the grain or group begins.
        offset: u64,
        /// Its bytes.
        len: u64,
    },
    /// Not whole grains, or not of the range whose digests were taken.
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The table could not be fetched.
    Fetch(FetchError),
}

impl TableError {
    /// Whether bytes were wrong, in the table or in the blob: worth asking the origin itself, once.
    #[must_use]
    pub const fn is_mismatch(&self) -> bool {
        matches!(self, Self::Pin { .. } | Self::Page(_) | Self::Blob { .. })
    }
}

impl From<FetchError> for TableError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "not a digest table"),
            Self::Version(version) => {
                write!(f, "digest table of version {version}, which is not known")
            }
            Self::Algorithm(code) => {
                write!(f, "digest table with algorithm {code}, which is not known")
            }
            Self::Geometry { grain_bits, group_bits } => write!(
                f,
                "digest table with grains of 2^{grain_bits} and groups of 2^{group_bits} bytes"
            ),
            Self::Reserved { offset } => {
                write!(f, "digest table with byte {offset} of its header set, which is reserved")
            }
            Self::BlobSize(size) => {
                write!(f, "a blob of {size} bytes is too large for a table with grains so small")
            }
            Self::OtherSize { expected, found } => {
                write!(f, "digest table of a blob of {found} bytes, where the blob has {expected}")
            }
            Self::Length { expected, found } => {
                write!(f, "digest table of {found} bytes, where its header tells {expected}")
            }
            Self::Pin { expected, found } => {
                write!(f, "digest table {found}, where {expected} was pinned")
            }
            Self::Page(page) => write!(f, "page {page} of the digest table is not the pinned one"),
            Self::Blob { offset, len } => {
                write!(f, "bytes {offset}+{len} are not those that the digest table tells")
            }
            Self::Range { offset, len } => {
                write!(f, "bytes {offset}+{len} cannot be verified on their own")
            }
            Self::Fetch(error) => write!(f, "digest table: {error}"),
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fetch(error) => Some(error),
            _ => None,
        }
    }
}
