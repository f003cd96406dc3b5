// SPDX-License-Identifier: MIT OR Apache-2.0
//! Origins over sources that fail as they are told, by a clock that only sleeping moves.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, one range long")]

use super::*;
use crate::{LimitConfig, SinkStop};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time passes by sleeping only, and at once. Jitter is always the middle.
#[derive(Debug)]
pub(crate) struct TestClock {
    start: Instant,
    nanos: AtomicU64,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { start: Instant::now(), nanos: AtomicU64::new(0) }
    }
}

impl TestClock {
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn sleep(&self, time: Duration, cancel: Option<&Cancel>) {
        if !cancel.is_some_and(Cancel::is_cancelled) {
            self.nanos.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    fn random(&self) -> f64 {
        0.5
    }
}

/// One answer.
#[derive(Clone, Debug)]
enum Answer {
    /// As it should be.
    Right,
    /// So many bytes, then this; `None`: a source that says it was all.
    Short(u64, Option<FetchErrorKind>),
    /// Everything from 0, as far as told.
    Whole(u64),
    Fail(FetchErrorKind),
    /// Everything is as asked, but not the bytes.
    Wrong,
    /// Begins elsewhere.
    Astray(u64),
    OtherSize,
}

/// Answers by a list, and rightly (or always as told) when it has ended.
#[derive(Debug)]
struct Script {
    blob: Vec<u8>,
    answers: Mutex<VecDeque<Answer>>,
    always: Answer,
    asked: Mutex<Vec<(Range<u64>, bool)>>,
    clock: Arc<TestClock>,
    cancel_at: Option<(Duration, Cancel)>,
}

impl Script {
    fn new(clock: &Arc<TestClock>, answers: &[Answer], always: Answer) -> Arc<Self> {
        let blob = (0..SIZE).map(|at| (at * 31 % 251) as u8).collect();
        Arc::new(Self {
            blob,
            answers: Mutex::new(answers.iter().cloned().collect()),
            always,
            asked: Mutex::default(),
            clock: clock.clone(),
            cancel_at: None,
        })
    }

    fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().unwrap().iter().map(|(range, _)| range.clone()).collect()
    }

    fn give(&self, range: Range<u64>, sink: &mut dyn Sink, flip: u8) {
        let mut bytes = &self.blob[range.start as usize..range.end as usize];
        while !bytes.is_empty() {
            let room = sink.room();
            let count = room.len().min(bytes.len()).min(1000);
            assert!(count > 0, "no room");
            for (to, from) in room.iter_mut().zip(&bytes[..count]) {
                *to = from ^ flip;
            }
            bytes = &bytes[count..];
            if sink.filled(count).is_err() {
                return;
            }
        }
    }
}

impl RangeSource for Script {
    fn describe(&self) -> String {
        "script".into()
    }

