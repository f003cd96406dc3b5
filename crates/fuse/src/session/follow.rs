// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps a lone worker on the processor of a lone reader.
//!
//! A program that reads many small files sleeps for each request until it is answered, and the worker
//! sleeps until the next. The scheduler wakes either on an idle processor if there is one, so each
//! request and each answer has to wake a processor, too; under a hypervisor that takes longer than the
//! rest. On one processor the two take turns by a mere switch. For that the worker is confined to the
//! reader's processor, and gets the policy `SCHED_IDLE`: a processor that runs nothing else counts as
//! idle, so the reader is woken there and not on another. Measured: `docs/performance.md`.
//!
//! Where reader and worker could work at the same time this would cost more than it gives. Hence only
//! while there is one worker, answers are short, and whoever asks was found asleep on the same processor
//! twice on end. Threads that the worker wakes would be put on its processor, too, which looks idle; those
//! that have joined ([`Companions`](crate::Companions)) are kept off it. If others want that processor an
//! idle thread starves. So nobody is followed where more want to run than there are processors; a worker
//! that gets requests late stops following; and if none is answered at all the pool's watch sets it
//! free, as it does when there are no requests. Invariants: no thread is confined to a processor that it
//! was not allowed to run on from the start; a worker that follows is watched; only threads that live
//! are known by their numbers, which others get later.

use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrofs_linux::scheduling::{Policy, is_normal, set_policy};
use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// Requests from one look at the reader to the next, at most and at first; a look costs some ten
/// microseconds.
const LOOK_EVERY: u32 = 64;
const LOOK_FIRST: u32 = 8;
/// Mean answer in bytes above which a reader is one of large files: the kernel reads those ahead, and
/// they are decoded while it copies. The mean is over some `MEAN_OVER` answers.
const ANSWER_MAX: u32 = 64 << 10;
const MEAN_OVER: u32 = 64;
/// A worker that follows finds the next request waiting when it gets the processor back. If it had to
/// wait this long for one, the reader is elsewhere.
const WAITED: Duration = Duration::from_micros(8);
/// Requests at least from one look to the next, for a look costs as much as a request.
const LOOK_AT_MOST_EVERY: u32 = 4;
/// Requests over which moves are counted, and how many moves are too many: each costs as much as is
/// gained by some five requests.
const MOVES_OVER: u32 = 2048;
const MOVES_MAX: u32 = 128;
/// From an answer to the next request: a reader that takes this long, twice from one look to the next,
/// is not waiting for us, or we for a processor.
const LATE: Duration = Duration::from_millis(1);
const LATE_MAX: u32 = 2;
/// Looks left out after the worker had starved, or the reader had moved too often. Each time twice as
/// many as before; less again while all goes well.
const REST: u32 = 8;
const REST_MAX: u32 = 4096;

/// Why the watch set a worker free.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Freed {
    /// There were no requests.
    Quiet,
    /// There were, and nobody answered them.
    Starved,
}

/// What the workers of a pool and its watch share.
#[derive(Debug)]
pub(super) struct Follow {
    /// Where workers may run.
    home: CpuSet,
    /// How many threads may run in it at a time. Asked once: it takes several files of the system to
    /// answer.
    cores: usize,
    state: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The worker that follows.
    thread: Option<Pid>,
    /// It was set free and does not know yet.
    freed: Option<Freed>,
    /// Nobody is to be followed any more.
    stopped: bool,
    /// Threads that work for it, and the processor that they are kept off.
    companions: Vec<Pid>,
    apart_from: Option<usize>,
}

