// SPDX-License-Identifier: MIT OR Apache-2.0
//! A link and readers in simulated time: what a window fetches, and how long readers wait.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges, one range long")]

use crate::{Window, WindowConfig};
use std::ops::Range;

/// Bytes of a grain in the simulation.
pub(crate) const GRAIN: u64 = 4096;

/// A link with a delay, on which answers come one after another.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) rtt: f64,
    pub(crate) bytes_per_second: f64,
    free_at: f64,
    /// When each grain of the blob has come; infinite: never asked for.
    pub(crate) arrival: Vec<f64>,
    pub(crate) fetched: u64,
    pub(crate) requests: u64,
}

impl Link {
    /// 20 ms and 200 Mbit/s.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            rtt: 0.02,
            bytes_per_second: 25e6,
            free_at: 0.0,
            arrival: vec![f64::INFINITY; size.div_ceil(GRAIN) as usize],
            fetched: 0,
            requests: 0,
        }
    }

    /// Asks for a range at a time.
    pub(crate) fn request(&mut self, at: f64, range: &Range<u64>) {
        let mut time = self.free_at.max(at + self.rtt);
        for grain in range.start / GRAIN..range.end.div_ceil(GRAIN) {
            time += GRAIN as f64 / self.bytes_per_second;
            let arrival = &mut self.arrival[grain as usize];
            *arrival = arrival.min(time);
        }
        self.free_at = time;
        self.fetched += range.end - range.start;
        self.requests += 1;
    }

    pub(crate) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = vec![];
        for grain in range.start / GRAIN..range.end.div_ceil(GRAIN) {
            if self.arrival[grain as usize].is_infinite() {
                let (start, end) = (grain * GRAIN, ((grain + 1) * GRAIN).min(range.end));
                match runs.last_mut() {
                    Some(run) if run.end == start => run.end = end,
                    _ => runs.push(start..end),
                }
            }
        }
        runs
    }

    /// When all of a range has come.
    pub(crate) fn complete(&self, range: &Range<u64>) -> f64 {
        let grains = range.start / GRAIN..range.end.div_ceil(GRAIN);
        grains.map(|grain| self.arrival[grain as usize]).fold(0.0, f64::max)
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Distinct grains that were read, in bytes.
    pub(crate) needed: u64,
    pub(crate) fetched: u64,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
}

impl Outcome {
    /// Bytes fetched for each one that was needed.
    pub(crate) fn ratio(&self) -> f64 {
        self.fetched as f64 / self.needed as f64
    }

    /// The share of the time that the bytes themselves take.
    pub(crate) fn efficiency(&self) -> f64 {
        self.needed as f64 / self.bytes_per_second / self.seconds
    }
}

/// One reader, which wants the next range when it has got the one before.
pub(crate) fn run(config: WindowConfig, size: u64, reads: &[Range<u64>]) -> Outcome {
    let mut link = Link::new(size);
    let mut window = Window::new(config, size);
    let mut seconds: f64 = 0.0;
    let mut needed = vec![false; link.arrival.len()];
    for read in reads {
        let plan = window.read(read.clone(), |range| link.missing(range));
        for range in plan.now.iter().chain(&plan.ahead) {
            assert!(range.start < range.end && range.end <= size, "{range:?}");
            link.request(seconds, range);
        }
        seconds = seconds.max(link.complete(read));
        for grain in read.start / GRAIN..read.end.div_ceil(GRAIN) {
            needed[grain as usize] = true;
        }
        let budget = window.wanted() as f64 * config.waste_ratio + config.waste_constant as f64;
        assert!(window.wasted() as f64 <= budget + 1.0, "the budget was not kept");
    }
    Outcome {
        needed: needed.iter().filter(|needed| **needed).count() as u64 * GRAIN,
        fetched: link.fetched,
        requests: link.requests,
        seconds,
        bytes_per_second: link.bytes_per_second,
    }
}

