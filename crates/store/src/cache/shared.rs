// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all processes of one cache count together: bytes that are kept, and bytes for which one of
//! them found no room and which others may give back.
//!
//! The count lies in a file that all have mapped. Invariant: the first who opens a cache that nobody
//! else uses counts anew what is there, so what killed processes left uncounted, or counted twice,
//! does not last.

use crate::disk::{Dir, Folder, Open};
use crate::map::{Map, MapState};
use ferrofs_linux::ofd::{self, OfdLock};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

pub(super) const NAME: &str = "space";
const BYTE_USE: u64 = 0;
const BYTE_OPEN: u64 = 1;
const PAUSE: Duration = Duration::from_millis(1);
/// Counting what a cache of very many blobs has may take as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of all processes.
#[derive(Debug)]
pub(super) struct Shared {
    map: Map,
    /// Its lock says that the cache is in use.
    _file: File,
}

impl Shared {
    /// Joins those who use the cache; the first counts by `count`.
    pub(super) fn open(root: &Dir, count: impl FnOnce() -> u64) -> io::Result<Self> {
        let file = root.open(NAME, Open::Create)?;
        let start = Instant::now();
        while !ofd::try_lock(&file, BYTE_OPEN, 1, OfdLock::Exclusive)? {
            if start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(PAUSE);
        }
        let alone = ofd::try_lock(&file, BYTE_USE, 1, OfdLock::Exclusive)?;
        // An exclusive lock becomes a shared one without a moment in between.
        if !ofd::try_lock(&file, BYTE_USE, 1, OfdLock::Shared)? || !alone && !Map::fits(&file, 0)? {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (map, state) = Map::open(&file, 0)?;
        if alone || state == MapState::Stale {
            let [used, wished] = map.numbers();
            used.store(count(), SeqCst);
            wished.store(0, SeqCst);
            map.reset(&[]);
        }
        ofd::unlock(&file, BYTE_OPEN, 1)?;
        Ok(Self { map, _file: file })
    }

    /// Bytes that are kept or about to be.
    pub(super) fn used(&self) -> &AtomicU64 {
        self.map.numbers()[0]
    }

    /// Bytes for which somebody found no room.
    pub(super) fn wished(&self) -> &AtomicU64 {
        self.map.numbers()[1]
    }
}
