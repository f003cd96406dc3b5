// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking parts of a blob from the compressed copy behind its digest table.
//!
//! Its start is taken when an image is opened, all of it by who needs all of the metadata, all of it but
//! the ends of files that others have by who has others beside it (`beside`), and single pieces when
//! readers miss a page of them: a piece of metadata is sixty pages for the bytes of ten. Invariants: a
//! copy is a gift. Its bytes are verified before they are kept, like any others; if anything is wrong
//! with it the rest is left, and who needs bytes fetches them. What readers do not use of it is limited
//! by what they want.

mod beside;
mod keeping;

pub use beside::FindEnd;

use super::fetch::Flying;
use super::{Blob, BlobInner};
use crate::cache::lock;
use crate::flight::Lead;
use crate::map::{GRAIN, grains_of};
use crate::stats::count;
use crate::table::copy::{CopyReader, Piece};
use crate::{Demand, FetchContext, Priority, Sink, SinkStop, Table};
use keeping::Keeping;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Encoded bytes behind which readers are not to wait: they are told that a piece comes only if it is
/// among the first of so many.
const CLAIMED: u64 = 1 << 20;
const ROOM: usize = 64 << 10;
/// Pieces that one read takes.
const PIECES_MAX: usize = 8;
/// Encoded bytes that readers may have fetched of it: so many, and a share of what they wanted. Most
/// copies are smaller than both.
const SPENT_CONSTANT: u64 = 2 << 20;
const SPENT_SHARE: u64 = 4;
/// A reader waits so long for a piece; then it asks for what it wants, and nobody for the copy.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a copy since its index has come.
#[derive(Debug)]
pub(crate) struct CopyState {
    /// In the order of the blob.
    pieces: Vec<Piece>,
    /// Where it is in the table's file.
    file: Range<u64>,
    /// Encoded bytes that were fetched because of readers.
    spent: AtomicU64,
    /// It was wrong, or did not come.
    is_broken: AtomicBool,
    /// What has come of a piece without the rest of it, and where that begins in the copy: nothing is
    /// fetched twice.
    part: Mutex<Option<(u64, Vec<u8>)>>,
}

impl CopyState {
    /// The pieces that a range touches.
    fn pieces_of(&self, range: &Range<u64>) -> &[Piece] {
        let from = self.pieces.partition_point(|piece| piece.range.end <= range.start);
        let to = self.pieces.partition_point(|piece| piece.range.start < range.end);
        self.pieces.get(from..to).unwrap_or_default()
    }

    /// A reader of pieces that follow each other, and from where on in the table's file their bytes are
    /// to be fetched.
    fn reader(&self, pieces: Vec<Piece>) -> (CopyReader, u64) {
        let at = pieces.first().map_or(0, |piece| piece.body.start);
        let mut reader = CopyReader::of_pieces(pieces);
        let part = lock(&self.part).take_if(|(start, _)| *start == at);
        let come = part.map_or(0, |(_, bytes)| {
            reader.push(&bytes);
            bytes.len() as u64
        });
        (reader, self.file.start + at + come)
    }

