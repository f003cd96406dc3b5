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
    /// Length that fits even if nothing compresses, unless the output is very small.
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
        let mut len = bracket.first(hint);
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
        let len_min = incompressible_len.clamp(1, len_max);
        let slack = target / SLACK_SHARE;
        Self { len_max, len_min, target, slack, low: None, high: None }
    }

    /// The length to begin with.
    fn first(&self, hint: usize) -> usize {
        let guess = if hint == 0 { self.target.saturating_mul(3) } else { hint };
        guess.clamp(self.len_min, self.len_max)
    }

    /// The length to try next, or nothing if the search is over; `trial` counts those done.
    ///
    /// Always strictly between `low` and `high`, so that no length is tried twice.
    fn next(&self, trial: u32) -> Option<usize> {
        // In the middle of the accepted range.
        let aim = self.target - self.slack / 2;
        match (self.low, self.high) {
            (None, None | Some(Exceeds { len: 1, .. })) => None,
            (Some(low), _) if low.len == self.len_max || self.target - low.size <= self.slack => {
                None
            }
            (Some(low), None) => {
                let guess = scale(low.len, aim, low.size);
                Some(guess.max(low.len + 1).min(self.len_max))
            }
            // The output is too small for the codec's own bytes, or the codec broke its promise.
            (None, Some(high)) if high.len <= self.len_min => Some(high.len / 2),
            (None, Some(high)) => {
                let guess = match high.size {
                    // Something of the size does not depend on the length; after some failures take
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
        // What could still be gained, in output bytes. Content may change inside the gap, so its
        // own density counts, not the one of what is before it.
        let gain = high.size.map_or(gap, |size| size - low.size);
        if gap <= 1 || gain <= self.slack {
            return None;
        }
        let middle = low.len + gap / 2;
        if trial >= TRIALS_SECANT && trial.is_multiple_of(2) {
            return Some(middle);
        }
        let guess = match high.size {
            // Not zero: one is above the target, the other is not.
            Some(size) => low.len + scale(gap, aim - low.size, size - low.size),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pretends that `src` compresses to `size(src.len())` bytes.
    struct Model<F>(F);

    impl<F> fmt::Debug for Model<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Model")
        }
    }

    impl<F: Fn(usize) -> usize + Send> WholeCompress for Model<F> {
        fn algorithm(&self) -> Algorithm {
            Algorithm::Deflate
        }

        fn compress(&mut self, src: &[u8], out: &mut [u8]) -> Result<Option<usize>, EncodeError> {
            let size = (self.0)(src.len());
            Ok((size <= out.len()).then_some(size))
        }

        fn incompressible_len(&self, len: usize) -> usize {
            len.saturating_sub(16)
        }
    }

    /// Returns what was consumed and the number of trials.
    fn search(
        size: impl Fn(usize) -> usize + Send,
        len: usize,
        target: usize,
        hint: usize,
    ) -> (usize, u64) {
        let mut search = Search::new(Model(size));
        let prefix =
            search.compress_prefix_hinted(&vec![0; len], &mut vec![0; target], hint).unwrap();
        assert!(prefix.written <= target);
        (prefix.consumed, search.trials())
    }

    #[test]
    fn linear_sizes_take_few_trials() {
        for ratio in [1.0, 0.9, 0.5, 0.3, 0.1, 0.01] {
            let size = |len: usize| 12 + (len as f64 * ratio) as usize;
            for target in [512, 4096, 65_536, 1 << 20] {
                let (consumed, trials) = search(size, 12 << 20, target, 0);
                let left = target - size(consumed);
                assert!(left <= target / SLACK_SHARE + 1 || consumed == 12 << 20, "{ratio}");
                assert!(trials <= 5, "{ratio} {target}: {trials}");
                let (_, trials) = search(size, 12 << 20, target, consumed);
                assert_eq!(trials, 1);
            }
        }
    }

    #[test]
    fn everything_fits_in_two_trials() {
        assert_eq!(search(|_| 20, 2 << 20, 4096, 0), (2 << 20, 2));
        assert_eq!(search(|_| 20, 12 << 20, 4096, 0), (12 << 20, 3));
        assert_eq!(search(|len| len / 2, 5000, 4096, 0), (5000, 1));
        assert_eq!(search(|len| len / 2, 1, 4096, 0), (1, 1));
    }

    #[test]
    fn odd_sizes_end_with_what_is_sure_at_least() {
        // Zeros and then noise; steps; smaller again when longer.
        let cliff = |len: usize| 20 + len.saturating_sub(1_000_000);
        let (consumed, trials) = search(cliff, 12 << 20, 4096, 0);
        assert!((1_003_500..=1_004_076).contains(&consumed), "{consumed}");
        assert!(trials <= u64::from(TRIALS_MAX));
        for hint in [0, 1, 4096, 100_000, usize::MAX] {
            let steps = |len: usize| (len / 3000) * 1500 + 20;
            assert!(search(steps, 1 << 20, 4096, hint).0 >= 4080);
            let saw = |len: usize| len / 2 + (len % 97) * 20;
            assert!(search(saw, 1 << 20, 4096, hint).0 >= 4000);
        }
    }

    #[test]
    fn an_output_too_small_for_anything_is_an_error() {
        let mut search = Search::new(Model(|len| len + 100));
        let result = search.compress_prefix(&[0; 1000], &mut [0; 50]);
        let algorithm = Algorithm::Deflate;
        assert_eq!(result, Err(EncodeError::OutputTooSmall { algorithm, len: 50 }));
        assert!(search.trials() <= u64::from(TRIALS_MAX));
        let empty = search.compress_prefix(&[0; 1000], &mut []);
        assert_eq!(empty, Err(EncodeError::OutputTooSmall { algorithm, len: 0 }));
    }
}
