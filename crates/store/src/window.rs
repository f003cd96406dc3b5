// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far beyond what a reader misses it is worth fetching.
//!
//! Logic only: it refuses to know who fetches, and from where. Two forces: readers in sequence want
//! large requests and the next one under way before they need it; scattered readers want nothing
//! but what they ask for. Invariants: bytes that were fetched and that nobody has wanted yet are
//! never more than a share of those that were wanted, and a constant; what is left out is fetched
//! only for who asks for it.

mod guesses;
mod left_out;
#[cfg(test)]
pub(crate) mod simulate;
#[cfg(test)]
mod tests;

use guesses::Guesses;
use left_out::LeftOut;
use std::ops::Range;
use std::time::Duration;

/// How a [`Window`] decides.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..WindowConfig::default()`")]
pub struct WindowConfig {
    /// Bytes that are present or not as one: a power of two.
    pub grain: u64,
    /// Bytes whose digest is one: a power of two, at least `grain`.
    pub group: u64,
    /// Bytes fetched and not wanted for each wanted one.
    pub waste_ratio: f64,
    /// Bytes fetched and not wanted beyond that.
    pub waste_constant: u64,
    /// The first guess at a reader in sequence.
    pub window_min: u64,
    /// The largest.
    pub window_max: u64,
    /// Until an estimate is given: the time of a request without bytes.
    pub rtt: Duration,
    /// Until an estimate is given: bytes a second.
    pub bytes_per_second: u64,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self {
            grain: 4096,
            group: 64 << 10,
            // With the table's pages, scattered readers stay below 1.5 bytes for each needed one.
            waste_ratio: 0.25,
            waste_constant: 1 << 20,
            window_min: 128 << 10,
            window_max: 8 << 20,
            rtt: Duration::from_millis(20),
            bytes_per_second: 25_000_000,
        }
    }
}

/// What to fetch because of a read. All of whole grains, in order, within the blob.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Before the read can be answered (what the read needs of them; it need not wait for the rest).
    pub now: Vec<Range<u64>>,
    /// Worth beginning now, while nobody waits for it: at once, after what is in `now`.
    pub ahead: Vec<Range<u64>>,
}

impl Plan {
    /// Nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.ahead.is_empty()
    }
}

/// Readers of one blob, as far as it shows in what they read.
#[derive(Debug)]
pub struct Window {
    config: WindowConfig,
    size: u64,
    streams: Vec<Stream>,
    guesses: Guesses,
    /// What readers have from elsewhere. Distances between reads are told without it: who wants only
    /// what lies between reads in sequence, too.
    left_out: LeftOut,
    /// Bytes that were fetched because they were asked for, or guessed rightly.
    wanted: u64,
    /// Counts reads, for the least recently used stream.
    now: u64,
}

/// One reader in sequence.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where it has read to.
    end: u64,
    /// Up to where has been fetched or is being fetched for it.
    fetched: u64,
    /// How far ahead of it to fetch; 0: nothing shows that it goes on.
    window: u64,
    used: u64,
}

/// More interleaved readers of one blob than this are not told apart.
const STREAMS_MAX: usize = 32;

impl Window {
    /// For a blob of `size` bytes.
    #[must_use]
    pub fn new(config: WindowConfig, size: u64) -> Self {
        Self {
            config,
            size,
            streams: vec![],
            guesses: Guesses::default(),
            left_out: LeftOut::default(),
            wanted: 0,
            now: 0,
        }
    }

    /// Guesses at nothing in `ranges`, and at what lies behind them as if they were not there. Takes
    /// the place of what was told before.
    pub fn leave_out(&mut self, ranges: &[Range<u64>]) {
        self.left_out = LeftOut::new(ranges, self.config.grain, self.size);
    }

    /// Newer estimates of the way to the origin.
    pub fn estimate(&mut self, rtt: Duration, bytes_per_second: u64) {
        self.config.rtt = rtt;
        self.config.bytes_per_second = bytes_per_second.max(1);
    }

    /// Bytes that were fetched without being wanted yet.
    #[must_use]
    pub const fn wasted(&self) -> u64 {
        self.guesses.bytes()
    }

