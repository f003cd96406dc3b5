// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pool over blobs in memory.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, one range long")]

use super::*;
use crate::Clock;
use crate::origin::tests::TestClock;
use crate::{LimitConfig, Limits, Priority, ReplayConfig, Touch, Trace};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

#[derive(Debug, Default)]
struct Memory {
    size: u64,
    filled: Mutex<Vec<Range<u64>>>,
    errors: Mutex<VecDeque<FillError>>,
    /// Steps wait while this is shut.
    shut: Mutex<bool>,
    /// Steps that have begun.
    begun: AtomicUsize,
    prepared: Mutex<Vec<Vec<Range<u64>>>>,
    opened: Condvar,
    panics: bool,
}

impl Memory {
    fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, ..Self::default() })
    }

    fn filled(&self) -> Vec<Range<u64>> {
        self.filled.lock().unwrap().clone()
    }
}

impl Fill for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let filled = self.filled.lock().unwrap();
        let is_present = filled.iter().any(|run| run.start <= range.start && range.end <= run.end);
        if is_present { vec![] } else { vec![range] }
    }

    fn fill(&self, range: Range<u64>, demand: &Demand) -> Result<(), FillError> {
        assert_ne!(demand.priority, Priority::Demand);
        assert!(!self.panics, "told to");
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut shut = self.shut.lock().unwrap();
        while *shut && !demand.is_cancelled() {
            shut = self.opened.wait_timeout(shut, Duration::from_millis(1)).unwrap().0;
        }
        drop(shut);
        if demand.is_cancelled() {
            return Err(FillError::Cancelled);
        }
        if let Some(error) = self.errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.filled.lock().unwrap().push(range);
        Ok(())
    }

    fn prepare(&self, ranges: &[Range<u64>], _: &Demand) {
        let filled = self.filled.lock().unwrap();
        let is_late = ranges.iter().any(|range| filled.contains(range));
        assert!(!is_late, "prepared after it was filled");
        self.prepared.lock().unwrap().push(ranges.to_vec());
    }
}

fn pool(threads: usize) -> Prefetcher {
    let pause = Duration::from_millis(5);
    let config = PrefetchConfig { threads, pressure_pause: pause, ..PrefetchConfig::default() };
    Prefetcher::new(config).unwrap()
}

const MIB: u64 = 1 << 20;

#[test]
fn a_blob_is_completed_in_pieces() {
    let blob = Memory::new(100 * MIB + 5);
    blob.filled.lock().unwrap().push(8 * MIB..16 * MIB);
    let progress = pool(4).submit(Order::complete(blob.clone())).wait();
    assert_eq!((progress.done, progress.total), (blob.size, blob.size));
    assert!(!progress.is_cut_short && progress.error.is_none());
    let mut filled = blob.filled();
    filled.sort_by_key(|range| range.start);
    assert_eq!(filled.len(), 13, "each piece once, and the one that was present not again");
    assert_eq!(filled.last().unwrap().end, blob.size);
}

#[test]
fn ranks_go_first() {
    let blob = Memory::new(100 * MIB);
    *blob.shut.lock().unwrap() = true;
    let pool = pool(1);
    let first = pool.submit(Order::list(Rank::Completion, blob.clone(), &[0..1]));
    let rest = pool.submit(Order::list(Rank::Completion, blob.clone(), &[1..2]));
    let listed = pool.submit(Order::list(Rank::Listed, blob.clone(), &[2..3]));
    let ahead = pool.submit(Order::list(Rank::Ahead, blob.clone(), &[3..4]));
    *blob.shut.lock().unwrap() = false;
    for job in [&first, &rest, &listed, &ahead] {
        job.wait();
    }
    let order: Vec<u64> = blob.filled().iter().map(|range| range.start).collect();
    // The thread may have taken any of them first, before the others came.
    let place = |start: u64| order.iter().position(|at| *at == start).unwrap();
    assert!(place(3) <= 1 && place(2) <= 2 && place(1) == 3 || place(0) == 3, "{order:?}");
    assert_eq!(pool.job_count(), 0);
}

