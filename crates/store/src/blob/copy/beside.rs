// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking a copy without the ends of files that others have.
//!
//! The index comes first, then the bodies of the pieces, then those frames of ends that nobody has:
//! a few round trips instead of one, for bytes that would be for nothing. Invariant: who says that he has
//! an end is believed as little as the copy.

use super::keeping::Keeping;
use super::{Blob, BlobInner, CLAIMED, context_of};
use crate::map::grains_of;
use crate::stats::count;
use crate::table::copy::{Body, CopyReader, DIGEST_LEN, Frame, INDEX_MAX, Piece};
use crate::table::gather::gather;
use crate::{Demand, FetchContext, SinkStop, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of a copy that hold its index, if the maker is ours; what else comes may come once more.
const INDEX: u64 = 8 << 10;
/// What is wanted of a copy comes by one request if no more encoded bytes lie between.
const GAP_MAX: u64 = 2 << 10;
/// Requests at a time: each costs a round trip.
const THREADS: usize = 8;

/// Fills a buffer with the last bytes of the content of this SHA-256, if somebody has that. What it fills
/// in is not trusted.
pub type FindEnd<'a> = &'a dyn Fn(&[u8; 32], &mut [u8]) -> bool;

impl Blob {
    /// Fetches what the copy behind the digest table has, but the ends of files that `find` has, by a few
    /// requests; whether there is a copy. Those who miss bytes of it meanwhile wait for them.
    pub fn take_copy_beside(&self, find: FindEnd<'_>, demand: &Demand) -> bool {
        let inner = &*self.inner;
        let start = Instant::now();
        let Ok(Some(table)) = inner.table(demand, start) else { return false };
        let Some(range) = table.copy() else { return false };
        let context = context_of(demand, start);
        let taking = Taking { blob: inner, table: &table, context: &context, range };
        let Some((pieces, come)) = taking.index() else { return true };
        let mut keeping = Keeping { blob: inner, table: &table, context: &context, claims: None };
        let soon = |piece: &&Piece| piece.body.end <= CLAIMED;
        keeping.claim(pieces.iter().take_while(soon));
        let ranges: Vec<Range<u64>> = pieces.iter().map(|piece| piece.range.clone()).collect();
        let bodies = std::thread::scope(|scope| {
            // At once: else each piece would wait for its own.
            scope.spawn(|| table.prepare(&ranges, &context));
            taking.bodies(&pieces, &come)
        });
        taking.finish(bodies, find, &mut keeping);
        true
    }
}

struct Taking<'a> {
    blob: &'a BlobInner,
    table: &'a Arc<Table>,
    context: &'a FetchContext,
    /// Of the table's file.
    range: Range<u64>,
}

/// A piece without its tails, and where the bytes of each come from.
struct Open {
    body: Body,
    filled: Vec<Filled>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Filled {
    Nothing,
    /// Somebody who says that he has them.
    Found,
    Frames,
}

impl Taking<'_> {
    /// The pieces that are not here, and the first bytes of the copy, which came with the index.
    fn index(&self) -> Option<(Vec<Piece>, Vec<u8>)> {
        let mut reader = CopyReader::new(self.blob.size);
        let mut come: Vec<u8> = Vec::new();
        let mut next = INDEX;
        loop {
            let at = come.len() as u64;
            let bytes = self.fetch(at..next.min(self.range.end - self.range.start))?;
            reader.push(&bytes);
            come.extend_from_slice(&bytes);
            match reader.pieces() {
                Ok(Some(pieces)) => {
                    let bits = self.blob.map.bits();
                    let is_missing = |piece: &&Piece| !bits.all(grains_of(&piece.range));
                    return Some((pieces.iter().filter(is_missing).cloned().collect(), come));
                }
                Ok(None) if !bytes.is_empty() => next = INDEX_MAX,
                Ok(None) => return None,
                Err(error) => {
                    tracing::debug!(?error, "a copy is wrong");
                    return None;
                }
            }
        }
    }

    /// Fetches a range of the copy.
    fn fetch(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let at = |offset: u64| self.range.start.saturating_add(offset).min(self.range.end);
        let file = at(range.start)..at(range.end);
        if file.is_empty() {
            return Some(Vec::new());
        }
        match gather(self.table.source(), file, self.context) {
            Ok(come) => {
                count(&self.blob.counters.fetched_bytes, come.bytes.len() as u64);
                Some(come.bytes)
            }
            Err(error) => {
                tracing::debug!(%error, "a part of a copy was not fetched");
                None
            }
        }
    }