    /// Takes `len` of what readers, who wanted so many bytes, may have of it; whether there was that.
    fn spend(&self, len: u64, wanted: u64) -> bool {
        let most = SPENT_CONSTANT.saturating_add(wanted / SPENT_SHARE);
        let more = |spent: u64| spent.checked_add(len).filter(|spent| *spent <= most);
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Blob {
    /// Fetches what the copy behind the digest table has, or so many encoded bytes at its start, by one
    /// request; whether there is a copy. Those who miss bytes of it meanwhile wait for them; who misses
    /// some later takes them from there. `near` is what of the blob is likely to come first: its digests
    /// are fetched at the same time.
    pub fn take_copy(&self, len: u64, near: &[Range<u64>], demand: &Demand) -> bool {
        let inner = &*self.inner;
        let start = Instant::now();
        let Ok(Some(table)) = inner.table(demand, start) else { return false };
        let Some(all) = table.copy() else { return false };
        let context = context_of(demand, start);
        let (reader, from) = match inner.copy.get() {
            None => (CopyReader::new(inner.size), all.start),
            Some(state) => {
                let bits = inner.map.bits();
                let is_here = |piece: &Piece| bits.all(grains_of(&piece.range));
                let rest = state.pieces.iter().skip_while(|piece| is_here(piece));
                let rest: Vec<Piece> = rest.cloned().collect();
                if rest.is_empty() {
                    return true;
                }
                state.reader(rest)
            }
        };
        let range = from..all.end.min(from.saturating_add(len));
        if range.is_empty() {
            return true;
        }
        std::thread::scope(|scope| {
            if !near.is_empty() {
                scope.spawn(|| table.prepare(near, &context));
            }
            let mut sink = CopySink::new(inner, &table, all, range.clone(), &context, reader);
            sink.claim_most = CLAIMED;
            if let Err(error) = table.source().fetch(range, &mut sink, &context) {
                tracing::debug!(%error, "a copy was not fetched to its end");
            }
            // Not before: who took the piece that is cut off would fetch its beginning once more.
            if let Some(state) = sink.state {
                *lock(&state.part) = sink.reader.into_rest();
                // Another may have been faster.
                let _ = inner.copy.set(state);
            }
        });
        true
    }
}

impl BlobInner {
    /// Takes the pieces of the copy that a reader misses something of, if that is to be had; else, and
    /// for what is left, the reader fetches what it wants.
    pub(super) fn fill_from_copy(&self, range: &Range<u64>, demand: &Demand, start: Instant) {
        let Some(state) = self.copy.get() else { return };
        if demand.priority != Priority::Demand || state.is_broken.load(Ordering::Relaxed) {
            return;
        }
        let bits = self.map.bits();
        let Some(first) = bits.find(grains_of(range), false) else { return };
        let missing = (first * GRAIN).max(range.start)..range.end;
        let pieces = state.pieces_of(&missing);
        let pieces = pieces.get(..PIECES_MAX.min(pieces.len())).unwrap_or_default();
        let (Some(head), Some(tail)) = (pieces.first(), pieces.last()) else { return };
        if head.range.start > missing.start {
            return;
        }
        let lacks = |piece: &Piece| bits.runs(grains_of(&piece.range), false);
        let raw: u64 = pieces.iter().flat_map(lacks).map(|run| (run.end - run.start) * GRAIN).sum();
        let len = tail.end - head.body.start;
        // What is left of it may be less than that.
        if len >= raw || !state.spend(len, self.counters.wanted_bytes.load(Ordering::Relaxed)) {
            return;
        }
        let claims: Vec<Lead<'_>> =
            pieces.iter().flat_map(lacks).flat_map(|run| self.flights.claim_free(run)).collect();
        // Else somebody fetches it already, or has fetched it before this was claimed.
        let is_missing = bits.find(first..first + 1, false).is_some();
        if is_missing && claims.iter().any(|lead| lead.range().contains(&first)) {
            self.take_pieces(state, pieces, claims, demand, start);
        }
    }

    fn take_pieces<'a>(
        &'a self,
        state: &CopyState,
        pieces: &[Piece],
        claims: Vec<Lead<'a>>,
        demand: &Demand,
        start: Instant,
    ) {
        let Ok(Some(table)) = self.table(demand, start) else { return };
        let (Some(head), Some(tail)) = (pieces.first(), pieces.last()) else { return };
        let (reader, from) = state.reader(pieces.to_vec());
        let file = from..state.file.start + tail.end;
        let patience = Instant::now().checked_add(PATIENCE);
        let context = FetchContext {
            deadline: [demand.until(start), patience].into_iter().flatten().min(),
            ..context_of(demand, start)
        };
        count(&self.counters.fetches, 1);
        let _flying = Flying::new(&self.counters.in_flight);
        let whole = head.range.start..tail.range.end;
        let is_over = std::thread::scope(|scope| {
            if table.cached(whole.clone()).is_none() {
                let (table, context) = (&table, &context);
                scope.spawn(move || table.prepare(std::slice::from_ref(&whole), context));
            }
            let mut sink =
                CopySink::new(self, &table, state.file.clone(), file.clone(), &context, reader);
            sink.keeping.claims = Some(claims);
            if let Err(error) = table.source().fetch(file, &mut sink, &context) {
                tracing::debug!(%error, "a piece of a copy was not fetched");
            }
            sink.reader.is_over()
        });
        if !is_over {
            state.is_broken.store(true, Ordering::Relaxed);
        }
    }
}

/// How for a demand that began then is fetched.
fn context_of(demand: &Demand, start: Instant) -> FetchContext {
    FetchContext {
        deadline: demand.until(start),
        priority: demand.priority,
        cancel: demand.cancel.clone(),
        ..FetchContext::default()
    }
}

struct CopySink<'a, 'b> {
    keeping: Keeping<'a, 'b>,
    /// Of the table's file: the copy, what is fetched of it, and what comes next.
    copy: Range<u64>,
    range: Range<u64>,
    at: u64,
    reader: CopyReader,
    /// What readers may take from then on.
    state: Option<CopyState>,
    /// Encoded bytes whose pieces are claimed when it is known what they are.
    claim_most: u64,
    room: Vec<u8>,
}

impl<'a, 'b> CopySink<'a, 'b> {
    fn new(
        blob: &'a BlobInner,
        table: &'b Arc<Table>,
        copy: Range<u64>,
        range: Range<u64>,
        context: &'b FetchContext,
        reader: CopyReader,
    ) -> Self {
        let keeping = Keeping { blob, table, context, claims: None };
        let (at, state, room) = (range.start, None, vec![0; ROOM]);
        Self { keeping, copy, range, at, reader, state, claim_most: 0, room }
    }

