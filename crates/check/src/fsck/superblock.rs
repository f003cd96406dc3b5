// SPDX-License-Identifier: MIT OR Apache-2.0
//! The superblock and the devices. What makes an image unreadable was refused when it was opened.

use super::Check;
use crate::Code;

impl Check<'_> {
    pub(super) fn superblock(&self) {
        let superblock = self.image.superblock();
        let bits = superblock.block_bits;
        let at = Some(1024);
        let size = self.image.device_size(0).unwrap_or(0);
        let flat = self.image.device_size(1).is_none();
        match bits.byte_of(superblock.blocks) {
            Some(end) if end <= size => {
                let used = self.flat_end(flat).max(end);
                if used < size {
                    let text = format!("{} bytes behind byte {used}", size - used);
                    self.find(Code::Trailing, None, Some(used), text);
                }
            }
            _ => {
                let text = format!("{} blocks, but {size} bytes", superblock.blocks);
                self.find(Code::Truncated, None, Some(size), text);
            }
        }
        if superblock.compat.unknown() != 0 {
            let text = format!("bits {:#x}", superblock.compat.unknown());
            self.find(Code::UnknownCompat, None, at, text);
        }
        if !superblock.volume_name.contains(&0) {
            self.find(Code::Label, None, at, "16 bytes".to_owned());
        }
        if superblock.fixed_nsec >= 1_000_000_000 {
            let text = superblock.fixed_nsec.to_string();
            self.find(Code::FixedNanoseconds, None, at, text);
        }
        self.devices(flat);
    }

    /// End of the last device in a flat image.
    fn flat_end(&self, flat: bool) -> u64 {
        let bits = self.image.superblock().block_bits;
        let ends = self
            .image
            .device_slots()
            .iter()
            .filter(|_| flat)
            .filter_map(|slot| bits.byte_of(slot.unified_start.checked_add(slot.blocks)?));
        ends.max().unwrap_or(0)
    }

    fn devices(&self, flat: bool) {
        let superblock = self.image.superblock();
        let bits = superblock.block_bits;
        let mut ranges = vec![(0, superblock.blocks, 0usize)];
        for (index, slot) in self.image.device_slots().iter().enumerate() {
            let device = index + 1;
            let have = match u16::try_from(device).ok().and_then(|id| self.image.device_size(id)) {
                Some(size) => Some(size),
                None if flat && slot.unified_start > 0 => {
                    let start = bits.byte_of(slot.unified_start).unwrap_or(u64::MAX);
                    Some(self.image.device_size(0).unwrap_or(0).saturating_sub(start))
                }
                None => None,
            };
            let need = bits.byte_of(slot.blocks);
            if have.is_some_and(|have| need.is_none_or(|need| need > have)) {
                let text = format!(
                    "device {device}: {} blocks, but {} bytes",
                    slot.blocks,
                    have.unwrap_or(0)
                );
                self.find(Code::DeviceShort, None, None, text);
            }
            if slot.unified_start > 0 {
                ranges.push((slot.unified_start, slot.blocks, device));
            }
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if pair[0].0.saturating_add(pair[0].1) > pair[1].0 {
                let text = format!("devices {} and {}", pair[0].2, pair[1].2);
                self.find(Code::DeviceOverlap, None, None, text);
            }
        }
    }
}
