// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units: block size and inode numbers, so that no bare integer is taken for another.

use crate::num::{round_down, round_up};
use crate::{FormatError, Result, limits};
use core::fmt;

/// Block size as a power of two, 9 (512 bytes) to 16 (64 KiB). format.md §2.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BlockBits(u8);

impl BlockBits {
    /// 4096-byte blocks: what every kernel mounts.
    pub const DEFAULT: Self = Self(12);

    /// Accepts 9 to 16.
    pub fn new(bits: u8) -> Result<Self> {
        if (limits::BLOCK_BITS_MIN..=limits::BLOCK_BITS_MAX).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(FormatError::Unsupported { what: "block size bits", value: u64::from(bits) })
        }
    }

    /// Block size in bytes, which must be a power of two.
    pub fn from_size(size: u32) -> Result<Self> {
        if !size.is_power_of_two() {
            return Err(FormatError::Unsupported { what: "block size", value: u64::from(size) });
        }
        u8::try_from(size.trailing_zeros())
            .map_err(|_| FormatError::Unsupported { what: "block size", value: u64::from(size) })
            .and_then(Self::new)
    }

    /// The exponent.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Bytes a block.
    #[must_use]
    pub const fn size(self) -> u32 {
        1 << self.0
    }

    /// Bytes a block, as `u64`.
    #[must_use]
    pub const fn size_u64(self) -> u64 {
        1 << self.0
    }

    /// Bytes a block, as `usize`.
    #[must_use]
    pub const fn size_usize(self) -> usize {
        1 << self.0
    }

    /// Offset within its block.
    #[must_use]
    pub const fn offset_in_block(self, byte: u64) -> u64 {
        byte & self.size_u64().wrapping_sub(1)
    }

    /// Blocks that cover `bytes`.
    #[must_use]
    pub const fn blocks_for(self, bytes: u64) -> u64 {
        let whole = bytes >> self.0;
        if self.offset_in_block(bytes) == 0 { whole } else { whole.saturating_add(1) }
    }

    /// Byte address of a block; `None` past 2^64.
    #[must_use]
    pub const fn byte_of(self, block: u64) -> Option<u64> {
        block.checked_mul(self.size_u64())
    }

    /// Rounds up to whole blocks; `None` on overflow.
    #[must_use]
    pub const fn round_up(self, bytes: u64) -> Option<u64> {
        round_up(bytes, self.size_u64())
    }

    /// Rounds down to whole blocks.
    #[must_use]
    pub const fn round_down(self, bytes: u64) -> u64 {
        round_down(bytes, self.size_u64())
    }
}

/// Inode number on disk: 32-byte slots from `meta_blkaddr`, or (bit 63) in the metabox.
/// format.md §1, §15.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Nid(pub u64);

impl Nid {
    /// Set when the inode lives in the metabox inode's content.
    pub const METABOX_BIT: u64 = 1 << 63;

    /// Whether the inode lives in the metabox.
    #[must_use]
    pub const fn in_metabox(self) -> bool {
        self.0 & Self::METABOX_BIT != 0
    }

    /// Slot number without the metabox bit.
    #[must_use]
    pub const fn slot(self) -> u64 {
        self.0 & !Self::METABOX_BIT
    }

    /// A number for stat(2), unique in the image: the nid, folded as the kernel folds nids of the
    /// metabox. format.md §15.
    #[must_use]
    pub const fn stat_ino(self) -> u64 {
        if self.in_metabox() {
            ((self.0 << 1) & !0xFFFF_FFFF) | (self.0 & 0x7FFF_FFFF) | (1 << 31)
        } else {
            self.0
        }
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.in_metabox() {
            write!(f, "metabox:{}", self.slot())
        } else {
            write!(f, "{}", self.0)
        }
    }
}
