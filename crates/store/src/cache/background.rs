// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a cache does while nobody waits: commit, evict, fetch ahead.

use super::{CacheInner, lock, now_epoch};
use crate::Demand;
use crate::blob::BlobInner;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bytes that may wait for a commit, of all blobs.
pub(super) const DIRTY_MAX: u64 = 64 << 20;
/// How long they may wait.
const COMMIT_EVERY: Duration = Duration::from_secs(2);
/// Threads that fetch ahead.
const AHEAD_THREADS: usize = 4;
/// Ranges that wait to be fetched ahead; more are not begun.
const AHEAD_MAX: usize = 64;
/// How long a thread that fetches ahead waits for more before it ends.
const AHEAD_IDLE: Duration = Duration::from_secs(10);
/// The most that one claim ahead takes, so that a reader who joins it does not wait for long.
const AHEAD_CLAIM: u64 = 1 << 20;

/// Between users and the background thread.
#[derive(Debug, Default)]
pub(super) struct Signals {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
    epoch: AtomicU16,
}

impl Signals {
    pub(super) fn wake(&self) {
        lock(&self.state).0 = true;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        lock(&self.state).1 = true;
        self.changed.notify_all();
    }

    pub(super) fn epoch(&self) -> u16 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Waits for the next round; whether there is one.
    fn wait(&self) -> bool {
        let state = lock(&self.state);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, COMMIT_EVERY, |(wake, stop)| !*wake && !*stop)
            .unwrap_or_else(PoisonError::into_inner);
        state.0 = false;
        !state.1
    }
}

pub(super) fn spawn(cache: &Arc<CacheInner>, signals: Arc<Signals>) -> io::Result<()> {
    signals.epoch.store(now_epoch(), Ordering::Relaxed);
    let cache = Arc::downgrade(cache);
    std::thread::Builder::new().name("ferrofs-cache".into()).spawn(move || {
        while signals.wait() {
            let Some(cache) = cache.upgrade() else { return };
            signals.epoch.store(now_epoch(), Ordering::Relaxed);
            if let Err(error) = cache.commit_all() {
                cache.note(&error);
            }
            cache.space.look(&cache.root);
            let wish = cache.space.take_wish();
            if wish > 0 || cache.space.wants_culling() {
                cache.make_room(wish);
            }
        }
    })?;
    Ok(())
}

impl Drop for CacheInner {
    fn drop(&mut self) {
        self.signals.stop();
    }
}

/// What is to be fetched ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    state: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    ranges: VecDeque<(Weak<BlobInner>, Range<u64>)>,
    threads: usize,
    idle: usize,
}

impl Ahead {
    pub(super) fn push(self: &Arc<Self>, blob: &Arc<BlobInner>, range: Range<u64>) {
        let mut queue = lock(&self.state);
        if queue.ranges.len() >= AHEAD_MAX {
            drop(queue);
            lock(&blob.window).failed(&range);
            return;
        }
        queue.ranges.push_back((Arc::downgrade(blob), range));
        if queue.idle == 0 && queue.threads < AHEAD_THREADS {
            let ahead = Arc::clone(self);
            let name = "ferrofs-ahead".to_owned();
            if std::thread::Builder::new().name(name).spawn(move || ahead.work()).is_ok() {
                queue.threads += 1;
            }
        }
        drop(queue);
        self.changed.notify_one();
    }

    fn work(&self) {
        while let Some((blob, range)) = self.next() {
            let Some(blob) = blob.upgrade() else { continue };
            let mut at = range.start;
            // If nobody else has it any more, nobody will read it.
            while at < range.end && Arc::strong_count(&blob) > 1 {
                let end = range.end.min(at.saturating_add(AHEAD_CLAIM));
                let demand = Demand::ahead();
                if BlobInner::fill(&blob, &(at..end), &demand, Instant::now()).is_err() {
                    // Who needs it fetches it, and is told why it fails.
                    lock(&blob.window).failed(&(at..range.end));
                    break;
                }
                at = end;
            }
        }
    }

    fn next(&self) -> Option<(Weak<BlobInner>, Range<u64>)> {
        let mut queue = lock(&self.state);
        queue.idle += 1;
        let (mut queue, _) = self
            .changed
            .wait_timeout_while(queue, AHEAD_IDLE, |queue| queue.ranges.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
        let next = queue.ranges.pop_front();
        if next.is_none() {
            queue.threads -= 1;
        }
        next
    }
}