    /// Fetches ranges of the copy, in order, some at a time and those that lie near each other by one
    /// request; what cannot be had is left out. `here` is the beginning of the copy.
    fn fetch_all(&self, ranges: &[Range<u64>], here: &[u8]) -> Vec<Option<Vec<u8>>> {
        let cut = |range: &Range<u64>, bytes: &[u8], start: u64| {
            let at = |offset: u64| usize::try_from(offset.checked_sub(start)?).ok();
            at(range.start)
                .zip(at(range.end))
                .and_then(|(from, to)| Some(bytes.get(from..to)?.to_vec()))
        };
        let found: Vec<Option<Vec<u8>>> = ranges.iter().map(|range| cut(range, here, 0)).collect();
        let missing: Vec<usize> =
            (0..ranges.len()).filter(|index| found[*index].is_none()).collect();
        let near =
            |a: &usize, b: &usize| ranges[*b].start.saturating_sub(ranges[*a].end) <= GAP_MAX;
        let runs: Vec<&[usize]> = missing.chunk_by(near).collect();
        let (next, all) = (AtomicUsize::new(0), Mutex::new(found));
        let work = || {
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
                let range = ranges[*first].start..ranges[*last].end;
                let Some(bytes) = self.fetch(range.clone()) else {
                    next.store(runs.len(), Ordering::Relaxed);
                    return;
                };
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                for index in *run {
                    all[*index] = cut(&ranges[*index], &bytes, range.start);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..THREADS.min(runs.len()) {
                scope.spawn(work);
            }
            work();
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces that can be had, without their tails.
    fn bodies(&self, pieces: &[Piece], here: &[u8]) -> Vec<Open> {
        let ranges: Vec<Range<u64>> = pieces.iter().map(|piece| piece.body.clone()).collect();
        let mut open = Vec::new();
        for (piece, body) in pieces.iter().zip(self.fetch_all(&ranges, here)) {
            match body.map(|body| piece.decode(&body)) {
                Some(Ok(body)) => {
                    let filled = vec![Filled::Nothing; body.tails.list.len()];
                    open.push(Open { body, filled });
                }
                Some(Err(error)) => {
                    tracing::debug!(?error, "a piece of a copy is wrong");
                    return open;
                }
                None => {}
            }
        }
        open
    }

    /// Completes the pieces, and keeps them.
    fn finish(&self, mut pieces: Vec<Open>, find: FindEnd<'_>, keeping: &mut Keeping<'_, '_>) {
        for piece in &mut pieces {
            piece.find(find);
        }
        let needed: Vec<(usize, &Frame)> =
            pieces.iter().enumerate().flat_map(|(index, piece)| piece.needed(index)).collect();
        let ranges: Vec<Range<u64>> =
            needed.iter().map(|(_, frame)| frame.encoded.clone()).collect();
        let mut contents = vec![BTreeMap::new(); pieces.len()];
        for ((index, frame), encoded) in needed.iter().zip(self.fetch_all(&ranges, &[])) {
            match encoded.map(|encoded| frame.decode(&encoded)) {
                Some(Ok(content)) => drop(contents[*index].insert(frame.content.start, content)),
                Some(Err(error)) => tracing::debug!(?error, "ends of files cannot be decoded"),
                None => {}
            }
        }
        for (mut piece, contents) in pieces.into_iter().zip(contents) {
            piece.fill(&contents);
            let Body { range, bytes, .. } = &piece.body;
            let kept = piece.verified(keeping).and_then(|good| keeping.keep(range, bytes, &good));
            if kept.is_err() {
                return;
            }
        }
    }
}

impl Open {
    /// Fills in what others have.
    fn find(&mut self, find: FindEnd<'_>) {
        let Body { range, bytes, tails } = &mut self.body;
        for (listed, filled) in tails.list.iter().zip(&mut self.filled) {
            let Some(digest_at) = listed.tail.digest_at else { continue };
            let at = (digest_at - range.start) as usize;
            let digest = bytes.get(at..at + DIGEST_LEN as usize);
            let digest: Option<[u8; 32]> = digest.and_then(|digest| digest.try_into().ok());
            if digest.is_some_and(|digest| find(&digest, listed.tail.bytes(range, bytes))) {
                *filled = Filled::Found;
            }
        }
    }

    /// The frames that hold what is still left out, of the piece with this number.
    fn needed(&self, number: usize) -> impl Iterator<Item = (usize, &Frame)> {
        let tails = &self.body.tails;
        let left = tails.list.iter().zip(&self.filled);
        let left = left.filter(|(_, filled)| **filled == Filled::Nothing);
        let frames: BTreeSet<usize> =
            left.flat_map(|(listed, _)| tails.frames_of(listed)).collect();
        frames.into_iter().filter_map(move |index| Some((number, tails.frames.get(index)?)))
    }

    /// Fills in what came in frames.
    fn fill(&mut self, contents: &BTreeMap<u64, Vec<u8>>) {
        let Body { range, bytes, tails } = &mut self.body;
        for (listed, filled) in tails.list.iter().zip(&mut self.filled) {
            if *filled == Filled::Nothing && listed.fill(contents, listed.tail.bytes(range, bytes))
            {
                *filled = Filled::Frames;
            }
        }
    }

    /// What of it is right, in order. That something is not is an error, but where others have filled in
    /// what they say they have, or where something did not come.
    fn verified(&self, keeping: &Keeping<'_, '_>) -> Result<Vec<Range<u64>>, SinkStop> {
        let Body { range, bytes, tails } = &self.body;
        let digests =
            keeping.table.digests(range.clone(), keeping.context).map_err(|_| SinkStop)?;
        let whole = digests.verify(range.start, bytes);
        if whole.is_ok() {
            return Ok(vec![range.clone()]);
        }
        let group = keeping.table.layout().geometry().group_len();
        let mut good: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = (at / group * group).saturating_add(group).min(range.end);
            let part = &bytes[(at - range.start) as usize..(end - range.start) as usize];
            let is_of_others = || {
                tails.list.iter().zip(&self.filled).any(|(listed, filled)| {
                    let tail = &listed.tail.range;
                    tail.start < end && at < tail.end && *filled != Filled::Frames
                })
            };
            match digests.verify(at, part) {
                Ok(()) => good.push(at..end),
                Err(_) if is_of_others() => {
                    tracing::debug!(blob = %keeping.blob.id, at, "another's bytes are not those of a tail");
                }
                Err(error) => return Err(keeping.is_wrong(&error)),
            }
            at = end;
        }
        Ok(good)
    }
}