    fn identity(&self, context: &FetchContext) -> Result<Identity, FetchError> {
        struct Nothing;
        impl Sink for Nothing {
            fn begin(&mut self, _: u64, _: Option<u64>) -> Result<(), SinkStop> {
                Err(SinkStop)
            }
            fn room(&mut self) -> &mut [u8] {
                &mut []
            }
            fn filled(&mut self, _: usize) -> Result<(), SinkStop> {
                Err(SinkStop)
            }
        }
        self.fetch(0..1, &mut Nothing, context)?;
        Ok(Identity { size: SIZE, validator: None })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        assert!(context.deadline.is_some_and(|deadline| deadline > self.clock.now()));
        assert!(range.start < range.end && range.end <= SIZE, "{range:?}");
        self.asked.lock().unwrap().push((range.clone(), context.fresh));
        if let Some((time, cancel)) = &self.cancel_at
            && self.clock.elapsed() >= *time
        {
            cancel.cancel();
        }
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(self.always.clone());
        let mut begin = |offset, total| sink.begin(offset, total).is_ok();
        match answer {
            Answer::Right | Answer::Wrong => {
                if begin(range.start, Some(SIZE)) {
                    self.give(range, sink, u8::from(matches!(answer, Answer::Wrong)));
                }
            }
            Answer::Short(bytes, how) => {
                if begin(range.start, Some(SIZE)) {
                    self.give(range.start..range.end.min(range.start + bytes), sink, 0);
                }
                if let Some(kind) = how {
                    return Err(FetchError::new(kind, "short"));
                }
            }
            Answer::Whole(bytes) => {
                if begin(0, Some(SIZE)) {
                    self.give(0..bytes.min(SIZE), sink, 0);
                }
                if bytes < SIZE {
                    return Err(FetchError::new(FetchErrorKind::Length, "whole, in part"));
                }
            }
            Answer::Astray(offset) => {
                if begin(offset, Some(SIZE)) {
                    self.give(offset..range.end, sink, 0);
                }
            }
            Answer::OtherSize => {
                if begin(range.start, Some(SIZE + 1)) {
                    self.give(range, sink, 0);
                }
            }
            Answer::Fail(kind) => return Err(FetchError::new(kind, "failed")),
        }
        Ok(())
    }
}

const SIZE: u64 = 100_000;

#[derive(Default)]
struct Keep {
    begun: Vec<u64>,
    bytes: Vec<u8>,
    room: Vec<u8>,
    stop_at: Option<usize>,
}

impl Sink for Keep {
    fn begin(&mut self, offset: u64, _total: Option<u64>) -> Result<(), SinkStop> {
        self.begun.push(offset);
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        self.room.resize(777, 0);
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        self.bytes.extend(&self.room[..count]);
        if self.stop_at.is_some_and(|stop| self.bytes.len() >= stop) {
            return Err(SinkStop);
        }
        Ok(())
    }
}

struct Setup {
    clock: Arc<TestClock>,
    mirrors: Vec<Arc<Script>>,
    origin: Arc<Script>,
}

impl Setup {
    fn new(mirrors: &[(&[Answer], Answer)], origin: &[Answer], always: Answer) -> Self {
        let clock = Arc::new(TestClock::default());
        let mirrors = mirrors
            .iter()
            .map(|(answers, always)| Script::new(&clock, answers, always.clone()))
            .collect();
        let origin = Script::new(&clock, origin, always);
        Self { clock, mirrors, origin }
    }

    fn origin(&self) -> Origin {
        let mirrors =
            self.mirrors.iter().map(|mirror| mirror.clone() as Arc<dyn RangeSource>).collect();
        let limits = Limits::with_clock(LimitConfig::default(), self.clock.clone());
        Origin::with(
            mirrors,
            self.origin.clone(),
            OriginConfig::default(),
            Arc::new(limits),
            self.clock.clone(),
        )
    }

