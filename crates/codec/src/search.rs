// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fixed output for codecs that only compress whole buffers: a search for the right input length.
//!
//! The encoded size grows nearly linearly with the input, so instead of halving intervals the next
//! length is interpolated between a length that fits and one that does not, using both their sizes.
//! For that, trials go into a buffer larger than the output wanted. Three to five trials do, where a
//! binary search takes ten or more.

use core::fmt;
use core::mem;

use crate::{Algorithm, EncodeError, FixedOutput, Prefix};

/// A codec that compresses whole buffers.
pub(crate) trait WholeCompress: fmt::Debug + Send {
    fn algorithm(&self) -> Algorithm;

    /// Compresses all of `src`, which is not empty, into `out`; `None` if it does not fit there.
    /// The output depends on `src` only, except for whether it fits.
    fn compress(&mut self, src: &[u8], out: &mut [u8]) -> Result<Option<usize>, EncodeError>;

    /// Any input of this length fits `len` bytes of output.
    fn incompressible_len(&self, len: usize) -> usize;
}

/// The search stops when it has used all but this share of the output.
const SLACK_SHARE: usize = 256;
/// The search takes what it has after this many trials. Reached only by inputs whose encoded size
/// is far from linear.
const TRIALS_MAX: u32 = 20;
/// From here on every second step halves the interval, so that it shrinks whatever the sizes say.
const TRIALS_SECANT: u32 = 6;

/// Makes [`FixedOutput`] of [`WholeCompress`].
#[derive(Debug)]
pub(crate) struct Search<C> {
    codec: C,
    /// The best result so far and the current trial. They only grow.
    best: Vec<u8>,
    trial: Vec<u8>,
    trials: u64,
}

/// A length that fits, and its encoded size.
#[derive(Clone, Copy, Debug)]
struct Fits {
    len: usize,
    size: usize,
}

/// A length that does not fit, and its encoded size if it was not larger than the trial buffer.
#[derive(Clone, Copy, Debug)]
struct Exceeds {
    len: usize,
    size: Option<usize>,
}

/// The state of one search.
#[derive(Debug)]
struct Bracket {
    /// Longest input there is.
    len_max: usize,
    /// Length that fits even if nothing compresses.
    len_min: usize,
    /// Size of the output.
    target: usize,
    /// Output that may be left unused.
    slack: usize,
    low: Option<Fits>,
    high: Option<Exceeds>,
}

impl<C: WholeCompress> Search<C> {
    pub(crate) fn new(codec: C) -> Self {
        Self { codec, best: Vec::new(), trial: Vec::new(), trials: 0 }
    }

    /// Compresses into `self.trial[..capacity]`.
    fn run(&mut self, src: &[u8], capacity: usize) -> Result<Option<usize>, EncodeError> {
        if self.trial.len() < capacity {
            self.trial.resize(capacity, 0);
        }
        self.trials += 1;
        self.codec.compress(src, &mut self.trial[..capacity])
    }
}

impl<C: WholeCompress> FixedOutput for Search<C> {
    fn compress_prefix_hinted(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        hint: usize,
    ) -> Result<Prefix, EncodeError> {
        if src.is_empty() {
            return Ok(Prefix::default());
        }
        let target = dst.len();
        let too_small = EncodeError::OutputTooSmall { algorithm: self.algorithm(), len: target };
        let mut bracket = Bracket::new(src.len(), self.codec.incompressible_len(target), target);
        // Room for what does not fit, so that it still says by how much.
        let capacity = target.saturating_mul(2).saturating_add(1024);
        let mut len = bracket.first(hint).ok_or(too_small)?;
        for trial in 1..=TRIALS_MAX {
            match self.run(&src[..len], capacity)? {
                Some(size) if size <= target => {
                    bracket.low = Some(Fits { len, size });
                    mem::swap(&mut self.best, &mut self.trial);
                }
                size => bracket.high = Some(Exceeds { len, size }),
            }
            match bracket.next(trial) {
                Some(next) => len = next,
                None => break,
            }
        }
        let Some(Fits { len, size }) = bracket.low else {
            return Err(too_small);
        };
        dst[..size].copy_from_slice(&self.best[..size]);
        Ok(Prefix { consumed: len, written: size })
    }

