// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table somewhere else, of which only the head is here at first.

use super::build::verify;
use super::gather::{Gathered, gather, gather_head};
use super::pages::Page;
use super::shelf::Shelf;
use super::{Geometry, Head, Layout, PAGE_LEN, PageCache, Pin, TableError};
use crate::{FetchContext, FetchError, FetchErrorKind, RangeSource};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A table up to this is fetched whole at once.
const WHOLE_MAX: u64 = 128 << 10;
/// Coarse pages that are fetched with the first of them: of 128 MiB with usual sizes. Who reads in large
/// pieces needs nothing else; and who waits for the first of them does not wait long for the others.
const COARSE_RUN: u64 = 16;
/// What is asked for of a table whose size is not known: the head for a blob of 1 GiB, and some coarse
/// pages; of a smaller blob fine pages come along, which may be for nothing.
const HEAD_GUESS: u64 = 96 << 10;
/// The same where bytes count more than a round trip: head and coarse pages for 80 MB.
const HEAD_GUESS_SPARING: u64 = 48 << 10;
/// Threads that fetch pages far apart: each waits for a round trip.
const PREPARING_THREADS: usize = 8;
/// Pages that nobody asked for are fetched if so many or fewer lie between two that are.
const GAP_MAX: u64 = 2;

/// What a [`Table`] may know and use.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..TableOptions::default()`")]
pub struct TableOptions {
    /// Bytes of the blob, if known: saves a round trip, and a table of another size is refused.
    pub blob_size: Option<u64>,
    /// Where parts of the table are kept.
    pub shelf: Option<Arc<dyn Shelf>>,
    /// Memory for pages; best one for all tables.
    pub pages: Arc<PageCache>,
    /// Rather a round trip more than bytes that may be for nothing.
    pub sparing: bool,
}

/// Counters of a [`Table`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct TableStats {
    /// Bytes of the table that were fetched.
    pub fetched_bytes: u64,
    /// Requests for them.
    pub requests: u64,
    /// Pages that did not verify, from the source.
    pub mismatches: u64,
}

/// The digests of a blob: the head in memory, pages as they are needed.
#[derive(Debug)]
pub struct Table {
    id: u64,
    head: Head,
    source: Arc<dyn RangeSource>,
    shelf: Option<Arc<dyn Shelf>>,
    pages: Arc<PageCache>,
    /// Pages that some thread fetches now.
    flights: Mutex<HashSet<u32>>,
    landed: Condvar,
    counters: Counters,
    /// What lies behind it in its file.
    copy: Option<Range<u64>>,
}

#[derive(Debug, Default)]
struct Counters {
    fetched_bytes: AtomicU64,
    requests: AtomicU64,
    mismatches: AtomicU64,
    /// Bytes of the table's file, as was told with what of it was fetched; 0: nobody told.
    file_len: AtomicU64,
}

impl Counters {
    fn fetch(
        &self,
        source: &dyn RangeSource,
        range: Range<u64>,
        context: &FetchContext,
    ) -> Result<Vec<u8>, FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        gather(source, range, context).map(|gathered| self.note(gathered))
    }

    fn fetch_head(
        &self,
        source: &dyn RangeSource,
        len: u64,
        context: &FetchContext,
    ) -> Result<Vec<u8>, FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        gather_head(source, len, context).map(|gathered| self.note(gathered))
    }

    fn note(&self, Gathered { bytes, total }: Gathered) -> Vec<u8> {
        self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file_len.store(total.unwrap_or(0), Ordering::Relaxed);
        bytes
    }
}

impl Table {
    /// Takes the head from the shelf or fetches it: one request if the blob's size is known and the
    /// table has the usual geometry (of a small table all of it, and the first coarse pages of a
    /// larger one, come with it), else one or two.
    pub fn open(
        pin: Pin,
        source: Arc<dyn RangeSource>,
        options: TableOptions,
        context: &FetchContext,
    ) -> Result<Self, TableError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let TableOptions { blob_size, shelf, pages, sparing } = options;
        let wish = Wish { blob_size, sparing };
        let counters = Counters::default();
        let shelved = shelf.as_ref().and_then(|shelf| shelved_head(&pin, shelf.as_ref()));
        let (head, more) = match shelved {
            Some(head) => (head, vec![]),
            None => fetch_head(&pin, source.as_ref(), wish, context, &counters)?,
        };
        let behind = head.layout().len()..counters.file_len.load(Ordering::Relaxed);
        let copy = Some(behind).filter(|behind| !behind.is_empty());
        let found = head.layout().blob_size();
        if let Some(expected) = blob_size
            && expected != found
        {
            return Err(TableError::OtherSize { expected, found });
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let flights = Mutex::default();
        let landed = Condvar::new();
        let table = Self { id, head, source, shelf, pages, flights, landed, counters, copy };
        if let Some(shelf) = &table.shelf
            && shelved_head(&pin, shelf.as_ref()).is_none()
        {
            shelf.save(0, table.head.as_bytes());
        }
        for (page, bytes) in more.chunks_exact(PAGE_LEN).enumerate() {
            // What came with the head is a gift: if it is wrong, it is asked for when needed.
            if table.head.verify_page(page as u64, bytes).is_ok() {
                table.keep(page as u64, bytes);
            }
        }
        Ok(table)
    }

