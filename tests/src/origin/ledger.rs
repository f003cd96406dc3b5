// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an origin was asked, and what it sent.

use super::Request;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which request of this origin it was, from 0.
    pub number: u64,
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// First byte and the byte after the last asked for, if a range was.
    pub range: Option<Range<u64>>,
    /// The answer's status; 0 while there is none.
    pub status: u16,
    /// Where the body begins in the resource.
    pub first: u64,
    /// Bytes of body handed to the connection, wrong ones included.
    pub sent: u64,
    /// Whether any fault other than a delay was applied.
    pub faulty: bool,
    /// When the head of the request had been read.
    pub started: Instant,
    /// When the last piece of the answer was handed to the connection.
    pub ended: Instant,
}

/// All requests since the start or the last `forget`, in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// Every request, in order of arrival.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of all bodies.
    pub fn bytes_sent(&self) -> u64 {
        self.entries.iter().map(|entry| entry.sent).sum()
    }

    /// Bytes of bodies of resources whose path ends with `suffix`.
    pub fn bytes_sent_of(&self, suffix: &str) -> u64 {
        self.of(suffix).map(|entry| entry.sent).sum()
    }

    /// Runs of bytes of one resource with how often each was sent (runs never sent are left out).
    /// What a fault damaged counts as well: it was sent.
    pub fn times_served(&self, suffix: &str) -> Vec<(Range<u64>, u32)> {
        let mut steps: BTreeMap<u64, i64> = BTreeMap::new();
        for entry in self.of(suffix).filter(|entry| entry.sent > 0) {
            *steps.entry(entry.first).or_default() += 1;
            *steps.entry(entry.first + entry.sent).or_default() -= 1;
        }
        let mut runs = Vec::new();
        let (mut from, mut depth) = (0, 0_i64);
        for (at, step) in steps {
            if depth > 0 && at > from {
                runs.push((from..at, depth as u32));
            }
            (from, depth) = (at, depth + step);
        }
        runs
    }

    /// Runs of bytes of one resource that were sent more than once.
    pub fn served_again(&self, suffix: &str) -> Vec<(Range<u64>, u32)> {
        let mut runs = self.times_served(suffix);
        runs.retain(|(_, times)| *times > 1);
        runs
    }

    /// Length of the longest chain of requests each of which began after its predecessor's answer
    /// had been sent: an upper bound of the round trips one reader waited for.
    pub fn round_trips(&self) -> usize {
        let mut spans: Vec<_> = self.entries.iter().map(|e| (e.ended, e.started)).collect();
        spans.sort_unstable();
        let mut last: Option<Instant> = None;
        let mut chain = 0;
        for (ended, started) in spans {
            if last.is_none_or(|last| started >= last) {
                (last, chain) = (Some(ended), chain + 1);
            }
        }
        chain
    }

    fn of<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| {
            let path = entry.target.split('?').next().unwrap_or_default();
            entry.method == "GET" && path.ends_with(suffix)
        })
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(super) fn begin(&mut self, number: u64, request: &Request, faulty: bool) {
        let now = Instant::now();
        self.entries.push(Entry {
            number,
            method: request.method.clone(),
            target: request.target.clone(),
            range: request.range(),
            status: 0,
            first: 0,
            sent: 0,
            faulty,
            started: now,
            ended: now,
        });
    }

    /// Called before the bytes are written, so that who has them finds them counted.
    pub(super) fn note(&mut self, number: u64, change: impl FnOnce(&mut Entry)) {
        // From the end: the entry is nearly always among the last ones.
        if let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry.number == number) {
            change(entry);
            entry.ended = Instant::now();
        }
    }
}
