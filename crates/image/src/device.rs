// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of an image and the unified address space over them. format.md §8.

use crate::{Error, Place, ReadAt, Result};
use ferrofs_format::device::DeviceSlot;
use ferrofs_format::{BlockBits, Nid};
use std::fmt;
use std::io::IoSliceMut;

/// A byte on a device: what a pcluster is known by, whatever file refers to it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceAddress {
    /// Device: 0 is the primary one.
    pub device: u16,
    /// Byte offset on it.
    pub offset: u64,
}

impl DeviceAddress {
    /// `bytes` further on; `None` past 2^64.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Option<Self> {
        match self.offset.checked_add(bytes) {
            Some(offset) => Some(Self { device: self.device, offset }),
            None => None,
        }
    }
}

pub(crate) struct Device {
    source: Box<dyn ReadAt>,
    size: u64,
}

#[expect(clippy::struct_field_names, reason = "they are the devices")]
pub(crate) struct Devices {
    devices: Vec<Device>,
    slots: Vec<DeviceSlot>,
    bits: BlockBits,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices")
            .field("sizes", &self.devices.iter().map(|device| device.size).collect::<Vec<_>>())
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl Device {
    pub(crate) fn new(index: u16, source: Box<dyn ReadAt>) -> Result<Self> {
        let size = source.size().map_err(|error| Error::io(index, 0, 0, &error))?;
        Ok(Self { source, size })
    }

    pub(crate) fn read(&self, index: u16, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.source
            .read_exact_at(offset, buf)
            .map_err(|error| Error::io(index, offset, buf.len(), &error))
    }

    pub(crate) fn read_vectored(
        &self,
        index: u16,
        offset: u64,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<()> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.source
            .read_vectored_exact_at(offset, bufs)
            .map_err(|error| Error::io(index, offset, len, &error))
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }
}

impl Devices {
    pub(crate) fn new(primary: Device, bits: BlockBits) -> Self {
        Self { devices: vec![primary], slots: Vec::new(), bits }
    }

    /// Adds what the device table says and the extra devices; none of them = a flat image.
    pub(crate) fn attach(
        &mut self,
        slots: Vec<DeviceSlot>,
        extra: Vec<Box<dyn ReadAt>>,
    ) -> Result<()> {
        if !extra.is_empty() && extra.len() != slots.len() {
            return Err(Error::DeviceCount {
                expected: u16::try_from(slots.len()).unwrap_or(u16::MAX),
                given: extra.len(),
            });
        }
        for (index, source) in (1u16..).zip(extra) {
            self.devices.push(Device::new(index, source)?);
        }
        self.slots = slots;
        Ok(())
    }

    pub(crate) fn slots(&self) -> &[DeviceSlot] {
        &self.slots
    }

    pub(crate) fn size(&self, device: u16) -> Option<u64> {
        self.devices.get(usize::from(device)).map(Device::size)
    }

    /// Bytes of all devices.
    pub(crate) fn total_size(&self) -> u64 {
        self.devices.iter().fold(0, |sum, device| sum.saturating_add(device.size()))
    }

    fn is_flat(&self) -> bool {
        self.devices.len() == 1
    }

    /// Resolves a device id and byte address as stored in the image, for `len` bytes.
    pub(crate) fn resolve(
        &self,
        id: u16,
        address: u64,
        len: u64,
        nid: Nid,
    ) -> Result<DeviceAddress> {
        let place = Place::inode(nid);
        // Ids are masked to the next power of two above the device count. format.md §7.
        let mask = self.slots.len().saturating_add(1).next_power_of_two().saturating_sub(1);
        let id = usize::from(id) & mask;
        let found = if id > 0 {
            let slot = id.checked_sub(1).and_then(|slot| self.slots.get(slot)).ok_or(
                Error::corrupt(place, "no such device", ferrofs_format::num::u64_from_usize(id)),
            )?;
            if self.is_flat() {
                let start = self.bits.byte_of(slot.unified_start);
                let offset = start
                    .and_then(|start| start.checked_add(address))
                    .ok_or(Error::corrupt(place, "block address past 2^64", address))?;
                DeviceAddress { device: 0, offset }
            } else {
                let device = u16::try_from(id).unwrap_or(u16::MAX);
                DeviceAddress { device, offset: address }
            }
        } else {
            self.resolve_unified(address)
        };
        let end = found.plus(len).map(|end| end.offset);
        let size = self.size(found.device).unwrap_or(0);
        if end.is_none_or(|end| end > size) {
            return Err(Error::corrupt(place, "data lies behind the end of its device", address));
        }
        Ok(found)
    }