    /// What it was verified against.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.head.pin()
    }

    /// Its shape; knows the blob's size.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.head.layout()
    }

    /// Where in the table's file a compressed copy of parts of the blob is, if that was seen when it was
    /// opened. Nothing of it is verified.
    pub(crate) fn copy(&self) -> Option<Range<u64>> {
        self.copy.clone()
    }

    pub(crate) fn source(&self) -> &dyn RangeSource {
        self.source.as_ref()
    }

    /// Counters.
    pub fn stats(&self) -> TableStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TableStats {
            fetched_bytes: load(&self.counters.fetched_bytes),
            requests: load(&self.counters.requests),
            mismatches: load(&self.counters.mismatches),
        }
    }

    /// The digests of a range of whole grains, if they are in memory or on the shelf: without this,
    /// let another thread take [`Table::digests`] while the data is fetched.
    pub fn cached(&self, range: Range<u64>) -> Option<Digests> {
        let needed = self.needed(&range).ok()?;
        let mut pages = BTreeMap::new();
        for page in needed {
            pages.insert(page, self.local(page)?);
        }
        Some(Digests { layout: self.layout(), range, pages })
    }

    /// The digests of a range of whole grains. Fetches the pages that are missing, in as few
    /// requests as make sense, at the same time; of several threads that miss a page one fetches
    /// it. A wrong page is asked for once more, afresh.
    pub fn digests(
        &self,
        range: Range<u64>,
        context: &FetchContext,
    ) -> Result<Digests, TableError> {
        let needed = self.needed(&range)?;
        let mut pages = BTreeMap::new();
        loop {
            let mut missing = vec![];
            for page in needed.iter().copied() {
                if pages.contains_key(&page) {
                    continue;
                }
                match self.local(page) {
                    Some(bytes) => {
                        pages.insert(page, bytes);
                    }
                    None => missing.push(page),
                }
            }
            if missing.is_empty() {
                break;
            }
            let mut claim = Claim { table: self, pages: vec![] };
            let runs = claim.runs(&missing, context)?;
            for (page, bytes) in self.fetch_runs(&runs, context)? {
                if needed.contains(&page) {
                    pages.insert(page, bytes);
                }
            }
        }
        Ok(Digests { layout: self.layout(), range, pages })
    }

    /// Fetches the pages that many ranges of whole grains need and that are neither here nor under way,
    /// in fewer requests than each range alone would. Stops at the first that fails: who needs the
    /// others fetches them.
    pub fn prepare(&self, ranges: &[Range<u64>], context: &FetchContext) -> Result<(), TableError> {
        let mut needed = BTreeSet::new();
        for range in ranges {
            needed.extend(self.needed(range)?);
        }
        let missing: Vec<u32> =
            needed.into_iter().filter(|page| self.local(*page).is_none()).collect();
        let near = |a: &u32, b: &u32| u64::from(*b) <= u64::from(*a) + 1 + GAP_MAX;
        let chunks: Vec<&[u32]> = missing.chunk_by(near).collect();
        let next = AtomicUsize::new(0);
        let fetch = || -> Result<(), TableError> {
            while let Some(pages) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Claimed one run after the other: who needs a page must not wait for those before it.
                let mut claim = Claim { table: self, pages: vec![] };
                let runs = claim.runs_now(pages);
                if let Err(error) = self.fetch_runs(&runs, context) {
                    next.store(chunks.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others = chunks.len().min(PREPARING_THREADS).saturating_sub(1);
            let others: Vec<_> = (0..others).map(|_| scope.spawn(fetch)).collect();
            let mine = fetch();
            others.into_iter().fold(mine, |result, other| {
                result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    }

    /// Whether `bytes` at `offset` of the blob, whole grains, are those of the blob.
    pub fn verify(
        &self,
        offset: u64,
        bytes: &[u8],
        context: &FetchContext,
    ) -> Result<(), TableError> {
        let len = bytes.len() as u64;
        let end = offset.checked_add(len).ok_or(TableError::Range { offset, len })?;
        self.digests(offset..end, context)?.verify(offset, bytes)
    }

    fn needed(&self, range: &Range<u64>) -> Result<BTreeSet<u32>, TableError> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        let pieces = self.layout().pieces(range.clone());
        let pieces = pieces.ok_or(TableError::Range { offset, len })?;
        Ok(pieces.map(|(_, page, _)| page as u32).collect())
    }

    fn local(&self, page: u32) -> Option<Page> {
        if let Some(bytes) = self.pages.get(self.id, page) {
            return Some(bytes);
        }
        let shelf = self.shelf.as_ref()?;
        let mut bytes = [0; PAGE_LEN];
        if !shelf.load(self.layout().page_offset(u64::from(page)), &mut bytes) {
            return None;
        }
        self.head.verify_page(u64::from(page), &bytes).ok()?;
        let bytes = Arc::new(bytes);
        self.pages.put(self.id, page, &bytes);
        Some(bytes)
    }

    /// Keeps a verified page.
    fn keep(&self, page: u64, bytes: &[u8]) -> Page {
        if let Some(shelf) = &self.shelf {
            shelf.save(self.layout().page_offset(page), bytes);
        }
        let bytes = Arc::new(*bytes.first_chunk().expect("a verified page is a whole one"));
        self.pages.put(self.id, page as u32, &bytes);
        bytes
    }

    /// Fetches runs of pages at the same time: each costs a round trip, and a reader waits.
    fn fetch_runs(
        &self,
        runs: &[Range<u32>],
        context: &FetchContext,
    ) -> Result<Vec<(u32, Page)>, TableError> {
        let Some((first, others)) = runs.split_first() else { return Ok(vec![]) };
        std::thread::scope(|scope| {
            let others: Vec<_> =
                others.iter().map(|run| scope.spawn(|| self.fetch_run(run, context))).collect();
            let mut pages = self.fetch_run(first, context);
            for other in others {
                let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                pages = pages.and_then(|mut pages| {
                    pages.extend(more?);
                    Ok(pages)
                });
            }
            pages
        })
    }

    fn fetch_run(
        &self,
        run: &Range<u32>,
        context: &FetchContext,
    ) -> Result<Vec<(u32, Page)>, TableError> {
        match self.try_run(run, context) {
            Err(TableError::Page(_)) if !context.fresh => {
                self.try_run(run, &FetchContext { fresh: true, ..context.clone() })
            }
            result => result,
        }
    }

    fn try_run(
        &self,
        run: &Range<u32>,
        context: &FetchContext,
    ) -> Result<Vec<(u32, Page)>, TableError> {
        let offset = |page: u32| self.layout().page_offset(u64::from(page));
        let range = offset(run.start)..offset(run.end);
        let bytes = self.counters.fetch(self.source.as_ref(), range, context)?;
        let mut pages = vec![];
        for (page, bytes) in run.clone().zip(bytes.chunks_exact(PAGE_LEN)) {
            if let Err(error) = self.head.verify_page(u64::from(page), bytes) {
                self.counters.mismatches.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
            pages.push((page, self.keep(u64::from(page), bytes)));
        }
        Ok(pages)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.pages.forget(self.id);
    }
}

/// Pages that this thread fetches; others wait for them until it is dropped.
struct Claim<'a> {
    table: &'a Table,
    pages: Vec<u32>,
}

impl Claim<'_> {
    /// Claims what nobody else fetches of `missing`, with what is worth fetching with it, as runs.
    /// If others fetch all of it, waits for one of them and returns no runs.
    fn runs(
        &mut self,
        missing: &[u32],
        context: &FetchContext,
    ) -> Result<Vec<Range<u32>>, TableError> {
        let table = self.table;
        let runs = self.runs_now(missing);
        if runs.is_empty() {
            let Some(left) = left(context) else { return Err(late(table.source.as_ref())) };
            let flights = table.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = table.landed.wait_timeout_while(flights, left, |flights| {
                missing.iter().all(|page| flights.contains(page))
            });
            drop(wait);
        }
        Ok(runs)
    }

    /// The same without waiting.
    fn runs_now(&mut self, missing: &[u32]) -> Vec<Range<u32>> {
        let table = self.table;
        let mut flights = table.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let mut runs: Vec<Range<u32>> = vec![];
        // Nothing is asked for twice, not even between what is missing.
        let is_new = |page: u32| !flights.contains(&page) && table.local(page).is_none();
        for page in missing.iter().copied() {
            // It may have come since it was missed.
            if !is_new(page) {
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if u64::from(page) <= u64::from(run.end) + GAP_MAX
                        && (run.end..page).all(is_new) =>
                {
                    run.end = run.end.max(page + 1);
                }
                _ => runs.push(page..page + 1),
            }
            let coarse_end = table.layout().coarse_page_count();
            if u64::from(page) < coarse_end {
                let end = (u64::from(page) + COARSE_RUN).min(coarse_end) as u32;
                // Up to what is here or under way already.
                let stop = (page + 1..end).find(|page| !is_new(*page)).unwrap_or(end);
                if let Some(run) = runs.last_mut() {
                    run.end = run.end.max(stop);
                }
            }
        }
        for page in runs.iter().cloned().flatten() {
            if flights.insert(page) {
                self.pages.push(page);
            }
        }
        runs
    }
}

/// What is left until the deadline: a day if there is none, `None` if it has passed.
fn left(context: &FetchContext) -> Option<std::time::Duration> {
    let day = std::time::Duration::from_secs(86400);
    let Some(deadline) = context.deadline else { return Some(day) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { None } else { Some(left.min(day)) }
}

fn late(source: &dyn RangeSource) -> TableError {
    let what = format!("{}: no answer in time", source.describe());
    FetchError::new(FetchErrorKind::Deadline, what).into()
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut flights = self.table.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for page in &self.pages {
            flights.remove(page);
        }
        drop(flights);
        self.table.landed.notify_all();
    }
}

fn shelved_head(pin: &Pin, shelf: &dyn Shelf) -> Option<Head> {
    let mut bytes = vec![0; super::layout::HEADER_LEN];
    if !shelf.load(0, &mut bytes) {
        return None;
    }
    bytes.resize(Layout::parse(&bytes).ok()?.head_len() as usize, 0);
    if !shelf.load(0, &mut bytes) {
        return None;
    }
    Head::parse(pin, &bytes).ok()
}

/// How much of a table comes first.
#[derive(Clone, Copy, Debug)]
struct Wish {
    blob_size: Option<u64>,
    sparing: bool,
}

/// The head, and the bytes that came after it.
fn fetch_head(
    pin: &Pin,
    source: &dyn RangeSource,
    wish: Wish,
    context: &FetchContext,
    counters: &Counters,
) -> Result<(Head, Vec<u8>), TableError> {
    match try_head(pin, source, wish, context, counters) {
        Err(error) if error.is_mismatch() && !context.fresh => {
            counters.mismatches.fetch_add(1, Ordering::Relaxed);
            let context = FetchContext { fresh: true, ..context.clone() };
            try_head(pin, source, wish, &context, counters)
        }
        result => result,
    }
}

fn try_head(
    pin: &Pin,
    source: &dyn RangeSource,
    Wish { blob_size, sparing }: Wish,
    context: &FetchContext,
    counters: &Counters,
) -> Result<(Head, Vec<u8>), TableError> {
    let first_len = |layout: &Layout| {
        let coarse = layout.coarse_page_count().min(COARSE_RUN);
        let end = if layout.len() <= WHOLE_MAX { layout.page_count() } else { coarse };
        layout.page_offset(end)
    };
    let usual = Geometry::new(pin.algorithm);
    let guess = blob_size.and_then(|size| Layout::new(usual, size).ok());
    if let Some(guess) = guess {
        match counters.fetch(source, 0..first_len(&guess), context) {
            Ok(mut bytes) => {
                let layout = Layout::parse(&bytes)?;
                if layout == guess {
                    let more = bytes.split_off(layout.head_len() as usize);
                    return Ok((Head::parse(pin, &bytes)?, more));
                }
            }
            // A table of another geometry may be shorter than the guess.
            Err(error) if matches!(error.kind, FetchErrorKind::Length) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let len = if sparing { HEAD_GUESS_SPARING } else { HEAD_GUESS };
    let mut bytes = counters.fetch_head(source, len, context)?;
    let layout = Layout::parse(&bytes)?;
    let found = layout.blob_size();
    if let Some(expected) = blob_size
        && expected != found
    {
        // Before as much as a hostile header tells is fetched.
        return Err(TableError::OtherSize { expected, found });
    }
    let come = bytes.len() as u64;
    // The first pages are worth no round trip, but for the one that the first bytes of the blob need.
    if first_len(&layout).min(layout.page_offset(1)) > come {
        bytes.extend(counters.fetch(source, come..first_len(&layout), context)?);
    }
    let more = bytes.split_off(layout.head_len() as usize);
    Ok((Head::parse(pin, &bytes)?, more))
}

/// The digests of a range of a blob, held in memory.
#[derive(Clone, Debug)]
pub struct Digests {
    layout: Layout,
    range: Range<u64>,
    pages: BTreeMap<u32, Page>,
}

impl Digests {
    /// What they cover.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Whether `bytes` at `offset` are those of the blob: the whole range, or a part of it that was
    /// cut at the bounds of groups only (so that pieces can be verified as they come).
    pub fn verify(&self, offset: u64, bytes: &[u8]) -> Result<(), TableError> {
        let len = bytes.len() as u64;
        let end = offset.saturating_add(len);
        if offset < self.range.start || end > self.range.end {
            return Err(TableError::Range { offset, len });
        }
        verify(&self.layout, offset, bytes, |page, byte| {
            let page = self.pages.get(&u32::try_from(page).ok()?)?;
            page.get(byte..)?.first_chunk().copied()
        })
    }
}
