// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking parts of a blob from the compressed copy behind its digest table.
//!
//! What is left out of its pieces, the ends of files, readers may have from elsewhere; the rest of it is
//! fetched. Invariant: a copy is a gift. Its bytes are verified before they are kept, like any others; if
//! anything is wrong with it the rest is left, and who needs bytes fetches them.

use super::{Blob, BlobInner};
use crate::flight::Lead;
use crate::map::{bytes_of, grains_of};
use crate::stats::count;
use crate::table::copy::{CopyReader, DIGEST_LEN, Decoded, Frame, Listed, Tails, decode_frame};
use crate::table::gather::gather;
use crate::{Demand, FetchContext, Sink, SinkStop, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Encoded bytes behind which readers are not to wait: they are told that a piece comes only if it is
/// among the first of so many.
const CLAIMED: u64 = 1 << 20;
const ROOM: usize = 64 << 10;
/// Bytes of a copy that tell where its pieces end, most likely, and are no more than a round trip.
const INDEX: u64 = 16 << 10;
/// Frames are fetched with others if no more encoded bytes lie between them.
const GAP_MAX: u64 = 2 << 10;
/// Requests for frames at a time: each costs a round trip.
const THREADS: usize = 8;

/// Fills a buffer with the last bytes of the content of this SHA-256, if somebody has that. What it fills
/// in is not trusted.
pub type FindEnd<'a> = &'a dyn Fn(&[u8; 32], &mut [u8]) -> bool;

impl Blob {
    /// Fetches what the copy behind the digest table has; whether there is a copy. Those who miss bytes
    /// of it meanwhile wait for them. With `find` the ends of files that it finds are not fetched, which
    /// takes a few requests; without it is one.
    pub fn take_copy(&self, demand: &Demand, find: Option<FindEnd<'_>>) -> bool {
        let inner = &*self.inner;
        let start = Instant::now();
        let Ok(Some(table)) = inner.table(demand, start) else { return false };
        let Some(range) = table.copy() else { return false };
        let context = FetchContext {
            deadline: demand.until(start),
            priority: demand.priority,
            cancel: demand.cancel.clone(),
            ..FetchContext::default()
        };
        let mut taking = Taking {
            blob: inner,
            table: &table,
            context,
            range: range.clone(),
            reader: CopyReader::new(inner.size),
            claims: None,
            held: Vec::new(),
        };
        // What comes without having been asked for was sent all the same.
        let mut wish = range.clone();
        if find.is_some() {
            wish.end = wish.end.min(range.start + INDEX);
        }
        while !wish.is_empty() && taking.fetch(wish.clone()) {
            let end = match taking.reader.pieces_end() {
                Some(end) => range.start.saturating_add(end),
                None => wish.end.saturating_add(wish.end - wish.start),
            };
            wish = wish.end..end.min(range.end);
        }
        taking.finish(find);
        true
    }
}

struct Taking<'a> {
    blob: &'a BlobInner,
    table: &'a Arc<Table>,
    context: FetchContext,
    /// Of the table's file.
    range: Range<u64>,
    reader: CopyReader,
    /// What is missing of the first pieces, claimed for them in their order.
    claims: Option<Vec<Lead<'a>>>,
    /// Pieces that lack tails.
    held: Vec<Decoded>,
}

/// Where the bytes of a tail came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Filled {
    Nothing,
    /// Somebody who says that he has them.
    Found,
    Frames,
}

impl<'a> Taking<'a> {
    /// Whether it came to its end.
    fn fetch(&mut self, range: Range<u64>) -> bool {
        let (table, context) = (self.table, self.context.clone());
        let at = range.start;
        let mut sink = CopySink {
            taking: self,
            range: range.clone(),
            at,
            room: vec![0; ROOM],
            is_wrong: false,
        };
        let fetched = table.source().fetch(range.clone(), &mut sink, &context);
        let came = !sink.is_wrong && sink.at >= range.end;
        if let Err(error) = fetched {
            tracing::debug!(%error, "a copy was not fetched to its end");
        }
        came
    }

    /// Claims what is missing of the pieces that will come soon.
    fn claim(&mut self) -> Result<(), SinkStop> {
        if self.claims.is_some() {
            return Ok(());
        }
        let Some(pieces) = self.reader.pieces().map_err(|_| SinkStop)? else { return Ok(()) };
        let mut claims = Vec::new();
        let mut left = CLAIMED.min(self.range.end - self.range.start);
        for piece in pieces {
            let Some(rest) = left.checked_sub(piece.encoded_len as u64) else { break };
            left = rest;
            let runs = self.blob.map.bits().runs(grains_of(&piece.range), false);
            claims.extend(runs.flat_map(|run| self.blob.flights.claim_free(run)));
        }
        self.claims = Some(claims);
        Ok(())
    }

    /// Whether nothing is to come from byte `at` of the table's file on.
    fn is_over(&self, at: u64) -> bool {
        let last = self.reader.tails().and_then(|tails| tails.frames.last());
        let end = last.map_or(0, |frame| frame.encoded.end);
        self.reader.is_over() && at - self.range.start >= end
    }

