// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads that answer requests.
//!
//! How many: measured, a second thread does not help a single reader but costs it a tenth. So
//! there is one at first. Another is started when, before a read that may take long, further
//! requests already wait and nobody is there to take them; or when all workers have been stuck in
//! the same requests for a while (the watch, which sleeps while nothing happens). A worker ends
//! when for many requests on end another was waiting idle beside it.

use std::io::IoSlice;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as Os;
use zerocopy::IntoBytes;

use super::config::{SessionConfig, SessionError};
use super::follow::{Follow, Follower, Freed, Pause};
use super::handshake::{Negotiated, REQUEST_LEN};
use crate::abi::opcode;
use crate::dispatch::{Answer, Dispatcher, Scratch};
use crate::fs::{Errno, ReadOnlyFs};
use crate::request::header;

/// How often the watch looks whether all workers are stuck.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// Looks without any request after which the watch goes to sleep.
const WATCH_QUIET_MAX: u32 = 20;
/// A read that took this long makes the worker look for waiting requests before the next.
const SLOW_READ: Duration = Duration::from_micros(30);
/// Requests in a row beside an idle worker after which a worker ends.
const IDLE_BESIDE_MAX: u32 = 32;

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Requests received.
    pub requests: u64,
    /// Of these, requests received over `io_uring`.
    pub ring_requests: u64,
    /// Worker threads now.
    pub threads: usize,
    /// Most worker threads at a time so far.
    pub threads_peak: usize,
}

