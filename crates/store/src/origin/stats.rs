// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of origins.

use super::Ranges;
use crate::FetchErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

/// Failed attempts by what went wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct FailureCounts {
    /// No connection, or one that broke.
    pub unreachable: u64,
    /// No answer in the time of an attempt.
    pub deadline: u64,
    /// Fewer or more bytes than told.
    pub length: u64,
    /// Overloaded servers.
    pub busy: u64,
    /// No such blob.
    pub not_found: u64,
    /// Credentials.
    pub denied: u64,
    /// Another blob than before.
    pub changed: u64,
    /// No parts to be had.
    pub no_ranges: u64,
    /// Answers that the protocol does not know.
    pub protocol: u64,
    /// Wrong bytes.
    pub digest: u64,
    /// Local failures.
    pub io: u64,
}

impl FailureCounts {
    /// Names and counts, for metrics.
    #[must_use]
    pub const fn by_name(&self) -> [(&'static str, u64); 11] {
        [
            ("unreachable", self.unreachable),
            ("deadline", self.deadline),
            ("length", self.length),
            ("busy", self.busy),
            ("not_found", self.not_found),
            ("denied", self.denied),
            ("changed", self.changed),
            ("no_ranges", self.no_ranges),
            ("protocol", self.protocol),
            ("digest", self.digest),
            ("io", self.io),
        ]
    }
}

/// Counters of one source of an [`Origin`](super::Origin).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SourceStats {
    /// As it describes itself.
    pub name: String,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// It is left alone for now.
    pub is_open: bool,
    /// Whether it gives parts.
    pub ranges: Ranges,
}

/// Counters of an [`Origin`](super::Origin).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct OriginStats {
    /// Attempts.
    pub attempts: u64,
    /// Attempts after one that failed.
    pub retries: u64,
    /// Bytes that came, also those of attempts that failed.
    pub bytes: u64,
    /// Times that a source was given up for a while.
    pub breaker_opens: u64,
    /// Failed attempts.
    pub failures: FailureCounts,
    /// Mirrors, then the origin.
    pub sources: Vec<SourceStats>,
}

#[derive(Debug)]
pub(super) struct Counters {
    retries: AtomicU64,
    breaker_opens: AtomicU64,
    failures: [AtomicU64; 11],
    sources: Vec<[AtomicU64; 3]>,
}

impl Counters {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            retries: AtomicU64::new(0),
            breaker_opens: AtomicU64::new(0),
            failures: Default::default(),
            sources: std::iter::repeat_with(Default::default).take(sources).collect(),
        }
    }

    pub(super) fn attempt(&self, source: usize, is_retry: bool) {
        self.sources[source][0].fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(u64::from(is_retry), Ordering::Relaxed);
    }

    pub(super) fn failure(&self, source: usize, kind: FetchErrorKind) {
        self.sources[source][1].fetch_add(1, Ordering::Relaxed);
        let index = match kind {
            FetchErrorKind::Unreachable => 0,
            FetchErrorKind::Deadline => 1,
            FetchErrorKind::Length => 2,
            FetchErrorKind::Busy(_) => 3,
            FetchErrorKind::NotFound => 4,
            FetchErrorKind::Denied => 5,
            FetchErrorKind::Changed => 6,
            FetchErrorKind::NoRanges => 7,
            FetchErrorKind::Protocol => 8,
            FetchErrorKind::Digest => 9,
            FetchErrorKind::Io => 10,
        };
        self.failures[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, source: usize, bytes: u64) {
        self.sources[source][2].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.breaker_opens.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> OriginStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [unreachable, deadline, length, busy, not_found, denied, changed, rest @ ..] =
            &self.failures;
        let [no_ranges, protocol, digest, io] = rest;
        let sources: Vec<SourceStats> = self
            .sources
            .iter()
            .map(|[attempts, failures, bytes]| SourceStats {
                attempts: load(attempts),
                failures: load(failures),
                bytes: load(bytes),
                ..SourceStats::default()
            })
            .collect();
        OriginStats {
            attempts: sources.iter().map(|source| source.attempts).sum(),
            retries: load(&self.retries),
            bytes: sources.iter().map(|source| source.bytes).sum(),
            breaker_opens: load(&self.breaker_opens),
            failures: FailureCounts {
                unreachable: load(unreachable),
                deadline: load(deadline),
                length: load(length),
                busy: load(busy),
                not_found: load(not_found),
                denied: load(denied),
                changed: load(changed),
                no_ranges: load(no_ranges),
                protocol: load(protocol),
                digest: load(digest),
                io: load(io),
            },
            sources,
        }
    }
}