/// Numbers that look random and are the same everywhere.
#[derive(Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// Files of about `mean` bytes laid one after another, each at a block.
pub(crate) fn files(size: u64, mean: u64, numbers: &mut Numbers) -> Vec<Range<u64>> {
    let mut files = vec![];
    let mut at = 1 << 20;
    loop {
        // From a sixteenth to nearly four times the mean: many small ones, few large.
        let scale = 1 << numbers.next(5);
        let len = (mean * scale / 8 + numbers.next(mean * scale / 8)).max(1);
        if at + len > size {
            return files;
        }
        files.push(at..at + len);
        at = (at + len).next_multiple_of(GRAIN);
    }
}

/// Reads of files from their start in steps of at most `step`.
pub(crate) fn reads(files: &[Range<u64>], step: u64) -> Vec<Range<u64>> {
    let mut reads = vec![];
    for file in files {
        let mut at = file.start;
        while at < file.end {
            reads.push(at..file.end.min(at + step));
            at += step;
        }
    }
    reads
}

/// The readers whose figures are known: name, size of the blob, reads.
pub(crate) fn scenarios() -> Vec<(String, u64, Vec<Range<u64>>)> {
    const SIZE: u64 = 1 << 30;
    let mut scenarios = vec![];
    for mean in [12 << 10, 100 << 10] {
        for step in [16 << 10, 128 << 10] {
            let mut numbers = Numbers(42);
            let mut all = files(SIZE, mean, &mut numbers);
            let mut some = vec![];
            let mut bytes = 0;
            while bytes < SIZE / 20 {
                let file = all.swap_remove(numbers.next(all.len() as u64) as usize);
                bytes += file.end - file.start;
                some.push(file);
            }
            let name = format!("scattered, files of {} KiB, {} KiB reads", mean >> 10, step >> 10);
            scenarios.push((name, SIZE, reads(&some, step)));
        }
    }
    for step in [16 << 10, 128 << 10, 1 << 20] {
        let name = format!("all in sequence, {} KiB reads", step >> 10);
        scenarios.push((name, 256 << 20, reads(std::slice::from_ref(&(0..256 << 20)), step)));
    }
    let mut numbers = Numbers(7);
    let all = files(SIZE, 30 << 10, &mut numbers);
    let mut folders = vec![];
    while folders.iter().map(|file: &Range<u64>| file.end - file.start).sum::<u64>() < SIZE / 20 {
        let first = numbers.next(all.len() as u64 - 200) as usize;
        let some = 20 + numbers.next(180) as usize;
        // One in ten is not wanted.
        folders.extend(all[first..first + some].iter().filter(|_| numbers.next(10) > 0).cloned());
    }
    scenarios.push(("folder by folder, 90 % of each".into(), SIZE, reads(&folders, 128 << 10)));
    let (a, b) = (reads(&[0..32 << 20], 64 << 10), reads(&[512 << 20..544 << 20], 64 << 10));
    let both = a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect();
    scenarios.push(("two readers in sequence".into(), SIZE, both));
    let mut back = reads(&[100 << 20..132 << 20], 64 << 10);
    back.reverse();
    scenarios.push(("backwards".into(), SIZE, back));
    scenarios
}

/// The figures as a table.
#[cfg_attr(test, expect(dead_code, reason = "for the example"))]
pub(crate) fn table(config: WindowConfig) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "{:<42}{:>9}{:>9}{:>7}{:>10}{:>9}{:>8}\n",
        "reads", "MiB read", "fetched", "ratio", "requests", "seconds", "of link"
    );
    for (name, size, reads) in scenarios() {
        let outcome = run(config, size, &reads);
        writeln!(
            text,
            "{name:<42}{:>9.1}{:>9.1}{:>7.2}{:>10}{:>9.2}{:>7.0}%",
            outcome.needed as f64 / 1048576.0,
            outcome.fetched as f64 / 1048576.0,
            outcome.ratio(),
            outcome.requests,
            outcome.seconds,
            outcome.efficiency() * 100.0
        )
        .expect("text takes what it is given");
    }
    text
}
