// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much may be asked of the network at once: bytes a second, and requests.
//!
//! It refuses to know what is fetched. Invariant: while somebody waits for bytes, nothing that
//! nobody waits for takes what they need.

use crate::{Cancel, Clock, Demand, Priority, SystemClock};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a piece of what nobody waits for lets readers pass, and how often it looks.
const PASS_MAX: Duration = Duration::from_millis(50);
const PASS_LOOK: Duration = Duration::from_millis(2);
/// A reader's request that takes so many times what the quickest took, and this longer, is starved.
const STARVED_TIMES: u32 = 4;
const STARVED_MORE: Duration = Duration::from_millis(50);
/// How long a wait for a limit is before it is looked whether a reader waits for these bytes now.
const WAIT_LOOK: Duration = Duration::from_millis(50);

/// Limits for all origins of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "made with `..LimitConfig::default()`")]
pub struct LimitConfig {
    /// Bytes a second, all in all.
    pub bytes_per_second: Option<u64>,
    /// Bytes a second of what nobody waits for, nor will in a moment.
    pub prefetch_bytes_per_second: Option<u64>,
    /// Requests at once.
    pub requests_max: usize,
    /// Requests at once of what nobody waits for.
    pub prefetch_requests_max: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: None,
            prefetch_bytes_per_second: None,
            requests_max: 96,
            // Scattered pieces of 16 KiB fill 200 Mbit/s at 20 ms with no fewer.
            prefetch_requests_max: 48,
        }
    }
}

/// The limits, and what is used of them.
#[derive(Debug)]
pub struct Limits {
    config: LimitConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    all: Option<Bucket>,
    prefetch: Option<Bucket>,
    requests: usize,
    prefetch_requests: usize,
    /// Readers that wait for a permit.
    waiting: usize,
    /// Who sleeps for a permit, readers and others.
    asleep: usize,
    /// Readers that wait for what is being fetched for nobody.
    joined: usize,
    /// Since when readers have waited for requests, their own or those they have joined: in order.
    since: VecDeque<(u64, Instant)>,
    next_id: u64,
    quickest: Quickest,
}

/// How long the quickest of readers' requests took, of the last ones only: links change, and an
/// answer from memory or an error that came at once says nothing of them.
#[derive(Debug, Default)]
struct Quickest {
    before: Option<Duration>,
    now: Option<Duration>,
    count: u32,
}

impl Quickest {
    const COUNT: u32 = 16;

    fn add(&mut self, took: Duration) {
        self.now = Some(self.now.map_or(took, |known| known.min(took)));
        self.count += 1;
        if self.count == Self::COUNT {
            *self = Self { before: self.now, ..Self::default() };
        }
    }

    fn get(&self) -> Option<Duration> {
        [self.before, self.now].into_iter().flatten().min()
    }
}

impl State {
    fn begin(&mut self, now: Instant) -> u64 {
        self.next_id += 1;
        self.since.push_back((self.next_id, now));
        self.next_id
    }

    /// When it began.
    fn end(&mut self, id: u64) -> Option<Instant> {
        let index = self.since.iter().position(|(known, _)| *known == id)?;
        self.since.remove(index).map(|(_, since)| since)
    }

    fn is_demanded(&self) -> bool {
        self.waiting > 0 || self.joined > 0 || self.requests > self.prefetch_requests
    }

    fn is_starved(&self, now: Instant) -> bool {
        let patience = self.quickest.get().map_or(STARVED_MORE, |quickest| {
            quickest.saturating_mul(STARVED_TIMES).saturating_add(STARVED_MORE)
        });
        let is_late =
            |(_, since): &(u64, Instant)| now.saturating_duration_since(*since) > patience;
        self.waiting > 0 || self.since.front().is_some_and(is_late)
    }

    /// Whether what nobody waits for, at this priority, should let readers pass now.
    fn yields(&self, priority: Priority, now: Instant) -> bool {
        match priority {
            Priority::Prefetch => self.is_demanded(),
            Priority::Listed => self.is_starved(now),
            Priority::Ahead | Priority::Demand => false,
        }
    }
}

/// Tokens are bytes; a debt is paid by whoever comes next, so that a taker of any size passes.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// What may come at once: a tenth of a second, at least a packet or two.
    fn burst(&self) -> f64 {
        (self.rate / 10.0).max(16384.0)
    }

    fn new(rate: u64, now: Instant) -> Self {
        let mut bucket = Self { rate: rate.max(1) as f64, tokens: 0.0, at: now };
        bucket.tokens = bucket.burst();
        bucket
    }

    fn fill(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = time.mul_add(self.rate, self.tokens).min(self.burst());
        self.at = now;
    }

    /// How long until there is more than `reserve`.
    fn wait(&self, reserve: f64) -> Duration {
        let missing = reserve - self.tokens;
        if missing < 0.0 {
            return Duration::ZERO;
        }
        // A little more than exactly, so that rounding does not make a second wait of nothing.
        Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX)
            + Duration::from_micros(1)
    }
}

