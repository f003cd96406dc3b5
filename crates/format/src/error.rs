// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one error type of this crate: what rule was broken, with the number that broke it.

use core::fmt;

/// Why bytes are not the record they should be. Where they lay (path, nid, offset) is added by the
/// caller, who knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the record needs.
    Truncated {
        /// The record.
        what: &'static str,
        /// Bytes needed from the start of the slice.
        needed: u64,
        /// Bytes in the slice.
        have: u64,
    },
    /// A value that no valid image holds.
    Corrupt {
        /// The rule that is broken.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
    /// A value that may be valid in a newer format, but is not known here.
    Unsupported {
        /// The feature or field.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
    /// A value handed to an emitter that the record cannot hold.
    DoesNotFit {
        /// The field.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

/// Result with [`FormatError`].
pub type Result<T> = core::result::Result<T, FormatError>;

impl FormatError {
    pub(crate) const fn corrupt(what: &'static str, value: u64) -> Self {
        Self::Corrupt { what, value }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { what, needed, have } => {
                write!(f, "{what} is cut short: {needed} bytes needed, {have} there")
            }
            Self::Corrupt { what, value } => write!(f, "{what} (value {value:#x})"),
            Self::Unsupported { what, value } => {
                write!(f, "unsupported {what} (value {value:#x})")
            }
            Self::DoesNotFit { what, value } => {
                write!(f, "{what} cannot hold {value:#x}")
            }
        }
    }
}

impl core::error::Error for FormatError {}
