// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fetching all of an image that the kernel reads without asking.
//!
//! Kernels up to 6.18 at least ask (fanotify) before they read file data, and read everything else,
//! a hole in the file included, as it is. Invariant: afterwards everything is present but what is
//! the data of regular files or of the packed inode, as the image's own indexes tell; and of that,
//! too, whatever was read as something else on the way.

use super::LazyDevice;
use super::ranges::{Ranges, complement};
use crate::{Error, Result};
use ferrofs_format::inode::FileType;
use ferrofs_format::limits::INODE_SLOT;
use ferrofs_image::{FileMap, Image, Location, Nid, Source};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that wait for the origin at the same time.
const THREADS: usize = 8;

/// Inodes that a thread takes at once, at least and at most.
const BATCH_MIN: usize = 32;
const BATCH_MAX: usize = 1024;

/// Bytes of file data that are fetched, too, rather than asking once more.
const GAP: u64 = 64 << 10;

/// What is taken for an inode, its attributes, its indexes and its tail before it is read.
const INODE_LEN: u64 = 4096;

/// Where an image has what is not file data, on its primary device of `size` bytes; in order.
///
/// # Errors
/// If its metadata cannot be read.
pub fn metadata_ranges(image: &Image, size: u64) -> ferrofs_image::Result<Vec<Range<u64>>> {
    Ok(complement(&Walk::new(image, None).run()?, size))
}

/// Fetches what is not file data. `primary` is what `image` is read from; `path` is for messages.
pub(crate) fn complete(image: &Image, primary: &LazyDevice, path: &Path) -> Result<()> {
    let fail = |error| Error::Image { path: PathBuf::from(path), error };
    let data = Walk::new(image, Some(primary)).run().map_err(fail)?;
    let rest = complement(&data, primary.blob.size());
    let missing = rest.into_iter().flat_map(|range| primary.blob.missing(range));
    ensure_all(primary, &bridged(missing))
}

/// Fetches ranges, several at a time.
fn ensure_all(primary: &LazyDevice, ranges: &[Range<u64>]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
            primary.blob.ensure(range.clone(), &primary.demand)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others = THREADS.min(ranges.len()).saturating_sub(1);
        let threads: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mine = work();
        threads.into_iter().map(joined).fold(mine, Result::and)
    })
}

/// Puts ranges together that lie near each other.
fn bridged(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match found.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) <= GAP => {
                last.end = last.end.max(range.end);
            }
            _ => found.push(range),
        }
    }
    found
}

/// What a thread has returned; its panic goes on here.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Looks at every inode of an image, and on the way reads everything of it that is not file data.
///
/// Numbers of inodes are places, so they are taken in order, many at once, and what lies between
/// neighbours is fetched with them. Several threads do so, for each waits for the origin.
struct Walk<'a> {
    image: &'a Image,
    /// What it is read from, if that is fetched.
    primary: Option<&'a LazyDevice>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: BinaryHeap<Reverse<Nid>>,
    seen: HashSet<Nid>,
    /// Threads that may still find more.
    busy: usize,
    failed: bool,
}

impl<'a> Walk<'a> {
    fn new(image: &'a Image, primary: Option<&'a LazyDevice>) -> Self {
        let root = image.root();
        let state = State {
            pending: BinaryHeap::from([Reverse(root)]),
            seen: HashSet::from([root]),
            ..State::default()
        };
        Self { image, primary, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Where file data lies on the primary device, in order, none touching the next.
    fn run(&self) -> ferrofs_image::Result<Vec<Range<u64>>> {
        let mut all = Ranges::default();
        if let Some(packed) = self.image.packed_map() {
            add_data(self.image, packed, &mut all)?;
        }
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| self.work())).collect();
            threads.into_iter().map(joined).collect()
        });
        for ranges in results {
            ranges?.settled().into_iter().for_each(|range| all.add(range));
        }
        Ok(all.settled())
    }

    /// The part of one thread.
    fn work(&self) -> ferrofs_image::Result<Ranges> {
        let mut ranges = Ranges::default();
        let mut below = Vec::new();
        let mut state = self.lock();
        loop {
            while state.pending.is_empty() && state.busy > 0 && !state.failed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.pending.is_empty() || state.failed {
                self.changed.notify_all();
                return Ok(ranges);
            }
            let count = (state.pending.len() / THREADS).clamp(BATCH_MIN, BATCH_MAX);
            let batch: Vec<Nid> =
                std::iter::from_fn(|| state.pending.pop()).take(count).map(|nid| nid.0).collect();
            state.busy += 1;
            drop(state);
            self.fetch(&batch);
            let result =
                batch.into_iter().try_for_each(|nid| self.look(nid, &mut below, &mut ranges));
            state = self.lock();
            state.busy -= 1;
            state.failed |= result.is_err();
            let State { pending, seen, .. } = &mut *state;
            pending.extend(below.drain(..).filter(|nid| seen.insert(*nid)).map(Reverse));
            self.changed.notify_all();
            result?;
        }
    }

    /// Fetches inodes that are in order, if their places are known. What fails is told by who reads it.
    fn fetch(&self, nids: &[Nid]) {
        let Some(primary) = self.primary else { return };
        let base = self.image.superblock().meta_base();
        let place = |nid: &Nid| {
            let start = nid.0.checked_mul(INODE_SLOT)?.checked_add(base)?;
            let end = start.checked_add(INODE_LEN)?.min(primary.blob.size());
            (start < end).then_some(start..end)
        };
        for run in bridged(nids.iter().filter_map(place)) {
            if !primary.fetch(run) {
                return;
            }
        }
    }

    fn look(
        &self,
        nid: Nid,
        below: &mut Vec<Nid>,
        ranges: &mut Ranges,
    ) -> ferrofs_image::Result<()> {
        let image = self.image;
        let inode = image.inode(nid)?;
        image.xattrs(&inode)?;
        match inode.file_type {
            FileType::Directory => {
                image.directory(&inode)?.walk(0, |entry, _| {
                    below.push(entry.nid);
                    ControlFlow::Continue(())
                })?;
            }
            FileType::Regular => add_data(image, &image.map(&inode)?, ranges)?,
            FileType::Symlink => {
                image.readlink(&inode)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds where a file's data lies.
fn add_data(image: &Image, map: &FileMap, ranges: &mut Ranges) -> ferrofs_image::Result<()> {
    let block = u64::from(image.superblock().block_bits.size());
    let mut cursor = map.cursor(image);
    let mut at = 0;
    while at < map.size() {
        let extent = cursor.extent_at(at)?;
        let found = match extent.source {
            Source::Plain(address) => Some((address, extent.len)),
            Source::Pcluster(pcluster) => match pcluster.location {
                Location::Device(address) => Some((address, pcluster.len.into())),
                Location::Meta { space, offset } => {
                    let mut bytes = vec![0; pcluster.len as usize];
                    image.read_metadata(space, offset, &mut bytes)?;
                    None
                }
            },
            Source::Inline { space, offset } => {
                let mut bytes = vec![0; extent.len as usize];
                image.read_metadata(space, offset, &mut bytes)?;
                None
            }
            Source::Hole | Source::Fragment { .. } => None,
        };
        if let Some((address, len)) = found
            && address.device == 0
        {
            // The kernel reads whole blocks, and nothing else lies in them.
            let start = address.offset / block * block;
            let end = address.offset.saturating_add(len).div_ceil(block).saturating_mul(block);
            ranges.add(start..end);
        }
        at = extent.end();
    }
    Ok(())
}