    fn fetch(&self, origin: &Origin, demand: &Demand) -> Result<(Served, Keep), FetchError> {
        let mut keep = Keep::default();
        let served = origin.fetch(1000..51_000, &mut keep, demand, false)?;
        let start = keep.begun[0] as usize;
        assert_eq!(keep.begun.len(), 1, "begun once, whatever breaks");
        assert_eq!(keep.bytes, self.origin.blob[start..start + keep.bytes.len()]);
        assert_eq!(served.end, (start + keep.bytes.len()) as u64);
        assert!(served.end >= 51_000);
        Ok((served, keep))
    }
}

const UNREACHABLE: Answer = Answer::Fail(FetchErrorKind::Unreachable);

#[test]
fn failures_pass_with_pauses_that_double() {
    let setup = Setup::new(&[], &[UNREACHABLE, UNREACHABLE, UNREACHABLE], Answer::Right);
    let origin = setup.origin();
    setup.fetch(&origin, &Demand::default()).unwrap();
    // Half of 50, 100 and 200 ms.
    assert_eq!(setup.clock.elapsed(), Duration::from_millis(175));
    let stats = origin.stats();
    assert_eq!((stats.attempts, stats.retries, stats.failures.unreachable), (4, 3, 3));
    assert_eq!(stats.bytes, 50_000);
    assert_eq!(stats.sources[0].ranges, Ranges::Yes);
}

#[test]
fn a_short_body_is_resumed_where_it_broke_without_a_pause() {
    for how in [None, Some(FetchErrorKind::Length), Some(FetchErrorKind::Deadline)] {
        let setup = Setup::new(&[], &[Answer::Short(20_000, how)], Answer::Right);
        setup.fetch(&setup.origin(), &Demand::default()).unwrap();
        assert_eq!(setup.origin.asked(), [1000..51_000, 21_000..51_000]);
        assert_eq!(setup.clock.elapsed(), Duration::ZERO);
    }
}

#[test]
fn a_server_that_trickles_is_given_pauses() {
    let setup = Setup::new(&[], &[], Answer::Short(10, None));
    let error = setup.fetch(&setup.origin(), &Demand::soft(Duration::from_secs(60))).err();
    assert_eq!(error.unwrap().kind, FetchErrorKind::Deadline);
    assert!(setup.origin.asked().len() < 40);
}

#[test]
fn soft_ends_in_time_and_hard_when_cancelled() {
    let setup = Setup::new(&[], &[], UNREACHABLE);
    let error = setup.fetch(&setup.origin(), &Demand::soft(Duration::from_secs(30))).err();
    let error = error.unwrap();
    assert_eq!(error.kind, FetchErrorKind::Deadline);
    assert!(error.what.contains("failed"), "{error}");
    assert_eq!(setup.clock.elapsed(), Duration::from_secs(30));

    let mut setup = Setup::new(&[], &[], UNREACHABLE);
    let cancel = Cancel::new();
    let script = Arc::get_mut(&mut setup.origin).unwrap();
    script.cancel_at = Some((Duration::from_secs(100_000), cancel.clone()));
    let demand = Demand { cancel: Some(cancel), ..Demand::default() };
    let error = setup.fetch(&setup.origin(), &demand).err().unwrap();
    assert!(error.what.starts_with("cancelled"), "{error}");
    assert!(setup.clock.elapsed() >= Duration::from_secs(100_000));
}

#[test]
fn the_breaker_spares_a_dead_server() {
    let setup = Setup::new(&[], &[], UNREACHABLE);
    let origin = setup.origin();
    setup.fetch(&origin, &Demand::soft(Duration::from_secs(310))).err().unwrap();
    // 5 until it opens, probes after 1, 2, 4, 8, 16, and every 30 s.
    let attempts = setup.origin.asked().len();
    assert!((15..22).contains(&attempts), "{attempts}");
    assert!(origin.stats().breaker_opens > 10);
    // It recovers with the first probe that succeeds.
    setup.clock.sleep(Duration::from_secs(60), None);
    setup.origin.answers.lock().unwrap().push_back(Answer::Right);
    setup.fetch(&origin, &Demand::default()).unwrap();
    assert_eq!(setup.origin.asked().len(), attempts + 1);
    assert!(!origin.stats().sources[0].is_open);
}

#[test]
fn retry_after_is_kept_within_reason() {
    for (told, kept) in [(7, 7), (1_000_000, 60)] {
        let busy = Answer::Fail(FetchErrorKind::Busy(Some(Duration::from_secs(told))));
        let setup = Setup::new(&[], &[busy], Answer::Right);
        setup.fetch(&setup.origin(), &Demand::default()).unwrap();
        assert_eq!(setup.clock.elapsed().as_secs(), kept);
    }
}

#[test]
fn what_is_said_for_good_is_not_asked_again() {
    use FetchErrorKind::{Changed, Denied, Io, NoRanges, NotFound, Protocol};
    for kind in [NotFound, Denied, Changed, NoRanges, Protocol, Io] {
        let setup = Setup::new(&[], &[], Answer::Fail(kind));
        let origin = setup.origin();
        assert_eq!(setup.fetch(&origin, &Demand::default()).err().unwrap().kind, kind);
        assert_eq!(setup.origin.asked().len(), 1);
        assert_eq!(origin.ranges() == Ranges::No, kind == NoRanges);
        assert!(setup.clock.elapsed().is_zero());
        // A mirror's no is not the origin's.
        let setup = Setup::new(&[(&[], Answer::Fail(kind))], &[UNREACHABLE], Answer::Right);
        setup.fetch(&setup.origin(), &Demand::default()).unwrap();
        assert_eq!((setup.mirrors[0].asked().len(), setup.origin.asked().len()), (1, 2));
    }
}

#[test]
fn mirrors_come_first_and_the_healthy_ones_before() {
    let right: (&[Answer], Answer) = (&[], Answer::Right);
    let setup = Setup::new(&[(&[UNREACHABLE], Answer::Right), right], &[], Answer::Right);
    let origin = setup.origin();
    for _ in 0..3 {
        setup.fetch(&origin, &Demand::default()).unwrap();
    }
    let count = |script: &Script| script.asked().len();
    assert_eq!(
        [count(&setup.mirrors[0]), count(&setup.mirrors[1]), count(&setup.origin)],
        [1, 3, 0]
    );
    assert!(setup.clock.elapsed().is_zero(), "another source is asked at once");
    // After a while the first is as good as it was.
    setup.clock.sleep(Duration::from_secs(120), None);
    setup.fetch(&origin, &Demand::default()).unwrap();
    assert_eq!(count(&setup.mirrors[0]), 2);
}

#[test]
fn another_source_goes_on_where_one_broke() {
    let broken: (&[Answer], Answer) = (&[Answer::Short(30_000, None), UNREACHABLE], UNREACHABLE);
    let setup = Setup::new(&[broken], &[], Answer::Right);
    let (served, _) = setup.fetch(&setup.origin(), &Demand::default()).unwrap();
    assert_eq!(served.sources, 3);
    assert_eq!(setup.origin.asked(), [31_000..51_000]);
}

#[test]
fn a_server_without_ranges_gives_everything_once() {
    let setup = Setup::new(&[], &[Answer::Whole(40_000), Answer::Whole(60_000)], Answer::Right);
    let origin = setup.origin();
    let (served, keep) = setup.fetch(&origin, &Demand::default()).unwrap();
    assert!(served.whole);
    assert_eq!((keep.begun[0], served.end), (0, SIZE), "all of it, each byte once");
    assert_eq!(setup.origin.asked(), [1000..51_000, 40_000..SIZE, 60_000..SIZE]);

    let setup = Setup::new(&[(&[], Answer::Whole(SIZE))], &[], Answer::Right);
    let origin = setup.origin();
    setup.fetch(&origin, &Demand::default()).unwrap();
    assert_eq!(origin.stats().sources[0].ranges, Ranges::No);
    // It is remembered: a source with ranges is better.
    let (served, _) = setup.fetch(&origin, &Demand::default()).unwrap();
    assert_eq!((served.sources, served.whole), (2, false));
    assert_eq!(origin.ranges(), Ranges::Yes);
}

#[test]
fn a_range_may_turn_into_everything_in_the_middle() {
    let answers = [Answer::Short(20_000, None), Answer::Whole(SIZE)];
    let setup = Setup::new(&[], &answers, Answer::Right);
    let (_, keep) = setup.fetch(&setup.origin(), &Demand::default()).unwrap();
    assert_eq!(keep.begun, [1000], "what came again was left out");
}

#[test]
fn answers_to_other_questions_are_refused() {
    let setup = Setup::new(&[], &[], Answer::Astray(500));
    let error = setup.fetch(&setup.origin(), &Demand::default()).err().unwrap();
    assert_eq!(error.kind, FetchErrorKind::Protocol);
    let setup = Setup::new(&[], &[Answer::Short(20_000, None)], Answer::OtherSize);
    let error = setup.fetch(&setup.origin(), &Demand::default()).err().unwrap();
    assert_eq!(error.kind, FetchErrorKind::Changed);
}

#[test]
fn wrong_bytes_are_asked_for_again_at_the_origin() {
    let setup = Setup::new(&[(&[], Answer::Wrong)], &[], Answer::Right);
    let origin = setup.origin();
    let mut keep = Keep::default();
    let served = origin.fetch(0..5000, &mut keep, &Demand::default(), false).unwrap();
    assert_ne!(keep.bytes, setup.origin.blob[..5000]);
    origin.blame(&served);
    let mut keep = Keep::default();
    let again = origin.fetch(0..5000, &mut keep, &Demand::default(), true).unwrap();
    assert_eq!((again.sources, keep.bytes), (2, setup.origin.blob[..5000].to_vec()));
    assert!(setup.origin.asked.lock().unwrap()[0].1, "past caches");
    // The liar is left alone for a while.
    setup.fetch(&origin, &Demand::default()).unwrap();
    assert_eq!(setup.mirrors[0].asked().len(), 1);
    assert_eq!(origin.stats().failures.digest, 1);
}

#[test]
fn a_receiver_may_have_enough() {
    let setup = Setup::new(&[], &[], Answer::Right);
    let mut keep = Keep { stop_at: Some(3000), ..Keep::default() };
    let served = setup.origin().fetch(0..SIZE, &mut keep, &Demand::default(), false).unwrap();
    assert!(served.stopped && served.end < 4000);
    assert_eq!(setup.origin.asked().len(), 1);
}

#[test]
fn an_identity_is_tried_for_as_well() {
    let setup = Setup::new(&[(&[], Answer::Right)], &[UNREACHABLE], Answer::Right);
    assert_eq!(setup.origin().identity(&Demand::default()).unwrap().size, SIZE);
    assert_eq!((setup.mirrors[0].asked().len(), setup.origin.asked().len()), (0, 2));
}

#[test]
fn many_threads_probe_a_broken_server_one_at_a_time() {
    let setup = Setup::new(&[], &vec![UNREACHABLE; 7], Answer::Right);
    let origin = setup.origin();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| setup.fetch(&origin, &Demand::default()).unwrap());
        }
    });
    assert_eq!(origin.stats().failures.unreachable, 7);
}
