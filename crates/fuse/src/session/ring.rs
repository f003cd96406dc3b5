// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests over `io_uring`: the threads that answer them.
//!
//! The kernel has a queue of requests for each possible processor and puts a request into that of
//! the processor its asker runs on. Whoever registered a slot for that queue and waits gets it; if
//! all slots are taken it stays in the queue until one comes back with an answer. A request is
//! delivered in the context of the thread that gave the slot, so a slot whose thread is at work
//! elsewhere would be a trap. Hence the rules here: each slot has a thread of its own that waits
//! when the slot does, and as long as there may be more threads each queue keeps one that waits.
//! So a read that takes long (a disk, a network) holds up its own thread only. Threads are never
//! taken away again, for the kernel cannot take a slot back: there are at most as many as there
//! were requests at a time.
//!
//! Requests that are in a queue when a slot is registered there stay where they are: the kernel
//! looks into a queue only when an answer comes. So whoever registers a slot brings about a request
//! that asks for nothing, in the same queue; the answer to it fetches the first of those that wait.
//! With that, none waits while a slot does.
//!
//! Whoever asks sleeps until the answer comes. So a thread stays on the processor of its queue: there the
//! two take turns by a mere switch, elsewhere each request and each answer wakes a processor, which under
//! a hypervisor takes longer than answering (docs/performance.md). That is not done where the session is
//! not to care for its readers' processors (`follow_reader`), or where the thread was not allowed to run
//! there from the start.
//!
//! Processors that are off share one thread: requests come from them only if they are turned on
//! later.
//!
//! `/dev/fuse` is served as well (`worker`): FORGET and INTERRUPT, and everything asked before all
//! queues have slots, come there.

mod channel;
mod cpus;
mod server;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use channel::Channel;
use cpus::Cpus;
use ferrofs_linux::UnmountFlags;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use server::Server;

use super::config::RingObstacle;
use super::worker::Pool;
use crate::mount::Unmounter;
use crate::notify;

/// Threads that each queue starts with: as many requests of a processor can come at once without
/// waiting for a thread to be started. Fewer where there are many processors.
const THREADS_AT_START: std::ops::RangeInclusive<usize> = 2..=4;
const THREADS_AT_START_ALL: usize = 32;

/// The rings of a session.
pub(super) struct Rings {
    /// Made before the kernel was promised them; taken by `start`.
    prepared: Mutex<Vec<Channel>>,
    queues: Vec<Queue>,
    payload_len: usize,
    /// Threads that may be started beyond those at the start.
    extra_max: usize,
    extra: AtomicUsize,
    threads: AtomicUsize,
    peak: AtomicUsize,
    handles: Mutex<Vec<JoinHandle<()>>>,
    failure: Mutex<Option<io::Error>>,
    /// Requests that were brought about.
    kicks: AtomicU64,
    /// The file read last, to bring a request about with; 0 before there is any.
    file: AtomicU64,
}

/// Set in the numbers of requests that we bring about. The kernel counts its own from 0 by twos.
const KICK: u64 = 1 << 62;