impl Follow {
    /// None if there is nothing to choose, no right to have back what is given away, or somebody has
    /// chosen a policy for us, which would be lost. To be called in a thread that may run wherever
    /// workers may.
    pub(super) fn new() -> Option<Self> {
        if !is_normal() {
            return None;
        }
        let home = sched_getaffinity(None).ok().filter(|set| set.count() > 1)?;
        // In a thread of its own, which may not come back.
        let there_and_back = || {
            let thread = gettid();
            set_policy(thread, Policy::Idle).and_then(|()| set_policy(thread, Policy::Normal))
        };
        let tried = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, there_and_back);
            thread.is_ok_and(|thread| matches!(thread.join(), Ok(Ok(()))))
        });
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        tried.then(|| Self { home, cores, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker follows.
    pub(super) fn is_on(&self) -> bool {
        self.state().thread.is_some()
    }

    /// Sets the worker free that follows, from another thread.
    pub(super) fn free(&self, why: Freed) {
        let mut state = self.state();
        if let Some(thread) = state.thread.take() {
            self.settle(thread);
            self.keep_apart(&mut state, None);
            state.freed = Some(why);
        }
    }

    /// Sets the worker free that follows, from another thread; none follows from now on.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.free(Freed::Quiet);
    }

    /// The calling thread works for the worker.
    pub(super) fn join(&self) {
        let mut state = self.state();
        let thread = gettid();
        self.settle(thread);
        state.companions.push(thread);
        state.apart_from = None;
    }

    /// The calling thread does not work for it any more.
    pub(super) fn part(&self) {
        let mut state = self.state();
        let thread = gettid();
        state.companions.retain(|companion| *companion != thread);
        self.settle(thread);
    }

    /// Keeps companions off a processor.
    fn keep_apart(&self, state: &mut Shared, cpu: Option<usize>) {
        if state.apart_from == cpu {
            return;
        }
        state.apart_from = cpu;
        let mut set = self.home;
        if let Some(cpu) = cpu {
            set.unset(cpu);
        }
        for thread in &state.companions {
            // A matter of speed.
            let _ = sched_setaffinity(Some(*thread), &set);
        }
    }

    /// Lets a thread run wherever workers may, as others do. What cannot be set stays as it is: a
    /// matter of speed.
    fn settle(&self, thread: Pid) {
        let _ = set_policy(thread, Policy::Normal);
        let _ = sched_setaffinity(Some(thread), &self.home);
    }

    /// Confines the calling thread. Whether that worked.
    fn confine(&self, cpu: usize) -> bool {
        let mut set = CpuSet::new();
        set.set(cpu);
        let thread = gettid();
        let mut state = self.state();
        if state.stopped
            || sched_setaffinity(Some(thread), &set).is_err()
            || set_policy(thread, Policy::Idle).is_err()
        {
            self.settle(thread);
            state.thread = None;
            self.keep_apart(&mut state, None);
            return false;
        }
        state.thread = Some(thread);
        self.keep_apart(&mut state, Some(cpu));
        true
    }

    /// Sets the calling thread free.
    fn leave(&self) {
        let mut state = self.state();
        state.thread = None;
        self.settle(gettid());
        self.keep_apart(&mut state, None);
    }
}

/// What a look at a thread shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Sight {
    asleep: bool,
    /// The processor that it runs on, or ran on last.
    cpu: usize,
}

/// How long a worker had nothing to do before a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    /// Since it asked for one.
    pub(super) asked: Duration,
    /// Since it began to send its last answer.
    pub(super) answered: Duration,
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Move {
    Stay,
    To(usize),
    Home,
}

/// Decides where one worker runs. Dropping it sets the worker free.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    follow: &'a Follow,
    state: State,
}

/// Knows nothing of the system: tested by itself.
#[derive(Debug, Default)]
struct State {
    /// The processor that the worker is confined to.
    at: Option<usize>,
    /// Where the reader slept at the last look.
    seen: Option<usize>,
    /// Requests since the last look, and until the next.
    requests: u32,
    until: u32,
    /// Mean of the last answers, in bytes.
    mean: u32,
    /// Looks to be left out now, and the next time.
    rest: u32,
    next_rest: u32,
    /// Requests that came late, since the last look.
    late: u32,
    /// Moves after a reader, over some requests.
    moves: u32,
    over: u32,
}

impl<'a> Follower<'a> {
    /// For the calling thread.
    pub(super) fn new(follow: &'a Follow) -> Self {
        // Who started it may have followed somebody.
        follow.settle(gettid());
        Self { follow, state: State::default() }
    }

    /// Takes note of a request from `pid` that has just come.
    pub(super) fn request(&mut self, pid: u32, pause: Pause, alone: bool) {
        if !alone {
            return self.release();
        }
        if !self.state.is_time(pause) {
            return;
        }
        let freed = self.follow.state().freed.take();
        if let Some(why) = freed {
            self.state.freed(why);
        }
        let Follow { home, cores, .. } = self.follow;
        let sight = look(pid).filter(|sight| home.is_set(sight.cpu) && !is_crowded(*cores));
        match self.state.decide(sight) {
            Move::Stay => {}
            Move::Home => self.follow.leave(),
            Move::To(cpu) => {
                if !self.follow.confine(cpu) {
                    self.state.at = None;
                }
            }
        }
    }

