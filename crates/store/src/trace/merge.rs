// SPDX-License-Identifier: MIT OR Apache-2.0
//! One trace of several runs.

use super::{Touch, Trace};
use std::collections::BTreeMap;

/// Cut points of one blob: how many runs more (or fewer) touch what follows, and when.
type Edges = BTreeMap<u64, Vec<Change>>;

#[derive(Clone, Copy)]
struct Change {
    is_begin: bool,
    micros: u64,
    runs: u32,
    trace: usize,
}

impl Trace {
    /// Puts runs together. The time of a touch is the mean over the runs that have it, each counted
    /// once, so that it does not matter in which steps traces were merged. First comes, in the order
    /// of time, what at least half of the runs have touched, then the rest, which most runs do without;
    /// what fewer than `runs_min` have is left out. What more runs have touched comes first among what
    /// was touched within a tenth of a second.
    #[must_use]
    pub fn merge(traces: &[Self], runs_min: u32) -> Self {
        let mut merged = Self::default();
        let mut blobs: BTreeMap<&str, u32> = BTreeMap::new();
        let mut edges: Vec<Edges> = vec![];
        for (number, trace) in traces.iter().enumerate() {
            merged.runs = merged.runs.saturating_add(trace.runs);
            let ids: Vec<Option<u32>> = trace
                .blobs
                .iter()
                .map(|name| {
                    let known = blobs.get(name.as_str()).copied();
                    known.or_else(|| {
                        let id = merged.blobs.len() as u32;
                        (merged.blobs.len() < Self::BLOBS_MAX).then(|| {
                            merged.blobs.push(name.clone());
                            edges.push(Edges::new());
                            blobs.insert(name, id);
                            id
                        })
                    })
                })
                .collect();
            for touch in &trace.touches {
                let Some(Some(id)) = ids.get(touch.blob as usize) else { continue };
                let Touch { micros, runs, .. } = *touch;
                let change = |is_begin| Change { is_begin, micros, runs, trace: number };
                let edges = &mut edges[*id as usize];
                edges.entry(touch.start).or_default().push(change(true));
                edges.entry(touch.end()).or_default().push(change(false));
            }
        }
        for (blob, edges) in edges.into_iter().enumerate() {
            sweep(blob as u32, edges, runs_min, &mut merged.touches);
        }
        let runs = merged.runs;
        // Within a tenth of a second the order is chance; how often is not.
        merged.touches.sort_by_key(|touch| {
            let is_rare = u64::from(touch.runs) * 2 < u64::from(runs);
            let often = u32::MAX - touch.runs;
            (is_rare, touch.micros / 100_000, often, touch.micros, touch.blob, touch.start)
        });
        merged.touches.truncate(Self::TOUCHES_MAX);
        merged
    }
}

/// Walks over one blob and gives out what lies between two cuts.
fn sweep(blob: u32, edges: Edges, runs_min: u32, touches: &mut Vec<Touch>) {
    // By trace: a run that (wrongly) touches a byte twice counts once, by its first touch.
    let mut open: BTreeMap<usize, BTreeMap<(u64, u32), usize>> = BTreeMap::new();
    let mut from = 0;
    for (at, changes) in edges {
        let runs = open
            .values()
            .filter_map(|touches| touches.keys().next())
            .fold(0_u32, |sum, (_, runs)| sum.saturating_add(*runs));
        if runs >= runs_min.max(1) && at > from {
            let times = open.values().filter_map(|touches| touches.keys().next());
            let sums = times.fold((0_u128, 0_u128), |(sum, weight), (time, runs)| {
                (sum + u128::from(*time) * u128::from(*runs), weight + u128::from(*runs))
            });
            let micros = u64::try_from(sums.0 / sums.1.max(1)).unwrap_or(u64::MAX);
            let next = Touch { micros, blob, start: from, len: at - from, runs };
            match touches.last_mut() {
                Some(last)
                    if last.blob == blob
                        && last.end() == from
                        && (last.micros, last.runs) == (micros, runs) =>
                {
                    last.len += next.len;
                }
                _ => touches.push(next),
            }
        }
        for change in changes {
            let key = (change.micros, change.runs);
            let of = open.entry(change.trace).or_default();
            let count = of.entry(key).or_default();
            // An end before its beginning cannot be: touches are not empty.
            *count = if change.is_begin { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                of.remove(&key);
            }
            if of.is_empty() {
                open.remove(&change.trace);
            }
        }
        from = at;
    }
}