impl Limits {
    /// Limits by the system's clock.
    #[must_use]
    pub fn new(config: LimitConfig) -> Self {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// Limits by a clock.
    #[must_use]
    pub fn with_clock(config: LimitConfig, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::new(rate, now));
        let state = Mutex::new(State {
            all: bucket(config.bytes_per_second),
            prefetch: bucket(config.prefetch_bytes_per_second),
            requests: 0,
            prefetch_requests: 0,
            waiting: 0,
            asleep: 0,
            joined: 0,
            since: VecDeque::new(),
            next_id: 0,
            quickest: Quickest::default(),
        });
        Self { config, clock, state, freed: Condvar::new() }
    }

    /// Waits for the right to one request; `None` if cancelled or too late. Prefetch never takes
    /// the last of the permits, nor one that a reader waits for.
    pub fn permit(
        &self,
        priority: Priority,
        until: Option<Instant>,
        cancel: Option<&Cancel>,
    ) -> Option<Permit<'_>> {
        let prefetch = priority != Priority::Demand;
        let mut state = self.lock();
        let mut waiting = false;
        let permit = loop {
            let free = state.requests < self.config.requests_max.max(1);
            let room = self.config.requests_max.saturating_sub(1).max(1);
            let yielding = state.waiting > 0
                || state.prefetch_requests >= self.config.prefetch_requests_max.max(1)
                || state.requests >= room;
            if free && !(prefetch && yielding) {
                state.requests += 1;
                state.prefetch_requests += usize::from(prefetch);
                let reader = (!prefetch).then(|| state.begin(self.clock.now()));
                break Some(Permit { limits: self, reader });
            }
            let late = until.is_some_and(|until| self.clock.now() >= until);
            if late || cancel.is_some_and(Cancel::is_cancelled) {
                break None;
            }
            if !prefetch && !waiting {
                waiting = true;
                state.waiting += 1;
            }
            // Cancelling does not wake this condition: look from time to time.
            let pause = Duration::from_millis(50);
            state.asleep += 1;
            state = self.freed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            state.asleep -= 1;
        };
        state.waiting -= usize::from(waiting);
        drop(state);
        if waiting {
            self.freed.notify_all();
        }
        permit
    }

    /// Whether readers wait for a permit.
    pub fn is_contended(&self) -> bool {
        self.lock().waiting > 0
    }

    /// Whether a reader's request runs or waits: who has time lets it pass.
    pub fn is_demanded(&self) -> bool {
        self.lock().is_demanded()
    }

    /// Whether what nobody waits for, at this priority, should let readers pass: what nobody has
    /// named while any reader waits, what is known to be wanted while a reader waits for longer
    /// than such requests take. (A link on which one request after the other waits is not used: if
    /// those whose bytes are wanted next were to pause for each of them, all would wait for all.)
    pub fn yields(&self, priority: Priority) -> bool {
        let now = self.clock.now();
        self.lock().yields(priority, now)
    }

    /// A reader waits, until this is dropped, for what is being fetched for nobody.
    pub fn join(&self) -> Joined<'_> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.joined += 1;
        let id = state.begin(now);
        drop(state);
        Joined { limits: self, id }
    }

    /// How many bytes to take from the network in one piece, so that a limit is smooth; `None`: any.
    pub fn piece_max(&self, priority: Priority) -> Option<usize> {
        let rates = [
            self.config.bytes_per_second,
            self.config.prefetch_bytes_per_second.filter(|_| is_capped(priority)),
        ];
        let rate = rates.into_iter().flatten().min()?;
        Some(usize::try_from(rate / 20).unwrap_or(usize::MAX).clamp(4096, 256 << 10))
    }

    /// Accounts for bytes that came, and waits as long as it takes to keep to the limits, or until
    /// cancelled; what nobody waits for lets readers pass, too. A wait on the receiver's side slows
    /// the sender: TCP sees to it.
    pub fn take(&self, bytes: u64, demand: &Demand) {
        let cancel = demand.cancel.as_ref();
        let mut left = PASS_MAX;
        while !left.is_zero() && !demand.is_cancelled() && self.yields(demand.priority_now()) {
            self.clock.sleep(PASS_LOOK, cancel);
            left = left.saturating_sub(PASS_LOOK);
        }
        loop {
            // A reader may have come to wait for this meanwhile.
            let priority = demand.priority_now();
            let capped = is_capped(priority);
            if self.config.bytes_per_second.is_none()
                && !(capped && self.config.prefetch_bytes_per_second.is_some())
            {
                return;
            }
            let mut state = self.lock();
            let now = self.clock.now();
            let mut wait = Duration::ZERO;
            if let Some(bucket) = &mut state.all {
                bucket.fill(now);
                // The last half of the bucket is for readers.
                let reserve = if priority == Priority::Demand { 0.0 } else { bucket.burst() / 2.0 };
                wait = bucket.wait(reserve);
            }
            if let Some(bucket) = state.prefetch.as_mut().filter(|_| capped) {
                bucket.fill(now);
                wait = wait.max(bucket.wait(0.0));
            }
            if wait.is_zero() || cancel.is_some_and(Cancel::is_cancelled) {
                let State { all, prefetch: own, .. } = &mut *state;
                for bucket in all.iter_mut().chain(own.iter_mut().filter(|_| capped)) {
                    bucket.tokens -= bytes as f64;
                }
                return;
            }
            drop(state);
            self.clock.sleep(wait.min(WAIT_LOOK), cancel);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(LimitConfig::default())
    }
}

