// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one thread beside the readers: answers on the control socket and over HTTP, writes the
//! metrics file, watches memory pressure.
//!
//! Invariants: it sleeps while there is nothing to do; no client, however slow or loud, holds up
//! another for longer than its own time, costs more than [`CONNECTIONS_MAX`] buffers of bounded size,
//! or ends the thread.

use crate::control::{LINE_MAX, Listener, Shared, answer, peer_uid};
use crate::metrics::{self, MetricsFile};
use crate::pressure::{Controller, STEP_TIME};
use ferrofs_linux::psi::MemoryPressure;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections at a time of each kind; one more, and the oldest is closed: who means well has long had
/// his answer.
const CONNECTIONS_MAX: usize = 16;
/// How long a request may take to come, and an answer to go.
const CLIENT_TIME: Duration = Duration::from_secs(5);
/// How often memory pressure is asked for where the kernel does not tell by itself.
const ASK_TIME: Duration = Duration::from_secs(2);

/// What the thread does.
#[derive(Debug, Default)]
pub(crate) struct Duties {
    pub(crate) control: Option<Listener>,
    pub(crate) http: Option<TcpListener>,
    pub(crate) file: Option<(MetricsFile, Duration)>,
    pub(crate) pressure: Option<MemoryPressure>,
}

/// The thread; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(crate) fn start(shared: Shared, duties: Duties) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut thread = Thread {
            stop: Arc::clone(&stop),
            next_write: duties.file.as_ref().map(|_| Instant::now()),
            next_step: None,
            controller: Controller::new(shared.cache_bytes.load(Ordering::Relaxed)),
            pressed: false,
            connections: Vec::new(),
            shared,
            duties,
        };
        let thread = std::thread::Builder::new()
            .name(String::from("service"))
            .spawn(move || thread.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails only if it was written 2^64 times before.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It catches its panics; if not, there is nothing more to end.
            let _ = thread.join();
        }
    }
}

struct Thread {
    stop: Arc<OwnedFd>,
    shared: Shared,
    duties: Duties,
    connections: Vec<Connection>,
    next_write: Option<Instant>,
    /// When the limit of the caches is looked at again.
    next_step: Option<Instant>,
    controller: Controller,
    /// Pressure since the last step.
    pressed: bool,
}

/// Who a descriptor that is waited for belongs to.
#[derive(Clone, Copy)]
enum Source {
    Stop,
    Control,
    Http,
    Pressure,
    Connection(usize),
}

