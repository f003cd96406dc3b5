// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads and their jobs.

use super::{Deed, Fill, FillError, Order, Progress, Rank};
use crate::{Cancel, Demand, Limits, Priority};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How a [`Prefetcher`] works.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..PrefetchConfig::default()`")]
pub struct PrefetchConfig {
    /// Steps at once, if they are small.
    pub threads: usize,
    /// Bytes of steps at once; one more step of any size may run if they are less than half of it or
    /// only one.
    pub in_flight_max: u64,
    /// The same while readers fetch: what is in flight is in front of what they ask for.
    pub beside_readers_max: u64,
    /// Where readers show that they wait; also holds the bandwidth cap, which sources keep.
    pub limits: Option<Arc<Limits>>,
    /// A step waits no longer than this for readers to pass, so that it comes to its turn at last.
    pub yield_max: Duration,
    /// How long nothing is done after there was no room.
    pub pressure_pause: Duration,
    /// A job ends after so many failures in a row.
    pub failures_max: u32,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self {
            // Small steps wait for the round trip, not for bytes: as many as fill a link.
            threads: 48,
            in_flight_max: 8 << 20,
            // Three times what keeps a link of 200 Mbit/s and 20 ms busy: half of it counts what comes
            // already.
            beside_readers_max: 3 << 19,
            limits: None,
            yield_max: Duration::from_millis(200),
            pressure_pause: Duration::from_secs(10),
            failures_max: 8,
        }
    }
}

impl PrefetchConfig {
    /// Whether a step of `len` bytes may run beside `running` others with `in_flight` bytes.
    pub(super) fn may_begin(
        &self,
        running: usize,
        in_flight: u64,
        len: u64,
        is_demanded: bool,
    ) -> bool {
        let beside = if is_demanded { self.beside_readers_max } else { u64::MAX };
        let max = self.in_flight_max.min(beside);
        // A large step behind small ones must not wait for the last of them: the link would be idle
        // for a round trip.
        running < 2 || in_flight < max / 2 || in_flight.saturating_add(len) <= max
    }
}

/// A pool of threads for what nobody waits for. When it is dropped, its jobs end.
pub struct Prefetcher {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    config: PrefetchConfig,
    state: Mutex<State>,
    /// For the threads: there may be something to do.
    changed: Condvar,
    /// For who waits for jobs: one has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    next_id: u64,
    /// Steps that run, and their bytes.
    running: usize,
    in_flight: u64,
    /// Nothing is begun until then: there was no room.
    paused_until: Option<Instant>,
    /// Somebody has said that there is none.
    is_pressed: bool,
    is_closed: bool,
}

struct Job {
    id: u64,
    order: Order,
    /// The step that comes next, if it was too large to be begun.
    waiting: Option<(Arc<dyn Fill>, Deed)>,
    is_exhausted: bool,
    running: usize,
    failures: u32,
    cancel: Cancel,
    progress: Arc<Mutex<Progress>>,
}

struct Work {
    id: u64,
    rank: Rank,
    blob: Arc<dyn Fill>,
    deed: Deed,
    cancel: Cancel,
}

impl Work {
    const fn priority(&self) -> Priority {
        match self.rank {
            Rank::Ahead => Priority::Ahead,
            Rank::Listed => Priority::Listed,
            Rank::Completion => Priority::Prefetch,
        }
    }
}

impl Prefetcher {
    /// Starts the threads.
    pub fn new(config: PrefetchConfig) -> std::io::Result<Self> {
        let count = config.threads.clamp(1, 64);
        let inner = Arc::new(Inner {
            config,
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: Condvar::new(),
        });
        let mut pool = Self { inner, threads: vec![] };
        for _ in 0..count {
            let inner = pool.inner.clone();
            let builder = thread::Builder::new().name("prefetch".into());
            pool.threads.push(builder.spawn(move || inner.run())?);
        }
        Ok(pool)
    }

    /// Puts an order behind those of its rank. Dropping the handle leaves the job as it is.
    pub fn submit(&self, order: Order) -> PrefetchJob {
        let cancel = Cancel::new();
        let total = order.bytes;
        let progress = Arc::new(Mutex::new(Progress { total, ..Progress::default() }));
        let mut state = self.inner.lock();
        let id = state.next_id;
        state.next_id += 1;
        let at = state.jobs.partition_point(|job| job.order.rank <= order.rank);
        let job = Job {
            id,
            order,
            waiting: None,
            is_exhausted: false,
            running: 0,
            failures: 0,
            cancel: cancel.clone(),
            progress: progress.clone(),
        };
        state.jobs.insert(at, job);
        drop(state);
        self.inner.changed.notify_all();
        PrefetchJob { inner: self.inner.clone(), progress, cancel }
    }

    /// Memory or disk is short, or not any more: while it is, nothing is begun.
    pub fn set_pressure(&self, is_pressed: bool) {
        let mut state = self.inner.lock();
        state.is_pressed = is_pressed;
        if !is_pressed {
            state.paused_until = None;
        }
        drop(state);
        self.inner.changed.notify_all();
    }

    /// Jobs that are not over.
    pub fn job_count(&self) -> usize {
        self.inner.lock().jobs.len()
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.is_closed = true;
        for job in &state.jobs {
            job.cancel.cancel();
        }
        drop(state);
        self.inner.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of blobs are caught; there are no others to tell of.
            drop(thread.join());
        }
        let mut state = self.inner.lock();
        for job in state.jobs.drain(..) {
            job.over(true);
        }
        drop(state);
        self.inner.ended.notify_all();
    }
}

impl fmt::Debug for Prefetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetcher").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// A job that was submitted.
pub struct PrefetchJob {
    inner: Arc<Inner>,
    progress: Arc<Mutex<Progress>>,
    cancel: Cancel,
}

impl PrefetchJob {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it; steps that run are told.
    pub fn cancel(&self) {
        self.cancel.cancel();
        let mut state = self.inner.lock();
        state.sweep();
        drop(state);
        self.inner.changed.notify_all();
        self.inner.ended.notify_all();
    }

    /// Waits until it is over.
    pub fn wait(&self) -> Progress {
        let mut state = self.inner.lock();
        loop {
            let progress = self.progress();
            if progress.is_over {
                return progress;
            }
            state = self.inner.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for PrefetchJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefetchJob").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl Job {
    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn over(&self, is_cut_short: bool) {
        self.note(|progress| {
            progress.is_over = true;
            progress.is_cut_short |= is_cut_short;
        });
    }
}

impl State {
    /// Takes out what is over.
    fn sweep(&mut self) {
        self.jobs.retain(|job| {
            let is_cancelled = job.cancel.is_cancelled();
            let is_over = job.running == 0 && (job.is_exhausted || is_cancelled);
            if is_over {
                job.over(is_cancelled);
            }
            !is_over
        });
    }

    /// The next step of the first job that has one.
    /// If it is too large to be begun beside the others, there is none: smaller ones of later jobs
    /// must not keep it waiting.
    fn next(&mut self, config: &PrefetchConfig, is_demanded: bool) -> Option<Work> {
        let Self { jobs, running, in_flight, .. } = self;
        for job in jobs {
            if job.is_exhausted || job.cancel.is_cancelled() {
                continue;
            }
            let Some((blob, deed)) = job.waiting.take().or_else(|| job.order.steps.next()) else {
                job.is_exhausted = true;
                continue;
            };
            let len = deed.len();
            if !config.may_begin(*running, *in_flight, len, is_demanded) {
                job.waiting = Some((blob, deed));
                return None;
            }
            *running += 1;
            *in_flight += len;
            job.running += 1;
            let rank = job.order.rank;
            return Some(Work { id: job.id, rank, blob, deed, cancel: job.cancel.clone() });
        }
        None
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(work) = self.take() {
            self.let_readers_pass(&work);
            let mut result = catch_unwind(AssertUnwindSafe(|| Self::step(&work)))
                .unwrap_or_else(|_| Err(FillError::Failed("the step panicked".into())));
            while result == Err(FillError::Pressure) && self.wait_for_room(&work.cancel) {
                result = catch_unwind(AssertUnwindSafe(|| Self::step(&work)))
                    .unwrap_or_else(|_| Err(FillError::Failed("the step panicked".into())));
            }
            self.finish(&work, result);
        }
    }

    fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let left =
                state.paused_until.map(|until| until.saturating_duration_since(Instant::now()));
            let is_paused = state.is_pressed || left.is_some_and(|left| !left.is_zero());
            if !is_paused {
                state.paused_until = None;
                if let Some(work) = state.next(&self.config, self.is_demanded()) {
                    // Whether there is more: one after the other looks. Who has ended a step looks
                    // itself, so nobody need be woken for that.
                    self.changed.notify_one();
                    return Some(work);
                }
                state.sweep();
                self.ended.notify_all();
            }
            let wait = left.filter(|left| !left.is_zero()).unwrap_or(Duration::from_secs(3600));
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_demanded(&self) -> bool {
        self.config.limits.as_ref().is_some_and(|limits| limits.is_demanded())
    }

    fn step(work: &Work) -> Result<(), FillError> {
        let (priority, cancel) = (work.priority(), Some(work.cancel.clone()));
        let demand = Demand { priority, cancel, ..Demand::prefetch() };
        if demand.is_cancelled() {
            return Err(FillError::Cancelled);
        }
        match &work.deed {
            Deed::Fill(range) if work.blob.missing(range.clone()).is_empty() => Ok(()),
            Deed::Fill(range) => work.blob.fill(range.clone(), &demand),
            Deed::Prepare(ranges) => {
                work.blob.prepare(ranges, &demand);
                Ok(())
            }
        }
    }

    /// While readers fetch, nothing else is begun, up to a limit; of what is known to be wanted:
    /// while they wait for longer than they should.
    fn let_readers_pass(&self, work: &Work) {
        const LOOK: Duration = Duration::from_millis(5);
        let Some(limits) = &self.config.limits else { return };
        let mut left = self.config.yield_max;
        while limits.yields(work.priority()) && !left.is_zero() && !work.cancel.wait(LOOK) {
            left = left.saturating_sub(LOOK);
        }
    }

    /// Makes all pause; whether the step may try again.
    fn wait_for_room(&self, cancel: &Cancel) -> bool {
        let until = Instant::now() + self.config.pressure_pause;
        let mut state = self.lock();
        state.paused_until = Some(until);
        loop {
            if state.is_closed || cancel.is_cancelled() {
                return false;
            }
            let left =
                state.paused_until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.filter(|left| !left.is_zero());
            if left.is_none() && !state.is_pressed {
                return true;
            }
            let wait = left.unwrap_or(Duration::from_secs(3600));
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finish(&self, work: &Work, result: Result<(), FillError>) {
        let len = work.deed.len();
        let failures_max = self.config.failures_max.max(1);
        let mut state = self.lock();
        state.running -= 1;
        state.in_flight -= len;
        if let Some(job) = state.jobs.iter_mut().find(|job| job.id == work.id) {
            job.running -= 1;
            match result {
                Ok(()) => {
                    job.failures = 0;
                    job.note(|progress| progress.done += len);
                }
                Err(FillError::Failed(what)) => {
                    job.failures += 1;
                    job.note(|progress| {
                        progress.failed += len;
                        progress.error = Some(what);
                    });
                    if job.failures >= failures_max {
                        job.cancel.cancel();
                    }
                }
                Err(FillError::Cancelled | FillError::Pressure) => {
                    job.note(|progress| progress.is_cut_short = true);
                }
            }
        }
        state.sweep();
        drop(state);
        self.ended.notify_all();
    }
}

impl Rank {
    /// All ranks, first things first.
    pub const ALL: [Self; 3] = [Self::Ahead, Self::Listed, Self::Completion];
}
