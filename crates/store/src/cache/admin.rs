// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people do with a cache: look, check, tidy.

use super::files::{self, Files, Meta, OpenHow};
use super::{BlobId, BlobKind, Cache, CacheInner, Policy, lock, space};
use crate::disk::{Dir, Folder, or_absent};
use crate::map::{GRAIN, GROUP_GRAINS, Map, bytes_of};
use crate::{Demand, Digests, FetchContext, RangeSource, StoreError, Table, TableOptions};
use ferrofs_linux::ofd::{self, OfdLock};
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

/// A blob in a cache.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BlobInfo {
    /// Its name.
    pub id: BlobId,
    /// Its bytes, if its `meta` can be read.
    pub size: Option<u64>,
    /// Where it came from.
    pub source: Option<String>,
    /// The pin of its digest table.
    pub pin: Option<String>,
    /// Bytes that are present, by the log (those of the last seconds may be missing).
    pub present_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Seconds since 1970 when it was made.
    pub created: Option<u64>,
    /// Seconds since 1970 when it was last opened or closed.
    pub used: u64,
    /// It is not removed to make room.
    pub pinned: bool,
    /// Some process uses it.
    pub in_use: bool,
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Findings {
    /// The blob.
    pub id: BlobId,
    /// Whether its bytes could be verified: it has a table whose digests were at hand, or it is
    /// complete and named by its digest.
    pub verifiable: bool,
    /// Bytes that were verified.
    pub verified_bytes: u64,
    /// Bytes that are present and could not be verified.
    pub unverified_bytes: u64,
    /// Ranges that were wrong.
    pub wrong: Vec<Range<u64>>,
    /// Bytes that were dropped, so that they are fetched again.
    pub dropped_bytes: u64,
}

impl Cache {
    /// All blobs, by name.
    pub fn list(&self) -> Result<Vec<BlobInfo>, StoreError> {
        let mut infos = vec![];
        for id in space::ids(&self.inner.root) {
            // Removed meanwhile: not listed.
            if let Some(info) = self.inner.info(&id)? {
                infos.push(info);
            }
        }
        Ok(infos)
    }

    /// One blob.
    pub fn info(&self, id: &BlobId) -> Result<BlobInfo, StoreError> {
        self.inner.info(id)?.ok_or_else(|| StoreError::Unknown { blob: id.clone() })
    }

    /// Protects a blob from being removed to make room, or no longer.
    pub fn pin(&self, id: &BlobId, pinned: bool) -> Result<(), StoreError> {
        let unknown = || StoreError::Unknown { blob: id.clone() };
        let failed = || StoreError::io(id, "change the meta");
        let folder = files::enter(&self.inner.root, id, false).map_err(failed())?;
        let folder = folder.ok_or_else(unknown)?;
        let mut meta = Meta::load(&folder).ok_or_else(unknown)?;
        meta.pinned = pinned;
        meta.save(&folder).map_err(failed())
    }

    /// Removes a blob that nobody uses and that is not pinned; how many bytes that gave.
    pub fn remove(&self, id: &BlobId) -> Result<u64, StoreError> {
        let info = self.info(id)?;
        if info.pinned {
            return Err(StoreError::Pinned { blob: id.clone() });
        }
        self.inner.remove(id)?.ok_or_else(|| StoreError::InUse { blob: id.clone() })
    }

    /// Evicts until `bytes` are gone or nothing more may go; how many are gone.
    pub fn prune(&self, bytes: u64) -> Result<u64, StoreError> {
        self.inner.scan_and_cull(bytes)
    }

    /// What is present of a blob: runs of its bytes, in order, none touching the next.
    pub fn presence(&self, id: &BlobId) -> Result<Vec<Range<u64>>, StoreError> {
        let size = self.info(id)?.size.ok_or_else(|| StoreError::Unknown { blob: id.clone() })?;
        let demand = Demand::default();
        let how = OpenHow { demand: &demand, start: Instant::now(), writes: false };
        let opened = Files::open(&self.inner.root, id, size, None, &how)?;
        Ok(present(&opened.map, size))
    }

