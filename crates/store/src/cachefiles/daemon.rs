// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: answers what a cache asks, from a provider of blobs.
//!
//! One thread reads the device, others fetch and write. Invariant: every OPEN is answered and every
//! READ completed, whatever fails; what could not be fetched stays a hole, which the cache turns
//! into an error. Requests that come twice are served twice.

mod buffer;
mod cull;
mod device;
mod object;
#[cfg(test)]
mod tests;

pub use cull::Culler;
pub use device::{KernelDevice, SocketDevice};

use super::{BlobProvider, Body, Command, Form, Message, Open, Read};
use crate::{Cancel, Deadline, Demand};
use buffer::Buffer;
use object::Held;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::{debug, warn};

/// What a device has for its daemon.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what poll tells")]
pub struct Ready {
    /// A request was not delivered yet.
    pub request: bool,
    /// Room is short: something is to be culled.
    pub culling: bool,
    /// The cache is gone.
    pub closed: bool,
}

/// A cache's device.
pub trait Device: Send + Sync + fmt::Debug {
    /// The form that it speaks.
    fn form(&self) -> Form;

    /// One message into `buf` and what comes with an OPEN. 0 bytes: there is none.
    fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<Box<dyn ObjectFile>>)>;

    /// Writes a command.
    fn command(&self, text: &[u8]) -> io::Result<()>;

    /// Waits until there is a request, at most for so long.
    fn wait(&self, timeout: Duration) -> io::Result<Ready>;
}

/// The anonymous descriptor of an object. Dropping it tells the cache that the daemon has let go.
pub trait ObjectFile: Send + Sync + fmt::Debug {
    /// Writes at an offset; buffer, length and offset are aligned to 4 KiB.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Completes a READ.
    fn complete(&self, id: u32) -> io::Result<()>;
}

/// Settings of a daemon.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..DaemonConfig::default()`")]
pub struct DaemonConfig {
    /// How many requests are served at once.
    pub threads: usize,
    /// How long the origin may fail before a reader gets an error.
    pub deadline: Deadline,
    /// Commands before the cache is bound: `dir`, `tag`, limits.
    pub setup: Vec<Command>,
    /// The cache is bound already, by a daemon that was killed: ask for what it left unanswered.
    pub restore: bool,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            threads: 8,
            deadline: Deadline::Soft(Duration::from_secs(60)),
            setup: Vec::new(),
            restore: false,
        }
    }
}

/// What a daemon has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct DaemonStats {
    /// OPENs answered with a size.
    pub opened: u64,
    /// OPENs answered with an error.
    pub refused: u64,
    /// READs completed.
    pub reads: u64,
    /// Of these, without all of their bytes.
    pub failed: u64,
    /// Bytes written into the cache.
    pub bytes: u64,
    /// Messages that were none.
    pub malformed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    refused: AtomicU64,
    reads: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    malformed: AtomicU64,
}

/// A daemon for one device.
#[derive(Debug)]
pub struct Daemon {
    device: Arc<dyn Device>,
    provider: Arc<dyn BlobProvider>,
    config: DaemonConfig,
    queue: Mutex<Queue>,
    wake: Condvar,
    objects: Mutex<HashMap<u32, Arc<Held>>>,
    stop: Cancel,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Debug)]
enum Job {
    Open(u32, u32, Open, Box<dyn ObjectFile>),
    Read(u32, Arc<Held>, Read),
}

impl Daemon {
    /// A daemon that has not begun.
    pub fn new(
        device: Arc<dyn Device>,
        provider: Arc<dyn BlobProvider>,
        config: DaemonConfig,
    ) -> Self {
        Self {
            device,
            provider,
            config,
            queue: Mutex::default(),
            wake: Condvar::new(),
            objects: Mutex::default(),
            stop: Cancel::new(),
            counters: Counters::default(),
        }
    }

    /// Ends [`Daemon::run`] once what is being served is served or has failed; may be called from
    /// any thread. Waits for origins are cut short.
    pub fn stopper(&self) -> Cancel {
        self.stop.clone()
    }

