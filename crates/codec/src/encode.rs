// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoding into a buffer of fixed size.
//!
//! It refuses to know where input comes from and where output goes; the invariant is the one of
//! [`FixedOutput`]: same method, input, output size and hint give the same bytes.

use core::fmt;

use crate::{Algorithm, EncodeError};

/// What an encoder did: `written` bytes of output stand for the first `consumed` bytes of input.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "these two numbers are the whole answer")]
pub struct Prefix {
    /// Number of input bytes represented.
    pub consumed: usize,
    /// Number of output bytes used.
    pub written: usize,
}

/// An encoder that fills a buffer of given size. Reusable; one per thread.
///
/// The output is a pure function of the [`Method`](crate::Method), `src`, `dst.len()` and `hint`:
/// earlier calls leave no trace in it. It does not matter which of several workers' encoders gets
/// which file.
pub trait FixedOutput: Send + fmt::Debug {
    /// Encodes the longest prefix of `src` (within the codec's slack) that fits `dst`.
    ///
    /// `consumed` is 0 only if `src` is empty. `dst.len() >= 64` always suffices; smaller buffers
    /// may give [`EncodeError::OutputTooSmall`]. The caller limits the decoded length of an extent
    /// by the length of `src`.
    fn compress_prefix(&mut self, src: &[u8], dst: &mut [u8]) -> Result<Prefix, EncodeError> {
        self.compress_prefix_hinted(src, dst, 0)
    }

    /// Like [`compress_prefix`](Self::compress_prefix); `hint` is the expected `consumed`, 0 if
    /// unknown. Codecs that have to search start there; the others ignore it.
    ///
    /// The natural hint is what the previous pcluster of the same file consumed. It may change the
    /// output, so take it from something that does not depend on how work was spread over workers.
    fn compress_prefix_hinted(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        hint: usize,
    ) -> Result<Prefix, EncodeError>;

    /// Encodes all of `src` and says how long it became, or `None` if that does not fit `dst`
    /// (whose content is then unspecified).
    fn compress_all(&mut self, src: &[u8], dst: &mut [u8]) -> Result<Option<usize>, EncodeError> {
        let prefix = self.compress_prefix(src, dst)?;
        Ok((prefix.consumed == src.len()).then_some(prefix.written))
    }

    /// The algorithm a reader needs.
    fn algorithm(&self) -> Algorithm;

    /// How often a codec was run so far; more than once per call only if it had to search.
    fn trials(&self) -> u64;
}