    /// Checks what is present of a blob against its digest table, as far as its parts are here or
    /// `table` gives them; `repair`: what is wrong is dropped and will be fetched again.
    pub fn verify(
        &self,
        id: &BlobId,
        table: Option<Arc<dyn RangeSource>>,
        repair: bool,
    ) -> Result<Findings, StoreError> {
        let info = self.info(id)?;
        let size = info.size.ok_or_else(|| StoreError::Unknown { blob: id.clone() })?;
        let demand = Demand::default();
        let how = OpenHow { demand: &demand, start: Instant::now(), writes: false };
        let opened = Files::open(&self.inner.root, id, size, None, &how)?;
        let mut check = Check {
            id,
            size,
            files: &opened.files,
            map: &opened.map,
            findings: Findings {
                id: id.clone(),
                verifiable: false,
                verified_bytes: 0,
                unverified_bytes: 0,
                wrong: vec![],
                dropped_bytes: 0,
            },
        };
        match info.pin.as_deref().and_then(|pin| pin.parse().ok()) {
            Some(pin) => {
                let source = table.unwrap_or_else(|| Arc::new(Nowhere));
                let options = TableOptions {
                    blob_size: Some(size),
                    shelf: opened.files.shelf(),
                    ..TableOptions::default()
                };
                let context = FetchContext::default();
                match Table::open(pin, source, options, &context) {
                    Ok(table) => check.by_table(&table)?,
                    Err(_) => check.not_at_all(),
                }
            }
            None if id.kind() == BlobKind::Sha256 => check.by_digest()?,
            None => check.not_at_all(),
        }
        let mut findings = check.findings;
        if repair && !findings.wrong.is_empty() {
            findings.dropped_bytes = drop_wrong(id, size, opened, &findings.wrong)?;
            self.inner.space.freed(findings.dropped_bytes);
        }
        Ok(findings)
    }
}

/// A source for tables whose parts are all here, or not at all.
#[derive(Debug)]
struct Nowhere;

impl RangeSource for Nowhere {
    fn describe(&self) -> String {
        "the cache alone".into()
    }

    fn identity(&self, _: &FetchContext) -> Result<crate::Identity, crate::FetchError> {
        Err(crate::FetchError::new(crate::FetchErrorKind::NotFound, "not in the cache"))
    }

    fn fetch(
        &self,
        _: Range<u64>,
        _: &mut dyn crate::Sink,
        _: &FetchContext,
    ) -> Result<(), crate::FetchError> {
        Err(crate::FetchError::new(crate::FetchErrorKind::NotFound, "not in the cache"))
    }
}

fn present(map: &Map, size: u64) -> Vec<Range<u64>> {
    let bits = map.bits();
    bits.runs(0..bits.count(), true).map(|run| bytes_of(&run, size)).collect()
}

struct Check<'a> {
    id: &'a BlobId,
    size: u64,
    files: &'a Files,
    map: &'a Map,
    findings: Findings,
}

impl Check<'_> {
    fn present(&self) -> Vec<Range<u64>> {
        present(self.map, self.size)
    }

    fn not_at_all(&mut self) {
        self.findings.unverified_bytes = self.present().iter().map(|run| run.end - run.start).sum();
    }

    fn by_table(&mut self, table: &Table) -> Result<(), StoreError> {
        self.findings.verifiable = true;
        let group = table.layout().geometry().group_len();
        let grain = table.layout().geometry().grain_len();
        let mut bytes = vec![0; group as usize];
        for run in self.present() {
            let mut at = run.start.div_ceil(grain) * grain;
            while at < run.end {
                let end = (at / group * group + group).min(run.end);
                let end = if end == self.size { end } else { end / grain * grain };
                if end <= at {
                    break;
                }
                let piece = &mut bytes[..(end - at) as usize];
                let read = self.files.data.read_exact_at(piece, at);
                read.map_err(StoreError::io(self.id, "read the data"))?;
                let digests = table.digests(at..end, &FetchContext::default());
                self.judge(at..end, piece, digests.ok().as_ref());
                at = end;
            }
        }
        self.findings.verifiable = self.findings.unverified_bytes == 0;
        Ok(())
    }

    /// A whole group that is wrong is dropped whole; its grains have digests of their own, but a
    /// disk that loses one byte is not trusted with its neighbours.
    fn judge(&mut self, range: Range<u64>, bytes: &[u8], digests: Option<&Digests>) {
        let len = range.end - range.start;
        match digests.map(|digests| digests.verify(range.start, bytes)) {
            None => self.findings.unverified_bytes += len,
            Some(Ok(())) => self.findings.verified_bytes += len,
            Some(Err(_)) => self.findings.wrong.push(range),
        }
    }

    fn by_digest(&mut self) -> Result<(), StoreError> {
        use sha2::{Digest as _, Sha256};
        let bits = self.map.bits();
        if !bits.all(0..bits.count()) {
            self.not_at_all();
            return Ok(());
        }
        let mut hasher = Sha256::new();
        let mut bytes = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.size {
            let len = (self.size - at).min(1 << 20);
            let piece = &mut bytes[..len as usize];
            let read = self.files.data.read_exact_at(piece, at);
            read.map_err(StoreError::io(self.id, "read the data"))?;
            hasher.update(&*piece);
            at += len;
        }
        self.findings.verifiable = true;
        if BlobId::from_digest(BlobKind::Sha256, &hasher.finalize().into()) == *self.id {
            self.findings.verified_bytes = self.size;
        } else {
            self.findings.wrong.push(0..self.size);
        }
        Ok(())
    }
}

