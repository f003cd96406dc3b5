// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much room there is.

use super::shared::Shared;
use super::{BlobId, BlobKind, CacheConfig, Thresholds};
use crate::BlobStats;
use crate::disk::Dir;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Bytes that are written between two looks at the file system.
const LOOK_EVERY: u64 = 8 << 20;

/// Room for bytes that are about to be kept. Each of them counts once, from now on: what is written
/// takes of it, and what was not is given back.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    space: &'a Space,
    left: AtomicU64,
}

impl Reserved<'_> {
    /// So many of its bytes were written. More than there was room for count, too.
    pub(super) fn wrote(&self, bytes: u64) {
        let take = |left: u64| Some(left.saturating_sub(bytes));
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap_or(0);
        self.space.wrote(bytes, bytes.saturating_sub(left));
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.space.freed(*self.left.get_mut());
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Level {
    Fine = 0,
    Cull = 1,
    Stop = 2,
}

/// How full a cache is.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Bytes on disk, as far as is known.
    pub used_bytes: u64,
    /// The limit of them, if there is one.
    pub bytes_max: Option<u64>,
    /// Free blocks of the file system, in percent.
    pub blocks_free_percent: f64,
    /// Free inodes of the file system, in percent.
    pub files_free_percent: f64,
    /// Blobs that this process has open.
    pub open: u64,
    /// Blobs that were removed to make room.
    pub removed_blobs: u64,
    /// What happened to all blobs.
    pub total: BlobStats,
}

#[derive(Debug)]
pub(crate) struct Space {
    bytes_max: Option<u64>,
    blocks: Thresholds,
    files: Thresholds,
    /// `None`: the file for it cannot be made (the disk is full); then `own` counts, and knows of
    /// this process only.
    shared: Option<Shared>,
    own: AtomicU64,
    /// This process has found no room since the last look at wishes.
    wishes: AtomicBool,
    since_look: AtomicU64,
    level: AtomicU8,
    full: AtomicBool,
    pub(super) removed_blobs: AtomicU64,
}

impl Space {
    /// Counts what all blobs take, unless others have, and looks at the file system.
    pub(super) fn new(config: &CacheConfig, root: &Dir) -> Self {
        let shared = Shared::open(root, || count(root)).ok();
        let own = if shared.is_some() { 0 } else { count(root) };
        let space = Self {
            bytes_max: config.bytes_max,
            blocks: config.blocks,
            files: config.files,
            shared,
            own: AtomicU64::new(own),
            wishes: AtomicBool::new(false),
            since_look: AtomicU64::new(0),
            level: AtomicU8::new(0),
            full: AtomicBool::new(false),
            removed_blobs: AtomicU64::new(0),
        };
        space.look(root);
        space
    }

    fn used(&self) -> &AtomicU64 {
        self.shared.as_ref().map_or(&self.own, Shared::used)
    }

    /// Bytes for which another process found no room: once, to who asks first and has not wished
    /// itself.
    pub(super) fn take_wish(&self) -> u64 {
        if self.wishes.swap(false, Ordering::SeqCst) {
            return 0;
        }
        self.shared.as_ref().map_or(0, |shared| shared.wished().swap(0, Ordering::SeqCst))
    }

