// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a blob come from.
//!
//! A source makes one attempt; retries, mirrors, bandwidth and verification are of those above it.

pub mod file;
pub mod http;
pub mod oci;
pub mod remote;
pub mod s3;
mod whole;

pub use whole::WholeRead;

use crate::{Cancel, FetchError};
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Who waits for the bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "all there is between not waiting and waiting")]
pub enum Priority {
    /// Nobody yet.
    Prefetch,
    /// Nobody yet, but somebody has told, or a trace has taught, that readers will.
    Listed,
    /// Nobody yet, but a reader in sequence will in a moment.
    Ahead,
    /// A reader.
    #[default]
    Demand,
}

/// What a fetch needs to know besides its range.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..FetchContext::default()`")]
pub struct FetchContext {
    /// The attempt must have ended by then.
    pub deadline: Option<Instant>,
    /// Who waits.
    pub priority: Priority,
    /// An attempt that gets no byte for so long has failed; `None`: the source's own limit alone.
    pub stall: Option<Duration>,
    /// Ask the origin itself, past proxies' and mirrors' caches: what they gave was wrong.
    pub fresh: bool,
    /// The size is not known: a range from 0 on that is longer than the blob ends with it.
    pub head: bool,
    /// Ends the waits of sources that try again by themselves.
    pub cancel: Option<Cancel>,
}

/// What a source knows of its blob without reading it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all that tells one version of a blob from another")]
pub struct Identity {
    /// Bytes of the blob.
    pub size: u64,
    /// A strong validator (an ETag, a digest, inode and time of a file), if there is one.
    pub validator: Option<String>,
}

/// The receiver has enough, or cannot go on: the source ends the transfer and returns `Ok`. Why is
/// for the receiver to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a mark")]
pub struct SinkStop;

/// Who receives fetched bytes, in order.
pub trait Sink {
    /// The bytes that follow begin at `offset` of the blob: the start of the range that was asked for,
    /// or 0 if the server ignores ranges and sends everything. `total` is the size of the blob, if
    /// the source has just learned it. Called once an attempt, before any byte.
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop>;

    /// Where the next bytes are to be put, never empty. A source may fill a part of it only.
    fn room(&mut self) -> &mut [u8];

    /// The first `count` bytes of [`Sink::room`] have been filled; never more than its length.
    fn filled(&mut self, count: usize) -> Result<(), SinkStop>;
}

/// A blob somewhere else. Used by many threads at once.
pub trait RangeSource: Send + Sync + fmt::Debug {
    /// What it is, for messages and logs: a URL or path, without credentials.
    fn describe(&self) -> String;

    /// Size and validator.
    fn identity(&self, context: &FetchContext) -> Result<Identity, FetchError>;

    /// Gives `sink` the bytes of `range`, which lies in the blob (but see [`FetchContext::head`]) and
    /// is not empty: all of them, or fails. If the server does not know ranges, gives the whole blob from 0 on. One attempt;
    /// expired credentials and redirects are renewed within it, once for all who wait.
    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError>;
}
