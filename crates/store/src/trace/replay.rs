// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to fetch, in which order and in what pieces, so that a run finds what it needs.

use super::Trace;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// How a [`Replay`] is cut.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..ReplayConfig::default()`")]
pub struct ReplayConfig {
    /// Bytes that are fetched and verified as one.
    pub align: u64,
    /// The first batch: small, so that its bytes come soon.
    pub batch_min: u64,
    /// The largest batch: within one the order of time gives way to requests that are worth it.
    pub batch_max: u64,
    /// The longest request: who waits for a part of it waits for no more than this.
    pub step_max: u64,
    /// Time of a request without bytes.
    pub rtt: Duration,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Requests at once: gaps cost their bytes, requests a share of a round trip.
    pub requests: u32,
    /// Bytes between wanted ones for each wanted one: less than 0.2, the goal for time.
    pub gap_ratio: f64,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            align: 4096,
            batch_min: 256 << 10,
            batch_max: 16 << 20,
            step_max: 512 << 10,
            rtt: Duration::from_millis(20),
            bytes_per_second: 25_000_000,
            requests: 48,
            gap_ratio: 0.1,
        }
    }
}

/// One request of a replay.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all there is to a request")]
pub struct Step {
    /// Which of the trace's blobs.
    pub blob: u32,
    /// Its bytes.
    pub range: Range<u64>,
}

/// Requests in order: batches of touches in the order of time; in each of them what lies together is
/// one request, and those come first that are wanted first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a list")]
pub struct Replay {
    /// Requests, to be begun in order.
    pub batches: Vec<Vec<Step>>,
    /// Bytes of touches.
    pub wanted: u64,
    /// Bytes of steps.
    pub planned: u64,
}

/// What a batch wants: for each blob runs, and in order when what is wanted.
#[derive(Default)]
struct Batch {
    runs: BTreeMap<u32, Runs>,
    /// Blob and start of a piece, and which piece in the order of time it is.
    turns: BTreeMap<(u32, u64), usize>,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, blob: u32, range: Range<u64>) {
        self.bytes += range.end - range.start;
        let turn = self.turns.len();
        self.turns.insert((blob, range.start), turn);
        self.runs.entry(blob).or_default().add(range);
    }

    /// When the first byte of a step is wanted.
    fn turn(&self, step: &Step) -> usize {
        let pieces = self.turns.range((step.blob, step.range.start)..(step.blob, step.range.end));
        // A step that holds the start of no piece goes on with one that began before.
        let before = || self.turns.range(..(step.blob, step.range.start)).next_back();
        pieces.map(|(_, turn)| *turn).min().or_else(|| before().map(|(_, turn)| *turn)).unwrap_or(0)
    }
}

impl Replay {
    /// Plans for a trace. `sizes`: of the trace's blobs; `None`: not here, left out.
    #[must_use]
    pub fn plan(trace: &Trace, sizes: &[Option<u64>], config: &ReplayConfig) -> Self {
        let mut replay = Self::default();
        let mut done: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let (mut batch, mut batch_max) = (Batch::default(), config.batch_min.max(1));
        let align = config.align.max(1);
        for touch in &trace.touches {
            let Some(Some(size)) = sizes.get(touch.blob as usize) else { continue };
            let end = touch.end().min(*size);
            let end = end.div_ceil(align).saturating_mul(align).min(*size);
            let start = touch.start / align * align;
            if start >= end {
                continue;
            }
            // Long touches in pieces, so that no batch is much larger than it may be.
            let mut at = start;
            while at < end {
                let piece = at..end.min(at.saturating_add(config.step_max.max(align)));
                at = piece.end;
                for range in done[touch.blob as usize].add(piece) {
                    batch.add(touch.blob, range);
                }
                if batch.bytes >= batch_max {
                    replay.batch(std::mem::take(&mut batch), config);
                    batch_max = batch_max.saturating_mul(2).min(config.batch_max.max(1));
                }
            }
        }
        replay.batch(batch, config);
        replay
    }

    /// All requests, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.batches.iter().flatten()
    }

    /// Requests for what one batch wants: neighbours joined over gaps as far as that is cheaper than
    /// another request.
    fn batch(&mut self, mut batch: Batch, config: &ReplayConfig) {
        self.wanted += batch.bytes;
        let trip = config.rtt.as_secs_f64() * config.bytes_per_second as f64;
        let gap_max = (trip / f64::from(config.requests.max(1))) as u64;
        // The smallest gaps first: they save a request for the fewest bytes.
        let mut gaps: Vec<(u64, u32, u64)> = vec![];
        for (blob, runs) in &batch.runs {
            let mut end: Option<u64> = None;
            for (start, stop) in &runs.0 {
                if let Some(end) = end.filter(|end| start - end <= gap_max) {
                    gaps.push((start - end, *blob, *start));
                }
                end = Some(*stop);
            }
        }
        gaps.sort_unstable();
        let mut budget = (batch.bytes as f64 * config.gap_ratio.max(0.0)) as u64;
        let mut joined = std::collections::HashSet::new();
        for (gap, blob, start) in gaps {
            let Some(rest) = budget.checked_sub(gap) else { break };
            budget = rest;
            joined.insert((blob, start));
        }
        let mut steps = vec![];
        for (blob, runs) in std::mem::take(&mut batch.runs) {
            let mut open: Option<Range<u64>> = None;
            for (start, end) in runs.0 {
                match &mut open {
                    Some(open)
                        if joined.contains(&(blob, start))
                            && end - open.start <= config.step_max =>
                    {
                        open.end = end;
                    }
                    _ => cut(blob, open.replace(start..end), config, &mut steps),
                }
            }
            cut(blob, open, config, &mut steps);
        }
        steps.sort_by_cached_key(|step| batch.turn(step));
        self.planned += steps.iter().map(|step| step.range.end - step.range.start).sum::<u64>();
        if !steps.is_empty() {
            self.batches.push(steps);
        }
    }
}

/// Steps for a range.
fn cut(blob: u32, range: Option<Range<u64>>, config: &ReplayConfig, steps: &mut Vec<Step>) {
    let Some(range) = range else { return };
    let step_max = config.step_max.max(config.align).max(1);
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(step_max));
        steps.push(Step { blob, range: at..end });
        at = end;
    }
}

/// Runs that do not touch each other: start to end.
#[derive(Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Adds a range; what of it is new.
    fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut all = range.clone();
        let mut new = vec![];
        let mut end = range.end;
        // From the last run that begins at or before the end, backwards.
        while let Some((start, stop)) =
            self.0.range(..=range.end).next_back().map(|(start, stop)| (*start, *stop))
        {
            if stop < range.start {
                break;
            }
            self.0.remove(&start);
            if stop < end {
                new.push(stop.max(range.start)..end);
            }
            end = end.min(start.max(range.start));
            all = all.start.min(start)..all.end.max(stop);
        }
        if range.start < end {
            new.push(range.start..end);
        }
        new.retain(|range| range.start < range.end);
        new.reverse();
        self.0.insert(all.start, all.end);
        new
    }
}
