// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of an image as files, for the kernel's EROFS to be mounted on.
//!
//! Knows nothing of what is in them. Invariants: a read gives a device's bytes or an error, never
//! less than was asked for before its end.

use crate::lazy::LazyDevice;
use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, FileKind, ROOT_NODE, ReadOnlyFs, ReadRequest, SessionConfig,
    StatFs,
};
use ferrofs_image::ReadAt;

/// Node of the first device; the others follow.
const FIRST_NODE: u64 = ROOT_NODE + 1;
/// Preferred size of reads.
const PAGE_LEN: usize = 4096;

/// Devices, each a file named by its number in the root directory.
#[derive(Debug)]
pub(crate) struct DeviceFiles {
    devices: Vec<(LazyDevice, u64)>,
}

/// What is special about a session that serves them. EROFS asks for the file data it needs in large
/// pieces, and keeps what it decodes in its own page cache: another page cache below would hold the same
/// encoded, copy it once more, and read ahead bytes of other files, which nobody may ever want. (Metadata
/// is in the page cache all the same: EROFS reads it by the file's mapping.)
pub(crate) fn set_up(config: &mut SessionConfig) {
    config.direct_io = true;
}

/// The name of a device's file.
pub(crate) fn name(device: usize) -> String {
    device.to_string()
}

impl DeviceFiles {
    pub(crate) fn new(devices: Vec<LazyDevice>) -> Self {
        let devices = devices.into_iter().map(|device| {
            let size = device.size().unwrap_or_default();
            (device, size)
        });
        Self { devices: devices.collect() }
    }

    fn device(&self, node: u64) -> Result<&(LazyDevice, u64), Errno> {
        let index = node.checked_sub(FIRST_NODE).ok_or(Errno::ISDIR)?;
        usize::try_from(index).ok().and_then(|index| self.devices.get(index)).ok_or(Errno::NOENT)
    }
}

impl ReadOnlyFs for DeviceFiles {
    fn lookup(&self, parent: u64, found: &[u8]) -> Result<Entry, Errno> {
        if parent != ROOT_NODE {
            return Err(Errno::NOTDIR);
        }
        let named = |index: &usize| name(*index).as_bytes() == found;
        let index = (0..self.devices.len()).find(named).ok_or(Errno::NOENT)?;
        let node = FIRST_NODE + index as u64;
        Ok(Entry { node, attr: self.getattr(node)? })
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        if node == ROOT_NODE {
            return Ok(Attr { ino: node, mode: 0o040_500, nlink: 2, ..Attr::default() });
        }
        let size = self.device(node)?.1;
        let (mode, blksize) = (0o100_400, PAGE_LEN as u32);
        let blocks = size.div_ceil(512);
        Ok(Attr { ino: node, size, blocks, mode, nlink: 1, blksize, ..Attr::default() })
    }

    fn readlink(&self, _node: u64, _target: &mut Vec<u8>) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        let (device, size) = self.device(read.node)?;
        let left = usize::try_from(size.saturating_sub(read.offset)).unwrap_or(usize::MAX);
        let len = read.len.min(left);
        let buf = buf.get_mut(..len).ok_or(Errno::INVAL)?;
        device.read_exact_at(read.offset, buf)?;
        Ok(len)
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        if node != ROOT_NODE {
            return Err(Errno::NOTDIR);
        }
        let dots = [(ROOT_NODE, FileKind::Directory, "."), (ROOT_NODE, FileKind::Directory, "..")];
        let dots = dots.map(|(node, kind, name)| (node, kind, String::from(name)));
        let files = (0..self.devices.len())
            .map(|index| (FIRST_NODE + index as u64, FileKind::Regular, name(index)));
        for (at, (node, kind, name)) in (1..).zip(dots.into_iter().chain(files)) {
            let entry = DirEntry { node, ino: node, cookie: at, kind, name: name.as_bytes() };
            if at > cookie && !sink(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let size = self.devices.iter().map(|(_, size)| size.div_ceil(PAGE_LEN as u64));
        Ok(StatFs {
            blocks: size.fold(0, u64::saturating_add),
            files: self.devices.len() as u64,
            block_size: PAGE_LEN as u32,
            fragment_size: PAGE_LEN as u32,
            name_max: 255,
            ..StatFs::default()
        })
    }
}