    /// No room was found here for so many bytes: others may have some to give.
    pub(super) fn wish(&self, len: u64) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.bytes_max.is_some()) {
            self.wishes.store(true, Ordering::SeqCst);
            shared.wished().fetch_max(len, Ordering::SeqCst);
        }
    }

    /// Looks at the file system. One that does not tell limits nothing.
    pub(super) fn look(&self, root: &Dir) {
        self.since_look.store(0, Ordering::Relaxed);
        let (blocks, files) = free_percent(root);
        let level = level(blocks, self.blocks).max(level(files, self.files));
        self.level.store(level as u8, Ordering::Relaxed);
        if level != Level::Stop {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Bytes were written, some of which nobody has counted before.
    fn wrote(&self, bytes: u64, uncounted: u64) {
        if uncounted > 0 {
            self.used().fetch_add(uncounted, Ordering::SeqCst);
        }
        self.since_look.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn freed(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        self.used().fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).unwrap_or_default();
    }

    pub(super) fn needs_look(&self) -> bool {
        self.since_look.load(Ordering::Relaxed) >= LOOK_EVERY
    }

    pub(super) fn refuse_for_a_while(&self) {
        self.full.store(true, Ordering::Relaxed);
        self.level.store(Level::Stop as u8, Ordering::Relaxed);
    }

    /// Room for `len` bytes; `None`: they may only be given to who waits for them.
    pub(super) fn admit(&self, len: u64) -> Option<Reserved<'_>> {
        if self.level.load(Ordering::Relaxed) == Level::Stop as u8 {
            return None;
        }
        let max = self.bytes_max.unwrap_or(u64::MAX);
        let more = |used: u64| used.checked_add(len).filter(|used| *used <= max);
        self.used().fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Reserved { space: self, left: AtomicU64::new(len) })
    }

    pub(super) fn wants_culling(&self) -> bool {
        self.level.load(Ordering::Relaxed) != Level::Fine as u8
    }

    /// Bytes that must go so that `len` more fit, with some to spare so that not every miss evicts.
    pub(super) fn excess(&self, root: &Dir, len: u64) -> u64 {
        let used = self.used().load(Ordering::SeqCst);
        let over = self.bytes_max.map_or(0, |max| {
            let want = used.saturating_add(len);
            if want > max { want.saturating_sub(max - max / 16) } else { 0 }
        });
        let (blocks, _) = free_percent(root);
        if level(blocks, self.blocks) == Level::Fine {
            return over;
        }
        let total = rustix::fs::fstatvfs(&root.0).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
        let lack = (f64::from(self.blocks.run) - blocks).max(0.0) / 100.0 * total as f64;
        // Files are had only by removing blobs; how many bytes those have is not the question.
        over.max(lack as u64)
    }

    /// Whether blobs must go because there are too few inodes.
    pub(super) fn is_short_of_files(&self, root: &Dir) -> bool {
        level(free_percent(root).1, self.files) != Level::Fine
    }

    /// Whether evicting that has begun for want of inodes is to go on.
    pub(super) fn wants_files(&self, root: &Dir) -> bool {
        free_percent(root).1 < f64::from(self.files.run)
    }

    pub(super) fn stats(&self, root: &Dir, total: BlobStats, open: u64) -> CacheStats {
        let (blocks_free_percent, files_free_percent) = free_percent(root);
        CacheStats {
            used_bytes: self.used().load(Ordering::SeqCst),
            bytes_max: self.bytes_max,
            blocks_free_percent,
            files_free_percent,
            open,
            removed_blobs: self.removed_blobs.load(Ordering::Relaxed),
            total,
        }
    }
}

fn level(free: f64, limit: Thresholds) -> Level {
    if free < f64::from(limit.stop) {
        Level::Stop
    } else if free < f64::from(limit.cull) {
        Level::Cull
    } else {
        Level::Fine
    }
}

fn free_percent(root: &Dir) -> (f64, f64) {
    let percent = |free: u64, all: u64| {
        if all == 0 { 100.0 } else { free as f64 * 100.0 / all as f64 }
    };
    rustix::fs::fstatvfs(&root.0).map_or((100.0, 100.0), |stat| {
        (percent(stat.f_bavail, stat.f_blocks), percent(stat.f_favail, stat.f_files))
    })
}

/// Bytes that all blobs take.
fn count(root: &Dir) -> u64 {
    let folders = ids(root).into_iter().map(|id| super::files::enter(root, &id, false));
    folders.filter_map(|folder| folder.ok().flatten()).map(|folder| disk_bytes(&folder)).sum()
}

/// Bytes that the data of a blob take on disk.
pub(super) fn disk_bytes(folder: &Dir) -> u64 {
    rustix::fs::statat(&folder.0, "data", rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_or(0, |stat| (stat.st_blocks as u64).saturating_mul(512))
}

/// The names of all blobs that are there.
pub(super) fn ids(root: &Dir) -> Vec<BlobId> {
    let mut ids = vec![];
    for kind in BlobKind::ALL {
        let Ok(folder) = root.enter(kind.as_str(), false) else { continue };
        for part in folder.names().unwrap_or_default() {
            let Ok(folder) = folder.enter(&part, false) else { continue };
            for name in folder.names().unwrap_or_default() {
                if let Ok(id) = BlobId::new(kind, &name)
                    && name.starts_with(&part)
                {
                    ids.push(id);
                }
            }
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = CacheConfig { bytes_max: Some(100), ..CacheConfig::new(folder.path()) };
        let folder = std::fs::File::open(folder.path()).unwrap();
        let space = Space::new(&config, &Dir(folder.into()));
        let used = || space.used().load(Ordering::SeqCst);
        let room = space.admit(60).unwrap();
        assert!(space.admit(41).is_none());
        room.wrote(20);
        assert_eq!(used(), 60, "it was counted when there was room");
        space.freed(10);
        room.wrote(30);
        assert_eq!(used(), 50);
        drop(room);
        assert_eq!(used(), 40, "what was not written is given back");
        let room = space.admit(10).unwrap();
        room.wrote(15);
        drop(room);
        assert_eq!(used(), 55, "more than there was room for");
    }
}