    /// What it has done so far.
    pub fn stats(&self) -> DaemonStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DaemonStats {
            opened: of(&self.counters.opened),
            refused: of(&self.counters.refused),
            reads: of(&self.counters.reads),
            failed: of(&self.counters.failed),
            bytes: of(&self.counters.bytes),
            malformed: of(&self.counters.malformed),
        }
    }

    /// Binds the cache, or takes it over.
    pub fn bind(&self) -> io::Result<()> {
        if self.config.restore {
            return self.device.command(&Command::Restore.text());
        }
        for command in &self.config.setup {
            self.device.command(&command.text()).map_err(|error| {
                let text = String::from_utf8_lossy(&command.text()).into_owned();
                io::Error::new(error.kind(), format!("the cache refuses `{text}`: {error}"))
            })?;
        }
        self.device.command(&Command::Bind { on_demand: true }.text())
    }

    /// Serves until it is stopped or the cache is gone. The cache is bound.
    pub fn run(&self) -> io::Result<()> {
        thread::scope(|scope| {
            for _ in 0..self.config.threads.max(1) {
                scope.spawn(|| self.work());
            }
            let result = self.listen();
            let mut queue = self.lock();
            queue.closed = true;
            drop(queue);
            self.wake.notify_all();
            result
        })
    }

    /// Reads the device.
    fn listen(&self) -> io::Result<()> {
        let mut buf = vec![0; self.device.form().message_max()];
        while !self.stop.is_cancelled() {
            let ready = self.device.wait(Duration::from_millis(200))?;
            if ready.closed {
                return Ok(());
            }
            if !ready.request {
                continue;
            }
            let (len, object) = match self.device.receive(&mut buf) {
                Ok(received) => received,
                // The other end is gone, or is none of ours.
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.counters.malformed.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, "a message is refused");
                    continue;
                }
                // The kernel has told the opener. Others that close theirs make room.
                Err(error) if is_scarce(&error) => {
                    warn!(%error, "no more descriptors can be had; raise the limit (ulimit -n)");
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(bytes) = buf.get(..len).filter(|bytes| !bytes.is_empty()) else {
                // Another reader of the device was faster, or the wake-up was for nothing.
                thread::yield_now();
                continue;
            };
            match Message::parse(self.device.form(), bytes) {
                Ok(message) => self.take(message, object),
                Err(error) => {
                    self.counters.malformed.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, "a message is refused");
                }
            }
        }
        Ok(())
    }

    fn take(&self, message: Message, file: Option<Box<dyn ObjectFile>>) {
        let id = message.id;
        match message.body {
            Body::Open(open) => {
                let Some(file) = file else {
                    warn!(id, "an OPEN came without a usable descriptor");
                    self.answer_open(id, -i64::from(Errno::MFILE.raw_os_error()));
                    return;
                };
                // The original form knows its objects by their descriptors' numbers.
                let object = match self.device.form() {
                    Form::Original => open.fd,
                    Form::Merged => message.object,
                };
                self.push(Job::Open(id, object, open, file));
            }
            Body::Close => {
                self.objects().remove(&message.object);
            }
            Body::Read(read) => {
                let object = match self.device.form() {
                    Form::Original => read.fd,
                    Form::Merged => message.object,
                };
                let held = self.objects().get(&object).cloned();
                if let Some(held) = held {
                    self.push(Job::Read(id, held, read));
                    return;
                }
                // Left over from a daemon before this one; the cache opens the object again.
                warn!(id, object, "a READ is for an object that is not open");
                // This form can say so without the descriptor: the reader gets an error.
                if self.device.form() == Form::Original
                    && let Err(error) = self.device.command(&Command::Read { id }.text())
                {
                    debug!(id, %error, "nobody waits for a READ any more");
                }
            }
        }
    }

    fn push(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.wake.notify_one();
    }

    /// A thread that serves.
    fn work(&self) {
        let mut buffer = Buffer::new();
        loop {
            let mut queue = self.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            match job {
                Job::Open(id, object, open, file) => self.open(id, object, &open, file),
                Job::Read(id, held, read) => self.read(id, &held, read, &mut buffer),
            }
        }
    }

    fn open(&self, id: u32, object: u32, open: &Open, file: Box<dyn ObjectFile>) {
        let blob = self.provider.blob(&open.volume, &open.cookie);
        let size = match &blob {
            Ok(blob) => i64::try_from(blob.size()).unwrap_or(-27),
            Err(error) => {
                warn!(cookie = %open.cookie.escape_ascii(), %error, "a blob cannot be had");
                -i64::from(error.errno.raw_os_error())
            }
        };
        if let Ok(blob) = blob {
            // Known before the answer: a READ may follow at once.
            self.objects().insert(object, Arc::new(Held::new(blob, file)));
        }
        if !self.answer_open(id, size) || size < 0 {
            self.objects().remove(&object);
        }
    }

    /// Whether the answer was wanted.
    fn answer_open(&self, id: u32, size: i64) -> bool {
        let command = match self.device.form() {
            Form::Merged => Command::Open { id, size },
            Form::Original => Command::Init { id, size: u64::try_from(size).ok() },
        };
        let counter = if size < 0 { &self.counters.refused } else { &self.counters.opened };
        counter.fetch_add(1, Ordering::Relaxed);
        match self.device.command(&command.text()) {
            Ok(()) => true,
            // The opener has gone away meanwhile, or the cache has not liked the answer.
            Err(error) => {
                debug!(id, %error, "nobody wants the answer of an OPEN");
                false
            }
        }
    }

    fn read(&self, id: u32, held: &Held, read: Read, buffer: &mut Buffer) {
        let demand = Demand {
            deadline: self.config.deadline,
            cancel: Some(self.stop.clone()),
            ..Demand::default()
        };
        let filled = held.fill(read.range(), buffer, &demand);
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        match filled {
            Ok(bytes) => {
                self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                warn!(offset = read.offset, len = read.len, %error, "a READ has failed");
            }
        }
        let completed = match self.device.form() {
            Form::Merged => held.file.complete(id),
            Form::Original => self.device.command(&Command::Read { id }.text()),
        };
        if let Err(error) = completed {
            // ENOENT, EINVAL: whoever waited is gone.
            debug!(id, %error, "nobody waits for a READ any more");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<u32, Arc<Held>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof)
}

fn is_scarce(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
