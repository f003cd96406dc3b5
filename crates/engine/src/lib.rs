// SPDX-License-Identifier: MIT OR Apache-2.0
//! File data at speed over an opened image.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ferrofs_engine::{Engine, EngineConfig};
//! use ferrofs_image::Image;
//! let image = Image::open(std::fs::File::open("root.erofs")?)?;
//! let engine = Engine::new(image.into(), EngineConfig::default());
//! let file = engine.open(&engine.image().resolve(b"/usr/bin/python3")?)?;
//! let mut head = vec![0; 4096];
//! engine.read_into(&file, 0, &mut head)?;
//! # Ok(()) }
//! ```
//!
//! A request is cut into extents. Stored bytes go from the device into the caller's buffers. An
//! extent that is wanted whole is decoded straight into them, LZ4 even in place, without memory for
//! the encoded bytes; one that is wanted in part is decoded into the cache, so that the reads around
//! it find it there. Encoded bytes of neighbouring pclusters are read in one piece. A pcluster that
//! several readers want at once is read and decoded by one of them, as far as any of them needs, and
//! the others get its result. Which encoded bytes stay in memory is a matter of [`Strategy`].
//!
//! The crate refuses to know FUSE and the network. Invariants: the caches never hold more than their
//! limit, and a request no more than its window beside that; nobody waits for another reader while
//! others may wait for him; failures reach exactly the bytes that needed the pcluster, are never
//! kept, and the next read tries again.
#![deny(unsafe_code)]

mod cache;
mod config;
mod fault;
mod output;
mod plan;
mod read;
mod registry;
mod request;
mod run;
mod stats;
mod sync;
mod workers;

use cache::{Caches, Decoded, Key};
pub use config::{EngineConfig, OnChange, Rule, Strategy, SyncDecompression, UnknownName};
use fault::Faults;
pub use fault::{Fault, FaultKind, FaultTime, ParseFaultError};
use ferrofs_image::{Decoder, Error, FileMap, Image, Inode, Result};
use output::Output;
use plan::Part;
use registry::Registry;
pub use request::{Failure, Hint, Report, Request, Surplus};
use stats::Counters;
pub use stats::{BUCKETS, EngineStats, Histogram};
use std::fmt;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use workers::Workers;

/// Reads file data of one image, for any number of threads.
pub struct Engine {
    core: Arc<Core>,
}

/// What background jobs share with the engine.
pub(crate) struct Core {
    image: Arc<Image>,
    config: RwLock<EngineConfig>,
    caches: Caches,
    registry: Registry<Key, Arc<Decoded>, Error>,
    counters: Counters,
    faults: Faults,
    workers: Workers,
    /// Idle working memory of readers; as many as ever read at once.
    idle: Mutex<Vec<Scratch>>,
}

/// What one read needs besides the caller's buffers; reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    decoder: Decoder,
    staging: Vec<u8>,
    parts: Vec<Part>,
}

/// Readers' working memory kept for later; beyond that it is freed.
const IDLE_MAX: usize = 16;

/// A file opened for reading: its layout, checked once.
#[derive(Clone, Debug)]
pub struct OpenFile {
    map: FileMap,
}

impl OpenFile {
    /// Layout of the content.
    #[must_use]
    pub const fn map(&self) -> &FileMap {
        &self.map
    }

    /// Bytes of content.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.map.size()
    }
}

/// What to drop from memory, numbered as in the kernel's `drop_caches`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the kernel's three")]
pub enum DropCaches {
    /// 1: encoded pclusters.
    Encoded = 1,
    /// 2: decoded data and idle working memory.
    Decoded = 2,
    /// 3: both.
    All = 3,
}

/// The strategy stays as it is, because encoded pclusters are in memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StrategyBusy {
    /// Bytes of them.
    pub encoded_bytes: u64,
}

impl fmt::Display for StrategyBusy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encoded_bytes } = self;
        write!(
            f,
            "{encoded_bytes} bytes of compressed data are in memory; drop or flush them first"
        )
    }
}

impl std::error::Error for StrategyBusy {}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("image", &self.core.image).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.workers.close();
    }
}

impl Engine {
    /// An engine over `image`.
    #[must_use]
    pub fn new(image: Arc<Image>, config: EngineConfig) -> Self {
        let core = Core {
            image,
            caches: Caches::new(config.cache_bytes, config.strategy),
            workers: Workers::new(config.workers),
            config: RwLock::new(config),
            registry: Registry::default(),
            counters: Counters::default(),
            faults: Faults::default(),
            idle: Mutex::default(),
        };
        Self { core: Arc::new(core) }
    }

    /// Has each worker thread that starts from now on begin with `first`. Once; later ones are ignored.
    pub fn begin_workers_with(&self, first: impl Fn() + Send + Sync + 'static) {
        self.core.workers.begin_with(first);
    }

    /// Starts all worker threads now, instead of when there is work for them: as children of this
    /// thread, with its signals and processors.
    pub fn start_workers(&self) {
        self.core.workers.start();
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.core.image
    }

    /// Opens a file, directory or symbolic link for reading its content.
    pub fn open(&self, inode: &Inode) -> Result<OpenFile> {
        self.core.image.map(inode).map(|map| OpenFile { map })
    }