/// Drops the groups of ranges: as an eviction of ranges, so readers see it.
fn drop_wrong(
    id: &BlobId,
    size: u64,
    opened: files::Opened,
    wrong: &[Range<u64>],
) -> Result<u64, StoreError> {
    let files::Opened { files, map, mut log, .. } = opened;
    let Some(_eviction) = files.try_range_eviction(id)? else {
        return Err(StoreError::InUse { blob: id.clone() });
    };
    let bits = map.bits();
    let mut gone = log_runs(wrong, bits.count());
    let mut held = vec![];
    for run in gone.iter().collect::<Vec<_>>() {
        match files.try_grains(id, &run)? {
            Some(lock) => held.push(lock),
            None => gone.remove(run),
        }
    }
    let dropped = gone.iter().map(|run| bits.ones(run) * GRAIN).sum();
    let _log = files.log_lock(id)?;
    let clear = || {
        gone.iter().for_each(|run| {
            bits.clear(run);
        });
        map.raise();
    };
    crate::log::evict(&files.folder, &files.data, &mut log, size, &gone, clear)
        .map_err(StoreError::io(id, "drop wrong bytes"))?;
    Ok(dropped)
}

fn log_runs(ranges: &[Range<u64>], count: u64) -> crate::log::Runs {
    let mut runs = crate::log::Runs::default();
    for range in ranges {
        let groups = crate::map::grains_of(range);
        let start = groups.start / GROUP_GRAINS * GROUP_GRAINS;
        let end = groups.end.div_ceil(GROUP_GRAINS) * GROUP_GRAINS;
        runs.add(start..end.min(count));
    }
    runs
}

