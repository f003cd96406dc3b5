// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of one blob, and the locks by which processes agree about them.
//!
//! Bytes of `lock`: 0 in use (shared by users, exclusive by who removes), 1 opening, 2 log, 3
//! eviction of ranges (shared by who forbids it, exclusive by who does it), 4 writing (shared by who
//! may write, exclusive by who lets the kernel ask before it reads), and one for each grain that is
//! being fetched.

use super::{BlobId, BlobSpec, TableSpec};
use crate::disk::{Dir, DiskFile, Folder, Open, or_absent};
use crate::log::{self, Log, Runs};
use crate::map::{Map, MapState};
use crate::{Demand, FileShelf, Shelf, StoreError};
use ferrofs_linux::ofd::{self, OfdLock};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BYTE_USE: u64 = 0;
const BYTE_OPEN: u64 = 1;
const BYTE_LOG: u64 = 2;
const BYTE_RANGES: u64 = 3;
const BYTE_WRITE: u64 = 4;
const BYTE_GRAINS: u64 = 4096;
/// Pauses between tries for a lock that is held for microseconds, or for a sync.
const PAUSE: Duration = Duration::from_millis(1);
/// A sync of a slow disk may take as long.
const LOG_PATIENCE: Duration = Duration::from_secs(120);
/// A mount that is gone has its keeper for a moment yet.
const KERNEL_PATIENCE: Duration = Duration::from_secs(2);
/// Blocks are found beforehand for so many bytes at least: for fewer that costs more than it saves.
const ALLOCATE_MIN: usize = 64 << 10;
/// What a `meta` may have.
const META_MAX: usize = 64 << 10;

/// What is known of a blob besides its bytes: for people, and to find its size again.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Meta {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) size: u64,
    /// Where it came from, without credentials.
    pub(crate) source: String,
    pub(crate) pin: Option<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) pinned: bool,
}

impl Meta {
    pub(super) fn new(id: &BlobId, size: u64, spec: &BlobSpec) -> Self {
        use crate::RangeSource;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let pin = match &spec.table {
            TableSpec::Pinned { pin, .. } => Some(pin.to_string()),
            _ => None,
        };
        Self {
            version: 1,
            id: id.to_string(),
            size,
            source: spec.origin.describe(),
            pin,
            created: now.unwrap_or_default().as_secs(),
            pinned: false,
        }
    }

    /// Reads it; `None` if there is none that can be used: then it is made anew.
    pub(crate) fn load(folder: &Dir) -> Option<Self> {
        let file = folder.open("meta", Open::Existing).ok()?;
        let mut bytes = vec![0; META_MAX];
        let count = file.read_up_to(&mut bytes, 0).ok()?;
        let meta: Self = serde_json::from_slice(&bytes[..count]).ok()?;
        (meta.version == 1).then_some(meta)
    }

    pub(crate) fn save(&self, folder: &Dir) -> io::Result<()> {
        let name = format!("meta.{:016x}", fastrand::u64(..));
        let file = folder.open(&name, Open::Empty)?;
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        file.write_all(&bytes, 0)?;
        folder.rename(&name, "meta")
    }
}

/// For whom a blob is opened, and for how long that may take.
pub(super) struct OpenHow<'a> {
    pub(super) demand: &'a Demand,
    pub(super) start: Instant,
    /// By somebody who writes data, but not for a [`KernelHold`](super::KernelHold).
    pub(super) writes: bool,
}

/// Takes what must be held of a blob's `lock` as long as the kernel reads its data after asking: it
/// is in use, no range of it is evicted, and nobody writes but by that asking. `false`: others use it.
pub(super) fn hold_for_kernel(lock: &File) -> io::Result<bool> {
    Ok(ofd::try_lock(lock, BYTE_USE, 1, OfdLock::Shared)?
        && ofd::try_lock(lock, BYTE_RANGES, 1, OfdLock::Shared)?
        && ofd::try_lock(lock, BYTE_WRITE, 1, OfdLock::Exclusive)?)
}

/// The open files of a blob in use.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) folder: Dir,
    pub(crate) data: File,
    pub(crate) lock: File,
    /// Blocks are found before they are written ([`Files::write`]).
    allocates: bool,
}

pub(super) struct Opened {
    pub(super) files: Files,
    pub(super) map: Map,
    pub(super) log: Log,
    /// Present by the map, and not by the log.
    pub(super) dirty: Runs,
}

/// A lock that ends with this.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    lock: &'a File,
    start: u64,
    len: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It fails only for a descriptor that is not open, and this one is.
        ofd::unlock(self.lock, self.start, self.len).unwrap_or(());
    }
}

