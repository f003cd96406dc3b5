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
    /// How many of them can run at a time. Asked once: it takes several files of the system to answer.
    cores: usize,
    state: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The worker that follows.
    thread: Option<Pid>,
    /// It was set free and does not know yet.
    freed: Option<Freed>,
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
        if sched_setaffinity(Some(thread), &set).is_err()
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
mod tests {
    use super::*;

    const ASLEEP: Option<Sight> = Some(Sight { asleep: true, cpu: 1 });
    const RUNNING: Option<Sight> = Some(Sight { asleep: false, cpu: 1 });

    fn after(state: &mut State, len: u32, sight: Option<Sight>) -> Move {
        let mut requests = 1;
        while !state.is_time(Pause::default()) {
            state.answered(len);
            requests += 1;
        }
        assert!((LOOK_FIRST..=LOOK_EVERY).contains(&requests));
        state.decide(sight)
    }

    #[test]
    fn a_reader_that_sleeps_is_followed() {
        let mut state = State::default();
        assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
        assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
        // Woken before it slept.
        assert_eq!(after(&mut state, 0, RUNNING), Move::Stay);
        let other = Some(Sight { asleep: true, cpu: 0 });
        let waited = Pause { asked: WAITED, answered: WAITED };
        assert!(!state.is_time(waited) && !state.is_time(waited) && !state.is_time(waited));
        assert!(state.is_time(waited), "it must be elsewhere");
        assert_eq!(state.decide(other), Move::To(0));
        assert_eq!(after(&mut state, 0, RUNNING), Move::Home);
        assert_eq!(after(&mut state, 0, RUNNING), Move::Stay);
    }

    #[test]
    fn readers_of_large_files_and_unknown_ones_are_not() {
        let mut state = State::default();
        for _ in 0..5 {
            after(&mut state, 1 << 20, None);
        }
        for _ in 0..5 {
            assert_eq!(after(&mut state, 1 << 20, ASLEEP), Move::Stay);
        }
        let mut state = State::default();
        after(&mut state, 0, ASLEEP);
        assert_eq!(after(&mut state, 0, None), Move::Stay);
        after(&mut state, 0, ASLEEP);
        assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
        // A large file among small ones is nothing.
        state.answered(1 << 20);
        assert_eq!(after(&mut state, 20 << 10, ASLEEP), Move::Stay);
        assert_eq!(after(&mut state, 256 << 10, ASLEEP), Move::Home);
    }

    #[test]
    fn one_that_moves_all_the_time_is_not() {
        let mut state = State::default();
        let mut moves = 0;
        for look in 0_usize.. {
            let sight = Some(Sight { asleep: true, cpu: look / 2 % 2 });
            for _ in 0..LOOK_AT_MOST_EVERY {
                state.is_time(Pause { asked: WAITED, answered: WAITED });
            }
            match state.decide(sight) {
                Move::To(_) => moves += 1,
                Move::Stay => {}
                Move::Home => break,
            }
        }
        assert_eq!((moves, state.rest), (MOVES_MAX, REST));
        // But rarely it may.
        let mut state = State::default();
        for look in 0..200 {
            let sight = Some(Sight { asleep: true, cpu: look / 10 % 2 });
            assert_ne!(after(&mut state, 0, sight), Move::Home);
        }
    }

    #[test]
    fn who_gets_late_requests_stops_and_rests_longer_each_time() {
        let mut state = State::default();
        let mut longest = 0;
        for _ in 0..3 {
            after(&mut state, 0, ASLEEP);
            assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
            state.is_time(Pause { asked: LATE, answered: LATE });
            assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay, "one is nothing");
            for _ in 0..LATE_MAX {
                state.is_time(Pause { asked: Duration::ZERO, answered: LATE });
            }
            assert_eq!(after(&mut state, 0, ASLEEP), Move::Home);
            assert!(state.rest > longest);
            longest = state.rest;
            for _ in 0..longest {
                assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
            }
        }
    }

    #[test]
    fn threads_that_want_to_run_are_counted() {
        assert_eq!(runnable(b"0.41 2.26 4.69 3/411 4711\n"), Some(3));
        assert_eq!(runnable(b""), None);
        assert!(runnable(&std::fs::read("/proc/loadavg").unwrap()).unwrap() > 0);
    }

    #[test]
    fn who_starved_rests() {
        let mut state = State::default();
        for (why, rest) in [(Freed::Quiet, 0), (Freed::Starved, REST)] {
            after(&mut state, 0, ASLEEP);
            assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
            state.freed(why);
            for _ in 0..=rest {
                assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
            }
            assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
            state = State::default();
        }
    }

    #[test]
    fn a_thread_is_seen_where_it_is() {
        let me = std::fs::read("/proc/thread-self/stat").unwrap();
        assert!(!parse(&me).unwrap().asleep);
        let mut fields = vec![b"7 (a) b) S".to_vec()];
        fields.extend((4..=52).map(|number| format!("{number}").into_bytes()));
        assert_eq!(parse(&fields.join(&b' ')), Some(Sight { asleep: true, cpu: 39 }));
        for bad in [&b""[..], b"1 (x", b"1 (x) S", b"1 (x) S 1 2"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_policy_that_somebody_chose_is_kept() {
        std::thread::spawn(|| {
            set_policy(gettid(), Policy::Idle).unwrap();
            assert!(Follow::new().is_none());
        })
        .join()
        .unwrap();
    }

    /// In a thread that is lost if it does not come back.
    #[test]
    fn threads_go_where_they_are_told_and_come_home() {
        let Some(follow) = Follow::new() else {
            return eprintln!("skipped: one processor, or no right to change the policy back");
        };
        let idle = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // proc(5): the policy is the 41st field; 5 is SCHED_IDLE.
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38).unwrap() == "5"
        };
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| follow.home.is_set(*cpu)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut follower = Follower::new(&follow);
                assert!(follow.confine(cpu) && follow.is_on());
                follower.state.at = Some(cpu);
                assert!(idle() && sched_getaffinity(None).unwrap().count() == 1);
                let mut others = follow.home;
                others.unset(cpu);
                let (tell, told) = std::sync::mpsc::channel();
                let follow_too = &follow;
                scope.spawn(move || {
                    let follow = follow_too;
                    follow.join();
                    tell.send(gettid()).unwrap();
                    while follow.is_on() {
                        std::thread::yield_now();
                    }
                    follow.part();
                    assert!(follow.state().companions.is_empty());
                });
                let companion = told.recv().unwrap();
                assert!(follow.confine(cpu), "again, now that there is one");
                assert_eq!(sched_getaffinity(Some(companion)).unwrap(), others);
                follower.request(0, Pause::default(), false);
                assert!(!follow.is_on() && !idle());
                assert_eq!(sched_getaffinity(None).unwrap(), follow.home);

                assert!(follow.confine(cpu));
                follower.state.at = Some(cpu);
                std::thread::scope(|scope| {
                    scope.spawn(|| follow.free(Freed::Starved));
                });
                assert!(!idle() && sched_getaffinity(None).unwrap() == follow.home);
                follower.state.requests = LOOK_EVERY;
                follower.request(0, Pause::default(), true);
                assert_eq!((follower.state.at, follower.state.rest), (None, REST - 1));

                assert!(follow.confine(cpu));
                follower.state.at = Some(cpu);
                drop(follower);
                assert!(!idle() && !follow.is_on());
            });
        });
    }
}
