// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache: a folder of blobs that several processes use at once.
//!
//! It refuses to know what is in the blobs. Invariant: what it keeps stays within its limits or is
//! given back, and nothing that somebody uses is taken away whole.

mod admin;
mod background;
mod files;
mod head;
mod id;
mod kernel;
mod shared;
mod space;
mod spec;

pub use admin::{BlobInfo, Findings};
pub use id::{BlobId, BlobKind};
pub use kernel::{KernelFiles, KernelHold};
pub use space::CacheStats;
pub use spec::{BlobSpec, CacheConfig, Policy, TableSpec, Thresholds};

pub(crate) use files::{Files, Held};
pub(crate) use space::Reserved;

use crate::blob::{Blob, BlobInner, apply};
use crate::disk::Dir;
use crate::{
    BlobStats, Demand, FetchContext, PageCache, Priority, StoreError, Table, TableOptions, Window,
    WindowConfig,
};
use background::{Ahead, Signals};
use files::OpenHow;
use head::Head;
use sha2::{Digest as _, Sha256};
use space::Space;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Instant, SystemTime};

/// Units of last use, in seconds.
const EPOCH_SECONDS: u64 = 16;
/// Buffers that are kept for the next fetch.
const BUFFERS_MAX: usize = 16;

/// One process' handle of a cache. Clones are the same.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<CacheInner>,
}

pub(crate) struct CacheInner {
    config: CacheConfig,
    root: Dir,
    blobs: Mutex<HashMap<BlobId, Weak<BlobInner>>>,
    pub(crate) pages: Arc<PageCache>,
    pub(crate) buffers: Buffers,
    space: Space,
    signals: Arc<Signals>,
    ahead: Arc<Ahead>,
    /// Bytes that were written and not committed, of all blobs.
    dirty_bytes: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// What blobs that are closed had counted.
    closed: Mutex<BlobStats>,
    /// Held by who evicts.
    culling: Mutex<()>,
}

impl fmt::Debug for CacheInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("path", &self.config.path).finish_non_exhaustive()
    }
}

/// A poisoned lock's state is whole: no invariant is broken between two statements under one.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers of fetches that have ended.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    pub(crate) fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut buffers = lock(&self.0);
        // Those of tables with large groups are not kept.
        if buffers.len() < BUFFERS_MAX && buffer.len() <= 1 << 20 {
            buffers.push(buffer);
        }
    }
}

impl Cache {
    /// Opens a cache, and makes its folder if it is not there.
    pub fn open(config: CacheConfig) -> Result<Self, StoreError> {
        config.check()?;
        let failed = |error| StoreError::Io { blob: None, what: "open the folder", error };
        let root = files::open_root(&config.path).map_err(failed)?;
        let pages = Arc::new(PageCache::new(config.table_memory as u64));
        let signals = Arc::new(Signals::default());
        let inner = Arc::new(CacheInner {
            space: Space::new(&config, &root),
            config,
            root,
            blobs: Mutex::default(),
            pages,
            buffers: Buffers::default(),
            signals: Arc::clone(&signals),
            ahead: Arc::default(),
            dirty_bytes: AtomicU64::new(0),
            last_error: Mutex::default(),
            closed: Mutex::default(),
            culling: Mutex::default(),
        });
        background::spawn(&inner, signals).map_err(|error| StoreError::Io {
            blob: None,
            what: "begin a thread",
            error,
        })?;
        Ok(Self { inner })
    }

    /// Whether a folder looks like a cache's.
    #[must_use]
    pub fn is_cache(folder: &Path) -> bool {
        let kinds = BlobKind::ALL.iter().map(|kind| kind.as_str());
        kinds.chain([shared::NAME]).any(|name| folder.join(name).exists())
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.config.path
    }

    /// Opens a blob, and makes it if it is not there. Asks the origin for its size, or fetches the
    /// table, only if nothing else tells.
    pub fn blob(&self, spec: BlobSpec) -> Result<Blob, StoreError> {
        self.blob_within(spec, &Demand::default())
    }

