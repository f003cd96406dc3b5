// SPDX-License-Identifier: MIT OR Apache-2.0
//! Integer conversions that cannot fail, and little-endian reads out of untrusted slices.
//!
//! `as` is denied in this crate; these helpers are the only place where a width changes without a
//! check, and each says why it may.

use crate::{FormatError, Result};

const _: () = assert!(size_of::<usize>() == 8, "ferrofs needs 64-bit pointers");

/// Widens to `usize`.
#[expect(clippy::as_conversions, reason = "usize has 64 bits, asserted above")]
#[must_use]
pub const fn usize_from_u32(value: u32) -> usize {
    value as usize
}

/// Converts to `usize`; the value may still be far larger than any buffer.
#[expect(clippy::as_conversions, reason = "usize has 64 bits, asserted above")]
#[must_use]
pub const fn usize_from_u64(value: u64) -> usize {
    value as usize
}

/// Widens to `u64`.
#[expect(clippy::as_conversions, reason = "usize has 64 bits, asserted above")]
#[must_use]
pub const fn u64_from_usize(value: usize) -> u64 {
    value as u64
}

/// Reads `N` bytes at `offset`, or says what was cut short.
pub(crate) fn bytes_at<const N: usize>(
    bytes: &[u8],
    offset: usize,
    what: &'static str,
) -> Result<[u8; N]> {
    offset
        .checked_add(N)
        .and_then(|end| bytes.get(offset..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(FormatError::Truncated {
            what,
            needed: u64_from_usize(offset.saturating_add(N)),
            have: u64_from_usize(bytes.len()),
        })
}

/// Little-endian `u16` at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize, what: &'static str) -> Result<u16> {
    bytes_at(bytes, offset, what).map(u16::from_le_bytes)
}

/// Little-endian `u32` at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize, what: &'static str) -> Result<u32> {
    bytes_at(bytes, offset, what).map(u32::from_le_bytes)
}

/// Little-endian `u64` at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize, what: &'static str) -> Result<u64> {
    bytes_at(bytes, offset, what).map(u64::from_le_bytes)
}

/// Rounds up to a multiple of `unit`, which is a power of two; `None` on overflow.
#[must_use]
pub const fn round_up(value: u64, unit: u64) -> Option<u64> {
    debug_assert!(unit.is_power_of_two());
    let Some(mask) = unit.checked_sub(1) else { return None };
    match value.checked_add(mask) {
        Some(sum) => Some(sum & !mask),
        None => None,
    }
}

/// Rounds down to a multiple of `unit`, which is a power of two.
#[must_use]
pub const fn round_down(value: u64, unit: u64) -> u64 {
    debug_assert!(unit.is_power_of_two());
    value & !(unit.saturating_sub(1))
}