    /// Bytes that were fetched and wanted.
    #[must_use]
    pub const fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether reads that miss nothing need not be told: nothing was guessed that they could use.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.guesses.bytes() == 0
    }

    /// A reader wants `read`. `missing` tells which parts of a range of whole grains are neither
    /// present nor on their way, in order, of whole grains. What the plan tells is taken as fetched.
    pub fn read(
        &mut self,
        read: Range<u64>,
        mut missing: impl FnMut(Range<u64>) -> Vec<Range<u64>>,
    ) -> Plan {
        let read = read.start.min(self.size)..read.end.min(self.size);
        if read.is_empty() {
            return Plan::default();
        }
        self.now += 1;
        self.wanted += self.guesses.take(&self.grains(&read));
        let needed = missing(self.grains(&read));
        self.wanted += needed.iter().map(len).sum::<u64>();
        let index = self.stream(&read, !needed.is_empty());
        let mut plan = Plan { now: needed, ahead: vec![] };
        self.bridge(&mut plan);
        if let Some(index) = index {
            self.reach(index, &read, &mut plan, &mut missing);
        }
        plan
    }

    /// What was planned and did not come: it is no waste.
    pub fn failed(&mut self, range: &Range<u64>) {
        self.guesses.take(&self.grains(range));
        for stream in &mut self.streams {
            if stream.end <= range.start && range.start < stream.fetched {
                stream.fetched = range.start.max(stream.end);
            }
        }
    }

    /// `range` made larger to whole grains of the blob.
    fn grains(&self, range: &Range<u64>) -> Range<u64> {
        let grain = self.config.grain;
        let end = range.end.div_ceil(grain).saturating_mul(grain).min(self.size);
        range.start / grain * grain..end
    }

    /// Bytes that may still be guessed.
    fn budget(&self) -> u64 {
        let share = (self.wanted as f64 * self.config.waste_ratio) as u64;
        share.saturating_add(self.config.waste_constant).saturating_sub(self.guesses.bytes())
    }

    /// The reader that goes on with this read: it begins near where one ended. A new one if none.
    /// A read that misses nothing and goes on from nowhere is nobody's.
    fn stream(&mut self, read: &Range<u64>, misses: bool) -> Option<usize> {
        let start = self.left_out.rank(read.start);
        let end = |stream: &Stream| self.left_out.rank(stream.end);
        let near = |stream: &Stream| {
            // Forward over a gap (the window covers it) or back a little (threads of one reader).
            let ahead = stream.window.max(self.config.group);
            let back = stream.window.min(1 << 20).max(self.config.group);
            start <= end(stream).saturating_add(ahead) && end(stream) <= start.saturating_add(back)
        };
        let distance = |stream: &Stream| end(stream).abs_diff(start);
        let found = (0..self.streams.len())
            .filter(|index| near(&self.streams[*index]))
            .min_by_key(|index| distance(&self.streams[*index]));
        if let Some(index) = found {
            self.streams[index].used = self.now;
            return Some(index);
        }
        if !misses {
            return None;
        }
        let stream = Stream { end: read.end, fetched: read.end, window: 0, used: self.now };
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
        // The first read of its kind: nothing shows that it goes on.
        None
    }

    /// Joins what lies so near together that a second request costs more than the bytes between.
    fn bridge(&mut self, plan: &mut Plan) {
        let rate = self.config.bytes_per_second as f64;
        let gap_max = (self.config.rtt.as_secs_f64() * rate) as u64;
        let mut joined: Vec<Range<u64>> = vec![];
        for range in std::mem::take(&mut plan.now) {
            match joined.last_mut() {
                Some(last) if range.start - last.end <= gap_max.min(self.budget()) => {
                    // A gap of one read is present: it comes twice, and nobody will want it again.
                    self.guesses.lose(range.start - last.end);
                    last.end = range.end;
                }
                _ => joined.push(range),
            }
        }
        plan.now = joined;
    }

    /// Lets a stream fetch ahead.
    fn reach(
        &mut self,
        index: usize,
        read: &Range<u64>,
        plan: &mut Plan,
        missing: &mut impl FnMut(Range<u64>) -> Vec<Range<u64>>,
    ) {
        let mut stream = self.streams[index];
        // In sequence is who goes on where it ended; who skips or goes back is trusted less.
        let rank = |at| self.left_out.rank(at);
        let gap = rank(read.start).abs_diff(rank(stream.end));
        let was = stream.window;
        let is_forward = read.end > stream.end;
        if is_forward && gap <= self.config.group {
            if !plan.now.is_empty() || rank(read.end).saturating_add(was) > rank(stream.fetched) {
                stream.window = (was * 2).max(self.config.window_min);
            }
        } else if is_forward {
            stream.window = was / 2;
        }
        stream.window = stream.window.min(self.config.window_max);
        stream.end = stream.end.max(read.end);
        stream.fetched = stream.fetched.max(stream.end);
        // Half of the window is under way while the other half is read.
        let left = rank(stream.fetched).saturating_sub(rank(stream.end));
        if stream.window > 0 && left <= stream.window / 2 {
            let budget = self.budget();
            let reach = (stream.window - left).min(budget);
            let start = self.grains(&(stream.fetched..stream.fetched)).end;
            let end = self.whole(rank(stream.fetched).saturating_add(reach));
            // A request for little is not worth its round trip, unless the blob ends.
            let worth = rank(end).saturating_sub(rank(start)) >= self.worth(&stream);
            if end > start && (worth || end == self.size) {
                let wanted = self.left_out.others(start..end);
                // What is left out behind it may be told to be wanted after all.
                stream.fetched = wanted.last().map_or(stream.fetched, |last| last.end);
                for range in wanted.into_iter().flat_map(missing) {
                    self.guesses.add(range.clone());
                    match plan.now.last_mut() {
                        Some(last) if last.end == range.start => last.end = range.end,
                        _ => plan.ahead.push(range),
                    }
                }
            }
        }
        self.streams[index] = stream;
    }

    /// Where to end who has so many bytes before it that are not left out: at whole groups.
    fn whole(&self, rank: u64) -> u64 {
        let end = self.left_out.at(rank);
        // What is left out to the very end is no more than an end.
        if self.left_out.rank(end) >= self.left_out.rank(self.size) {
            return self.size;
        }
        end / self.config.group * self.config.group
    }

    /// The least that is asked for ahead.
    fn worth(&self, stream: &Stream) -> u64 {
        (stream.window / 4).clamp(self.config.group, 1 << 20)
    }
}

const fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}