    /// As [`Cache::blob`], for as long as `demand` says.
    pub fn blob_within(&self, spec: BlobSpec, demand: &Demand) -> Result<Blob, StoreError> {
        use crate::RangeSource;
        if matches!(spec.table, TableSpec::Missing) {
            return Err(StoreError::Unverified { source: spec.origin.describe() });
        }
        let mut size = spec.size;
        let id = match (&spec.id, &spec.table) {
            (Some(id), _) => id.clone(),
            (None, TableSpec::Pinned { pin, .. }) => {
                BlobId::from_digest(BlobKind::Table, &pin.digest)
            }
            (None, _) => Self::identify(&spec, &mut size, demand)?,
        };
        let policy = spec.policy;
        let blob = match self.inner.opened(&id) {
            Some(blob) => blob,
            None => self.open_blob(id, size, spec, demand)?,
        };
        if let Some(expected) = size
            && expected != blob.size
        {
            let (blob, found) = (blob.id.clone(), blob.size);
            return Err(StoreError::OtherSize { blob, expected, found });
        }
        apply(&blob, policy)?;
        Ok(Blob { inner: blob })
    }

    /// A name of where a blob is, and of which version.
    fn identify(
        spec: &BlobSpec,
        size: &mut Option<u64>,
        demand: &Demand,
    ) -> Result<BlobId, StoreError> {
        use crate::RangeSource;
        let name = spec.origin.describe();
        let unknown = BlobId::from_digest(BlobKind::Url, &Sha256::digest(&name).into());
        let identity = spec
            .origin
            .identity_and(spec.head_len > 0, demand)
            .map_err(|error| StoreError::Fetch { blob: unknown, offset: 0, len: 0, error })?;
        *size = Some(size.unwrap_or(identity.size));
        let validator = identity.validator.unwrap_or_default();
        let text = format!("{name}\n{}\n{validator}\n", identity.size);
        Ok(BlobId::from_digest(BlobKind::Url, &Sha256::digest(text).into()))
    }

    fn open_blob(
        &self,
        id: BlobId,
        size: Option<u64>,
        spec: BlobSpec,
        demand: &Demand,
    ) -> Result<Arc<BlobInner>, StoreError> {
        let start = Instant::now();
        if !matches!(files::enter(&self.inner.root, &id, false), Ok(Some(_))) {
            self.inner.make_room_for_files();
        }
        let folder = files::enter(&self.inner.root, &id, true)
            .and_then(|folder| folder.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(StoreError::io(&id, "make a folder"))?;
        let known = files::known_size(&folder);
        let head = known.is_none().then(|| Head::begin(&spec, demand, start)).flatten();
        let (size, table) = match size.or(known) {
            Some(size) => (size, None),
            None => self.learn_size(&id, &folder, &spec, demand, start)?,
        };
        let meta = files::Meta::new(&id, size, &spec);
        let how = OpenHow { demand, start, writes: !spec.policy.for_kernel };
        let opened = Files::open(&self.inner.root, &id, size, Some(&meta), &how)?;
        let (grain, group) = table.as_ref().map_or((4096, 64 << 10), |table: &Arc<Table>| {
            let geometry = table.layout().geometry();
            (geometry.grain_len(), geometry.group_len())
        });
        let window = Window::new(WindowConfig { grain, group, ..WindowConfig::default() }, size);
        let blob = Arc::new(BlobInner {
            id: id.clone(),
            size,
            cache: Arc::clone(&self.inner),
            files: opened.files,
            map: opened.map,
            flights: crate::flight::Flights::default(),
            origin: spec.origin,
            table_spec: spec.table,
            table: Mutex::new(table),
            copy: OnceLock::new(),
            window: Mutex::new(window),
            window_idle: true.into(),
            no_range_eviction: false.into(),
            counters: crate::stats::Counters::default(),
            dirty: Mutex::new(opened.dirty),
            log: Mutex::new(opened.log),
            streaming: false.into(),
            recorder: OnceLock::new(),
        });
        let mut blobs = lock(&self.inner.blobs);
        if let Some(first) = blobs.get(&id).and_then(Weak::upgrade) {
            // Another thread was faster; what this one opened is closed.
            drop(blobs);
            return Ok(first);
        }
        if blobs.len().is_power_of_two() {
            blobs.retain(|_, blob| blob.strong_count() > 0);
        }
        blobs.insert(id, Arc::downgrade(&blob));
        drop(blobs);
        if let Some(head) = head {
            head.end(&blob, demand, start);
        }
        Ok(blob)
    }

    /// Asks the table or the origin how large a blob is.
    fn learn_size(
        &self,
        id: &BlobId,
        folder: &crate::disk::Dir,
        spec: &BlobSpec,
        demand: &Demand,
        start: Instant,
    ) -> Result<(u64, Option<Arc<Table>>), StoreError> {
        if let TableSpec::Pinned { pin, source } = &spec.table {
            let pages = Arc::clone(&self.inner.pages);
            let shelf = files::shelf(folder);
            let sparing = spec.sparing;
            let options = TableOptions { shelf, pages, sparing, ..TableOptions::default() };
            let context = FetchContext {
                deadline: demand.until(start),
                priority: Priority::Demand,
                ..FetchContext::default()
            };
            let table = Table::open(*pin, Arc::clone(source), options, &context);
            let table = table.map_err(|error| StoreError::Table {
                blob: id.clone(),
                offset: 0,
                source: source.describe(),
                error: Box::new(error),
            })?;
            return Ok((table.layout().blob_size(), Some(Arc::new(table))));
        }
        let failed = |error| StoreError::Fetch { blob: id.clone(), offset: 0, len: 0, error };
        Ok((spec.origin.identity(demand).map_err(failed)?.size, None))
    }

    /// Makes what is present durable, of all blobs.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.commit_all()
    }

