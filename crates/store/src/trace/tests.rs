// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces: recorded, written, read, merged; and replays in simulated time.

use super::*;
use crate::PrefetchConfig;
use crate::window::simulate::{Link, Numbers, files, scenarios};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

fn touch(micros: u64, blob: u32, range: Range<u64>, runs: u32) -> Touch {
    Touch { micros, blob, start: range.start, len: range.end - range.start, runs }
}

fn trace(blobs: &[&str], runs: u32, touches: Vec<Touch>) -> Trace {
    Trace { blobs: blobs.iter().map(|name| (*name).to_owned()).collect(), runs, touches }
}

#[test]
fn first_touches_are_recorded_once() {
    let recorder = Recorder::new();
    let a = recorder.blob("blake3:aa", 100_000, 4096).unwrap();
    let b = recorder.blob("blake3:bb", 100_000, 4096).unwrap();
    a.touch(&(5000..5001));
    a.touch(&(4096..8192));
    b.touch(&(0..1));
    a.touch(&(0..20_000));
    a.touch(&(99_000..200_000));
    a.touch(&(300_000..400_000));
    let trace = recorder.trace();
    let ranges: Vec<_> =
        trace.touches.iter().map(|touch| (touch.blob, touch.start..touch.end())).collect();
    assert_eq!(
        ranges,
        [(0, 4096..8192), (1, 0..4096), (0, 0..4096), (0, 8192..20480), (0, 98304..100_000),]
    );
    assert_eq!(Trace::parse(&trace.emit()), Ok(trace));
    assert!(recorder.blob("two words", 1, 4096).is_none());
}

#[test]
fn a_recorder_keeps_to_its_limit_and_threads_share_it() {
    let recorder = Recorder::with_limit(100);
    let blob = recorder.blob("b", 1 << 30, 4096).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let blob = &blob;
            scope.spawn(move || {
                for step in 0..200 {
                    let start = (step * 8 + thread) * 3 * 4096;
                    blob.touch(&(start..start + 1));
                }
            });
        }
    });
    assert!(recorder.is_full());
    assert_eq!(recorder.trace().touches.len(), 100);
    assert!(recorder.blob("huge", u64::MAX, 4096).is_some(), "units grow");
}

#[test]
fn a_run_is_gone_on_with() {
    let recorder = Recorder::new();
    recorder.blob("a", 100_000, 4096).unwrap().touch(&(0..9000));
    let before = recorder.trace();
    let next = Recorder::resume(before.clone(), Duration::from_secs(100));
    let blob = next.blob("a", 100_000, 4096).unwrap();
    blob.touch(&(4096..16384));
    let after = next.trace();
    assert_eq!((after.runs, &after.touches[..1]), (1, &before.touches[..]));
    assert_eq!((after.touches[1].start, after.touches[1].len), (12288, 4096));
    assert!(after.touches[1].micros >= 100_000_000);
    assert_eq!(next.touch_count(), 2);
}