    /// Takes what has come.
    fn take(&mut self) -> Result<(), SinkStop> {
        self.claim()?;
        while let Some(piece) = self.reader.next().map_err(|_| SinkStop)? {
            let is_whole = self.reader.tails().is_none_or(|tails| tails.list.is_empty());
            if is_whole { self.keep(&piece, &[])? } else { self.held.push(piece) }
        }
        Ok(())
    }

    /// Completes the pieces that lack something, and keeps them.
    fn finish(mut self, find: Option<FindEnd<'_>>) {
        let rest = self.reader.rest();
        let Some(tails) = self.reader.tails().cloned() else { return };
        let mut pieces = std::mem::take(&mut self.held);
        let mut filled = vec![Filled::Nothing; tails.list.len()];
        if let Some(find) = find {
            each(&tails, &mut pieces, |index, tail, range, piece| {
                let digest_at = tail.tail.digest_at.map(|at| (at - range.start) as usize);
                let digest = digest_at.and_then(|at| piece.get(at..at + DIGEST_LEN as usize));
                let digest: Option<[u8; 32]> = digest.and_then(|digest| digest.try_into().ok());
                let bytes = tail.tail.bytes(range, piece);
                if digest.is_some_and(|digest| find(&digest, bytes)) {
                    filled[index] = Filled::Found;
                }
            });
        }
        let mut needed = BTreeSet::new();
        each(&tails, &mut pieces, |index, tail, _, _| {
            if filled[index] == Filled::Nothing {
                needed.extend(tails.frames_of(tail.at, tail.len()));
            }
        });
        let needed: Vec<&Frame> =
            needed.into_iter().filter_map(|index| tails.frames.get(index)).collect();
        let contents = if find.is_some() {
            self.frames(&needed)
        } else {
            // All of them came with the pieces.
            let pieces_end = self.reader.pieces_end().unwrap_or_default();
            decoded(&needed, &rest, pieces_end)
        };
        each(&tails, &mut pieces, |index, tail, range, piece| {
            let bytes = tail.tail.bytes(range, piece);
            if filled[index] == Filled::Nothing && copy_from(&contents, tail.at, bytes) {
                filled[index] = Filled::Frames;
            }
        });
        for piece in &pieces {
            let first = tails.list.partition_point(|tail| tail.tail.range.start < piece.0.start);
            let end = tails.list.partition_point(|tail| tail.tail.range.start < piece.0.end);
            let parts: Vec<(Range<u64>, Filled)> = (first..end)
                .map(|index| (tails.list[index].tail.range.clone(), filled[index]))
                .collect();
            if self.keep(piece, &parts).is_err() {
                return;
            }
        }
    }

    /// Fetches frames, those that lie near each other by one request; what cannot be had is left out.
    fn frames(&self, needed: &[&Frame]) -> BTreeMap<u64, Vec<u8>> {
        let near =
            |a: &&Frame, b: &&Frame| b.encoded.start.saturating_sub(a.encoded.end) <= GAP_MAX;
        let runs: Vec<&[&Frame]> = needed.chunk_by(near).collect();
        let (next, all) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        let work = || {
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
                let at = |offset: u64| self.range.start.saturating_add(offset).min(self.range.end);
                let range = at(first.encoded.start)..at(last.encoded.end);
                match gather(self.table.source(), range, &self.context) {
                    Ok(come) => {
                        count(&self.blob.counters.fetched_bytes, come.bytes.len() as u64);
                        let found = decoded(run, &come.bytes, first.encoded.start);
                        all.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "ends of files were not fetched");
                        next.store(runs.len(), Ordering::Relaxed);
                    }
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

    /// Keeps what of a piece is what the table says. `parts` are its tails.
    fn keep(&mut self, piece: &Decoded, parts: &[(Range<u64>, Filled)]) -> Result<(), SinkStop> {
        let blob: &'a BlobInner = self.blob;
        let (range, bytes) = piece;
        let good = self.verified(piece, parts)?;
        let claims = self.claims.get_or_insert_default();
        // They are in order, as the pieces are.
        let grains = grains_of(range);
        let behind = claims.iter().position(|lead| lead.range().start >= grains.end);
        let mut mine: Vec<Lead<'a>> = claims.drain(..behind.unwrap_or(claims.len())).collect();
        let runs: Vec<Range<u64>> = blob.map.bits().runs(grains, false).collect();
        // What others have claimed they fetch.
        mine.extend(runs.into_iter().flat_map(|run| blob.flights.claim_free(run)));
        for lead in &mine {
            let Ok(Some(_held)) = blob.files.try_grains(&blob.id, &lead.range()) else { continue };
            let part = bytes_of(&lead.range(), blob.size);
            let Some(room) = blob.cache.admit(part.end - part.start) else {
                return Err(SinkStop);
            };
            for good in &good {
                let from = (good.start - range.start) as usize;
                let to = (good.end - range.start) as usize;
                if let Err(error) = blob.keep((lead, &room), good, &bytes[from..to]) {
                    if super::fetch::is_full(&error) {
                        blob.cache.is_full();
                    }
                    return Err(SinkStop);
                }
            }
        }
        Ok(())
    }

    /// What of a piece is right, in order. That something is not is an error, but where others have
    /// filled in what they say they have.
    fn verified(
        &self,
        (range, bytes): &Decoded,
        parts: &[(Range<u64>, Filled)],
    ) -> Result<Vec<Range<u64>>, SinkStop> {
        let digests = self.table.digests(range.clone(), &self.context).map_err(|_| SinkStop)?;
        let group = self.table.layout().geometry().group_len();
        let mut good: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            // Pieces without tails are verified at once, as readers of v1 did.
            let end = match parts {
                [] => range.end,
                _ => (at / group * group).saturating_add(group).min(range.end),
            };
            let from = (at - range.start) as usize;
            let to = (end - range.start) as usize;
            let verified = digests.verify(at, &bytes[from..to]);
            let is_in = |part: &&(Range<u64>, Filled)| part.0.start < end && at < part.0.end;
            match verified {
                Ok(()) => match good.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => good.push(at..end),
                },
                Err(_) if parts.iter().filter(is_in).any(|part| part.1 != Filled::Frames) => {
                    tracing::debug!(blob = %self.blob.id, at, "another's bytes are not those of a tail");
                }
                Err(error) => {
                    count(&self.blob.counters.verification_failures, 1);
                    tracing::warn!(blob = %self.blob.id, %error, "a copy is wrong, and not used");
                    return Err(SinkStop);
                }
            }
            at = end;
        }
        Ok(good)
    }
}