    /// What happened to all blobs since the cache was opened.
    pub fn stats(&self) -> CacheStats {
        let mut total = lock(&self.inner.closed).clone();
        let blobs = self.inner.all_opened();
        for blob in &blobs {
            total.add(&blob.stats());
        }
        self.inner.space.stats(&self.inner.root, total, blobs.len() as u64)
    }

    /// What went wrong last in the background, for people.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.inner.last_error).clone()
    }
}

impl CacheInner {
    fn opened(&self, id: &BlobId) -> Option<Arc<BlobInner>> {
        lock(&self.blobs).get(id).and_then(Weak::upgrade)
    }

    pub(crate) fn all_opened(&self) -> Vec<Arc<BlobInner>> {
        lock(&self.blobs).values().filter_map(Weak::upgrade).collect()
    }

    /// Now, in units of last use.
    pub(crate) fn epoch(&self) -> u16 {
        self.signals.epoch()
    }

    /// What a blob counted is not lost when it is closed.
    pub(crate) fn closing(&self, stats: &BlobStats) {
        let mut stats = stats.clone();
        stats.present_bytes = 0;
        lock(&self.closed).add(&stats);
    }

    pub(crate) fn note(&self, error: &StoreError) {
        *lock(&self.last_error) = Some(error.to_string());
    }

    /// Bytes were written: the limits and the committer hear of it.
    pub(crate) fn wrote(&self, room: &Reserved<'_>, bytes: u64) {
        room.wrote(bytes);
        let dirty = self.dirty_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if dirty >= background::DIRTY_MAX {
            self.signals.wake();
        }
    }

    /// Room for `len` more bytes; evicts if there is none. `None`: they must not be kept.
    pub(crate) fn admit(&self, len: u64) -> Option<Reserved<'_>> {
        if self.space.needs_look() {
            self.space.look(&self.root);
        }
        let admitted = self.space.admit(len).or_else(|| {
            self.make_room(len);
            let admitted = self.space.admit(len);
            if admitted.is_none() {
                self.space.wish(len);
            }
            admitted
        });
        if admitted.is_some() && self.space.wants_culling() {
            self.signals.wake();
        }
        admitted
    }

    /// A write found no room, whatever the limits say.
    pub(crate) fn is_full(&self) {
        self.space.refuse_for_a_while();
        self.signals.wake();
    }

    /// Fetches a range that nobody waits for, in the background.
    pub(crate) fn ahead(&self, blob: &Arc<BlobInner>, range: Range<u64>) {
        self.ahead.push(blob, range);
    }

    pub(crate) fn commit_all(&self) -> Result<(), StoreError> {
        self.dirty_bytes.store(0, Ordering::Relaxed);
        let mut result = Ok(());
        for blob in self.all_opened() {
            let committed = blob.commit();
            if result.is_ok() {
                result = committed;
            }
        }
        result
    }
}

fn now_epoch() -> u16 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // 0 means never.
    ((since.as_secs() / EPOCH_SECONDS) as u16).max(1)
}
