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
    /// The first step: small, so that its bytes come soon.
    pub step_min: u64,
    /// The largest step, and the longest request.
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
            step_min: 256 << 10,
            step_max: 16 << 20,
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

/// Requests in order: groups of touches in the order of time, each group in the order of the blob.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a list")]
pub struct Replay {
    /// Requests, to be begun in order.
    pub steps: Vec<Step>,
    /// Bytes of touches.
    pub wanted: u64,
    /// Bytes of steps.
    pub planned: u64,
}

impl Replay {
    /// Plans for a trace. `sizes`: of the trace's blobs; `None`: not here, left out.
    #[must_use]
    pub fn plan(trace: &Trace, sizes: &[Option<u64>], config: &ReplayConfig) -> Self {
        let mut replay = Self::default();
        let mut done: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let mut batch: BTreeMap<u32, Runs> = BTreeMap::new();
        let (mut batch_bytes, mut batch_max) = (0_u64, config.step_min.max(1));
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
                    batch_bytes += range.end - range.start;
                    batch.entry(touch.blob).or_default().add(range);
                }
                if batch_bytes >= batch_max {
                    replay.batch(&mut batch, config);
                    batch_bytes = 0;
                    batch_max = (batch_max.saturating_mul(2)).min(config.step_max * 4);
                }
            }
        }
        replay.batch(&mut batch, config);
        replay
    }

    /// Requests for what one batch wants: neighbours joined over gaps as far as that is cheaper than
    /// another request.
    fn batch(&mut self, batch: &mut BTreeMap<u32, Runs>, config: &ReplayConfig) {
        let batch = std::mem::take(batch);
        let wanted: u64 = batch.values().map(Runs::bytes).sum();
        self.wanted += wanted;
        let trip = config.rtt.as_secs_f64() * config.bytes_per_second as f64;
        let gap_max = (trip / f64::from(config.requests.max(1))) as u64;
        // The smallest gaps first: they save a request for the fewest bytes.
        let mut gaps: Vec<(u64, u32, u64)> = vec![];
        for (blob, runs) in &batch {
            let mut end: Option<u64> = None;
            for (start, stop) in &runs.0 {
                if let Some(end) = end.filter(|end| start - end <= gap_max) {
                    gaps.push((start - end, *blob, *start));
                }
                end = Some(*stop);
            }
        }
        gaps.sort_unstable();
        let mut budget = (wanted as f64 * config.gap_ratio.max(0.0)) as u64;
        let mut joined = std::collections::HashSet::new();
        for (gap, blob, start) in gaps {
            let Some(rest) = budget.checked_sub(gap) else { break };
            budget = rest;
            joined.insert((blob, start));
        }
        for (blob, runs) in batch {
            let mut open: Option<Range<u64>> = None;
            for (start, end) in runs.0 {
                match &mut open {
                    Some(open)
                        if joined.contains(&(blob, start))
                            && end - open.start <= config.step_max =>
                    {
                        open.end = end;
                    }
                    _ => self.push(blob, open.replace(start..end), config),
                }
            }
            self.push(blob, open, config);
        }
    }

    fn push(&mut self, blob: u32, range: Option<Range<u64>>, config: &ReplayConfig) {
        let Some(range) = range else { return };
        let step_max = config.step_max.max(config.align).max(1);
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at.saturating_add(step_max));
            self.planned += end - at;
            self.steps.push(Step { blob, range: at..end });
            at = end;
        }
    }
}

/// Runs that do not touch each other: start to end.
#[derive(Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

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