/// Whether the limit for what nobody waits for holds.
const fn is_capped(priority: Priority) -> bool {
    matches!(priority, Priority::Prefetch | Priority::Listed)
}

/// A reader that waits for what is being fetched for nobody.
#[derive(Debug)]
pub struct Joined<'a> {
    limits: &'a Limits,
    id: u64,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.lock();
        state.joined -= 1;
        // It has waited for a part of a request only: it says nothing of how long they take.
        state.end(self.id);
    }
}

/// The right to one request, until it is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    limits: &'a Limits,
    /// Of a reader's.
    reader: Option<u64>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let now = self.limits.clock.now();
        let mut state = self.limits.lock();
        state.requests -= 1;
        state.prefetch_requests -= usize::from(self.reader.is_none());
        if let Some(since) = self.reader.and_then(|id| state.end(id)) {
            state.quickest.add(now.saturating_duration_since(since));
        }
        let sleepers = state.asleep;
        drop(state);
        if sleepers > 0 {
            self.limits.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::tests::TestClock;

    const MIB: u64 = 1 << 20;

    fn limits(config: LimitConfig) -> (Limits, Arc<TestClock>) {
        let clock = Arc::new(TestClock::default());
        (Limits::with_clock(config, clock.clone()), clock)
    }

    fn of(priority: Priority) -> Demand {
        Demand { priority, ..Demand::default() }
    }

    #[test]
    fn bytes_keep_to_the_rate() {
        let rate = Some(10 * MIB);
        let (limits, clock) =
            limits(LimitConfig { bytes_per_second: rate, ..LimitConfig::default() });
        for _ in 0..1000 {
            limits.take(MIB / 10, &of(Priority::Demand));
        }
        let seconds = clock.elapsed().as_secs_f64();
        assert!((9.7..10.1).contains(&seconds), "{seconds}");
    }

    #[test]
    fn prefetch_has_its_own_rate_and_leaves_tokens_to_readers() {
        let (limits, clock) = limits(LimitConfig {
            bytes_per_second: Some(10 * MIB),
            prefetch_bytes_per_second: Some(MIB),
            ..LimitConfig::default()
        });
        for _ in 0..100 {
            limits.take(MIB / 10, &of(Priority::Prefetch));
        }
        let seconds = clock.elapsed().as_secs_f64();
        assert!((9.5..10.2).contains(&seconds), "{seconds}");
        limits.take(MIB / 2, &of(Priority::Demand));
        assert!(clock.elapsed().as_secs_f64() - seconds < 0.001, "a reader has tokens at once");
    }

    #[test]
    fn without_limits_nothing_waits() {
        let (limits, clock) = limits(LimitConfig::default());
        limits.take(u64::MAX, &of(Priority::Prefetch));
        limits.take(u64::MAX, &of(Priority::Demand));
        assert_eq!(clock.elapsed(), Duration::ZERO);
        assert_eq!(limits.piece_max(Priority::Demand), None);
    }

    #[test]
    fn a_cancelled_taker_does_not_wait() {
        let (limits, clock) =
            limits(LimitConfig { bytes_per_second: Some(1), ..LimitConfig::default() });
        let cancel = Cancel::new();
        cancel.cancel();
        let demand = Demand { cancel: Some(cancel), ..Demand::default() };
        limits.take(MIB, &demand);
        limits.take(MIB, &demand);
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }

    #[test]
    fn prefetch_leaves_permits_to_readers() {
        let (limits, clock) = limits(LimitConfig {
            requests_max: 3,
            prefetch_requests_max: 8,
            ..LimitConfig::default()
        });
        let now = Some(clock.now());
        let first = limits.permit(Priority::Prefetch, now, None);
        let second = limits.permit(Priority::Prefetch, now, None);
        assert!(first.is_some() && second.is_some());
        assert!(limits.permit(Priority::Prefetch, now, None).is_none(), "one is for readers");
        let reader = limits.permit(Priority::Demand, now, None);
        assert!(reader.is_some());
        assert!(limits.permit(Priority::Demand, now, None).is_none());
        drop(first);
        assert!(limits.permit(Priority::Demand, now, None).is_some());
        drop((second, reader));
        assert_eq!(limits.lock().requests, 0);
        assert!(!limits.is_contended());
    }
}