    /// Reads content from `offset` on into `buf`; returns how many bytes, less than `buf` holds only
    /// at the end of the file. If part of the range cannot be read, the error of its first such byte
    /// is returned and the content of `buf` is unspecified.
    pub fn read_into(&self, file: &OpenFile, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let request = Request { offset, len: buf.len(), ..Request::default() };
        self.serve(file, &request, Output::whole(buf)).into_result()
    }

    /// Serves a request into `buffers`, one after the other. What does not fit is not read.
    pub fn read(
        &self,
        file: &OpenFile,
        request: &Request,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Report {
        self.serve(file, request, Output::new(buffers))
    }

    fn serve(&self, file: &OpenFile, request: &Request, out: Output<'_>) -> Report {
        let left = file.size().saturating_sub(request.offset);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let len = left.min(request.len).min(out.len());
        if len == 0 { Report::default() } else { self.core.serve(&file.map, request, len, out) }
    }

    /// How many of `max` bytes from `offset` on end where an extent does, for those who read a file from
    /// front to back: an extent that two requests have in common is decoded aside and copied. `max` if
    /// one extent is longer than that, if the file ends before, or if its map cannot be read there.
    #[must_use]
    pub fn whole_extents(&self, file: &OpenFile, offset: u64, max: usize) -> usize {
        let end = offset.saturating_add(max as u64);
        if end >= file.size() {
            return max;
        }
        let extent = file.map.cursor(self.image()).extent_at(end);
        let start = extent.map_or(end, |extent| extent.start);
        match start.checked_sub(offset).map(usize::try_from) {
            Some(Ok(count)) if count > 0 => count,
            _ => max,
        }
    }

    /// Decodes what `range` of a file touches into the cache some time soon, if it fits there and no
    /// more than a few hundred such wishes wait. At most 8 MiB of a range are looked at.
    pub fn prefetch(&self, file: &OpenFile, range: Range<u64>) {
        let core = Arc::clone(&self.core);
        let map = file.map.clone();
        let range = range.start.min(map.size())..range.end.min(map.size());
        let job = Box::new(move || core.warm(&map, range));
        if !self.core.workers.spawn(job) {
            self.core.counters.background_refused(1);
        }
    }

    /// Takes note that whoever got `surplus` keeps all of it, as the kernel's page cache does. The caches
    /// let go of that extent, or it would be in memory twice; but what it has of a page at either end
    /// stays, for the page is not whole without the extent beside it.
    pub fn delivered(&self, surplus: &Surplus) {
        let (key, decoded) = surplus.extent();
        // The kernel's strategies keep what they keep.
        self.core.caches.deliver(key, decoded, self.config().strategy == Strategy::Split);
    }

    /// Counters since the engine was made.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.core.counters.snapshot(&self.core.caches)
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> EngineConfig {
        self.core.config()
    }

    /// Changes settings for the requests that begin from now on. The strategy, the number of workers
    /// and strictness stay: the first has [`set_strategy`](Self::set_strategy), the others are fixed
    /// when the engine is made.
    pub fn update(&self, change: impl FnOnce(&mut EngineConfig)) {
        let mut config = self.core.config.write().unwrap_or_else(PoisonError::into_inner);
        let EngineConfig { strategy, workers, strict, cache_bytes, .. } = *config;
        change(&mut config);
        *config = EngineConfig { strategy, workers, strict, ..*config };
        // Under the lock, so that two changes of the limit do not cross.
        if config.cache_bytes != cache_bytes {
            self.core.caches.set_limit(config.cache_bytes, strategy);
        }
    }

    /// Changes the limit of the caches; what is above it is dropped.
    pub fn set_cache_bytes(&self, bytes: u64) {
        self.update(|config| config.cache_bytes = bytes);
    }

    /// Changes the strategy for the requests that begin from now on. What becomes of encoded bytes
    /// that are in memory is the caller's choice; for what the new strategy has no room, it goes in
    /// any case.
    pub fn set_strategy(
        &self,
        strategy: Strategy,
        on_change: OnChange,
    ) -> std::result::Result<(), StrategyBusy> {
        let mut config = self.core.config.write().unwrap_or_else(PoisonError::into_inner);
        if strategy == config.strategy {
            return Ok(());
        }
        let encoded_bytes = self.core.caches.usage().encoded;
        if on_change == OnChange::Refuse && encoded_bytes > 0 {
            return Err(StrategyBusy { encoded_bytes });
        }
        config.strategy = strategy;
        self.core.caches.set_strategy(strategy, on_change == OnChange::Flush);
        Ok(())
    }

    /// Drops cached data.
    pub fn drop_caches(&self, what: DropCaches) {
        if matches!(what, DropCaches::Encoded | DropCaches::All) {
            self.core.caches.drop_encoded();
        }
        if matches!(what, DropCaches::Decoded | DropCaches::All) {
            self.core.caches.drop_decoded();
            self.core.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Lets something go wrong, to see what comes of it.
    pub fn inject(&self, fault: Fault) {
        self.core.faults.inject(fault);
    }

    /// No more injected faults.
    pub fn clear_faults(&self) {
        self.core.faults.clear();
    }
}

impl Core {
    fn config(&self) -> EngineConfig {
        *self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn scratch(&self) -> Scratch {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| {
            let decoder = if self.config().strict { Decoder::strict() } else { Decoder::new() };
            Scratch { decoder, ..Scratch::default() }
        })
    }

    fn give_back(&self, scratch: Scratch) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(scratch);
        }
    }
}
