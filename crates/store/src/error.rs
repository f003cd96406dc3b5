// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of sources.

use std::fmt;
use std::time::Duration;

/// What went wrong when bytes were fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FetchErrorKind {
    /// No connection, a connection that broke, or no answer in time. Worth another try.
    Unreachable,
    /// The deadline of the caller has passed.
    Deadline,
    /// The server answered with fewer (or more) bytes than it said or was asked for. Worth another
    /// try.
    Length,
    /// The server is overloaded or has a fault of its own (429, 5xx); when it wants to be asked again.
    Busy(Option<Duration>),
    /// There is no such blob.
    NotFound,
    /// Credentials are missing, wrong or expired, also after they were read anew.
    Denied,
    /// The blob is another one than before: other size or validator.
    Changed,
    /// The server cannot give parts of the blob, and the whole of it may not be fetched.
    NoRanges,
    /// An answer that the protocol does not know.
    Protocol,
    /// The bytes are not those that the digest table tells.
    Digest,
    /// A local file or device failed.
    Io,
}

/// Why bytes could not be fetched.
#[derive(Clone, Debug)]
pub struct FetchError {
    /// What went wrong.
    pub kind: FetchErrorKind,
    /// Where and how, for people: the URL without credentials, the status, the numbers.
    pub what: String,
}

impl FetchError {
    /// An error with its story.
    pub fn new(kind: FetchErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// Whether the same request may succeed a little later, or elsewhere.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            FetchErrorKind::Unreachable
                | FetchErrorKind::Length
                | FetchErrorKind::Busy(_)
                | FetchErrorKind::Digest
        )
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for FetchError {}