    fn compress_all(&mut self, src: &[u8], dst: &mut [u8]) -> Result<Option<usize>, EncodeError> {
        if src.is_empty() {
            return Ok(Some(0));
        }
        // Compressors give up a few bytes before the end of their buffer; give them these.
        let capacity = dst.len().saturating_add(dst.len() / 16).saturating_add(64);
        match self.run(src, capacity)? {
            Some(size) if size <= dst.len() => {
                dst[..size].copy_from_slice(&self.trial[..size]);
                Ok(Some(size))
            }
            _ => Ok(None),
        }
    }

    fn algorithm(&self) -> Algorithm {
        self.codec.algorithm()
    }

    fn trials(&self) -> u64 {
        self.trials
    }
}

impl Bracket {
    fn new(len_max: usize, incompressible_len: usize, target: usize) -> Self {
        let len_min = incompressible_len.min(len_max);
        let slack = target / SLACK_SHARE;
        Self { len_max, len_min, target, slack, low: None, high: None }
    }

    /// The length to begin with, if any input at all can be expected to fit.
    fn first(&self, hint: usize) -> Option<usize> {
        if self.len_min == 0 {
            return None;
        }
        let guess = if hint == 0 { self.target.saturating_mul(3) } else { hint };
        Some(guess.clamp(self.len_min, self.len_max))
    }

    /// The length to try next, or nothing if the search is over; `trial` counts those done.
    ///
    /// Always strictly between `low` and `high`, and not below `len_min`, so the search ends.
    fn next(&self, trial: u32) -> Option<usize> {
        // In the middle of the accepted range.
        let aim = self.target - self.slack / 2;
        match (self.low, self.high) {
            (None, None) => None,
            (Some(low), _) if low.len == self.len_max || self.target - low.size <= self.slack => {
                None
            }
            (Some(low), None) => {
                let guess = scale(low.len, aim, low.size);
                Some(guess.max(low.len + 1).min(self.len_max))
            }
            (None, Some(high)) if high.len <= self.len_min => None,
            (None, Some(high)) => {
                let guess = match high.size {
                    // Something of the size does not depend on the length; after two failures take
                    // the length that is sure.
                    Some(size) if trial <= 3 => scale(high.len, aim, size),
                    None if trial <= 3 => high.len / 2,
                    _ => self.len_min,
                };
                Some(guess.min(high.len - 1).max(self.len_min))
            }
            (Some(low), Some(high)) => self.between(low, high, aim, trial),
        }
    }

    fn between(&self, low: Fits, high: Exceeds, aim: usize, trial: u32) -> Option<usize> {
        let gap = high.len - low.len;
        // All that could still be gained, in output bytes.
        let gain = scale(gap, low.size, low.len);
        if gap <= 1 || gain <= self.slack {
            return None;
        }
        let middle = low.len + gap / 2;
        if trial >= TRIALS_SECANT && trial.is_multiple_of(2) {
            return Some(middle);
        }
        let guess = match high.size {
            Some(size) if size > low.size => {
                low.len + scale(gap, aim.saturating_sub(low.size), size - low.size)
            }
            Some(_) => middle,
            None => scale(low.len, aim, low.size).min(middle),
        };
        // Not so near to either end that the step teaches nothing.
        let margin = (gap / 64).max(1);
        Some(guess.clamp(low.len + margin, high.len - margin))
    }
}

/// `value * numerator / denominator` without overflow.
fn scale(value: usize, numerator: usize, denominator: usize) -> usize {
    let scaled = value as u128 * numerator as u128 / denominator.max(1) as u128;
    usize::try_from(scaled).unwrap_or(usize::MAX)
}