impl Thread {
    fn run(&mut self) {
        if self.duties.pressure.as_ref().is_some_and(|watch| !watch.has_trigger()) {
            self.next_step = Some(Instant::now() + ASK_TIME);
        }
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "control socket and metrics have ended");
                    return;
                }
            };
            // Connections before accepts, which may close the oldest of them.
            for (source, flags) in ready.into_iter().rev() {
                match source {
                    Source::Stop if flags.contains(PollFlags::IN) => return,
                    Source::Stop => {
                        tracing::error!(?flags, "control socket and metrics have ended");
                        return;
                    }
                    Source::Control => self.accept_control(),
                    Source::Http => self.accept_http(),
                    Source::Pressure => self.feel(flags),
                    Source::Connection(index) => {
                        if let Some(connection) = self.connections.get_mut(index) {
                            connection.advance(&self.shared);
                        }
                    }
                }
            }
            let now = Instant::now();
            self.connections.retain(|connection| !connection.done && connection.deadline > now);
            self.keep_time(now);
        }
    }

    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Stop];
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(listener) = &self.duties.control {
            add(Source::Control, listener.socket.as_fd(), PollFlags::IN);
        }
        if let Some(listener) = &self.duties.http {
            add(Source::Http, listener.as_fd(), PollFlags::IN);
        }
        // Until the next step it is known that there is pressure; the kernel would tell it again.
        let pressure = self.duties.pressure.as_ref().filter(|watch| watch.has_trigger());
        if let Some(watch) = pressure.filter(|_| !self.pressed) {
            add(Source::Pressure, watch.as_fd(), PollFlags::PRI);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let flags = if connection.output.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            add(Source::Connection(index), connection.stream.as_fd(), flags);
        }
        let deadlines = self.connections.iter().map(|connection| connection.deadline);
        let next = deadlines.chain(self.next_write).chain(self.next_step).min();
        let timeout = next.map(|next| timespec(next.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn accept_control(&mut self) {
        let Some(listener) = &self.duties.control else { return };
        let Ok((stream, _)) = listener.socket.accept() else { return pause() };
        let me = rustix::process::geteuid().as_raw();
        let permitted = peer_uid(&stream).is_ok_and(|uid| uid == 0 || uid == me);
        if permitted && stream.set_nonblocking(true).is_ok() {
            self.add(Stream::Control(stream));
        }
    }

    fn accept_http(&mut self) {
        let Some(listener) = &self.duties.http else { return };
        let Ok((stream, _)) = listener.accept() else { return pause() };
        if stream.set_nonblocking(true).is_ok() {
            self.add(Stream::Http(stream));
        }
    }

    fn add(&mut self, stream: Stream) {
        let http = stream.is_http();
        self.connections.push(Connection::new(stream));
        let same = self.connections.iter().filter(|one| one.stream.is_http() == http).count();
        let oldest = self.connections.iter().position(|one| one.stream.is_http() == http);
        if let Some(oldest) = oldest.filter(|_| same > CONNECTIONS_MAX) {
            self.connections.remove(oldest);
        }
    }

    /// The kernel says that there is pressure.
    fn feel(&mut self, flags: PollFlags) {
        if flags.contains(PollFlags::ERR) {
            tracing::warn!("memory pressure is watched no more");
            self.duties.pressure = None;
            self.next_step = None;
            return;
        }
        self.pressed = true;
        self.next_step.get_or_insert_with(Instant::now);
    }

    fn keep_time(&mut self, now: Instant) {
        if self.next_write.is_some_and(|next| next <= now)
            && let Some((file, interval)) = &mut self.duties.file
        {
            file.write(&self.shared);
            self.next_write = Some(now + *interval);
        }
        if self.next_step.is_some_and(|next| next <= now) {
            self.step(now);
        }
    }

    fn step(&mut self, now: Instant) {
        let Some(watch) = &mut self.duties.pressure else { return };
        let trigger = watch.has_trigger();
        if !trigger {
            // If it cannot be told, it is taken to be as it was.
            self.pressed = watch.is_pressed().unwrap_or(self.pressed);
        }
        let configured = self.shared.cache_bytes.load(Ordering::Relaxed);
        let limit = self.controller.step(configured, self.pressed);
        let engine = self.shared.fs.engine();
        if engine.config().cache_bytes != limit {
            tracing::debug!(limit, pressed = self.pressed, "limit of the caches");
            engine.set_cache_bytes(limit);
        }
        self.pressed = false;
        let pause = if trigger { STEP_TIME } else { ASK_TIME };
        self.next_step = (!trigger || self.controller.is_reduced()).then(|| now + pause);
    }
}

#[derive(Debug)]
enum Stream {
    Control(UnixStream),
    Http(TcpStream),
}

impl Stream {
    const fn is_http(&self) -> bool {
        matches!(self, Self::Http(_))
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Control(stream) => stream.read(buf),
            Self::Http(stream) => stream.read(buf),
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Control(stream) => stream.write(buf),
            Self::Http(stream) => stream.write(buf),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Control(stream) => stream.as_fd(),
            Self::Http(stream) => stream.as_fd(),
        }
    }
}

/// One request and its answer.
#[derive(Debug)]
struct Connection {
    stream: Stream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    deadline: Instant,
    done: bool,
}

impl Connection {
    fn new(stream: Stream) -> Self {
        let deadline = Instant::now() + CLIENT_TIME;
        Self { stream, input: Vec::new(), output: Vec::new(), sent: 0, deadline, done: false }
    }

    /// Reads or writes as much as goes without waiting.
    fn advance(&mut self, shared: &Shared) {
        if self.output.is_empty() {
            self.take(shared);
        }
        if !self.output.is_empty() {
            self.give();
        }
    }

    fn take(&mut self, shared: &Shared) {
        let mut buf = [0; 4096];
        while self.output.is_empty() && !self.done {
            match self.stream.read(&mut buf) {
                // Half a request is none.
                Ok(0) => self.done = true,
                Ok(len) => {
                    self.input.extend_from_slice(buf.get(..len).unwrap_or_default());
                    self.answer(shared);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.done = true,
            }
        }
    }

    fn answer(&mut self, shared: &Shared) {
        if self.stream.is_http() {
            self.output = metrics::http(shared, &self.input).unwrap_or_default();
        } else if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            self.output = answer(shared, self.input.get(..end).unwrap_or_default());
        } else if self.input.len() >= LINE_MAX {
            // Nothing in it can be valid; the answer says so.
            self.output = answer(shared, b"");
        }
        if !self.output.is_empty() {
            self.input = Vec::new();
            self.deadline = Instant::now() + CLIENT_TIME;
        }
    }

    fn give(&mut self) {
        while !self.done {
            match self.stream.write(self.output.get(self.sent..).unwrap_or_default()) {
                Ok(0) => self.done = true,
                Ok(len) => {
                    self.sent += len;
                    self.done = self.sent >= self.output.len();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.done = true,
            }
        }
    }
}

/// After an accept that failed: for want of descriptors, say, it would fail again at once.
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn timespec(time: Duration) -> Timespec {
    // A nanosecond more, or a deadline would be reached just not yet.
    let time = time.saturating_add(Duration::from_nanos(1));
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
