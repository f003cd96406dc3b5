// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of an image went: which directories, kinds of names and files they belong to, and
//! where on its devices they lie.
//!
//! Invariant: memory follows the number of directories of the image and the number of cells asked for.

use crate::statistics::{self, Watch};
use crate::{Context, RawPath, Result, Statistics};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode, Location, Space};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Most files that are named.
const FILES_MAX: usize = 25;
/// Most kinds of names that are told apart; a hostile image may have as many as it has files.
const SUFFIXES_MAX: usize = 10_000;

/// What an image consists of.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Counts.
    pub statistics: Statistics,
    /// Entries of the root directory and what is below each, largest first.
    pub tops: Vec<Share>,
    /// Files by what follows the last dot of their names, largest first.
    pub suffixes: Vec<Share>,
    /// The files that take most.
    pub largest: Vec<Share>,
    /// What lies where, for each device that is there.
    pub devices: Vec<DeviceCells>,
}

/// What a part of the image takes.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers of one row")]
pub struct Share {
    /// Path or suffix.
    pub name: RawPath,
    /// Inodes.
    pub inodes: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that clusters of it take which nobody before it has used.
    pub stored: u64,
}

/// A device, cut into cells of the same length.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct DeviceCells {
    /// Bytes of the device.
    pub bytes: u64,
    /// Bytes of a cell.
    pub cell_bytes: u64,
    /// Names of what [`DeviceCells::cells`] counts.
    pub kinds: Vec<&'static str>,
    /// Bytes of each kind in each cell.
    pub cells: Vec<Vec<u64>>,
}

impl DeviceCells {
    fn new(bytes: u64, block: u64, cells_max: u64) -> Self {
        let cell_bytes = bytes.div_ceil(cells_max.max(1)).next_multiple_of(block.max(1)).max(1);
        let count = bytes.div_ceil(cell_bytes) as usize;
        Self { bytes, cell_bytes, kinds: Vec::new(), cells: vec![Vec::new(); count] }
    }

    fn add(&mut self, kind: &'static str, offset: u64, len: u64) {
        let index = self.kinds.iter().position(|&known| known == kind).unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        });
        let end = offset.saturating_add(len).min(self.bytes);
        let mut at = offset;
        while at < end {
            let cell = at / self.cell_bytes;
            let stop = end.min((cell + 1).saturating_mul(self.cell_bytes));
            let Some(counts) = self.cells.get_mut(cell as usize) else { return };
            if counts.len() <= index {
                counts.resize(index + 1, 0);
            }
            counts[index] += stop - at;
            at = stop;
        }
    }
}

/// Walks an image and sees what it consists of; each device is cut into `cells` cells at most.
pub fn inspect(image: &Image, cells: u64, context: Context<'_>) -> Result<Inspection> {
    let block = u64::from(image.superblock().block_bits.size());
    let devices = (0..=u16::try_from(image.device_slots().len()).unwrap_or(u16::MAX))
        .map_while(|device| image.device_size(device))
        .map(|bytes| DeviceCells::new(bytes, block, cells))
        .collect();
    let mut shares = Shares { devices, ..Shares::default() };
    let statistics = statistics::walk(image, context, &mut shares)?;
    shares.settle();
    let mut tops = shares.tops;
    tops.sort_by_key(|share| Reverse(share.stored));
    let mut suffixes: Vec<Share> = shares.suffixes.into_values().collect();
    suffixes.sort_by_key(|share| Reverse(share.stored));
    let mut largest: Vec<Share> = Vec::new();
    for Reverse(file) in shares.largest.into_sorted_vec() {
        let mut name = Vec::new();
        shares.folders.path(file.folder, &mut name);
        name.extend_from_slice(&file.name);
        largest.push(Share {
            name: RawPath::from(&*name),
            inodes: 1,
            bytes: file.bytes,
            stored: file.stored,
        });
    }
    Ok(Inspection { statistics, tops, suffixes, largest, devices: shares.devices })
}

/// Directories met, each with the one above it.
#[derive(Default)]
struct Folders(Vec<(usize, Box<[u8]>)>);

impl Folders {
    /// The path of a directory, with a slash behind.
    fn path(&self, folder: usize, into: &mut Vec<u8>) {
        let mut names = Vec::new();
        let mut at = folder;
        while let Some((above, name)) = self.0.get(at) {
            names.push(name);
            if at == *above {
                break;
            }
            at = *above;
        }
        into.push(b'/');
        for name in names.iter().rev().filter(|name| !name.is_empty()) {
            into.extend_from_slice(name);
            into.push(b'/');
        }
    }
}

