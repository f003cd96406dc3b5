// SPDX-License-Identifier: MIT OR Apache-2.0
//! One blob's sources as one thing that fetches: what to do when they fail.
//!
//! A source makes one attempt. Here is what comes after: another source or another try, when, from
//! which byte on, and for how long. It refuses to know what the bytes should be: who verifies them
//! calls again with `fresh` and tells whom to blame. Invariant: the receiver sees every byte of
//! what it asked for once and in order, or an error.

mod demand;
mod health;
mod resume;
mod stats;
#[cfg(test)]
pub(crate) mod tests;

pub use demand::{Cancel, Clock, Deadline, Demand, SystemClock, Urgent};
pub use stats::{FailureCounts, OriginStats, SourceStats};

use crate::{FetchContext, FetchError, FetchErrorKind, Identity, Limits, RangeSource, Sink};
use health::{Health, Readiness};
use resume::Resume;
use stats::Counters;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How an [`Origin`] deals with failures.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..OriginConfig::default()`")]
pub struct OriginConfig {
    /// How long an attempt may take until its first byte, and beyond what `rate_min` allows.
    pub attempt: Duration,
    /// How long an attempt may get no byte at all, before its first one or later.
    pub stall: Duration,
    /// Bytes a second below which a transfer is given up, and resumed.
    pub rate_min: u64,
    /// The longest first pause between attempts; doubles from round to round.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// No pause longer than this because a server wants it.
    pub retry_after_max: Duration,
    /// Failures in a row after which a source is left alone for a while.
    pub breaker_failures: u32,
    /// How long at first; doubles up to `breaker_max`.
    pub breaker_min: Duration,
    /// How long at most.
    pub breaker_max: Duration,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(10),
            stall: Duration::from_secs(15),
            rate_min: 64 << 10,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            retry_after_max: Duration::from_secs(60),
            breaker_failures: 5,
            breaker_min: Duration::from_secs(1),
            breaker_max: Duration::from_secs(30),
        }
    }
}

impl OriginConfig {
    /// How long an attempt may take until its first byte.
    fn attempt_time(&self, demand: &Demand) -> Duration {
        if demand.has_ended_retries() { self.attempt.min(LAST_ATTEMPT) } else { self.attempt }
    }
}

/// As long an attempt may take if who waits will not be there for long: a server that is well has
/// answered by then.
const LAST_ATTEMPT: Duration = Duration::from_secs(3);

/// Whether a server gives parts of a blob.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Ranges {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It does.
    Yes,
    /// It sends everything, or nothing.
    No,
}

/// How a fetch ended well.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Served {
    /// Which sources gave bytes; bit 0 is the first mirror.
    pub sources: u64,
    /// A server sent everything from byte 0 on, though a range was asked for.
    pub whole: bool,
    /// The receiver wanted no more.
    pub stopped: bool,
    /// One after the last byte that was given.
    pub end: u64,
}

/// Mirrors and the origin of one blob. Clones are the same.
#[derive(Clone, Debug)]
pub struct Origin {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Mirrors, then the origin itself.
    sources: Vec<Arc<dyn RangeSource>>,
    health: Mutex<Vec<Health>>,
    config: OriginConfig,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
    counters: Counters,
}

/// What has been tried for one call.
#[derive(Default)]
struct Tries {
    /// Sources that have said no for good.
    refused: u64,
    /// Sources that have failed in this round.
    failed: u64,
    round: u32,
    last: Option<FetchError>,
}

/// What one attempt came to.
enum Attempt<T> {
    Done(T),
    /// It failed, but not without getting further: another comes at once.
    Further(FetchError),
    Failed(FetchError),
}

impl Origin {
    /// More mirrors than this are left out.
    pub const MIRRORS_MAX: usize = 63;

    /// One source, without limits.
    #[must_use]
    pub fn new(origin: Arc<dyn RangeSource>) -> Self {
        Self::with(vec![], origin, OriginConfig::default(), Arc::default(), Arc::new(SystemClock))
    }

    /// Mirrors in the order of preference, and the origin, which is asked last and believed most.
    #[must_use]
    pub fn with(
        mut mirrors: Vec<Arc<dyn RangeSource>>,
        origin: Arc<dyn RangeSource>,
        config: OriginConfig,
        limits: Arc<Limits>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        mirrors.truncate(Self::MIRRORS_MAX);
        mirrors.push(origin);
        let health = Mutex::new(mirrors.iter().map(|_| Health::default()).collect());
        let counters = Counters::new(mirrors.len());
        let inner = Inner { sources: mirrors, health, config, limits, clock, counters };
        Self { inner: Arc::new(inner) }
    }

    /// Size and validator, from the origin: a mirror's validator is not comparable.
    pub fn identity(&self, demand: &Demand) -> Result<Identity, FetchError> {
        self.identity_and(false, demand)
    }

    /// As [`Origin::identity`]; `head`: the first bytes will be read at once, and may come with it.
    pub(crate) fn identity_and(&self, head: bool, demand: &Demand) -> Result<Identity, FetchError> {
        self.attempts(demand, true, |_, source, context| {
            match source.identity(&FetchContext { head, ..context.clone() }) {
                Ok(identity) => Attempt::Done(identity),
                Err(error) => Attempt::Failed(error),
            }
        })
    }

    /// The limits that its fetches keep to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Gives `sink` the bytes of `range`. [`Sink::begin`] is called once, whatever breaks: at the
    /// start of the range, or at 0 if a server sends everything; then all of it is given, up to the
    /// end of the blob, as long as the sink takes it. `fresh`: from the origin itself, past caches.
    pub fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        demand: &Demand,
        fresh: bool,
    ) -> Result<Served, FetchError> {
        self.transfer(range, sink, demand, &FetchContext { fresh, ..FetchContext::default() })
    }

    fn transfer(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        demand: &Demand,
        how: &FetchContext,
    ) -> Result<Served, FetchError> {
        let inner = &*self.inner;
        let until = demand.until(inner.clock.now());
        let mut transfer = Resume::new(range, sink, &inner.limits, demand).of_head(how.head);
        let mut sources = 0;
        self.attempts(demand, how.fresh, |index, source, context| {
            let before = transfer.position();
            let rest = transfer.attempt();
            let len = rest.end - rest.start;
            let extra = Duration::from_secs(len / inner.config.rate_min.max(1));
            let patience = inner.clock.now().checked_add(inner.config.attempt_time(demand) + extra);
            let deadline = [patience, until].into_iter().flatten().min();
            let context = FetchContext { deadline, head: how.head, ..context.clone() };
            let result = source.fetch(rest, &mut transfer, &context);
            let moved = transfer.position().saturating_sub(before);
            inner.counters.bytes(index, transfer.received());
            if moved > 0 {
                sources |= 1 << index;
            }
            if let Some(ranges) = transfer.ranges() {
                inner.health()[index].ranges = ranges;
            }
            match transfer.outcome(source, result) {
                Ok(()) => Attempt::Done(transfer.served(sources)),
                Err(error) if moved >= FURTHER_MIN => Attempt::Further(error),
                Err(error) => Attempt::Failed(error),
            }
        })
    }

    /// Bytes that these sources gave were wrong. A mirror that lies is left alone for a while.
    pub fn blame(&self, served: &Served) {
        let now = self.inner.clock.now();
        let mut health = self.inner.health();
        let origin = health.len() - 1;
        for (index, health) in health.iter_mut().enumerate() {
            if served.sources & 1 << index != 0 {
                self.inner.counters.failure(index, FetchErrorKind::Digest);
                if index != origin {
                    health.open(now, &self.inner.config);
                }
            }
        }
    }

    /// Whether parts can be had from any source: if not, one fetch should get everything.
    pub fn ranges(&self) -> Ranges {
        let health = self.inner.health();
        let any = |ranges| health.iter().any(|health| health.ranges == ranges);
        match () {
            () if any(Ranges::Yes) => Ranges::Yes,
            () if any(Ranges::Unknown) => Ranges::Unknown,
            () => Ranges::No,
        }
    }

    /// Counters.
    pub fn stats(&self) -> OriginStats {
        let now = self.inner.clock.now();
        let health = self.inner.health();
        let mut stats = self.inner.counters.stats();
        for ((stats, health), source) in
            stats.sources.iter_mut().zip(&*health).zip(&self.inner.sources)
        {
            stats.name = source.describe();
            stats.is_open = health.is_open(now);
            stats.ranges = health.ranges;
        }
        stats
    }

    /// Tries sources until one does it, all have refused, or time is over.
    fn attempts<T>(
        &self,
        demand: &Demand,
        origin_only: bool,
        mut attempt: impl FnMut(usize, &dyn RangeSource, &FetchContext) -> Attempt<T>,
    ) -> Result<T, FetchError> {
        let inner = &*self.inner;
        let until = demand.until(inner.clock.now());
        let mut tries = Tries::default();
        loop {
            let now = inner.clock.now();
            self.check(demand, until, now, &tries)?;
            let ended = demand.has_ended_retries();
            let index = match self.pick(&mut tries, origin_only, now) {
                Pick::Source(index) => index,
                Pick::Wait(_) if ended => return Err(self.ended("nobody waits any more", &tries)),
                Pick::Wait(time) => {
                    let left = until.map_or(time, |until| until.saturating_duration_since(now));
                    inner.clock.sleep(time.min(left), demand.cancel.as_ref());
                    continue;
                }
                Pick::Nothing => {
                    return Err(tries.last.unwrap_or_else(|| {
                        FetchError::new(FetchErrorKind::NotFound, "no source has the blob")
                    }));
                }
            };
            let cancel = demand.cancel.as_ref();
            // A probe of a broken source that is not made after all must not block others.
            let mut probe = Probe { inner, index, reported: false };
            let Some(_permit) = inner.limits.permit(demand.priority, until, cancel) else {
                continue;
            };
            let now = inner.clock.now();
            let patience = now.checked_add(inner.config.attempt_time(demand));
            let deadline = [patience, until].into_iter().flatten().min();
            let context = FetchContext {
                deadline,
                priority: demand.priority,
                stall: Some(inner.config.stall),
                fresh: origin_only,
                ..FetchContext::default()
            };
            inner.counters.attempt(index, tries.last.is_some());
            let result = attempt(index, inner.sources[index].as_ref(), &context);
            let now = inner.clock.now();
            probe.reported = true;
            match result {
                Attempt::Done(done) => {
                    inner.health()[index].succeeded(now);
                    return Ok(done);
                }
                Attempt::Further(error) => {
                    inner.counters.failure(index, error.kind);
                    inner.health()[index].succeeded(now);
                    tries.further(index, error);
                }
                Attempt::Failed(error) => {
                    inner.counters.failure(index, error.kind);
                    let mut health = inner.health();
                    if health[index].failed(now, error.kind, &inner.config) {
                        inner.counters.opened();
                    }
                    tries.failed(index, error);
                }
            }
        }
    }

    fn check(
        &self,
        demand: &Demand,
        until: Option<Instant>,
        now: Instant,
        tries: &Tries,
    ) -> Result<(), FetchError> {
        let why = if demand.is_cancelled() {
            "cancelled"
        } else if demand.has_ended_retries() && tries.last.is_some() {
            "nobody waits any more"
        } else if until.is_some_and(|until| now >= until) {
            "no success in time"
        } else {
            return Ok(());
        };
        Err(self.ended(why, tries))
    }

    fn ended(&self, why: &str, tries: &Tries) -> FetchError {
        let what = match (&tries.last, self.inner.sources.last()) {
            (Some(last), _) => format!("{why}; at last: {last}"),
            (None, Some(source)) => format!("{}: {why}", source.describe()),
            (None, None) => why.into(),
        };
        FetchError::new(FetchErrorKind::Deadline, what)
    }

    /// The healthiest source that has not failed in this round; marks it as being probed if it was
    /// broken. After a round, a pause.
    fn pick(&self, tries: &mut Tries, origin_only: bool, now: Instant) -> Pick {
        let inner = &*self.inner;
        let mut health = inner.health();
        let first = if origin_only { health.len() - 1 } else { 0 };
        let mut best: Option<(bool, u32, usize)> = None;
        let mut wait: Option<Duration> = None;
        let mut any = false;
        for (index, health) in health.iter().enumerate().skip(first) {
            if tries.refused & 1 << index != 0 {
                continue;
            }
            match health.readiness(now) {
                Readiness::Ready if tries.failed & 1 << index != 0 => any = true,
                Readiness::Ready => {
                    let key = (health.ranges == Ranges::No, health.penalty(now), index);
                    best = Some(best.map_or(key, |best| best.min(key)));
                }
                Readiness::In(time) => wait = Some(wait.map_or(time, |wait| wait.min(time))),
            }
        }
        if let Some((_, _, index)) = best {
            health[index].begin(now);
            return Pick::Source(index);
        }
        drop(health);
        if any {
            tries.failed = 0;
            let pause = inner.config.backoff_min.saturating_mul(1 << tries.round.min(16));
            tries.round = tries.round.saturating_add(1);
            return Pick::Wait(pause.min(inner.config.backoff_max).mul_f64(inner.clock.random()));
        }
        match wait {
            Some(wait) => {
                tries.failed = 0;
                Pick::Wait(wait)
            }
            None => Pick::Nothing,
        }
    }
}

enum Pick {
    Source(usize),
    Wait(Duration),
    Nothing,
}

/// Getting further by less than this is a failure: a server that sends a byte a time is none.
const FURTHER_MIN: u64 = 4096;

impl Tries {
    fn further(&mut self, index: usize, error: FetchError) {
        if !may_pass(error.kind) {
            self.refused |= 1 << index;
        }
        self.failed = 0;
        self.round = 0;
        self.last = Some(error);
    }

    fn failed(&mut self, index: usize, error: FetchError) {
        if may_pass(error.kind) {
            self.failed |= 1 << index;
        } else {
            self.refused |= 1 << index;
        }
        // What the origin says weighs more than what a mirror said before, for people.
        self.last = Some(error);
    }
}

/// Whether the same source may do better later. The deadline of an attempt is not the caller's.
const fn may_pass(kind: FetchErrorKind) -> bool {
    matches!(
        kind,
        FetchErrorKind::Unreachable
            | FetchErrorKind::Length
            | FetchErrorKind::Busy(_)
            | FetchErrorKind::Digest
            | FetchErrorKind::Deadline
    )
}

impl Inner {
    fn health(&self) -> MutexGuard<'_, Vec<Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Probe<'a> {
    inner: &'a Inner,
    index: usize,
    reported: bool,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.inner.health()[self.index].abandoned();
        }
    }
}

/// A whole origin as a source, for a digest table: retries within the deadline, for ever without.
impl RangeSource for Origin {
    fn describe(&self) -> String {
        self.inner.sources.last().map_or_else(String::new, |source| source.describe())
    }

    fn identity(&self, context: &FetchContext) -> Result<Identity, FetchError> {
        Self::identity(self, &self.demand(context))
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        self.transfer(range, sink, &self.demand(context), context).map(|_| ())
    }
}

impl Origin {
    fn demand(&self, context: &FetchContext) -> Demand {
        let left = |deadline: Instant| deadline.saturating_duration_since(self.inner.clock.now());
        let deadline =
            context.deadline.map_or(Deadline::Hard, |deadline| Deadline::Soft(left(deadline)));
        let cancel = context.cancel.clone();
        Demand { deadline, priority: context.priority, cancel, ..Demand::default() }
    }
}
