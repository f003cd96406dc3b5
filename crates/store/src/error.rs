// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of sources and of the cache.

use crate::{BlobId, TableError};
use std::fmt;
use std::io;
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

/// Why the cache could not do something.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// Not the name of a blob.
    BadId(String),
    /// A file of the cache failed.
    Io {
        /// The blob, if it is about one.
        blob: Option<BlobId>,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The bytes could not be fetched.
    Fetch {
        /// The blob.
        blob: BlobId,
        /// First byte of what was to be fetched.
        offset: u64,
        /// Bytes of it.
        len: u64,
        /// Why.
        error: FetchError,
    },
    /// The digest table could not be had, or bytes were not those that it tells.
    Table {
        /// The blob.
        blob: BlobId,
        /// First byte of what was to be verified.
        offset: u64,
        /// Where it came from.
        source: String,
        /// Why.
        error: Box<TableError>,
    },
    /// Not a range of the blob.
    Range {
        /// The blob.
        blob: BlobId,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of the blob.
        size: u64,
    },
    /// There is no room in the cache, also after evicting what may be evicted.
    NoSpace {
        /// The blob.
        blob: BlobId,
        /// Bytes for which there was to be room.
        len: u64,
    },
    /// The wait was cancelled: the mount ends.
    Cancelled {
        /// The blob.
        blob: BlobId,
        /// First byte that was waited for.
        offset: u64,
    },
    /// Another reader or process did not bring the bytes in time.
    Deadline {
        /// The blob.
        blob: BlobId,
        /// First byte that was waited for.
        offset: u64,
    },
    /// The blob is in use.
    InUse {
        /// The blob.
        blob: BlobId,
    },
    /// A mount by fanotify has the kernel read the blob: nobody else can use it.
    KernelReads {
        /// The blob.
        blob: BlobId,
    },
    /// The blob is pinned.
    Pinned {
        /// The blob.
        blob: BlobId,
    },
    /// There is no such blob in the cache.
    Unknown {
        /// The blob.
        blob: BlobId,
    },
    /// The map of the blob is damaged, and another process uses it.
    Damaged {
        /// The blob.
        blob: BlobId,
    },
    /// The source has a blob of another size than was told.
    OtherSize {
        /// The blob.
        blob: BlobId,
        /// As was told.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// The blob has no digest table, and reading it without was not allowed.
    Unverified {
        /// What it is.
        source: String,
    },
    /// Limits that contradict each other.
    Limits,
}

impl StoreError {
    /// The number that a reader gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        let errno = match self {
            Self::BadId(_) | Self::Range { .. } | Self::Limits => Errno::INVAL,
            Self::Io { error, .. } => {
                return error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            }
            Self::Fetch { error, .. } => match error.kind {
                FetchErrorKind::Deadline => Errno::TIMEDOUT,
                FetchErrorKind::Changed => Errno::STALE,
                _ => Errno::IO,
            },
            Self::Table { .. } | Self::OtherSize { .. } | Self::Damaged { .. } => Errno::IO,
            Self::NoSpace { .. } => Errno::NOSPC,
            Self::Cancelled { .. } => Errno::INTR,
            Self::Deadline { .. } => Errno::TIMEDOUT,
            Self::InUse { .. } | Self::Pinned { .. } | Self::KernelReads { .. } => Errno::BUSY,
            Self::Unknown { .. } => Errno::NOENT,
            Self::Unverified { .. } => Errno::PERM,
        };
        errno.raw_os_error()
    }

    /// Whether bytes were not those that were pinned.
    #[must_use]
    pub const fn is_corrupt(&self) -> bool {
        match self {
            Self::Table { error, .. } => error.is_mismatch(),
            Self::Fetch { error, .. } => matches!(error.kind, FetchErrorKind::Digest),
            _ => false,
        }
    }

    pub(crate) fn io(blob: &BlobId, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let blob = Some(blob.clone());
        move |error| Self::Io { blob, what, error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId(text) => write!(
                f,
                "{text:?} is not the name of a blob: table, sha256 or url, a colon, and 64 \
                 hexadecimal digits"
            ),
            Self::Io { blob: Some(blob), what, error } => {
                write!(f, "blob {blob}: cannot {what} in the cache: {error}")
            }
            Self::Io { blob: None, what, error } => write!(f, "cache: cannot {what}: {error}"),
            Self::Fetch { blob, offset, len, error } => {
                write!(f, "blob {blob}: bytes {offset}+{len} could not be fetched: {error}")
            }
            Self::Table { blob, offset, source, error } => {
                write!(f, "blob {blob}: bytes from {offset} on, of {source}: {error}")
            }
            Self::Range { blob, offset, len, size } => {
                write!(f, "blob {blob}: bytes {offset}+{len} are not in its {size}")
            }
            Self::NoSpace { blob, len } => write!(
                f,
                "blob {blob}: no room for {len} bytes in the cache, with nothing left to evict; \
                 raise its limit or `ferrofs cache prune`"
            ),
            Self::Cancelled { blob, offset } => {
                write!(f, "blob {blob}: the wait for bytes from {offset} on was cancelled")
            }
            Self::Deadline { blob, offset } => {
                write!(f, "blob {blob}: bytes from {offset} on did not come in time")
            }
            Self::InUse { blob } => write!(f, "blob {blob} is in use; unmount what uses it first"),
            Self::KernelReads { blob } => write!(
                f,
                "the kernel reads blob {blob} for a mount by fanotify, and nobody else can use it: \
                 unmount that, or take another cache folder"
            ),
            Self::Pinned { blob } => {
                write!(f, "blob {blob} is pinned; `ferrofs cache unpin` it first")
            }
            Self::Unknown { blob } => write!(f, "blob {blob} is not in the cache"),
            Self::Damaged { blob } => write!(
                f,
                "blob {blob}: its presence map is damaged and another process uses it; end that \
                 process, the map is made anew from the log then"
            ),
            Self::OtherSize { blob, expected, found } => write!(
                f,
                "blob {blob} has {found} bytes at its source, where it is to have {expected}"
            ),
            Self::Unverified { source } => write!(
                f,
                "{source} has no digest table, so its bytes cannot be verified; give the pin of \
                 its table, or say --insecure"
            ),
            Self::Limits => write!(
                f,
                "limits of a cache: stop must be less than cull, cull less than run, and all less \
                 than 100 percent"
            ),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Fetch { error, .. } => Some(error),
            Self::Table { error, .. } => Some(error.as_ref()),
            _ => None,
        }
    }
}