#[test]
fn a_job_can_be_cancelled() {
    let blob = Memory::new(100 * MIB);
    *blob.shut.lock().unwrap() = true;
    let pool = pool(2);
    let job = pool.submit(Order::complete(blob.clone()));
    job.cancel();
    let progress = job.wait();
    assert!(progress.is_over && progress.is_cut_short);
    assert_eq!(blob.filled(), []);
}

#[test]
fn dropping_the_pool_ends_its_jobs() {
    let blob = Memory::new(100 * MIB);
    *blob.shut.lock().unwrap() = true;
    let pool = pool(2);
    let job = pool.submit(Order::complete(blob));
    drop(pool);
    assert!(job.wait().is_cut_short);
}

#[test]
fn failures_are_told_and_many_of_them_end_a_job() {
    let failed = || FillError::Failed("no such thing".into());
    let blob = Memory::new(100 * MIB);
    blob.errors.lock().unwrap().push_back(failed());
    let progress = pool(1).submit(Order::complete(blob)).wait();
    assert_eq!((progress.failed, progress.done), (8 * MIB, 92 * MIB));
    assert_eq!(progress.error.as_deref(), Some("no such thing"));
    assert!(!progress.is_cut_short);

    let blob = Memory::new(1000 * MIB);
    blob.errors.lock().unwrap().extend((0..1000).map(|_| failed()));
    let progress = pool(1).submit(Order::complete(blob)).wait();
    assert_eq!((progress.failed, progress.is_cut_short), (64 * MIB, true));
}

#[test]
fn a_panic_is_a_failure() {
    let blob = Arc::new(Memory { size: 1, panics: true, ..Memory::default() });
    let pool = pool(1);
    assert_eq!(pool.submit(Order::complete(blob)).wait().failed, 1);
    let blob = Memory::new(5);
    assert_eq!(pool.submit(Order::complete(blob)).wait().done, 5);
}

#[test]
fn without_room_it_pauses_and_goes_on() {
    let blob = Memory::new(10);
    blob.errors.lock().unwrap().extend([FillError::Pressure, FillError::Pressure]);
    let pool = pool(1);
    assert_eq!(pool.submit(Order::complete(blob)).wait().done, 10);
    pool.set_pressure(true);
    let blob = Memory::new(10);
    let job = pool.submit(Order::complete(blob.clone()));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(blob.filled(), []);
    pool.set_pressure(false);
    assert_eq!(job.wait().done, 10);
}

#[test]
fn readers_pass_first() {
    let limits = Arc::new(Limits::new(LimitConfig::default()));
    let config = PrefetchConfig {
        limits: Some(limits.clone()),
        yield_max: Duration::from_secs(3600),
        ..PrefetchConfig::default()
    };
    let pool = Prefetcher::new(config).unwrap();
    let reader = limits.permit(Priority::Demand, None, None);
    let blob = Memory::new(10);
    let job = pool.submit(Order::complete(blob.clone()));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(blob.filled(), []);
    drop(reader);
    assert_eq!(job.wait().done, 10);
}

/// A pool beside readers, whose time stands still.
fn beside_readers() -> (Prefetcher, Arc<Limits>, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let limits = Arc::new(Limits::with_clock(LimitConfig::default(), clock.clone()));
    let config = PrefetchConfig {
        limits: Some(limits.clone()),
        yield_max: Duration::from_secs(3600),
        ..PrefetchConfig::default()
    };
    (Prefetcher::new(config).unwrap(), limits, clock)
}

