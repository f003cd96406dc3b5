// SPDX-License-Identifier: MIT OR Apache-2.0
//! A replay beside readers who begin at the same moment, in simulated time: the rules are those of
//! the pool and of the limits, the link has 20 ms and 200 Mbit/s.

use super::PrefetchConfig;
use crate::limit::{Joined, Permit};
use crate::origin::tests::TestClock;
use crate::window::simulate::{Link, scenarios};
use crate::{Clock, LimitConfig, Limits, Priority, Recorder, Replay, ReplayConfig, Step};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(1);
const READERS: usize = 8;
/// What a reader does with what it has read, in ticks.
const WORK_TICKS: u32 = 1;

/// A step that a thread of the pool has taken.
struct Taken {
    range: Range<u64>,
    /// How long it still lets readers pass.
    patience: Duration,
    /// When its bytes have come, in seconds, if it has begun.
    done: Option<f64>,
}

struct Simulation<'a> {
    clock: Arc<TestClock>,
    limits: &'a Limits,
    link: Link,
    config: PrefetchConfig,
    priority: Priority,
    taken: Vec<Taken>,
}

/// A reader: when it goes on, and what of the limits it holds until then.
#[derive(Default)]
struct Reader<'a> {
    until: f64,
    asks: Option<Permit<'a>>,
    joins: Option<Joined<'a>>,
}

impl<'a> Simulation<'a> {
    fn now(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    /// A reader asks for what nobody has asked for, and waits for what others have.
    fn read(&mut self, read: &Range<u64>) -> (f64, bool, bool) {
        let now = self.now();
        let missing = self.link.missing(read.start / 4096 * 4096..read.end.next_multiple_of(4096));
        for range in &missing {
            self.link.request(now, range);
        }
        let until = self.link.complete(read);
        (until, !missing.is_empty(), missing.is_empty() && until > now)
    }

    /// The threads of the pool.
    fn pool(&mut self, steps: &mut std::iter::Peekable<impl Iterator<Item = Step>>) {
        let now = self.now();
        self.taken.retain(|step| step.done.is_none_or(|done| done > now));
        let len = |range: &Range<u64>| range.end - range.start;
        while let Some(step) = steps.peek() {
            let in_flight = self.taken.iter().map(|taken| len(&taken.range)).sum();
            let is_demanded = self.limits.is_demanded();
            let (running, len) = (self.taken.len(), len(&step.range));
            if running >= self.config.threads
                || !self.config.may_begin(running, in_flight, len, is_demanded)
            {
                break;
            }
            let patience = self.config.yield_max;
            let range = steps.next().map(|step| step.range).unwrap_or_default();
            self.taken.push(Taken { range, patience, done: None });
        }
        for step in self.taken.iter_mut().filter(|step| step.done.is_none()) {
            if !step.patience.is_zero() && self.limits.yields(self.priority) {
                step.patience = step.patience.saturating_sub(TICK);
                continue;
            }
            for range in self.link.missing(step.range.clone()) {
                self.link.request(now, &range);
            }
            step.done = Some(self.link.complete(&step.range));
        }
    }

    /// How long it takes until the last reader has read the last of `reads`.
    fn run(&mut self, plan: &Replay, reads: &[Range<u64>]) -> f64 {
        let mut steps = plan.steps().cloned().peekable();
        let mut reads = reads.iter().peekable();
        let mut readers: Vec<Reader<'a>> = (0..READERS).map(|_| Reader::default()).collect();
        loop {
            let now = self.now();
            for reader in &mut readers {
                if reader.until > now {
                    continue;
                }
                (reader.asks, reader.joins) = (None, None);
                let Some(read) = reads.next() else { continue };
                let (until, asks, joins) = self.read(read);
                reader.until = until.max(now) + TICK.as_secs_f64() * f64::from(WORK_TICKS);
                reader.asks =
                    asks.then(|| self.limits.permit(Priority::Demand, None, None).unwrap());
                reader.joins = joins.then(|| self.limits.join());
            }
            self.pool(&mut steps);
            let last = readers.iter().map(|reader| reader.until).fold(0.0, f64::max);
            if reads.peek().is_none() && last <= now {
                return last;
            }
            assert!(now < 1000.0, "it does not end");
            self.clock.sleep(TICK, None);
        }
    }
}

/// The time until all is read, by what the bytes alone take.
fn factor(size: u64, reads: &[Range<u64>], priority: Priority) -> f64 {
    let recorder = Recorder::new();
    let blob = recorder.blob("b", size, 4096).unwrap();
    for read in reads {
        blob.touch(read);
    }
    let plan = Replay::plan(&recorder.trace(), &[Some(size)], &ReplayConfig::default());
    let clock = Arc::new(TestClock::default());
    let limits = Limits::with_clock(LimitConfig::default(), clock.clone());
    let mut simulation = Simulation {
        clock,
        limits: &limits,
        link: Link::new(size),
        config: PrefetchConfig::default(),
        priority,
        taken: vec![],
    };
    let seconds = simulation.run(&plan, reads);
    seconds / (plan.wanted as f64 / simulation.link.bytes_per_second)
}

/// The goal: the last needed byte is read after at most 1.2 times what the bytes alone take, though
/// readers want all the time what is not there yet.
#[test]
fn readers_and_the_replay_of_what_they_want_share_the_link() {
    for (name, size, reads) in scenarios() {
        // One reader in sequence is what windows are for.
        if name.starts_with("all in sequence") {
            continue;
        }
        let listed = factor(size, &reads, Priority::Listed);
        println!("{name:<42} {listed:.3}");
        assert!(listed <= 1.2, "{name}: {listed:.3}");
    }
}

/// Why what is known to be wanted has a rule of its own: by that of the rest, which lets each reader
/// pass, the link is idle most of the time.
#[test]
fn letting_each_reader_pass_is_slow() {
    let (_, size, reads) = scenarios().swap_remove(0);
    let passing = factor(size, &reads, Priority::Prefetch);
    assert!(passing > 2.0, "{passing:.3}");
}