/// What the threads of one queue share. Alone in its cache lines: it changes with every request.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Queue {
    requests: AtomicU64,
    /// Slots registered or about to be.
    slots: AtomicUsize,
    /// Slots with a request in them.
    busy: AtomicUsize,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl Rings {
    /// Makes everything that can fail, before the kernel is told that there will be rings: once
    /// it is, requests wait for them.
    pub(super) fn prepare(payload_len: usize, extra_max: usize) -> Result<Self, RingObstacle> {
        let cpus = Cpus::read().map_err(RingObstacle::Cpus)?;
        let online = cpus.online.iter().filter(|on| **on).count();
        let (least, most) = (*THREADS_AT_START.start(), *THREADS_AT_START.end());
        let each = (THREADS_AT_START_ALL / online.max(1)).clamp(least, most);
        let mut prepared = Vec::new();
        let mut off = Vec::new();
        for (queue, online) in (0_u16..).zip(&cpus.online) {
            if *online {
                for _ in 0..each {
                    prepared.push(Channel::new(&[queue], payload_len)?);
                }
            } else {
                off.push(queue);
            }
        }
        if !off.is_empty() {
            prepared.push(Channel::new(&off, payload_len)?);
        }
        let queues = cpus.online.iter().map(|_| Queue::default()).collect();
        Ok(Self {
            prepared: Mutex::new(prepared),
            queues,
            payload_len,
            extra_max,
            extra: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            handles: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            kicks: AtomicU64::new(0),
            file: AtomicU64::new(0),
        })
    }

    /// Starts the threads. On failure the kernel waits for rings that never come, so the mount
    /// must be given up.
    pub(super) fn start(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        unmounter: Option<&Unmounter>,
    ) -> io::Result<()> {
        let prepared = std::mem::take(&mut *lock(&self.prepared));
        for channel in prepared {
            for slot in 0..channel.len() {
                if let Some(queue) = self.queue(&channel, slot) {
                    queue.slots.fetch_add(1, Ordering::SeqCst);
                }
            }
            self.spawn(pool, unmounter, move || Ok(channel))?;
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        unmounter: Option<&Unmounter>,
        make: impl FnOnce() -> io::Result<Channel> + Send + 'static,
    ) -> io::Result<()> {
        let (rings, pool) = (Arc::clone(self), Arc::clone(pool));
        let unmounter = unmounter.cloned();
        let count = self.threads.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        self.peak.fetch_max(count, Ordering::SeqCst);
        let thread = std::thread::Builder::new().name(String::from("fuse-ring"));
        let spawned = thread.spawn(move || {
            // Counts the thread off even if it panics.
            let leave = Leave(&rings.threads);
            let served = make().and_then(|channel| {
                if pool.cares_for_readers() {
                    stay(&channel);
                }
                Server::new(&rings, &pool, channel, unmounter.as_ref()).serve()
            });
            if let Err(error) = served {
                rings.give_up(error, unmounter.as_ref());
            }
            drop(leave);
        });
        match spawned {
            Ok(handle) => {
                lock(&self.handles).push(handle);
                Ok(())
            }
            Err(error) => {
                self.threads.fetch_sub(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    /// Starts another thread for a queue, if there may be more.
    fn grow(self: &Arc<Self>, pool: &Arc<Pool>, number: u16, unmounter: Option<&Unmounter>) {
        let Some(queue) = self.queues.get(usize::from(number)) else { return };
        let more = |extra: usize| (extra < self.extra_max).then_some(extra.saturating_add(1));
        if self.extra.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            return;
        }
        // The ring is made here: if there are no more to be had, the queue goes on with what it
        // has.
        let grown = Channel::new(&[number], self.payload_len).and_then(|channel| {
            queue.slots.fetch_add(1, Ordering::SeqCst);
            self.spawn(pool, unmounter, move || Ok(channel)).inspect_err(|_| {
                queue.slots.fetch_sub(1, Ordering::SeqCst);
            })
        });
        if let Err(error) = grown {
            // Not counted back: what failed once is not tried with every request.
            tracing::warn!(%error, "cannot start another FUSE thread");
        }
    }

    /// Takes note that a file is read, which the kernel therefore knows.
    fn set_file(&self, pool: &Pool, file: u64) {
        if self.file.load(Ordering::Relaxed) != file && self.file.swap(file, Ordering::SeqCst) == 0
        {
            // For all slots that were registered before there was a file.
            for queue in (0..).take(self.queues.len()) {
                self.kick(pool, queue);
            }
        }
    }

    /// Brings about a request in a queue, whose answer fetches what waits there. The calling
    /// thread is moved to the queue's processor for that, as long as it takes.
    fn kick(&self, pool: &Pool, queue: u16) {
        let file = self.file.load(Ordering::SeqCst);
        if file == 0 {
            // The first read makes up for it.
            return;
        }
        let number = self.kicks.fetch_add(1, Ordering::Relaxed);
        let unique = KICK | number.wrapping_mul(2);
        let kicked = on_cpu(queue.into(), || notify::ask_for_request(pool, unique, file));
        if let Err(error) = kicked {
            // Off, or not for us to run on: what waits there is fetched with the next answer.
            tracing::debug!(queue, %error, "cannot look into a queue");
        }
    }

    /// Waits until all threads have ended. Fails if one of them had to give up.
    pub(super) fn join(&self) -> io::Result<()> {
        loop {
            // Whoever starts a thread adds its handle before ending itself, so when none is left
            // all have ended.
            let Some(handle) = lock(&self.handles).pop() else { break };
            if handle.join().is_err() {
                tracing::error!("a FUSE thread panicked");
            }
        }
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    /// Ends the mount, because requests might wait for ever.
    pub(super) fn give_up(&self, error: io::Error, unmounter: Option<&Unmounter>) {
        tracing::error!(%error, "io_uring failed; the mount is given up");
        lock(&self.failure).get_or_insert(error);
        let flags = UnmountFlags { lazy: true, force: true };
        if let Some(unmounter) = unmounter
            && let Err(error) = unmounter.unmount(flags)
        {
            tracing::error!(%error, "the mount stays");
        }
    }

    fn queue(&self, channel: &Channel, slot: usize) -> Option<&Queue> {
        self.queues.get(usize::from(channel.queue(slot)?))
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        let count = |queue: &Queue| queue.requests.load(Ordering::Relaxed);
        self.queues.iter().map(count).fold(0, u64::saturating_add)
    }

    /// Threads now, and most at a time so far.
    pub(super) fn threads(&self) -> (usize, usize) {
        (self.threads.load(Ordering::SeqCst), self.peak.load(Ordering::SeqCst))
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has the calling thread stay on the processor of its only queue.
fn stay(channel: &Channel) {
    let Some(cpu) = channel.queue(0).map(usize::from).filter(|_| channel.len() == 1) else {
        return;
    };
    let Ok(home) = sched_getaffinity(None) else { return };
    if cpu < CpuSet::MAX_CPU && home.is_set(cpu) {
        let mut there = CpuSet::new();
        there.set(cpu);
        // A matter of speed.
        let _ = sched_setaffinity(None, &there);
    }
}

/// Does something on a certain processor.
fn on_cpu<T>(cpu: usize, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let before = sched_getaffinity(None)?;
    let mut there = CpuSet::new();
    there.set(cpu);
    sched_setaffinity(None, &there)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    result
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
