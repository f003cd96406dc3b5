// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way of a miss.

use super::BlobInner;
use super::hand::Hand;
use super::sink::{FillSink, Known, Stop, Target};
use crate::cache::lock;
use crate::flight::{Claim, Lead};
use crate::map::{GRAIN, bytes_of, grains_of};
use crate::stats::count;
use crate::{
    Demand, FetchContext, FetchError, FetchErrorKind, Priority, Ranges, Served, StoreError, Table,
    TableOptions, TableSpec,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a wait is before presence, deadline and cancellation are looked at again.
const WAIT: Duration = Duration::from_millis(50);
/// Pauses between looks at what another process fetches.
const POLL_MIN: Duration = Duration::from_micros(200);
const POLL_MAX: Duration = Duration::from_millis(20);
/// Bytes that are fetched at once for a reader without keeping them.
const UNCACHED: u64 = 1 << 20;

/// How the fetch of a claim ended.
enum Fetched {
    /// The claim is fulfilled, or by somebody else.
    Done,
    /// The source sends only everything, and whoever is to receive that must have the claim.
    Whole(Demand),
    /// A reader waits for this grain, and had better ask itself.
    Aside(u64),
}

impl BlobInner {
    /// What to fetch because of a read: what is worth fetching ahead is begun here.
    pub(super) fn plan(self: &Arc<Self>, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut window = lock(&self.window);
        let bits = self.map.bits();
        let missing = |range: Range<u64>| {
            let runs = bits.runs(grains_of(&range), false);
            runs.map(|run| bytes_of(&run, self.size)).collect()
        };
        let plan = window.read(range.clone(), missing);
        // Relaxed: a hit that does not see it in time only tells the window a little later.
        self.window_idle.store(window.is_idle(), Ordering::Relaxed);
        drop(window);
        for ahead in plan.ahead {
            self.cache.ahead(self, ahead);
        }
        plan.now
    }

    /// Fetches what a read misses, and what is worth fetching with it. `hand` takes what of it comes
    /// here.
    pub(super) fn fill_read(
        this: &Arc<Self>,
        range: &Range<u64>,
        mut hand: Option<&mut Hand<'_>>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        let bits = this.map.bits();
        let missing: u64 =
            bits.runs(grains_of(range), false).map(|run| (run.end - run.start) * GRAIN).sum();
        count(&this.counters.wanted_bytes, missing);
        this.fill_from_copy(range, demand, start);
        for piece in this.plan(range) {
            if let Err(error) = Self::fill_for(this, &piece, hand.as_deref_mut(), demand, start) {
                lock(&this.window).failed(&piece);
                return Err(error);
            }
        }
        // What was on its way for others when the plan was made.
        Self::fill_for(this, range, hand, demand, start)
    }

    /// Fetches what is missing of `range`, or waits for who does.
    pub(crate) fn fill(
        this: &Arc<Self>,
        range: &Range<u64>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        Self::fill_for(this, range, None, demand, start)
    }

    fn fill_for(
        this: &Arc<Self>,
        range: &Range<u64>,
        mut hand: Option<&mut Hand<'_>>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        let bits = this.map.bits();
        let grains = grains_of(range);
        // Where a reader goes on while this lets it pass.
        let mut pass: Option<u64> = None;
        while let Some(first) = bits.find(grains.clone(), false) {
            this.check(demand, start, first * GRAIN)?;
            if this.origin.ranges() == Ranges::No && range.start > 0 {
                Self::stream(this, demand, start)?;
            }
            // The first may have come meanwhile; a claim is never empty.
            let run_end = bits.find(first + 1..grains.end, true).unwrap_or(grains.end);
            let run_end = pass.filter(|pass| *pass > first).map_or(run_end, |p| p.min(run_end));
            let wish = this.whole_grains(first..run_end);
            match this.flights.claim(wish, first) {
                Claim::Join(mut join) => {
                    count(&this.counters.joins, 1);
                    let is_reader = demand.priority == Priority::Demand;
                    let _waiting = is_reader.then(|| {
                        join.want(first);
                        this.origin.limits().join()
                    });
                    while !bits.all(first..first + 1) && join.wait(WAIT) {
                        this.check(demand, start, first * GRAIN)?;
                    }
                }
                Claim::Lead(lead) => {
                    match this.fetch(&lead, first, hand.as_deref_mut(), demand, start)? {
                        Fetched::Done => {}
                        Fetched::Whole(stream) => {
                            drop(lead);
                            Self::begin_stream(this, stream);
                        }
                        Fetched::Aside(grain) => {
                            pass = Some(grain);
                            drop(lead);
                            // The reader's claim is to come before the next one here.
                            std::thread::sleep(POLL_MIN);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Grains made larger to what can be verified on its own.
    fn whole_grains(&self, grains: Range<u64>) -> Range<u64> {
        let table = lock(&self.table);
        match &*table {
            Some(table) => {
                let bytes = bytes_of(&grains, self.size);
                grains_of(&table.layout().whole_grains(&bytes))
            }
            None => grains,
        }
    }

    pub(super) fn check(&self, demand: &Demand, start: Instant, at: u64) -> Result<(), StoreError> {
        if demand.is_cancelled() {
            return Err(StoreError::Cancelled { blob: self.id.clone(), offset: at });
        }
        if demand.until(start).is_some_and(|until| Instant::now() >= until) {
            return Err(StoreError::Deadline { blob: self.id.clone(), offset: at });
        }
        Ok(())
    }

    /// Fetches the missing grains of a claim.
    fn fetch(
        &self,
        lead: &Lead<'_>,
        first: u64,
        hand: Option<&mut Hand<'_>>,
        demand: &Demand,
        start: Instant,
    ) -> Result<Fetched, StoreError> {
        let bits = self.map.bits();
        let claim = lead.range();
        let Some(_held) = self.hold(&claim, first, demand, start)? else {
            return Ok(Fetched::Done);
        };
        // Others may have brought a part since it was missed, also in the middle: that is not fetched
        // again, and what lies behind it is another claim.
        let Some(from) = bits.find(claim.clone(), false) else { return Ok(Fetched::Done) };
        let to = bits.find(from..claim.end, true).unwrap_or(claim.end);
        let table = self.table(demand, start)?;
        let range = bytes_of(&(from..to), self.size);
        let range =
            table.as_ref().map_or(range.clone(), |table| table.layout().whole_grains(&range));
        let len = range.end - range.start;
        let Some(room) = self.cache.admit(len) else { return Err(self.no_space(len)) };
        let demand = &Demand { urgent: Some(lead.urgent()), ..demand.clone() };
        let stop =
            self.transfer(Target::Cache(lead, &room, hand), &range, table.as_ref(), demand, start)?;
        Ok(match stop {
            Stop::Whole => {
                let demand = Demand { urgent: None, ..demand.after(start, Instant::now()) };
                Fetched::Whole(demand)
            }
            Stop::Aside(grain) => Fetched::Aside(grain),
            _ => Fetched::Done,
        })
    }

    pub(super) fn no_space(&self, len: u64) -> StoreError {
        StoreError::NoSpace { blob: self.id.clone(), len }
    }

    /// Takes grains among processes; `None`: the first is present meanwhile.
    pub(super) fn hold(
        &self,
        claim: &Range<u64>,
        first: u64,
        demand: &Demand,
        start: Instant,
    ) -> Result<Option<crate::cache::Held<'_>>, StoreError> {
        let mut pause = POLL_MIN;
        loop {
            if let Some(held) = self.files.try_grains(&self.id, claim)? {
                return Ok(Some(held));
            }
            if self.map.bits().all(first..first + 1) {
                return Ok(None);
            }
            self.check(demand, start, first * GRAIN)?;
            match &demand.cancel {
                Some(cancel) => {
                    cancel.wait(pause);
                }
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// Fetches a range of whole grains; once again from the origin itself if bytes were wrong.
    pub(super) fn transfer(
        &self,
        mut target: Target<'_, '_>,
        range: &Range<u64>,
        table: Option<&Arc<Table>>,
        demand: &Demand,
        start: Instant,
    ) -> Result<Stop, StoreError> {
        let mut fresh = false;
        let mut at = range.start;
        loop {
            let rest = at..range.end;
            let demand = demand.after(start, Instant::now());
            let context = FetchContext {
                deadline: demand.until(Instant::now()),
                priority: demand.priority,
                fresh,
                cancel: demand.cancel.clone(),
                ..FetchContext::default()
            };
            let target = match &mut target {
                Target::Cache(lead, room, hand) => Target::Cache(lead, room, hand.as_deref_mut()),
                Target::Memory(bytes) => Target::Memory(&mut bytes[(at - range.start) as usize..]),
            };
            let (stop, served, reached) = self.attempt(target, &rest, table, &demand, &context)?;
            at = reached;
            let error = match stop {
                Stop::Done | Stop::Whole | Stop::Aside(_) => return Ok(stop),
                Stop::Write(error) if is_full(&error) => {
                    self.cache.is_full();
                    return Err(self.no_space(range.end - range.start));
                }
                Stop::Write(error) => return Err(StoreError::io(&self.id, "write data")(error)),
                Stop::Size(found) => {
                    let (blob, expected) = (self.id.clone(), self.size);
                    return Err(StoreError::OtherSize { blob, expected, found });
                }
                Stop::Table(error) => error,
            };
            if matches!(error, crate::TableError::Blob { .. }) {
                self.origin.blame(&served);
                if !fresh {
                    fresh = true;
                    continue;
                }
            }
            count(&self.counters.failures, 1);
            return Err(self.table_error(at, error));
        }
    }

    fn attempt(
        &self,
        target: Target<'_, '_>,
        range: &Range<u64>,
        table: Option<&Arc<Table>>,
        demand: &Demand,
        context: &FetchContext,
    ) -> Result<(Stop, Served, u64), StoreError> {
        let counters = &self.counters;
        count(&counters.fetches, 1);
        let _flying = Flying::new(&counters.in_flight);
        let here = table.map(|table| table.cached(range.clone()));
        // Without digests the bytes are nothing, and a reader may wait for them.
        let context =
            &FetchContext { priority: context.priority.max(Priority::Ahead), ..context.clone() };
        let cloned = table.cloned();
        let (result, stop, at) = match here {
            None | Some(Some(_)) => {
                let known = here.flatten().map_or(Known::Nothing, Known::Here);
                let mut sink =
                    FillSink::new(self, cloned, target, range.clone(), known, context.clone());
                let result = self.origin.fetch(range.clone(), &mut sink, demand, context.fresh);
                (result, sink.stop.take(), sink.at)
            }
            Some(None) => std::thread::scope(|scope| {
                // Digests and bytes come at the same time: a round trip less.
                let (sender, receiver) = std::sync::mpsc::channel();
                let table = cloned.clone().expect("a table that lacks digests");
                scope.spawn(move || sender.send(table.digests(range.clone(), context)));
                let known = Known::Coming(receiver);
                let mut sink =
                    FillSink::new(self, cloned, target, range.clone(), known, context.clone());
                let result = self.origin.fetch(range.clone(), &mut sink, demand, context.fresh);
                (result, sink.stop.take(), sink.at)
            }),
        };
        match (stop, result) {
            (Some(stop), result) => Ok((stop, result.unwrap_or_default(), at)),
            (None, Ok(_)) => {
                let what = format!("{}: ended at byte {at}", self.describe());
                Err(self.fetch_error(range, FetchError::new(FetchErrorKind::Length, what)))
            }
            (None, Err(error)) => Err(self.fetch_error(range, error)),
        }
    }

    fn fetch_error(&self, range: &Range<u64>, error: FetchError) -> StoreError {
        count(&self.counters.failures, 1);
        let (blob, offset, len) = (self.id.clone(), range.start, range.end - range.start);
        StoreError::Fetch { blob, offset, len, error }
    }

    pub(super) fn table_error(&self, offset: u64, error: crate::TableError) -> StoreError {
        let (blob, source) = (self.id.clone(), self.describe());
        StoreError::Table { blob, offset, source, error: Box::new(error) }
    }

    fn describe(&self) -> String {
        use crate::RangeSource;
        self.origin.describe()
    }

    /// The table, which is opened when it is needed for the first time.
    pub(crate) fn table(
        &self,
        demand: &Demand,
        start: Instant,
    ) -> Result<Option<Arc<Table>>, StoreError> {
        let TableSpec::Pinned { pin, source } = &self.table_spec else { return Ok(None) };
        let mut table = lock(&self.table);
        if let Some(table) = &*table {
            return Ok(Some(Arc::clone(table)));
        }
        let options = TableOptions {
            blob_size: Some(self.size),
            shelf: self.files.shelf(),
            pages: Arc::clone(&self.cache.pages),
            ..TableOptions::default()
        };
        let context = FetchContext {
            deadline: demand.until(start),
            priority: demand.priority,
            cancel: demand.cancel.clone(),
            ..FetchContext::default()
        };
        let opened = Table::open(*pin, Arc::clone(source), options, &context)
            .map_err(|error| self.table_error(0, error))?;
        let opened = Arc::new(opened);
        *table = Some(Arc::clone(&opened));
        Ok(Some(opened))
    }

    /// Fetches the digests of what of these ranges is missing. What fails is told to who needs them.
    pub(super) fn prepare(&self, ranges: &[Range<u64>], demand: &Demand) {
        let start = Instant::now();
        let Ok(Some(table)) = self.table(demand, start) else { return };
        let missing = ranges.iter().flat_map(|range| self.runs(range.clone(), false));
        let missing: Vec<_> = missing.map(|range| table.layout().whole_grains(&range)).collect();
        let context = FetchContext {
            deadline: demand.until(start),
            priority: demand.priority,
            ..FetchContext::default()
        };
        if let Err(error) = table.prepare(&missing, &context) {
            tracing::debug!(%error, "digests were not fetched ahead");
        }
    }

    /// Fetches for one reader, without keeping anything: there is no room.
    pub(super) fn read_uncached(
        &self,
        buf: &mut [u8],
        range: &Range<u64>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        let table = self.table(demand, start)?;
        let mut at = range.start;
        while at < range.end {
            self.check(demand, start, at)?;
            let end = range.end.min(at.saturating_add(UNCACHED));
            let to = (at - range.start) as usize..(end - range.start) as usize;
            let out = &mut buf[to];
            if !self.read_present(out, &(at..end))? {
                let whole = match &table {
                    Some(table) => table.layout().whole_grains(&(at..end)),
                    None => at..end,
                };
                let mut bytes = vec![0; (whole.end - whole.start) as usize];
                let target = Target::Memory(&mut bytes);
                self.transfer(target, &whole, table.as_ref(), demand, start)?;
                let from = (at - whole.start) as usize;
                out.copy_from_slice(&bytes[from..from + out.len()]);
                count(&self.counters.uncached_bytes, out.len() as u64);
            }
            at = end;
        }
        Ok(())
    }
}

/// Whether a file could not grow.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Counts what is under way, also over a panic.
pub(super) struct Flying<'a>(&'a std::sync::atomic::AtomicU64);

impl<'a> Flying<'a> {
    pub(super) fn new(counter: &'a std::sync::atomic::AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