/// Visits tails with the pieces that they lie in.
fn each(
    tails: &Tails,
    pieces: &mut [Decoded],
    mut visit: impl FnMut(usize, &Listed, &Range<u64>, &mut [u8]),
) {
    let mut pieces = pieces.iter_mut().peekable();
    for (index, listed) in tails.list.iter().enumerate() {
        let start = listed.tail.range.start;
        while pieces.next_if(|(range, _)| range.end <= start).is_some() {}
        // Not all pieces may have come.
        let Some((range, bytes)) = pieces.peek_mut() else { return };
        if range.start <= start {
            visit(index, listed, range, bytes);
        }
    }
}

/// What frames hold, by where that is in all of them; `encoded` begins at byte `start` of the copy.
fn decoded(frames: &[&Frame], encoded: &[u8], start: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    for frame in frames {
        let at = |offset: u64| usize::try_from(offset.checked_sub(start)?).ok();
        let bytes = at(frame.encoded.start).zip(at(frame.encoded.end));
        let Some(bytes) = bytes.and_then(|(from, to)| encoded.get(from..to)) else { continue };
        match decode_frame(frame, bytes) {
            Ok(content) => drop(found.insert(frame.content.start, content)),
            Err(error) => tracing::debug!(?error, "ends of files cannot be decoded"),
        }
    }
    found
}

/// Fills `bytes` with what frames hold from `at` on; whether all of it is there.
fn copy_from(contents: &BTreeMap<u64, Vec<u8>>, at: u64, bytes: &mut [u8]) -> bool {
    let mut at = at;
    let mut left = bytes;
    while !left.is_empty() {
        let Some((start, content)) = contents.range(..=at).next_back() else { return false };
        let Some(rest) = content.get((at - start) as usize..).filter(|rest| !rest.is_empty())
        else {
            return false;
        };
        let len = rest.len().min(left.len());
        let (now, later) = left.split_at_mut(len);
        now.copy_from_slice(&rest[..len]);
        at += len as u64;
        left = later;
    }
    true
}

struct CopySink<'t, 'a> {
    taking: &'t mut Taking<'a>,
    range: Range<u64>,
    at: u64,
    room: Vec<u8>,
    is_wrong: bool,
}

impl Sink for CopySink<'_, '_> {
    fn begin(&mut self, offset: u64, _total: Option<u64>) -> Result<(), SinkStop> {
        self.at = offset;
        // Who sends the whole table is not waited for.
        self.is_wrong = offset != self.range.start;
        if self.is_wrong { Err(SinkStop) } else { Ok(()) }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        crate::stats::count(&self.taking.blob.counters.fetched_bytes, count as u64);
        // Whoever sends more than was asked for sends the rest of the file.
        let wanted = usize::try_from(self.range.end - self.at).unwrap_or(count).min(count);
        self.at += wanted as u64;
        self.taking.reader.push(&self.room[..wanted]);
        if let Err(stop) = self.taking.take() {
            self.is_wrong = true;
            return Err(stop);
        }
        let is_over = self.at >= self.range.end || self.taking.is_over(self.at);
        if is_over { Err(SinkStop) } else { Ok(()) }
    }
}
