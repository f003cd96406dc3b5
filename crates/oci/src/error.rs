// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong between us and a server.

use std::fmt;
use std::time::Duration;

/// Which kind of failure it was: what the caller may do about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection, a connection that broke, or no answer in time. Worth another try.
    Unreachable,
    /// The caller's deadline has passed.
    Deadline,
    /// More or fewer bytes than announced. Worth another try.
    Length,
    /// 429 or 5xx; when the server wants to be asked again, if it said so.
    Busy(Option<Duration>),
    /// 404, 410: not there.
    NotFound,
    /// 401, 403, 407, also after credentials were renewed.
    Denied,
    /// An answer that makes no sense, or that we refuse: bad headers, redirects in circles, TLS.
    Protocol,
    /// An answer that is larger than its limit.
    TooLarge,
    /// Bytes that are not those of their digest.
    Digest,
    /// What the user gave is wrong: a reference, a URL, a file of credentials or certificates.
    Invalid,
    /// A local file or program failed.
    Io,
}

/// A failure and its story. Never holds credentials.
#[derive(Clone, Debug)]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Where and how, for people.
    pub what: String,
}

impl Error {
    /// A failure with its story.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, what)
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}

/// A string that is shown to nobody.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret in.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Text of a server made fit for a message: printable, at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}
