// SPDX-License-Identifier: MIT OR Apache-2.0
//! Windows against simulated readers, and the rules that hold for any reader.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, one range long")]

use super::simulate::{GRAIN, Link, run, scenarios};
use super::*;
use proptest::prelude::*;

#[test]
fn scattered_readers_fetch_little_more_than_they_need() {
    for (name, size, reads) in scenarios() {
        let outcome = run(WindowConfig::default(), size, &reads);
        assert!(outcome.ratio() <= 1.3, "{name}: {outcome:?}");
    }
}

#[test]
fn readers_in_sequence_have_the_link_to_themselves() {
    for (name, size, reads) in scenarios() {
        if name.starts_with("all in sequence") {
            let outcome = run(WindowConfig::default(), size, &reads);
            assert!(outcome.efficiency() >= 0.95, "{name}: {outcome:?}");
            assert!(outcome.requests <= 100, "{name}: {outcome:?}");
        }
    }
}

#[test]
fn one_small_read_fetches_nothing_else() {
    let mut window = Window::new(WindowConfig::default(), 1 << 30);
    let plan = window.read(5000..5001, |range| vec![range]);
    assert_eq!((plan.now, plan.ahead), (vec![4096..8192], vec![]));
    assert!(window.is_idle());
}

#[test]
fn what_is_under_way_is_not_planned_again() {
    let mut window = Window::new(WindowConfig::default(), 1 << 30);
    let mut link = Link::new(1 << 30);
    let mut fetched: u64 = 0;
    for step in 0..4000 {
        let read = step * GRAIN * 4..(step + 1) * GRAIN * 4;
        let plan = window.read(read, |range| link.missing(range));
        for range in plan.now.iter().chain(&plan.ahead) {
            assert_eq!(link.missing(range.clone()), std::slice::from_ref(range));
            link.request(0.0, range);
            fetched += range.end - range.start;
        }
    }
    assert_eq!(fetched, window.wanted() + window.wasted());
}

#[test]
fn what_failed_is_no_waste_and_is_planned_again() {
    let mut window = Window::new(WindowConfig::default(), 1 << 30);
    window.read(0..65536, |range| vec![range]);
    let plan = window.read(65536..131072, |range| vec![range]);
    let end = plan.now.last().unwrap().end;
    assert!(end > 131072 && window.wasted() > 0);
    window.failed(&(131072..end));
    assert_eq!(window.wasted(), 0);
    let plan = window.read(131072..196608, |range| vec![range]);
    assert_eq!(plan.now.first().unwrap().start, 131072);
}

#[test]
fn small_gaps_are_bridged_and_large_ones_are_not() {
    let mut window = Window::new(WindowConfig::default(), 1 << 30);
    let far = 100 << 20;
    let plan = window.read(0..far + 4096, |_| vec![0..4096, 8192..12288, far - 4096..far]);
    assert_eq!(plan.now, [0..12288, far - 4096..far]);
    assert_eq!(window.wasted(), 4096);
}

/// Runs that a reader wants of 40 MiB: one of 20 KiB to 200 KiB in each 512 KiB.
fn scattered_runs() -> Vec<Range<u64>> {
    let run = |number: u64| {
        let start = (number << 19) + number % 7 * 5 * GRAIN;
        start..start + (5 + number * 11 % 46) * GRAIN
    };
    (0..80).map(run).collect()
}

#[test]
fn who_wants_what_is_not_left_out_reads_in_sequence() {
    let size = 40 << 20;
    let runs = scattered_runs();
    let needed: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let mut at = 0;
    let mut others = vec![];
    for run in &runs {
        others.push(at..run.start);
        at = run.end;
    }
    others.push(at..size);
    let read_all = |left_out: &[Range<u64>]| {
        let mut window = Window::new(WindowConfig::default(), size);
        window.leave_out(left_out);
        let mut link = Link::new(size);
        let mut seconds: f64 = 0.0;
        for run in &runs {
            for start in (run.start..run.end).step_by(32 << 10) {
                let read = start..(start + (32 << 10)).min(run.end);
                let plan = window.read(read.clone(), |range| link.missing(range));
                for range in plan.now.iter().chain(&plan.ahead) {
                    link.request(seconds, range);
                }
                seconds = seconds.max(link.complete(&read));
            }
        }
        (link.fetched, link.requests, seconds)
    };
    let (fetched, requests, seconds) = read_all(&others);
    assert_eq!(fetched, needed);
    assert!(requests < 180, "{requests}");
    let (more, _, without) = read_all(&[]);
    assert!(more > needed, "{more}");
    // The link is busy with what is wanted, and the reader does not wait for each of 80 round trips.
    assert!(seconds < without && seconds < 1.2, "{seconds}, {without}");
}

#[test]
fn what_is_left_out_may_be_told_to_be_wanted_after_all() {
    let mut window = Window::new(WindowConfig::default(), 1 << 30);
    window.leave_out(&[0..1 << 30]);
    for step in 0..8 {
        let read = step << 16..(step + 1) << 16;
        let plan = window.read(read.clone(), |range| vec![range]);
        assert_eq!((plan.now, plan.ahead), (vec![read], vec![]));
    }
    assert_eq!(window.wasted(), 0);
    window.leave_out(&[1 << 20..1 << 30]);
    let plan = window.read(8 << 16..9 << 16, |range| vec![range]);
    let end = plan.now.last().unwrap().end.max(plan.ahead.last().map_or(0, |range| range.end));
    assert!(end > 9 << 16 && end <= 1 << 20, "{end}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_reader_gets_what_it_needs_within_the_budget(
        reads in proptest::collection::vec((0_u64..8 << 20, 1_u64..300_000), 1..200),
        size in 1_u64..8 << 20,
        ratio in 0.0_f64..1.0,
        constant in 0_u64..1 << 20,
        left_out in proptest::collection::vec((0_u64..8 << 20, 1_u64..1 << 20), 0..20),
    ) {
        let config = WindowConfig {
            waste_ratio: ratio,
            waste_constant: constant,
            ..WindowConfig::default()
        };
        let mut link = Link::new(size);
        let mut window = Window::new(config, size);
        let left_out: Vec<_> = left_out
            .into_iter()
            .map(|(start, len)| start.min(size)..(start + len).min(size))
            .collect();
        window.leave_out(&left_out);
        let is_left_out = |grain: u64| {
            let bytes = grain * GRAIN..(grain * GRAIN + GRAIN).min(size);
            let whole = |range: &Range<u64>| range.start <= bytes.start && bytes.end <= range.end;
            left_out.iter().any(whole)
        };
        for (start, len) in reads {
            let read = start.min(size)..(start + len).min(size);
            let asked = read.start / GRAIN..read.end.div_ceil(GRAIN);
            let plan = window.read(read.clone(), |range| link.missing(range));
            for range in plan.now.iter().chain(&plan.ahead) {
                prop_assert!(range.start < range.end && range.end <= size);
                prop_assert!(range.start % GRAIN == 0);
                prop_assert!(range.end % GRAIN == 0 || range.end == size);
                for grain in range.start / GRAIN..range.end.div_ceil(GRAIN) {
                    prop_assert!(asked.contains(&grain) || !is_left_out(grain), "{range:?}");
                }
                link.request(0.0, range);
            }
            let aligned = read.start / GRAIN * GRAIN..read.end;
            prop_assert!(read.is_empty() || link.missing(aligned).is_empty());
            let budget = window.wanted() as f64 * ratio + constant as f64;
            prop_assert!(window.wasted() as f64 <= budget + 1.0);
            prop_assert!(link.fetched <= window.wanted() + window.wasted());
        }
    }
}
