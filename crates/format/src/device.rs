// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device table slots. format.md §8.

use crate::superblock::low_half;
use crate::{FormatError, Result, num::u64_from_usize};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of one slot; also the unit of the superblock's `devt_slotoff`.
pub const SLOT_LEN: usize = 128;
/// Bytes of a device's tag.
pub const TAG_LEN: usize = 64;

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    tag: [u8; TAG_LEN],
    blocks_lo: U32,
    uniaddr_lo: U32,
    blocks_hi: U16,
    uniaddr_hi: U16,
    reserved: [u8; 52],
}

const _: () = assert!(size_of::<Raw>() == SLOT_LEN);

/// One extra device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceSlot {
    /// NUL-padded text that names the device; may be empty.
    pub tag: [u8; TAG_LEN],
    /// Blocks on the device.
    pub blocks: u64,
    /// First block in the unified address space; 0 = not mapped there.
    pub unified_start: u64,
}

impl DeviceSlot {
    /// Parses one slot. `wide` = the image has 48-bit addresses; otherwise the high halves are
    /// reserved bytes and ignored.
    pub fn parse(bytes: &[u8], wide: bool) -> Result<Self> {
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
            what: "device slot",
            needed: u64_from_usize(SLOT_LEN),
            have: u64_from_usize(bytes.len()),
        })?;
        let high = |half: U16| if wide { u64::from(half.get()) << 32 } else { 0 };
        Ok(Self {
            tag: raw.tag,
            blocks: u64::from(raw.blocks_lo.get()) | high(raw.blocks_hi),
            unified_start: u64::from(raw.uniaddr_lo.get()) | high(raw.uniaddr_hi),
        })
    }

    /// The tag up to its first NUL.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        self.tag.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// Emits the slot; addresses past 2^32 need an image with 48-bit addresses.
    pub fn emit(&self, wide: bool) -> Result<[u8; SLOT_LEN]> {
        let high = |value: u64, what| {
            u16::try_from(value >> 32)
                .ok()
                .filter(|&half| wide || half == 0)
                .ok_or(FormatError::DoesNotFit { what, value })
        };
        let raw = Raw {
            tag: self.tag,
            blocks_lo: low_half(self.blocks).into(),
            uniaddr_lo: low_half(self.unified_start).into(),
            blocks_hi: high(self.blocks, "device block count")?.into(),
            uniaddr_hi: high(self.unified_start, "device address")?.into(),
            reserved: [0; 52],
        };
        Ok(zerocopy::transmute!(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_halves_count_only_in_wide_images() {
        let slot = DeviceSlot { tag: [b'x'; TAG_LEN], blocks: 5 << 32 | 7, unified_start: 3 << 32 };
        let bytes = slot.emit(true).unwrap();
        assert_eq!(DeviceSlot::parse(&bytes, true).unwrap(), slot);
        assert_eq!(DeviceSlot::parse(&bytes, false).unwrap().blocks, 7);
        assert!(slot.emit(false).is_err());
        assert!(DeviceSlot::parse(&bytes[..127], true).is_err());
    }
}