/// What all workers of a session share.
pub(crate) struct Pool {
    device: OwnedFd,
    dispatcher: Dispatcher,
    config: SessionConfig,
    cores: usize,
    /// None: workers follow nobody.
    follow: Option<Follow>,
    requests: AtomicU64,
    /// Workers that wait for a request.
    idle: AtomicUsize,
    /// Workers there are.
    total: AtomicUsize,
    peak: AtomicUsize,
    /// The watch sleeps until the next request.
    watch_sleeps: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    ended: bool,
    error: Option<SessionError>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(
        fs: Arc<dyn ReadOnlyFs>,
        device: OwnedFd,
        negotiated: &Negotiated,
        config: SessionConfig,
    ) -> Self {
        Self {
            device,
            dispatcher: Dispatcher::new(fs, negotiated.policy(&config)),
            follow: config.follow_reader.then(Follow::new).flatten(),
            config,
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            requests: AtomicU64::new(0),
            idle: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            watch_sleeps: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Whether threads go where their readers are.
    pub(super) fn cares_for_readers(&self) -> bool {
        self.config.follow_reader
    }

    /// The calling thread works for the workers, until it parts.
    pub(crate) fn join(&self) {
        if let Some(follow) = &self.follow {
            follow.join();
        }
    }

    /// The calling thread does not work for the workers any more.
    pub(crate) fn part(&self) {
        if let Some(follow) = &self.follow {
            follow.part();
        }
    }

    /// Workers follow nobody from now on.
    pub(super) fn stop_following(&self) {
        if let Some(follow) = &self.follow {
            follow.stop();
        }
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    pub(super) fn stats(&self) -> SessionStats {
        SessionStats {
            requests: self.requests.load(Ordering::Relaxed),
            ring_requests: 0,
            threads: self.total.load(Ordering::SeqCst),
            threads_peak: self.peak.load(Ordering::SeqCst),
        }
    }

    /// Starts the first worker and watches until all have ended.
    pub(super) fn run(pool: &Arc<Self>) -> Result<SessionStats, SessionError> {
        {
            let mut state = pool.state();
            if state.ended || state.running {
                return Ok(pool.stats());
            }
            state.running = true;
        }
        Self::start_worker(pool).map_err(SessionError::Device)?;
        // The watch wakes every few milliseconds, which would drive a reader from his processor.
        pool.join();
        Self::watch(pool);
        pool.part();
        let mut state = pool.state();
        while pool.total.load(Ordering::SeqCst) > 0 {
            state = pool.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.error.take().map_or_else(|| Ok(pool.stats()), Err)
    }

    /// Starts workers when all are stuck. Returns when the session ends.
    fn watch(pool: &Arc<Self>) {
        let mut seen = 0;
        let mut quiet = 0;
        let mut state = pool.state();
        while !state.ended {
            if quiet >= WATCH_QUIET_MAX {
                pool.watch_sleeps.store(true, Ordering::SeqCst);
                // A request that came just before will not wake us, so look once more.
                if pool.requests.load(Ordering::SeqCst) == seen {
                    state = pool.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                pool.watch_sleeps.store(false, Ordering::SeqCst);
                quiet = 0;
                continue;
            }
            let wait = pool.changed.wait_timeout(state, WATCH_INTERVAL);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            let now = pool.requests.load(Ordering::SeqCst);
            if now == seen {
                pool.unfollow();
            }
            if now != seen {
                seen = now;
                quiet = 0;
            } else if pool.idle.load(Ordering::SeqCst) > 0 {
                quiet += 1;
            } else if !state.ended && pool.may_grow() {
                drop(state);
                Self::grow(pool);
                state = pool.state();
            }
        }
    }

    /// Nothing was asked for a while, or nobody answers: sets a worker free that follows.
    fn unfollow(&self) {
        if let Some(follow) = self.follow.as_ref().filter(|follow| follow.is_on()) {
            let starved = self.idle.load(Ordering::SeqCst) == 0 || more_waits(self.device());
            follow.free(if starved { Freed::Starved } else { Freed::Quiet });
        }
    }

    fn may_grow(&self) -> bool {
        self.total.load(Ordering::SeqCst) < self.config.threads_max
    }

    /// Whether another worker would find a processor to work on. Beyond that only waiting ones
    /// help, and whether they wait the watch finds out.
    fn has_spare_core(&self) -> bool {
        self.total.load(Ordering::SeqCst) < self.config.threads_max.min(self.cores)
    }

    /// Starts a worker, if there may be more.
    fn grow(pool: &Arc<Self>) {
        if !pool.may_grow() {
            return;
        }
        if let Err(error) = Self::start_worker(pool) {
            tracing::warn!(%error, "cannot start another FUSE worker");
        }
    }

    fn start_worker(pool: &Arc<Self>) -> std::io::Result<()> {
        let channel = if pool.config.clone_fd && pool.total.load(Ordering::SeqCst) > 0 {
            Some(ferrofs_linux::fuse_device::clone(&pool.device)?)
        } else {
            None
        };
        let limit = pool.config.threads_max;
        let more = |total: usize| (total < limit).then_some(total.saturating_add(1));
        let before = pool.total.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        let Ok(before) = before else { return Ok(()) };
        pool.peak.fetch_max(before.saturating_add(1), Ordering::SeqCst);
        let shared = Arc::clone(pool);
        let thread = std::thread::Builder::new().name(String::from("fuse-worker"));
        let started = thread.spawn(move || {
            // Counts the worker off even if it panics, or `run` would wait for ever.
            let leave = Leave { pool: &shared };
            Worker::new(&shared, channel.as_ref()).serve();
            drop(leave);
        });
        if let Err(error) = started {
            pool.total.fetch_sub(1, Ordering::SeqCst);
            return Err(error);
        }
        Ok(())
    }

    fn end(&self, error: Option<SessionError>) {
        let mut state = self.state();
        state.ended = true;
        if state.error.is_none() {
            state.error = error;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leave<'a> {
    pool: &'a Pool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // Under the lock, so that `run` cannot miss it between looking and waiting.
        let mut state = self.pool.state();
        let before = self.pool.total.fetch_sub(1, Ordering::SeqCst);
        // The last one never goes by itself but at the end, or by a panic.
        state.ended |= before <= 1;
        drop(state);
        self.pool.changed.notify_all();
    }
}

/// One thread.
struct Worker<'a> {
    pool: &'a Arc<Pool>,
    device: BorrowedFd<'a>,
    request: Vec<u8>,
    scratch: Scratch,
    reads_are_slow: bool,
    idle_beside: u32,
    /// When it began to send its last answer.
    answered: Instant,
    follower: Option<Follower<'a>>,
}

impl<'a> Worker<'a> {
    fn new(pool: &'a Arc<Pool>, channel: Option<&'a OwnedFd>) -> Self {
        Self {
            pool,
            device: channel.unwrap_or(&pool.device).as_fd(),
            request: vec![0; REQUEST_LEN],
            scratch: Scratch::default(),
            reads_are_slow: true,
            idle_beside: 0,
            answered: Instant::now(),
            follower: pool.follow.as_ref().map(Follower::new),
        }
    }

    /// Answers requests until the session ends or there are too many workers.
    fn serve(&mut self) {
        loop {
            self.pool.idle.fetch_add(1, Ordering::SeqCst);
            let asked = Instant::now();
            let received = rustix::io::read(self.device, self.request.as_mut_slice());
            let pause = Pause { asked: asked.elapsed(), answered: self.answered.elapsed() };
            let others_idle = self.pool.idle.fetch_sub(1, Ordering::SeqCst) > 1;
            let len = match received {
                Ok(len) => len,
                // A request was taken back before it reached us, or did not fit (and has been
                // answered by the kernel): go on.
                Err(Os::INTR | Os::AGAIN | Os::NOENT | Os::IO) => continue,
                // Unmounted, or aborted through fusectl.
                Err(Os::NODEV | Os::CONNABORTED) => return self.pool.end(None),
                Err(errno) => {
                    return self.pool.end(Some(SessionError::Device(errno.into())));
                }
            };
            self.announce();
            self.answer(len, pause, others_idle);
            if self.may_leave(others_idle) {
                return;
            }
        }
    }

    /// Counts the request and wakes the watch if it sleeps.
    fn announce(&self) {
        self.pool.requests.fetch_add(1, Ordering::SeqCst);
        if self.pool.watch_sleeps.load(Ordering::SeqCst)
            && self.pool.watch_sleeps.swap(false, Ordering::SeqCst)
        {
            drop(self.pool.state());
            self.pool.changed.notify_all();
        }
    }

    fn answer(&mut self, len: usize, pause: Pause, others_idle: bool) {
        let message = self.request.get(..len).unwrap_or_default();
        let (is_read, pid) = header(message)
            .map_or((false, 0), |(header, _)| (header.opcode == opcode::READ, header.pid));
        if let Some(follower) = &mut self.follower {
            follower.request(pid, pause, self.pool.total.load(Ordering::SeqCst) == 1);
        }
        let may_help = is_read && !others_idle && self.reads_are_slow;
        if may_help && self.pool.has_spare_core() && more_waits(self.device) {
            Pool::grow(self.pool);
        }
        let start = is_read.then(Instant::now);
        let answer = self.pool.dispatcher.handle(message, &mut self.scratch);
        if let Some(start) = start {
            self.reads_are_slow = start.elapsed() >= SLOW_READ;
        }
        if let Some(answer) = answer {
            if let Some(follower) = &mut self.follower {
                follower.answered(answer.header.len);
            }
            self.answered = Instant::now();
            self.send(&answer);
        }
    }

    fn send(&self, answer: &Answer) {
        let body = answer.body(&self.scratch);
        let parts = [IoSlice::new(answer.header.as_bytes()), IoSlice::new(body)];
        match rustix::io::writev(self.device, &parts) {
            // Not found: whoever asked was killed meanwhile. No device: the next read says so.
            Ok(_) | Err(Os::NOENT | Os::NODEV | Os::CONNABORTED) => {}
            Err(errno) => {
                tracing::error!(unique = answer.header.unique, %errno, "the kernel refused an answer");
                let failed = Answer::error(answer.header.unique, Errno::IO);
                // The last resort, so that whoever asked does not wait for ever.
                let _ = rustix::io::write(self.device, failed.header.as_bytes());
            }
        }
    }

    fn may_leave(&mut self, others_idle: bool) -> bool {
        self.idle_beside = if others_idle { self.idle_beside.saturating_add(1) } else { 0 };
        // The other one, idle now, does not leave before it has itself been beside an idle one
        // as often, and by then we no longer count.
        self.idle_beside >= IDLE_BESIDE_MAX && self.pool.idle.load(Ordering::SeqCst) > 0
    }
}

/// Whether further requests wait.
fn more_waits(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
        && fds.iter().all(|fd| fd.revents().contains(PollFlags::IN))
}