/// Ordered by what it takes.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Large {
    stored: u64,
    bytes: u64,
    folder: usize,
    name: Box<[u8]>,
}

#[derive(Default)]
struct Shares {
    folders: Folders,
    devices: Vec<DeviceCells>,
    tops: Vec<Share>,
    suffixes: BTreeMap<Vec<u8>, Share>,
    largest: BinaryHeap<Reverse<Large>>,
    /// The inode whose clusters come now.
    current: Option<Current>,
}

struct Current {
    top: Option<usize>,
    folder: usize,
    name: Box<[u8]>,
    regular: bool,
    bytes: u64,
    stored: u64,
}

impl Shares {
    /// Books the current inode.
    fn settle(&mut self) {
        let Some(current) = self.current.take() else { return };
        let add = |share: &mut Share| {
            share.inodes += 1;
            share.bytes = share.bytes.saturating_add(current.bytes);
            share.stored = share.stored.saturating_add(current.stored);
        };
        if let Some(share) = current.top.and_then(|top| self.tops.get_mut(top)) {
            add(share);
        }
        if !current.regular {
            return;
        }
        let suffix = suffix(&current.name);
        let room = self.suffixes.len() < SUFFIXES_MAX || self.suffixes.contains_key(suffix);
        let suffix = if room { suffix } else { b"" };
        let share = self.suffixes.entry(suffix.to_vec()).or_default();
        share.name = RawPath::from(suffix);
        add(share);
        self.largest.push(Reverse(Large {
            stored: current.stored,
            bytes: current.bytes,
            folder: current.folder,
            name: current.name,
        }));
        if self.largest.len() > FILES_MAX {
            self.largest.pop();
        }
    }
}

/// What follows the last dot of a name, if that is short and not all of it.
fn suffix(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => &name[dot..],
        _ => b"",
    }
}

impl Watch for Shares {
    fn folder(&mut self, above: usize, name: &[u8]) -> usize {
        self.folders.0.push((above, name.into()));
        self.folders.0.len() - 1
    }

    fn inode(&mut self, folder: usize, top: Option<usize>, name: &[u8], inode: &Inode) -> usize {
        self.settle();
        let top = top.unwrap_or_else(|| {
            self.tops.push(Share { name: RawPath::from(name), ..Share::default() });
            self.tops.len() - 1
        });
        // The record, xattrs and indexes' header; what lies behind is counted with the content.
        if inode.space() == Space::Primary
            && let Some(device) = self.devices.first_mut()
        {
            let (start, end) = (inode.offset(), inode.body_end());
            device.add("metadata", start, end.saturating_sub(start));
        }
        let regular = inode.file_type == FileType::Regular;
        self.current = Some(Current {
            top: Some(top),
            folder,
            name: name.into(),
            regular,
            bytes: if regular { inode.size } else { 0 },
            stored: 0,
        });
        top
    }

    fn cluster(&mut self, kind: &'static str, location: &Location, len: u64) {
        if let Some(current) = &mut self.current {
            current.stored = current.stored.saturating_add(len);
        }
        if let Location::Device(at) = location
            && let Some(device) = self.devices.get_mut(usize::from(at.device))
        {
            device.add(kind, at.offset, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        for (name, expected) in
            [("a.so", ".so"), (".profile", ""), ("a", ""), ("x.tar.gz", ".gz"), ("a.", ".")]
        {
            assert_eq!(suffix(name.as_bytes()), expected.as_bytes(), "{name}");
        }
        assert_eq!(suffix(b"a.a-very-long-version-number"), b"");
    }

    #[test]
    fn cells_add_up() {
        let mut cells = DeviceCells::new(100_000, 4096, 8);
        assert_eq!((cells.cell_bytes, cells.cells.len()), (16384, 7));
        cells.add("lz4", 10_000, 20_000);
        cells.add("plain", 98_304, 1 << 40);
        cells.add("plain", u64::MAX - 1, 5);
        let of =
            |kind: usize| -> u64 { cells.cells.iter().filter_map(|counts| counts.get(kind)).sum() };
        assert_eq!((of(0), of(1)), (20_000, 100_000 - 98_304));
        assert_eq!(DeviceCells::new(0, 4096, 8).cells.len(), 0);
    }
}