    /// Claims what is missing of the pieces that will come soon.
    fn claim(&mut self) -> Result<(), SinkStop> {
        if self.keeping.claims.is_some() {
            return Ok(());
        }
        let Some(pieces) = self.reader.pieces().map_err(|_| SinkStop)? else { return Ok(()) };
        let end = self.range.end.min(self.range.start.saturating_add(self.claim_most));
        self.keeping.claim(pieces.iter().take_while(|piece| self.copy.start + piece.end <= end));
        let come = pieces.iter().take_while(|piece| self.copy.start + piece.end <= self.range.end);
        let come: Vec<Range<u64>> = come.map(|piece| piece.range.clone()).collect();
        // Of what comes as a whole nobody is to take single pieces.
        if self.range.start == self.copy.start && come.len() < pieces.len() {
            let is_there = |piece: &&Piece| self.copy.start + piece.end <= self.copy.end;
            self.state = Some(CopyState {
                // Of a copy that was cut off, those that are there.
                pieces: pieces.iter().take_while(is_there).cloned().collect(),
                file: self.copy.clone(),
                spent: AtomicU64::new(0),
                is_broken: AtomicBool::new(false),
                part: Mutex::default(),
            });
        }
        // At once: else each piece would wait for its own.
        if let Err(error) = self.keeping.table.prepare(&come, self.keeping.context) {
            tracing::debug!(%error, "digests were not fetched ahead");
        }
        Ok(())
    }
}

impl Sink for CopySink<'_, '_> {
    fn begin(&mut self, offset: u64, _total: Option<u64>) -> Result<(), SinkStop> {
        self.at = offset;
        // Who sends the whole table is not waited for.
        if offset == self.range.start { Ok(()) } else { Err(SinkStop) }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        crate::stats::count(&self.keeping.blob.counters.fetched_bytes, count as u64);
        self.at += count as u64;
        self.reader.push(&self.room[..count]);
        self.claim()?;
        while let Some((range, bytes)) = self.reader.next().map_err(|_| SinkStop)? {
            self.keeping.keep_whole(&range, &bytes)?;
        }
        if self.at >= self.range.end || self.reader.is_over() { Err(SinkStop) } else { Ok(()) }
    }
}
