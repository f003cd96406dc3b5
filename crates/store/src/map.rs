// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which grains of a blob are present: a bitmap that all processes of the machine share.
//!
//! The map lives in shared memory (a file that is mapped) and is never trusted over a boot: what
//! survives is the log's. It refuses to know how bytes come. Invariant: a bit is set only after all
//! bytes of its grain have been written, and bytes are taken away only after its bit was cleared
//! and the generation raised.

mod bits;
mod shared;

pub(crate) use bits::Bits;
pub(crate) use shared::{Map, MapState};

/// Bytes of a grain: the unit of presence.
pub(crate) const GRAIN_BITS: u32 = 12;
/// Bytes of a grain.
pub(crate) const GRAIN: u64 = 1 << GRAIN_BITS;
/// Bytes of a group: the unit of last use and of eviction.
pub(crate) const GROUP: u64 = 1 << 16;
/// Grains of a group.
pub(crate) const GROUP_GRAINS: u64 = GROUP / GRAIN;

/// The grains that hold a part of `range` (bytes).
pub(crate) const fn grains_of(range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    range.start / GRAIN..range.end.div_ceil(GRAIN)
}

/// The bytes of `grains`, in a blob of `size`.
pub(crate) fn bytes_of(grains: &std::ops::Range<u64>, size: u64) -> std::ops::Range<u64> {
    (grains.start * GRAIN).min(size)..(grains.end * GRAIN).min(size)
}
