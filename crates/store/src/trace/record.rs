// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recording while a mount is read.

use super::{Touch, Trace};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bits of the map of a blob that was touched: units grow until it fits.
const UNITS_MAX: u64 = 1 << 23;

/// Records first touches of many blobs. Clones record into the same trace.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    start: Instant,
    touches_max: usize,
    state: Mutex<Trace>,
    is_full: AtomicBool,
}

impl Recorder {
    /// Begins a run. Units are what touches are rounded to: the grain.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(Trace::TOUCHES_MAX)
    }

    /// Keeps at most so many touches (32 bytes each), the first ones.
    #[must_use]
    pub fn with_limit(touches_max: usize) -> Self {
        Self::with(Trace::default(), Duration::ZERO, touches_max)
    }

    /// Goes on with a run that began `elapsed` ago, of which somebody else has recorded `trace`.
    #[must_use]
    pub fn resume(trace: Trace, elapsed: Duration) -> Self {
        Self::with(trace, elapsed, Trace::TOUCHES_MAX)
    }

    fn with(trace: Trace, elapsed: Duration, touches_max: usize) -> Self {
        let state = Mutex::new(Trace { runs: 1, ..trace });
        let touches_max = touches_max.min(Trace::TOUCHES_MAX);
        let is_full = AtomicBool::new(false);
        let now = Instant::now();
        let start = now.checked_sub(elapsed).unwrap_or(now);
        Self { inner: Arc::new(Inner { start, touches_max, state, is_full }) }
    }

    /// How many touches there are: whether something was added since one looked.
    #[must_use]
    pub fn touch_count(&self) -> usize {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).touches.len()
    }

    /// For one blob of `size` bytes in units of `unit` (a power of two); `None`: too many blobs, or
    /// a name that no file can hold. Costs a bit a unit, at most 1 MiB.
    pub fn blob(&self, name: &str, size: u64, unit: u64) -> Option<BlobRecorder> {
        if !super::file::is_name(name) {
            return None;
        }
        let mut unit = unit.max(512).checked_next_power_of_two()?;
        while size.div_ceil(unit) > UNITS_MAX {
            unit = unit.checked_mul(2)?;
        }
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.blobs.len() >= Trace::BLOBS_MAX {
            return None;
        }
        let known = state.blobs.iter().position(|known| known == name);
        let blob = known.unwrap_or_else(|| {
            state.blobs.push(name.to_owned());
            state.blobs.len() - 1
        });
        let words = size.div_ceil(unit).div_ceil(64) as usize;
        let touched = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        let inner = Arc::clone(&self.inner);
        let recorder = BlobRecorder { inner, blob: blob as u32, size, unit, touched };
        for touch in state.touches.iter().filter(|touch| touch.blob == recorder.blob) {
            recorder.mark(touch.start / unit..touch.end().min(size).div_ceil(unit));
        }
        drop(state);
        Some(recorder)
    }

    /// Whether later touches are lost.
    pub fn is_full(&self) -> bool {
        self.inner.is_full.load(Ordering::Relaxed)
    }

    /// What has been recorded so far.
    pub fn trace(&self) -> Trace {
        let mut trace = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trace.touches.sort_by_key(|touch| touch.micros);
        trace
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("is_full", &self.is_full()).finish_non_exhaustive()
    }
}

/// Records touches of one blob.
pub struct BlobRecorder {
    inner: Arc<Inner>,
    blob: u32,
    size: u64,
    unit: u64,
    /// A bit a unit.
    touched: Box<[AtomicU64]>,
}

impl BlobRecorder {
    /// A reader reads `range`. What was touched before costs a look at a word or two and no lock.
    pub fn touch(&self, range: &Range<u64>) {
        if self.inner.is_full.load(Ordering::Relaxed) {
            return;
        }
        let (first, last) = (range.start / self.unit, range.end.min(self.size).div_ceil(self.unit));
        let mut run: Option<Range<u64>> = None;
        for unit in first..last {
            let bit = 1 << (unit % 64);
            let word = &self.touched[(unit / 64) as usize];
            let is_new = word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
            match &mut run {
                Some(run) if is_new => run.end = unit + 1,
                _ if is_new => run = Some(unit..unit + 1),
                _ => self.keep(run.take()),
            }
        }
        self.keep(run);
    }

    /// What was touched before this one was there.
    fn mark(&self, units: Range<u64>) {
        for unit in units {
            self.touched[(unit / 64) as usize].fetch_or(1 << (unit % 64), Ordering::Relaxed);
        }
    }

    fn keep(&self, units: Option<Range<u64>>) {
        let Some(units) = units else { return };
        let micros = micros(self.inner.start.elapsed());
        let start = units.start * self.unit;
        let len = (units.end * self.unit).min(self.size) - start;
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader in sequence is one touch: it is kept short, and in the order of time.
        if let Some(last) = state.touches.last_mut()
            && last.blob == self.blob
            && last.end() == start
            && last.len + len <= 1 << 20
            && micros.saturating_sub(last.micros) < 10_000
        {
            last.len += len;
            return;
        }
        if state.touches.len() >= self.inner.touches_max {
            self.inner.is_full.store(true, Ordering::Relaxed);
            return;
        }
        state.touches.push(Touch { micros, blob: self.blob, start, len, runs: 1 });
    }
}

impl fmt::Debug for BlobRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobRecorder").field("blob", &self.blob).finish_non_exhaustive()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