    fn resolve_unified(&self, address: u64) -> DeviceAddress {
        if !self.is_flat() {
            for (device, slot) in (1u16..).zip(&self.slots) {
                if slot.unified_start == 0 {
                    continue;
                }
                let start = self.bits.byte_of(slot.unified_start);
                let len = self.bits.byte_of(slot.blocks);
                if let (Some(start), Some(len)) = (start, len)
                    && let Some(offset) = address.checked_sub(start)
                    && offset < len
                {
                    return DeviceAddress { device, offset };
                }
            }
        }
        DeviceAddress { device: 0, offset: address }
    }

    pub(crate) fn read(&self, at: DeviceAddress, buf: &mut [u8]) -> Result<()> {
        match self.devices.get(usize::from(at.device)) {
            Some(device) => device.read(at.device, at.offset, buf),
            None => Err(Error::corrupt(Place::default(), "no such device", u64::from(at.device))),
        }
    }

    pub(crate) fn bytes(&self, at: DeviceAddress, len: usize) -> Option<&[u8]> {
        self.devices.get(usize::from(at.device))?.source.bytes(at.offset, len)
    }

    pub(crate) fn read_vectored(
        &self,
        at: DeviceAddress,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<()> {
        match self.devices.get(usize::from(at.device)) {
            Some(device) => device.read_vectored(at.device, at.offset, bufs),
            None => Err(Error::corrupt(Place::default(), "no such device", u64::from(at.device))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(flat: bool) -> Devices {
        let primary = Device::new(0, Box::new(vec![0u8; 64 * 512])).unwrap();
        let mut devices = Devices::new(primary, BlockBits::new(9).unwrap());
        let slot = |start, blocks| DeviceSlot { tag: [0; 64], blocks, unified_start: start };
        let extra: Vec<Box<dyn ReadAt>> = if flat {
            vec![]
        } else {
            vec![Box::new(vec![1u8; 8 * 512]), Box::new(vec![2u8; 4 * 512])]
        };
        devices.attach(vec![slot(32, 8), slot(40, 4)], extra).unwrap();
        devices
    }

    #[test]
    fn unified_and_separate_addresses() {
        let nid = Nid(1);
        let at = |device, offset| Ok(DeviceAddress { device, offset });
        let separate = devices(false);
        assert_eq!(separate.resolve(0, 512, 512, nid), at(0, 512));
        assert_eq!(separate.resolve(0, 33 * 512, 512, nid), at(1, 512));
        assert_eq!(separate.resolve(0, 43 * 512, 512, nid), at(2, 3 * 512));
        assert_eq!(separate.resolve(2, 0, 512, nid), at(2, 0));
        assert!(separate.resolve(3, 0, 512, nid).is_err(), "id above the table");
        assert!(separate.resolve(2, 0, 5 * 512, nid).is_err(), "past its end");
        assert_eq!(separate.resolve(0b101, 0, 512, nid), at(1, 0), "ids are masked");
        let flat = devices(true);
        assert_eq!(flat.resolve(2, 512, 512, nid), at(0, 41 * 512));
        assert_eq!(flat.resolve(0, 41 * 512, 512, nid), at(0, 41 * 512));
        assert!(flat.resolve(0, u64::MAX, 1, nid).is_err());
    }
}
