// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small file system in memory for the tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, FileKind, OpenAs, ROOT_NODE, ReadOnlyFs, ReadRequest, StatFs,
    Timestamp, Whence,
};

pub(crate) const FILE_SIZE: u64 = 8 << 20;
/// The file "sparse" has data in its first MiB only.
pub(crate) const SPARSE_DATA: u64 = 1 << 20;
pub(crate) const MANY: u64 = 10_000;
/// Whoever waits longer than this waits for ever.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const FILE: u64 = 2;
const SPARSE: u64 = 3;
const LINK: u64 = 4;
const DIRECTORY: u64 = 5;
const SLOW: u64 = 6;
/// Its reads wait until the gate is opened.
const GATED: u64 = 7;
/// Its data is corrupt.
const CORRUPT: u64 = 8;
/// Its reads are shorter than its size promises.
const SHORT: u64 = 9;
/// Its reads panic.
const PANICS: u64 = 10;
const FIRST: u64 = 1000;

/// The byte of "file" at an offset.
pub(crate) fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8 ^ (offset >> 12) as u8
}

#[derive(Default)]
struct Gate {
    open: bool,
    waiting: usize,
}

#[derive(Default)]
pub(crate) struct Memory {
    names: BTreeMap<Vec<u8>, u64>,
    waiting: Mutex<usize>,
    arrived: Condvar,
    gate: Mutex<Gate>,
    gate_changed: Condvar,
    /// Reads of any file so far.
    pub(crate) reads: AtomicUsize,
    /// How many readers of "slow" must be there before any gets its answer.
    pub(crate) slow_together: usize,
    pub(crate) opens: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(slow_together: usize) -> Self {
        let names = [
            ("file", FILE),
            ("sparse", SPARSE),
            ("link", LINK),
            ("many", DIRECTORY),
            ("slow", SLOW),
            ("gated", GATED),
            ("corrupt", CORRUPT),
            ("short", SHORT),
            ("panics", PANICS),
        ];
        let names = names.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node));
        Self { names: names.collect(), slow_together, ..Self::default() }
    }

    /// Lets all reads of "gated" go on, from now on.
    pub(crate) fn open_gate(&self) {
        self.gate.lock().unwrap().open = true;
        self.gate_changed.notify_all();
    }

    /// Waits until this many reads of "gated" wait at the gate.
    pub(crate) fn wait_for_gated(&self, count: usize) {
        let gate = self.gate.lock().unwrap();
        let few = |gate: &mut Gate| gate.waiting < count;
        let result = self.gate_changed.wait_timeout_while(gate, LIMIT, few).unwrap().1;
        assert!(!result.timed_out(), "{count} reads did not come");
    }

    fn wait_at_gate(&self) -> Result<(), Errno> {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting += 1;
        self.gate_changed.notify_all();
        let closed = |gate: &mut Gate| !gate.open;
        let (mut gate, result) = self.gate_changed.wait_timeout_while(gate, LIMIT, closed).unwrap();
        gate.waiting -= 1;
        if result.timed_out() { Err(Errno::TIMEDOUT) } else { Ok(()) }
    }

    fn wait_for_others(&self) -> Result<(), Errno> {
        let mut waiting = self.waiting.lock().unwrap();
        *waiting += 1;
        self.arrived.notify_all();
        let together = |waiting: &mut usize| *waiting < self.slow_together;
        let result = self.arrived.wait_timeout_while(waiting, LIMIT, together).unwrap().1;
        if result.timed_out() { Err(Errno::TIMEDOUT) } else { Ok(()) }
    }
}

impl ReadOnlyFs for Memory {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        let node = match parent {
            ROOT_NODE => *self.names.get(name).ok_or(Errno::NOENT)?,
            DIRECTORY => {
                let text = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
                let number = text.strip_prefix("entry-").and_then(|text| text.parse().ok());
                let number: u64 = number.filter(|number| *number < MANY).ok_or(Errno::NOENT)?;
                FIRST + number
            }
            _ => return Err(Errno::NOTDIR),
        };
        Ok(Entry { node, attr: self.getattr(node)? })
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        let (mode, size) = match node {
            ROOT_NODE | DIRECTORY => (0o040_755, 4096),
            FILE => (0o104_755, FILE_SIZE),
            SPARSE => (0o100_600, FILE_SIZE),
            LINK => (0o120_777, 6),
            SLOW | GATED | CORRUPT | SHORT | PANICS => (0o100_644, 1 << 20),
            _ => (0o100_640, node),
        };
        let time = Timestamp { seconds: -1_000_000, nanoseconds: 123_456_789 };
        Ok(Attr {
            ino: node + 7,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            mode,
            nlink: 1,
            uid: 1234,
            gid: 70_000,
            rdev: 0,
            blksize: 4096,
        })
    }

    fn readlink(&self, _node: u64, target: &mut Vec<u8>) -> Result<(), Errno> {
        target.extend_from_slice(b"sparse");
        Ok(())
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        let ReadRequest { node, offset, .. } = *read;
        let size = self.getattr(node)?.size;
        let len = size.saturating_sub(offset).min(read.len as u64) as usize;
        self.reads.fetch_add(1, Ordering::SeqCst);
        match node {
            SLOW => self.wait_for_others()?,
            GATED => self.wait_at_gate()?,
            CORRUPT => return Err(Errno::UCLEAN),
            SHORT => return Ok(len / 2),
            PANICS => panic!("a bug of the file system"),
            _ => {}
        }
        for (byte, at) in buf[..len].iter_mut().zip(offset..) {
            *byte = if node == SPARSE && at >= SPARSE_DATA { 0 } else { byte_at(at) };
        }
        // Room to be used as one likes: nobody may ever see this.
        buf[read.len..].fill(0xee);
        Ok(len)
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let dots = [(b".".to_vec(), node), (b"..".to_vec(), ROOT_NODE)];
        let entries: Vec<(Vec<u8>, u64)> = if node == DIRECTORY {
            let many = (0..MANY).map(|n| (format!("entry-{n}").into_bytes(), FIRST + n));
            dots.into_iter().chain(many).collect()
        } else {
            let names = self.names.iter().map(|(name, node)| (name.clone(), *node));
            dots.into_iter().chain(names).collect()
        };
        for ((name, node), cookie) in entries.iter().zip(1..).skip(cookie as usize) {
            let attr = self.getattr(*node)?;
            let kind = FileKind::from_mode(attr.mode);
            if !sink(&DirEntry { node: *node, ino: attr.ino, cookie, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn getxattr(&self, node: u64, name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        match (node, name) {
            (FILE, b"user.large") => value.resize(60_000, b'v'),
            (FILE, b"user.empty") => {}
            _ => return Err(Errno::NODATA),
        }
        Ok(())
    }

    fn listxattr(&self, node: u64, names: &mut Vec<u8>) -> Result<(), Errno> {
        if node == FILE {
            names.extend_from_slice(b"user.large\0user.empty\0");
        }
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs {
            blocks: 12_345,
            files: 678,
            block_size: 4096,
            fragment_size: 4096,
            name_max: 255,
            ..StatFs::default()
        })
    }

    fn lseek(&self, node: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let size = self.getattr(node)?.size;
        let data_end = if node == SPARSE { SPARSE_DATA } else { size };
        match whence {
            _ if offset >= size => Err(Errno::NXIO),
            Whence::Data if offset >= data_end => Err(Errno::NXIO),
            Whence::Data => Ok(offset),
            Whence::Hole => Ok(offset.max(data_end)),
        }
    }

    fn open(&self, _node: u64) -> Result<OpenAs, Errno> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        Ok(OpenAs::Itself)
    }
}