fn hold(lock: &File, start: u64, len: u64) -> io::Result<Option<Held<'_>>> {
    let taken = ofd::try_lock(lock, start, len, OfdLock::Exclusive)?;
    Ok(taken.then_some(Held { lock, start, len }))
}

/// Opens the folder of a cache; makes it.
pub(super) fn open_root(path: &Path) -> io::Result<Dir> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(Dir(rustix::fs::open(path, flags, Mode::empty())?))
}

/// The folder of a blob.
pub(super) fn enter(root: &Dir, id: &BlobId, create: bool) -> io::Result<Option<Dir>> {
    let (kind, hex) = (id.kind().as_str(), id.hex());
    // Nearly always it is there: thousands are opened at once.
    match root.enter_below(&format!("{kind}/{}/{hex}", &hex[..2])) {
        Ok(Some(folder)) => return Ok(Some(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let walk = || root.enter(kind, create)?.enter(&hex[..2], create)?.enter(hex, create);
    or_absent(walk())
}

/// The size of a blob that was opened before.
pub(super) fn known_size(folder: &Dir) -> Option<u64> {
    Meta::load(folder).map(|meta| meta.size)
}

impl Files {
    /// Opens a blob's files and brings its map into order. `None` for `meta`: only if it is there.
    pub(super) fn open(
        root: &Dir,
        id: &BlobId,
        size: u64,
        meta: Option<&Meta>,
        how: &OpenHow<'_>,
    ) -> Result<Opened, StoreError> {
        let (demand, start) = (how.demand, how.start);
        loop {
            let folder =
                enter(root, id, meta.is_some()).map_err(StoreError::io(id, "open a folder"))?;
            let folder = folder.ok_or_else(|| StoreError::Unknown { blob: id.clone() })?;
            let lock = match folder.open("lock", Open::Create) {
                Ok(lock) => lock,
                // Removed by another process since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io(id, "open the lock")(error)),
            };
            let files = || -> io::Result<Option<Opened>> {
                let Some(opening) = hold(&lock, BYTE_OPEN, 1)? else { return Ok(None) };
                let alone = ofd::try_lock(&lock, BYTE_USE, 1, OfdLock::Exclusive)?;
                // An exclusive lock becomes a shared one without a moment in between.
                if !ofd::try_lock(&lock, BYTE_USE, 1, OfdLock::Shared)? || !still(root, id, &lock)?
                {
                    return Ok(None);
                }
                if how.writes && !ofd::try_lock(&lock, BYTE_WRITE, 1, OfdLock::Shared)? {
                    if start.elapsed() < KERNEL_PATIENCE {
                        return Ok(None);
                    }
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let (data, map, log, dirty) = match order(&folder, size, alone, meta) {
                    // Somebody has cut or overwritten what others use. They go on as they can; who
                    // comes now begins anew.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData && meta.is_some() => {
                        set_aside(root, id)?;
                        return Ok(None);
                    }
                    other => other?,
                };
                drop(opening);
                let lock = lock.try_clone()?;
                // Each allocation of a file about which the kernel asks would be a question more.
                let allocates = how.writes && is_cheap_to_allocate(&data);
                let files = Self { folder, data, lock, allocates };
                Ok(Some(Opened { files, map, log, dirty }))
            };
            match files() {
                Ok(Some(opened)) => {
                    opened.files.touch();
                    return Ok(opened);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(StoreError::Damaged { blob: id.clone() });
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    return Err(StoreError::KernelReads { blob: id.clone() });
                }
                Err(error) => return Err(StoreError::io(id, "open the files")(error)),
            }
            if demand.is_cancelled() {
                return Err(StoreError::Cancelled { blob: id.clone(), offset: 0 });
            }
            if demand.until(start).is_some_and(|until| Instant::now() >= until) {
                return Err(StoreError::Deadline { blob: id.clone(), offset: 0 });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Writes bytes of the blob where there are none yet. Their blocks are found first, all by one
    /// call: promising them page by page takes the file system as long as copying the bytes
    /// (docs/performance.md, "On demand").
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.allocates && bytes.len() >= ALLOCATE_MIN {
            // What fails here, a full disk above all, fails again when it is written.
            let flags = FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.data, flags, offset, bytes.len() as u64).unwrap_or(());
        }
        self.data.write_all_at(bytes, offset)
    }

    /// Takes the lock of the log; waits for it.
    pub(crate) fn log_lock(&self, id: &BlobId) -> Result<Held<'_>, StoreError> {
        let start = Instant::now();
        loop {
            let held = hold(&self.lock, BYTE_LOG, 1).map_err(StoreError::io(id, "lock the log"))?;
            if let Some(held) = held {
                return Ok(held);
            }
            if start.elapsed() > LOG_PATIENCE {
                return Err(StoreError::Deadline { blob: id.clone(), offset: 0 });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes grains, if no other process has any of them.
    pub(crate) fn try_grains(
        &self,
        id: &BlobId,
        grains: &Range<u64>,
    ) -> Result<Option<Held<'_>>, StoreError> {
        hold(&self.lock, BYTE_GRAINS + grains.start, grains.end - grains.start)
            .map_err(StoreError::io(id, "lock a range"))
    }

    /// Nobody evicts ranges from now on, as long as the blob is in use here.
    pub(crate) fn forbid_range_eviction(&self, id: &BlobId) -> Result<(), StoreError> {
        let start = Instant::now();
        loop {
            let taken = ofd::try_lock(&self.lock, BYTE_RANGES, 1, OfdLock::Shared)
                .map_err(StoreError::io(id, "lock ranges"))?;
            if taken {
                return Ok(());
            }
            if start.elapsed() > LOG_PATIENCE {
                return Err(StoreError::Deadline { blob: id.clone(), offset: 0 });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes the right to evict ranges, if nobody forbids it.
    pub(crate) fn try_range_eviction(&self, id: &BlobId) -> Result<Option<Held<'_>>, StoreError> {
        hold(&self.lock, BYTE_RANGES, 1).map_err(StoreError::io(id, "lock ranges"))
    }

    /// Where parts of the digest table are kept.
    pub(crate) fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        shelf(&self.folder)
    }

    /// Notes a use: what was used longest ago is removed first.
    pub(crate) fn touch(&self) {
        self.lock.set_modified(std::time::SystemTime::now()).unwrap_or(());
    }
}

/// Whether the file system finds many blocks as fast as one, and writes nothing into them (tmpfs
/// would clear its pages).
fn is_cheap_to_allocate(file: &File) -> bool {
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    rustix::fs::fstatfs(file).is_ok_and(|stat| matches!(stat.f_type as u32, EXT4 | XFS))
}

/// Where parts of the digest table of the blob in this folder are kept.
pub(super) fn shelf(folder: &Dir) -> Option<Arc<dyn Shelf>> {
    let file = folder.open("table", Open::Create).ok()?;
    Some(Arc::new(FileShelf::new(file)))
}

/// Takes the folder of a blob away from under those who use it, who keep what they have open: from
/// then on it is another one.
fn set_aside(root: &Dir, id: &BlobId) -> io::Result<()> {
    let parent = root.enter(id.kind().as_str(), false)?.enter(&id.hex()[..2], false)?;
    let name = format!("aside.{:016x}", fastrand::u64(..));
    parent.rename(id.hex(), &name)?;
    let folder = parent.enter(&name, false)?;
    for file in folder.names()? {
        or_absent(folder.remove(&file))?;
    }
    Ok(rustix::fs::unlinkat(&parent.0, &name, rustix::fs::AtFlags::REMOVEDIR)?)
}

/// Whether the lock is still that of the blob: it was not removed before it was locked.
fn still(root: &Dir, id: &BlobId, lock: &File) -> io::Result<bool> {
    match enter(root, id, false)? {
        Some(folder) => folder.is("lock", lock),
        None => Ok(false),
    }
}

/// Brings data, map and log into order. `alone`: no other process uses the blob. An error of
/// invalid data: the map is damaged, and others use it.
fn order(
    folder: &Dir,
    size: u64,
    alone: bool,
    meta: Option<&Meta>,
) -> io::Result<(File, Map, Log, Runs)> {
    let mut log = Log::default();
    let data = match or_absent(folder.open("data", Open::Existing))? {
        Some(data) if data.metadata()?.len() == size => data,
        found => {
            if found.is_some() && !alone {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // What the log and the map say is of other data.
            log::discard(folder)?;
            or_absent(folder.remove("map"))?;
            let data = folder.open("data", Open::Empty)?;
            data.set_len(size)?;
            data
        }
    };
    if let Some(meta) = meta
        && Meta::load(folder).is_none_or(|found| found.id != meta.id || found.size != size)
    {
        meta.save(folder)?;
    }
    let file = folder.open("map", Open::Create)?;
    if !alone && !Map::fits(&file, size)? {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (map, state) = Map::open(&file, size)?;
    let mut dirty = Runs::default();
    if !alone {
        // Who uses it commits what it wrote.
        return if state == MapState::Trusted {
            Ok((data, map, log, dirty))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        };
    }
    let present = log.load(folder, size)?;
    match state {
        MapState::Trusted => {
            map.bits().runs(0..map.bits().count(), true).for_each(|run| dirty.add(run));
            present.iter().for_each(|run| dirty.remove(run));
        }
        MapState::Stale => map.reset(&present.iter().collect::<Vec<_>>()),
    }
    Ok((data, map, log, dirty))
}