#[test]
fn what_is_listed_is_fetched_beside_readers() {
    let (pool, limits, _) = beside_readers();
    let blob = Memory::new(10);
    let list = || Order::list(Rank::Listed, blob.clone(), &[0..10]);
    // Its time stands still: it has waited for no longer than any.
    let reader = limits.permit(Priority::Demand, None, None);
    assert_eq!(pool.submit(list()).wait().done, 10);
    drop(reader);
    let joined = limits.join();
    assert_eq!(pool.submit(list()).wait().done, 10);
    drop(joined);
}

#[test]
fn readers_that_wait_too_long_pass_what_is_listed() {
    let (pool, limits, clock) = beside_readers();
    let quick = limits.permit(Priority::Demand, None, None);
    clock.sleep(Duration::from_millis(20), None);
    drop(quick);
    let reader = limits.permit(Priority::Demand, None, None);
    clock.sleep(Duration::from_millis(100), None);
    assert!(!limits.yields(Priority::Listed), "others take as long");
    clock.sleep(Duration::from_secs(1), None);
    assert!(limits.yields(Priority::Listed));
    let blob = Memory::new(10);
    let job = pool.submit(Order::list(Rank::Listed, blob.clone(), &[0..10]));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(blob.filled(), []);
    drop(reader);
    assert_eq!(job.wait().done, 10);
}

#[test]
fn little_is_in_flight_before_what_readers_ask_for() {
    for is_demanded in [false, true] {
        let (pool, limits, _) = beside_readers();
        let blob = Memory::new(100 * MIB);
        *blob.shut.lock().unwrap() = true;
        let reader = is_demanded.then(|| limits.permit(Priority::Demand, None, None));
        let ranges: Vec<_> = (0..32).map(|at| at * MIB / 4..(at + 1) * MIB / 4).collect();
        let job = pool.submit(Order::list(Rank::Listed, blob.clone(), &ranges));
        let most = if is_demanded { 6 } else { 32 };
        while blob.begun.load(Ordering::SeqCst) < most {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(blob.begun.load(Ordering::SeqCst), most);
        *blob.shut.lock().unwrap() = false;
        assert_eq!(job.wait().done, 8 * MIB);
        drop(reader);
    }
}

#[test]
fn replays_prepare_batches_and_keep_the_order_of_time() {
    let places = [64 * MIB, 0, 32 * MIB, MIB, 64 * MIB + 8192];
    let touches = (0..).zip(places).map(|(micros, start)| Touch {
        micros,
        blob: 0,
        start,
        len: 4096,
        runs: 1,
    });
    let trace = Trace { blobs: vec!["a".into()], runs: 1, touches: touches.collect() };
    let blob = Memory::new(100 * MIB);
    // The gap of a page is joined, and nothing else.
    let config = ReplayConfig { gap_ratio: 0.5, ..ReplayConfig::default() };
    let plan = Replay::plan(&trace, &[Some(blob.size)], &config);
    pool(1).submit(Order::replay(plan, &[Some(blob.clone())])).wait();
    let page = |start| start..start + 4096;
    let first = 64 * MIB..64 * MIB + 12288;
    assert_eq!(blob.filled(), [first.clone(), page(0), page(32 * MIB), page(MIB)]);
    let prepared = blob.prepared.lock().unwrap().clone();
    assert_eq!(prepared, [vec![page(0), page(MIB)], vec![page(32 * MIB)], vec![first]]);
}

#[test]
fn a_replay_is_an_order() {
    let touch = |blob, start| Touch { micros: start, blob, start, len: 4096, runs: 1 };
    let trace = Trace {
        blobs: vec!["a".into(), "gone".into()],
        runs: 1,
        touches: vec![touch(0, 8192), touch(1, 0), touch(0, 40960)],
    };
    let blob = Memory::new(10 * MIB);
    let plan = Replay::plan(&trace, &[Some(blob.size), None], &ReplayConfig::default());
    let progress = pool(1).submit(Order::replay(plan, &[Some(blob.clone()), None])).wait();
    assert_eq!(progress.done, 8192);
    assert_eq!(blob.filled(), [8192..12288, 40960..45056]);
}
