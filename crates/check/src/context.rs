// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every long job takes besides its options: workers, progress and a way to stop.

use ferrofs_engine::{Engine, EngineConfig, SyncDecompression};
use ferrofs_image::Image;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears of progress, from several threads at once. Calls are cheap increments, not totals.
pub trait Progress: Sync {
    /// So many more directory entries are done.
    fn entries(&self, count: u64) {
        let _ = count;
    }

    /// So many more bytes of content are done.
    fn bytes(&self, count: u64) {
        let _ = count;
    }
}

/// An engine for jobs that have threads of their own: whoever reads decodes, without help.
#[must_use]
pub fn engine(image: Arc<Image>, cache_bytes: u64) -> Engine {
    let sync = SyncDecompression::Always;
    Engine::new(image, EngineConfig { cache_bytes, sync, ..EngineConfig::default() })
}

/// How a job runs.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    /// Threads; 0 is one for every CPU.
    pub workers: usize,
    /// Told of progress.
    pub progress: Option<&'a dyn Progress>,
    /// The job ends early, and says so, once this is set.
    pub cancel: Option<&'a AtomicBool>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// More threads than this only cost memory.
const WORKERS_MAX: usize = 64;

impl Context<'_> {
    /// Threads to use.
    pub(crate) fn threads(&self) -> usize {
        let count = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        count.min(WORKERS_MAX)
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }

    pub(crate) fn entries(&self, count: u64) {
        if let Some(progress) = self.progress {
            progress.entries(count);
        }
    }

    pub(crate) fn bytes(&self, count: u64) {
        if let Some(progress) = self.progress {
            progress.bytes(count);
        }
    }
}