impl CacheInner {
    fn info(&self, id: &BlobId) -> Result<Option<BlobInfo>, StoreError> {
        let failed = || StoreError::io(id, "look at the blob");
        let Some(folder) = files::enter(&self.root, id, false).map_err(failed())? else {
            return Ok(None);
        };
        let meta = Meta::load(&folder);
        let lock = or_absent(folder.open("lock", crate::disk::Open::Existing)).map_err(failed())?;
        let mut log = crate::log::Log::default();
        let present_bytes = match &meta {
            Some(meta) => log.peek(&folder, meta.size).map_err(failed())?,
            None => 0,
        };
        let used = lock.as_ref().and_then(|lock| lock.metadata().ok()?.modified().ok());
        let used = used.and_then(|used| used.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let in_use = match &lock {
            Some(lock) => ofd::is_locked(lock, 0, 1).map_err(failed())?,
            None => false,
        };
        Ok(Some(BlobInfo {
            id: id.clone(),
            size: meta.as_ref().map(|meta| meta.size),
            source: meta.as_ref().map(|meta| meta.source.clone()),
            pin: meta.as_ref().and_then(|meta| meta.pin.clone()),
            present_bytes: present_bytes.min(meta.as_ref().map_or(0, |meta| meta.size)),
            disk_bytes: space::disk_bytes(&folder),
            created: meta.as_ref().map(|meta| meta.created),
            used: used.as_secs(),
            pinned: meta.is_some_and(|meta| meta.pinned),
            in_use,
        }))
    }

    /// Removes a blob; `None` if some process uses it.
    fn remove(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        let failed = || StoreError::io(id, "remove the blob");
        let Some(folder) = files::enter(&self.root, id, false).map_err(failed())? else {
            return Ok(Some(0));
        };
        let lock = folder.open("lock", crate::disk::Open::Create).map_err(failed())?;
        if !ofd::try_lock(&lock, 0, 1, OfdLock::Exclusive).map_err(failed())?
            || !folder.is("lock", &lock).map_err(failed())?
        {
            return Ok(None);
        }
        let bytes = space::disk_bytes(&folder);
        self.unlink(&folder, id).map_err(failed())?;
        self.space.freed(bytes);
        Ok(Some(bytes))
    }

    /// The log first, so that whatever is left after a crash says nothing; the lock last, so that
    /// who waits for it finds another.
    fn unlink(&self, folder: &Dir, id: &BlobId) -> io::Result<()> {
        crate::log::discard(folder)?;
        or_absent(folder.remove("map"))?;
        for name in folder.names()? {
            if name != "lock" {
                or_absent(folder.remove(&name))?;
            }
        }
        or_absent(folder.remove("lock"))?;
        let parent = self.root.enter(id.kind().as_str(), false)?.enter(&id.hex()[..2], false)?;
        match rustix::fs::unlinkat(&parent.0, id.hex(), rustix::fs::AtFlags::REMOVEDIR) {
            // Somebody makes it anew.
            Ok(()) | Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes room for `len` more bytes, if the limits ask for it and as far as it can be had.
    pub(crate) fn make_room(&self, len: u64) {
        if self.space.needs_look() {
            self.space.look(&self.root);
        }
        let excess = self.space.excess(&self.root, len);
        let lacks_files = self.space.is_short_of_files(&self.root);
        if excess > 0 || lacks_files {
            if let Err(error) = self.cull(excess, lacks_files) {
                self.note(&error);
            }
            self.space.look(&self.root);
        }
    }

    /// Before a blob is made: it is some files, and many small ones are made before anybody looks at
    /// what is free.
    pub(super) fn make_room_for_files(&self) {
        if self.space.is_short_of_files(&self.root) {
            self.make_room(0);
        }
    }

    fn scan_and_cull(&self, bytes: u64) -> Result<u64, StoreError> {
        let freed = self.cull(bytes, false)?;
        self.space.look(&self.root);
        Ok(freed)
    }

    /// Gives `bytes` back, and files until there are enough of them if that is wanted: whole blobs that
    /// nobody uses, the longest unused first, then groups of those that are open here.
    fn cull(&self, bytes: u64, files: bool) -> Result<u64, StoreError> {
        let _one_at_a_time = lock(&self.culling);
        let mut candidates = vec![];
        for id in space::ids(&self.root) {
            if self.opened(&id).is_none()
                && let Some(info) = self.info(&id)?
                && !info.pinned
                && !info.in_use
            {
                candidates.push((info.used, id));
            }
        }
        candidates.sort();
        let mut freed = 0;
        for (_, id) in candidates {
            if freed >= bytes && !(files && self.space.wants_files(&self.root)) {
                return Ok(freed);
            }
            if let Some(more) = self.remove(&id)? {
                freed += more;
                self.space.removed_blobs.fetch_add(1, Ordering::Relaxed);
            }
        }
        if freed < bytes {
            freed += self.cull_ranges(bytes - freed)?;
        }
        Ok(freed)
    }

    fn cull_ranges(&self, bytes: u64) -> Result<u64, StoreError> {
        let now = self.epoch();
        let blobs = self.all_opened();
        let mut kept = vec![];
        for (index, blob) in blobs.iter().enumerate() {
            if !blob.no_range_eviction.load(Ordering::SeqCst) {
                kept.extend(blob.kept(now).into_iter().map(|kept| (kept.age, index, kept.group)));
            }
        }
        kept.sort_unstable_by(|a, b| b.cmp(a));
        let mut freed = 0;
        // In batches: each costs a record of the log that must be durable.
        for batch in kept.chunks(256) {
            if freed >= bytes {
                break;
            }
            let mut left = bytes - freed;
            let mut groups = vec![vec![]; blobs.len()];
            for (_, index, group) in batch {
                if left > 0 {
                    groups[*index].push(*group);
                    left = left.saturating_sub(crate::map::GROUP);
                }
            }
            for (blob, groups) in blobs.iter().zip(groups) {
                if !groups.is_empty() {
                    let more = blob.evict(&groups)?;
                    self.space.freed(more);
                    freed += more;
                }
            }
        }
        Ok(freed)
    }
}

/// What admin commands open blobs with.
impl Policy {
    /// For who reads the data file itself.
    #[must_use]
    pub const fn keep_ranges() -> Self {
        Self { range_eviction: false, for_kernel: false }
    }

    /// For who fills what a [`KernelHold`](crate::KernelHold) stands for.
    #[must_use]
    pub const fn for_kernel() -> Self {
        Self { range_eviction: false, for_kernel: true }
    }
}