#[test]
fn long_text_is_refused() {
    let text = "x".repeat(Trace::TEXT_MAX + 10);
    assert_eq!(Trace::parse(&text), Err(TraceError::TooLong));
    let endless = std::io::repeat(b'1');
    assert_eq!(Trace::read(endless).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert!(Trace::read(&b"ferrofs-trace 1 runs=1\n\xff"[..]).is_err());
}

#[test]
fn hostile_text_is_refused() {
    let good = "ferrofs-trace 1 runs=1\nblob b\n0 0 0 4096 1\n";
    assert!(Trace::parse(good).is_ok());
    for (bad, error) in [
        ("", TraceError::Head),
        ("ferrofs-trace 2 runs=1\n", TraceError::Head),
        ("ferrofs-trace 1 runs=-1\n", TraceError::Head),
        ("ferrofs-trace 1 runs=1\n0 0 0 1 1\n", TraceError::Line(2)),
        ("ferrofs-trace 1 runs=1\nblob \n", TraceError::Line(2)),
        ("ferrofs-trace 1 runs=1\nblob a b\n", TraceError::Line(2)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 1 0 1 1\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 0 0 1\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 0 1 0\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 0 1\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 0 1 1 1\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 +1 1 1\n", TraceError::Line(3)),
        ("ferrofs-trace 1 runs=1\nblob b\n0 0 18446744073709551615 1 1\n", TraceError::Line(3)),
    ] {
        assert_eq!(Trace::parse(bad), Err(error), "{bad:?}");
    }
}

#[test]
fn runs_are_merged_by_frequency_then_order() {
    let one = trace(&["a", "b"], 1, vec![touch(0, 0, 0..100, 1), touch(50, 1, 0..100, 1)]);
    let two = trace(&["b", "a"], 1, vec![touch(20, 0, 0..100, 1), touch(40, 1, 50..150, 1)]);
    let both = Trace::merge(&[one.clone(), two], 1);
    assert_eq!(both.blobs, ["a", "b"]);
    assert_eq!(both.runs, 2);
    assert_eq!(
        both.touches,
        [
            touch(20, 0, 50..100, 2),
            touch(35, 1, 0..100, 2),
            touch(0, 0, 0..50, 1),
            touch(40, 0, 100..150, 1),
        ]
    );
    let often = Trace::merge(std::slice::from_ref(&both), 2);
    assert_eq!(often.touches, both.touches[..2]);
    assert_eq!(Trace::merge(std::slice::from_ref(&one), 1), one);
}

#[test]
fn replays_begin_small_and_leave_out_what_is_not_here() {
    let touches = (0..2000).map(|at| touch(at, 0, at * 65536..(at + 1) * 65536, 1)).collect();
    let mut trace = trace(&["a", "b"], 1, touches);
    trace.touches.push(touch(9999, 1, 0..4096, 1));
    trace.touches.push(touch(9999, 0, 0..u64::MAX, 1));
    let size = 2000 * 65536 + 5;
    let plan = Replay::plan(&trace, &[Some(size), None], &ReplayConfig::default());
    assert_eq!((plan.wanted, plan.planned), (size, size));
    assert_eq!(plan.batches[0][0].range, 0..256 << 10);
    assert!(plan.steps().all(|step| step.range.end - step.range.start <= 512 << 10));
    let bytes = |batch: &Vec<Step>| -> u64 {
        batch.iter().map(|step| step.range.end - step.range.start).sum()
    };
    let batches: Vec<u64> = plan.batches.iter().map(bytes).collect();
    assert_eq!(batches[..4], [1, 2, 4, 8].map(|scale| scale * (256 << 10)));
    assert!(batches.iter().all(|bytes| *bytes <= 16 << 20) && batches.len() < 16, "{batches:?}");
}

/// Replays over the simulated link, by the rules of the pool.
fn seconds(plan: &Replay, size: u64) -> f64 {
    let pool = PrefetchConfig::default();
    let mut link = Link::new(size);
    // When it will have come, and its bytes; answers come in the order of requests.
    let mut flying: VecDeque<(f64, u64)> = VecDeque::new();
    let (mut now, mut last) = (0.0_f64, 0.0_f64);
    for step in plan.steps() {
        let len = step.range.end - step.range.start;
        let bytes = |flying: &VecDeque<(f64, u64)>| flying.iter().map(|step| step.1).sum::<u64>();
        while flying.len() >= pool.threads
            || flying.len() >= 2 && bytes(&flying) + len > pool.in_flight_max
        {
            now = now.max(flying.pop_front().unwrap().0);
        }
        link.request(now, &step.range);
        last = link.complete(&step.range);
        flying.push_back((last, len));
    }
    last
}

/// The goal: the last needed byte after at most 1.2 times what the bytes alone take.
#[test]
fn a_learned_trace_comes_at_the_speed_of_the_link() {
    for (name, size, reads) in scenarios() {
        let recorder = Recorder::new();
        let blob = recorder.blob("b", size, 4096).unwrap();
        for read in &reads {
            blob.touch(read);
        }
        let trace = recorder.trace();
        let plan = Replay::plan(&trace, &[Some(size)], &ReplayConfig::default());
        let wanted = plan.wanted as f64;
        assert!(plan.planned as f64 <= wanted * 1.1, "{name}");
        let factor = seconds(&plan, size) / (wanted / 25e6);
        assert!(factor <= 1.2, "{name}: {factor:.3}, {} steps", plan.steps().count());
        println!("{name:<42} {factor:.3} {} steps", plan.steps().count());
    }
}

#[test]
fn other_links_get_other_gaps() {
    let all = files(64 << 20, 30 << 10, &mut Numbers(3));
    let touches = all.iter().step_by(2).map(|file| touch(0, 0, file.clone(), 1)).collect();
    let trace = trace(&["a"], 1, touches);
    let plan = |rtt| {
        let config = ReplayConfig { rtt: Duration::from_millis(rtt), ..ReplayConfig::default() };
        Replay::plan(&trace, &[Some(64 << 20)], &config).steps().count()
    };
    assert!(plan(200) < plan(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn text_round_trips(touches in proptest::collection::vec(
        (any::<u64>(), 0_u32..3, 0..u64::MAX / 2, 1..u64::MAX / 2, 1_u32..), 0..50)) {
        let touches = touches.into_iter().map(|(micros, blob, start, len, runs)| {
            Touch { micros, blob, start, len, runs }
        }).collect();
        let trace = trace(&["a", "b", "c:d"], 7, touches);
        prop_assert_eq!(Trace::parse(&trace.emit()), Ok(trace));
    }

    #[test]
    fn any_text_is_read_calmly(text in "(ferrofs-trace 1 runs=[0-9]\n)?([a-z0-9 \n-]{0,200})") {
        if let Ok(trace) = Trace::parse(&text) {
            prop_assert_eq!(Trace::parse(&trace.emit()), Ok(trace));
        }
    }

    /// It does not matter in which steps runs are merged: bytes and runs are the same, times up to
    /// rounding.
    #[test]
    fn merging_in_steps_is_merging_at_once(
        runs in proptest::collection::vec(
            proptest::collection::vec((0_u64..1000, 0_u64..20, 1_u64..9), 0..8), 1..6),
    ) {
        let traces: Vec<Trace> = runs.iter().map(|run| {
            let touches = run.iter().map(|(micros, start, len)| touch(*micros, 0, *start..start + len, 1));
            trace(&["a"], 1, touches.collect())
        }).collect();
        // By byte: runs, and the time.
        let bytes = |trace: &Trace| {
            let mut bytes = [None; 40];
            for touch in &trace.touches {
                bytes[touch.start as usize..touch.end() as usize].fill(Some((touch.runs, touch.micros)));
            }
            bytes
        };
        let once = Trace::merge(&traces, 1);
        let mut steps = Trace::merge(&traces[..1], 1);
        for next in &traces[1..] {
            steps = Trace::merge(&[steps, next.clone()], 1);
        }
        prop_assert_eq!(once.runs, steps.runs);
        for (one, other) in bytes(&once).into_iter().zip(bytes(&steps)) {
            prop_assert_eq!(one.map(|(runs, _)| runs), other.map(|(runs, _)| runs));
            let time = |byte: Option<(u32, u64)>| byte.map_or(0, |(_, micros)| micros);
            prop_assert!(time(one).abs_diff(time(other)) <= runs.len() as u64);
        }
        // What most runs do without comes last.
        let is_rare = |touch: &Touch| touch.runs * 2 < once.runs;
        let first = once.touches.iter().position(is_rare).unwrap_or(once.touches.len());
        prop_assert!(once.touches[first..].iter().all(is_rare));
    }

    /// Against a model with one byte a cell.
    #[test]
    fn plans_and_merges_cover_exactly_what_was_touched(
        touches in proptest::collection::vec((0_u64..1000, 0_u64..300, 1_u64..60, 0_usize..2), 1..60),
        align in prop_oneof![Just(1_u64), Just(16)],
    ) {
        let mut traces = [trace(&["a"], 1, vec![]), trace(&["a"], 1, vec![])];
        let mut by_run = [[false; 400], [false; 400]];
        for (micros, start, len, run) in touches {
            traces[run].touches.push(touch(micros, 0, start..start + len, 1));
            by_run[run][start as usize..(start + len) as usize].fill(true);
        }
        let merged = Trace::merge(&traces, 1);
        let mut runs = [0; 400];
        for touch in &merged.touches {
            for cell in &mut runs[touch.start as usize..touch.end() as usize] {
                prop_assert_eq!(*cell, 0, "touched twice");
                *cell = touch.runs;
            }
        }
        for (at, cell) in runs.iter().enumerate() {
            prop_assert_eq!(*cell, u32::from(by_run[0][at]) + u32::from(by_run[1][at]));
        }
        let config = ReplayConfig { align, gap_ratio: 0.0, batch_min: 30, batch_max: 99, step_max: 64, ..ReplayConfig::default() };
        let size = 340;
        let plan = Replay::plan(&merged, &[Some(size)], &config);
        let mut planned = [0; 400];
        for step in plan.steps() {
            prop_assert!(step.range.start < step.range.end && step.range.end <= size);
            for cell in &mut planned[step.range.start as usize..step.range.end as usize] {
                *cell += 1;
            }
        }
        for (at, count) in planned.iter().enumerate().take(size as usize) {
            let from = at / align as usize * align as usize;
            let to = (from + align as usize).min(size as usize);
            let wanted = runs[from..to].iter().any(|runs| *runs > 0);
            prop_assert_eq!(*count, i32::from(wanted), "byte {}", at);
        }
        prop_assert_eq!(plan.planned, plan.wanted);
    }
}