    /// Takes note of an answer, in bytes.
    pub(super) fn answered(&mut self, len: u32) {
        self.state.answered(len);
    }

    /// Follows nobody for now.
    pub(super) fn release(&mut self) {
        if self.state.at.is_some() {
            self.follow.leave();
        }
        let State { rest, next_rest, .. } = self.state;
        self.state = State { rest, next_rest, ..State::default() };
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

impl State {
    /// Counts a request. Whether it is time to look.
    fn is_time(&mut self, pause: Pause) -> bool {
        self.requests = self.requests.saturating_add(1);
        self.late = self.late.saturating_add(u32::from(pause.answered >= LATE));
        self.requests >= self.until.clamp(LOOK_FIRST, LOOK_EVERY)
            || (self.at.is_some() && pause.asked >= WAITED && self.requests >= LOOK_AT_MOST_EVERY)
    }

    fn answered(&mut self, len: u32) {
        let old = self.mean.saturating_sub(self.mean / MEAN_OVER);
        self.mean = old.saturating_add(len / MEAN_OVER);
    }

    fn freed(&mut self, why: Freed) {
        (self.at, self.seen, self.until) = (None, None, LOOK_FIRST);
        if why == Freed::Starved {
            self.tire();
        }
    }

    /// Follows nobody for a while.
    fn tire(&mut self) {
        self.rest = self.next_rest.clamp(REST, REST_MAX);
        self.next_rest = self.rest.saturating_mul(2);
        (self.at, self.seen) = (None, None);
        (self.moves, self.over) = (0, 0);
    }

    /// `sight`: None if nothing is known, or that place is not allowed.
    fn decide(&mut self, sight: Option<Sight>) -> Move {
        let long = self.mean > ANSWER_MAX;
        let before = self.seen;
        self.over = self.over.saturating_add(self.requests);
        self.requests = 0;
        self.until = self.until.saturating_mul(2).clamp(LOOK_FIRST, LOOK_EVERY);
        if self.rest > 0 {
            self.rest = self.rest.saturating_sub(1);
            return Move::Stay;
        }
        // Here it cannot run while we do, whatever it is said to do.
        let here = sight.is_some_and(|sight| self.at == Some(sight.cpu));
        self.seen = sight.filter(|sight| (sight.asleep || here) && !long).map(|sight| sight.cpu);
        if self.over >= MOVES_OVER {
            (self.moves, self.over) = (0, 0);
        }
        let late = std::mem::take(&mut self.late) >= LATE_MAX;
        if self.at.is_some() && (late || self.moves >= MOVES_MAX) {
            self.tire();
            return Move::Home;
        }
        match (self.seen, self.at) {
            (Some(seen), Some(at)) if seen == at => {
                self.next_rest = self.next_rest.saturating_sub(1).max(REST);
                Move::Stay
            }
            (Some(seen), at) if at.is_some() || before == Some(seen) => {
                self.moves = self.moves.saturating_add(1);
                (self.at, self.until) = (Some(seen), LOOK_EVERY);
                Move::To(seen)
            }
            (None, Some(_)) => {
                (self.at, self.until) = (None, LOOK_FIRST);
                Move::Home
            }
            _ => Move::Stay,
        }
    }
}

/// Looks at a thread of any process.
fn look(pid: u32) -> Option<Sight> {
    // Nobody, or somebody whose number we cannot see.
    if pid == 0 {
        return None;
    }
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether more threads want to run than there are processors.
fn is_crowded(cores: usize) -> bool {
    let load = std::fs::read("/proc/loadavg").unwrap_or_default();
    runnable(&load).is_none_or(|count| count > cores)
}

/// proc(5): the 4th field is the number of threads that run or want to, a slash, and that of all.
fn runnable(loadavg: &[u8]) -> Option<usize> {
    let field = loadavg.split(|&byte| byte == b' ').nth(3)?;
    str::from_utf8(field).ok()?.split('/').next()?.parse().ok()
}

/// proc(5): the state is the 3rd field and the processor the 39th; the 2nd, in parentheses, may hold
/// anything.
fn parse(stat: &[u8]) -> Option<Sight> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = stat.get(end..)?.split(|&byte| byte == b' ').skip(1);
    let asleep = matches!(fields.next()?, b"S" | b"D");
    let cpu = str::from_utf8(fields.nth(35)?).ok()?.parse().ok()?;
    (cpu < CpuSet::MAX_CPU).then_some(Sight { asleep, cpu })
}

#[cfg(test)]
mod tests;
