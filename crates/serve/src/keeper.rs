// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that holds a FUSE mount while the one that serves it comes and goes.
//!
//! It reads no image and answers no request; it has one thread, little memory, and asks the system
//! to keep that. When its worker dies it starts another, which has the kernel send again what the dead
//! one had not answered; readers wait meanwhile. Invariants: the mount is made once; a worker is
//! never replaced before it is known to be dead; when nobody will serve any more, readers get errors.

mod begin;
mod canary;
pub(crate) mod guard;
mod held;
pub(crate) mod marks;

use crate::handover::{Front, Plan, Serve, Serving, ToKeeper, ToWorker, receive, send};
use crate::{Chosen, Error, Result, WorkerLog};
use ferrofs_linux::UnmountFlags;
use ferrofs_linux::signals::{Signal, Signals};
use held::Held;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The word by which the program is told, as its first argument, to call [`work`](crate::work).
pub const WORKER_COMMAND: &str = "__worker";

/// Before a worker that died soon is replaced; doubled each time, up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));
/// A worker that lived this long did not die soon.
const SETTLED: Duration = Duration::from_secs(10);
/// Workers in a row that may end soon by faults of their own; being killed is none.
const FAULTS_MAX: u32 = 10;
/// A worker whose mount is gone ends by itself in this time, or is ended.
const END_TIME: Duration = Duration::from_secs(10);
/// From the end of its words to the end of a worker.
const BURIAL_TIME: Duration = Duration::from_secs(2);

/// How long readers wait while there is no worker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "as mounts know it: hard and soft")]
pub enum Patience {
    /// For ever; they can be killed.
    #[default]
    Hard,
    /// So long; then the mount is given up, and everything asked there is an error.
    Soft(Duration),
}

/// A mount and its keeper: this process.
#[derive(Debug)]
pub struct Keeper {
    plan: Plan,
    log: WorkerLog,
    chosen: Chosen,
    held: Held,
    patience: Patience,
    worker: Option<Worker>,
    serving: Serving,
    mounted: Instant,
    restarts: u64,
    /// Faults in a row, and deaths in a row, soon after the start.
    faults: u32,
    deaths: u32,
    restart_at: Option<Instant>,
    /// Since when nobody serves.
    down: Option<Instant>,
    detached: bool,
    /// Why nobody serves any more.
    given_up: Option<&'static str>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    socket: OwnedFd,
    started: Instant,
    /// It has come as far as to answer requests.
    serves: bool,
}

impl Worker {
    /// Starts another process of this program.
    fn start(plan: &Plan, log: &WorkerLog) -> io::Result<Self> {
        let (socket, theirs) = ferrofs_linux::process::message_pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(WORKER_COMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        command.stderr(log.stdio()?);
        // What the terminal sends to all is the keeper's to answer.
        command.process_group(0);
        let child = command.spawn()?;
        let worker = Self { child, socket, started: Instant::now(), serves: false };
        send(&worker.socket, &ToWorker::Prepare(Box::new(plan.clone())), &[])?;
        Ok(worker)
    }

    /// What it says next; `None` if it is gone.
    fn hear(&self) -> io::Result<Option<ToKeeper>> {
        Ok(receive(&self.socket)?.map(|(message, _)| message))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Most often it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hear_failed(error: io::Error) -> Error {
    Error::Io { doing: "hear the worker", error }
}

fn hand_over_failed(error: io::Error) -> Error {
    Error::Io { doing: "hand the mount to the worker", error }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().min(1 << 30) as i64, tv_nsec: time.subsec_nanos().into() }
}

/// Wishes that the system may not grant.
fn stay_in_memory() {
    // Killed last, but not never: it can be replaced by mounting again.
    if let Err(error) = ferrofs_linux::process::set_oom_score(-900) {
        tracing::debug!(%error, "killed as readily as others when memory is short");
    }
    if let Err(error) = ferrofs_linux::process::lock_memory() {
        tracing::debug!(%error, "memory is not locked");
    }
}

/// How the wait for something to happen ended.
enum Event {
    Signal,
    Worker,
    /// What is held is gone, or wants to be looked at.
    Held,
    Time,
}

impl Keeper {
    /// Answers what the kernel asks. Whether the mount is gone.
    fn look_at_marks(&mut self) -> io::Result<bool> {
        self.held.see_to_guard(&self.log);
        let worker = self.worker.as_ref().and_then(|worker| worker.child.id().try_into().ok());
        let (gone, fills) = self.held.look(worker)?;
        for fill in fills {
            // If it has died the next one is told.
            let _ = self.tell(&ToWorker::Fill(fill));
        }
        Ok(gone)
    }

    fn filled(&mut self, id: u64) -> io::Result<()> {
        match &mut self.held {
            Held::Marks(asking) => asking.marks.filled(id),
            _ => Ok(()),
        }
    }

    fn tell(&self, message: &ToWorker) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        send(&self.worker.as_ref().ok_or_else(gone)?.socket, message, &[])
    }

    /// Why FUSE.
    #[must_use]
    pub const fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// What does not work though the mount does.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.serving.notes
    }

    /// Where counters are served over HTTP.
    #[must_use]
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.serving.metrics
    }

    /// Keeps the mount until it is gone; SIGINT, SIGTERM and SIGHUP unmount it, as
    /// [`Server::run_until_signal`](crate::Server::run_until_signal) tells. `say` gets what there is
    /// to tell meanwhile. Fails if the mount had to be given up; then it is still there, and
    /// everything asked there is an error, until somebody unmounts it.
    pub fn run_until_signal(mut self, say: &dyn Fn(&str)) -> Result<()> {
        let fail = |error| Error::Io { doing: "keep the mount", error };
        let signals = Signals::catch(&[Signal::Hangup, Signal::Interrupt, Signal::Terminate])
            .map_err(fail)?;
        loop {
            let event = self.wait(signals).map_err(fail)?;
            match event {
                Event::Signal => {
                    if signals.wait(Some(Duration::ZERO)).map_err(fail)?.is_some()
                        && self.unmount(say)
                    {
                        return Ok(());
                    }
                }
                Event::Worker => {
                    if self.hear(say)? {
                        return Ok(());
                    }
                }
                Event::Held => {
                    if self.held.front() != Front::Marks || self.look_at_marks().map_err(fail)? {
                        self.finish();
                        return match self.given_up {
                            Some(why) => Err(Error::GivenUp { why }),
                            None => Ok(()),
                        };
                    }
                }
                Event::Time => self.keep_time(say)?,
            }
        }
    }

    fn wait(&self, signals: Signals) -> io::Result<Event> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        fds.extend(self.held.polls());
        let (first, end) = (1, fds.len());
        if first == end {
            return Ok(Event::Held);
        }
        if let Some(worker) = &self.worker {
            fds.push(PollFd::from_borrowed_fd(worker.socket.as_fd(), PollFlags::IN));
        }
        let now = Instant::now();
        let look = self.held.look_again().and_then(|time| now.checked_add(time));
        let timed = self.restart_at.into_iter().chain(self.give_up_at()).min();
        let next = timed.into_iter().chain(look).min();
        let timeout = next.map(|next| {
            // A bit more, or it would be reached just not yet.
            timespec(next.saturating_duration_since(now) + Duration::from_millis(1))
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let now = Instant::now();
        Ok(match () {
            () if ready(0) => Event::Signal,
            // What the worker has done is what others wait for.
            () if ready(end) => Event::Worker,
            () if (first..end).any(ready) || look.is_some_and(|at| at <= now) => Event::Held,
            () => Event::Time,
        })
    }

    fn give_up_at(&self) -> Option<Instant> {
        match self.patience {
            Patience::Hard => None,
            Patience::Soft(time) => self.down?.checked_add(time),
        }
    }

    /// Takes a message of the worker, or its end. Whether nothing is left to be kept.
    fn hear(&mut self, say: &dyn Fn(&str)) -> Result<bool> {
        let Some(worker) = &self.worker else { return Ok(false) };
        match worker.hear() {
            Ok(Some(ToKeeper::Prepared(_))) => {
                // If it has died meanwhile its end is heard next.
                let _ = self.hand_over();
            }
            Ok(Some(ToKeeper::Serving(serving))) => self.set_serving(serving),
            Ok(Some(ToKeeper::Filled(id))) => {
                self.filled(id).map_err(|error| Error::Io { doing: "answer the kernel", error })?;
            }
            Ok(Some(ToKeeper::Failed(message))) => say(&format!("the worker failed: {message}")),
            // Nonsense cannot be, and is the end of who says it.
            Ok(None | Some(ToKeeper::Files)) | Err(_) => return self.bury(say),
        }
        Ok(false)
    }

    /// Gives the worker the mount.
    fn hand_over(&self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let worker = self.worker.as_ref().ok_or_else(gone)?;
        let device = self.held.device().ok_or_else(gone)?;
        let serve = Serve {
            front: self.held.front(),
            fuse: self.held.fuse(),
            mounted: self.held.mounted(),
            takeovers: self.restarts,
            uptime: self.mounted.elapsed(),
        };
        let guard = self.held.guard();
        let fds: Vec<_> = guard.into_iter().chain([device]).collect();
        send(&worker.socket, &ToWorker::Serve(serve), &fds)?;
        if let Held::Marks(asking) = &self.held {
            for fill in asking.marks.unanswered() {
                send(&worker.socket, &ToWorker::Fill(fill), &[])?;
            }
        }
        Ok(())
    }

    fn set_serving(&mut self, serving: Serving) {
        // A port that was found once is kept.
        self.plan.metrics = serving.metrics.or(self.plan.metrics);
        self.serving = serving;
        self.down = None;
        if let Some(worker) = &mut self.worker {
            worker.serves = true;
        }
    }

    /// The worker has ended. Whether that was because the mount has.
    fn bury(&mut self, say: &dyn Fn(&str)) -> Result<bool> {
        let Some(mut worker) = self.worker.take() else { return Ok(false) };
        let (soon, served) = (worker.started.elapsed() < SETTLED, worker.serves);
        // Its socket is closed a moment before it has ended. Longer than that it may not live: not
        // heard any more, it must not serve any more either.
        let end = Instant::now() + BURIAL_TIME;
        let status = loop {
            match worker.child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                other => break other.ok().flatten(),
            }
        };
        let killed = match status {
            Some(status) if status.success() => return Ok(true),
            Some(status) => status.signal() == Some(KILL),
            None => false,
        };
        drop(worker);
        let now = Instant::now();
        self.down.get_or_insert(now);
        if !self.held.can_resend() {
            return self
                .give_up(say, "the worker died, and this kernel cannot send requests again");
        }
        // Somebody's will is no reason to wait; a fault that comes again at once is.
        let again = soon && !(killed && served);
        self.deaths = if again { self.deaths.saturating_add(1) } else { 0 };
        self.faults = match (soon, killed) {
            (false, _) => 0,
            (true, true) => self.faults,
            (true, false) => self.faults.saturating_add(1),
        };
        if self.faults > FAULTS_MAX {
            return self.give_up(say, "one worker after the other failed");
        }
        let pause = if self.deaths == 0 {
            Duration::ZERO
        } else {
            BACKOFF.0.saturating_mul(1 << (self.deaths - 1).min(16)).min(BACKOFF.1)
        };
        self.restart_at = Some(now + pause);
        say(&format!(
            "the worker has ended ({}); another takes over",
            match status {
                Some(status) => status.to_string(),
                None => String::from("without a word"),
            }
        ));
        Ok(false)
    }

    fn keep_time(&mut self, say: &dyn Fn(&str)) -> Result<()> {
        let now = Instant::now();
        if self.give_up_at().is_some_and(|at| at <= now) {
            self.give_up(say, "no worker for longer than readers are to wait (soft)")?;
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.restarts = self.restarts.saturating_add(1);
            match Worker::start(&self.plan, &self.log) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => {
                    say(&format!("cannot start a worker: {error}"));
                    self.deaths = self.deaths.saturating_add(1);
                    self.restart_at = Some(now + BACKOFF.1);
                }
            }
        }
        Ok(())
    }

    /// Lets everything asked of the mount fail from now on.
    fn give_up(&mut self, say: &dyn Fn(&str), why: &'static str) -> Result<bool> {
        say(&format!("the mount is given up: {why}; unmount it"));
        self.worker = None;
        self.held.abandon();
        if self.held.front() == Front::Marks {
            // Without the group the kernel would read holes.
            self.given_up = Some(why);
            (self.restart_at, self.down) = (None, None);
            return Ok(false);
        }
        Err(Error::GivenUp { why })
    }

    /// Unmounts. Whether that is the end at once.
    fn unmount(&mut self, say: &dyn Fn(&str)) -> bool {
        if self.detached {
            say("ended while files were in use");
            self.worker = None;
            self.held.abandon();
            return true;
        }
        let Some(unmounter) = self.held.unmounter() else { return true };
        if unmounter.unmount(UnmountFlags::default()).is_ok() {
            return false;
        }
        match unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
            Ok(()) => {
                self.detached = true;
                say("detached, but still in use: serving until the last file is closed \
                     (another signal ends it at once)");
            }
            Err(error) => say(&format!("cannot unmount: {error}")),
        }
        false
    }

    /// The mount is gone: so is the worker, soon.
    fn finish(&mut self) {
        self.held.abandon();
        // Its threads may all wait for bytes, for readers that are gone; what it has not written down
        // yet it shall. If it has ended by itself it hears nothing of this.
        if self.held.front() == Front::Marks {
            if let Some(worker) = &self.worker {
                let _ = rustix::net::shutdown(&worker.socket, rustix::net::Shutdown::Both);
            }
        } else {
            let _ = self.tell(&ToWorker::End);
        }
        let end = Instant::now() + END_TIME;
        while let Some(worker) = &mut self.worker {
            match worker.child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => self.worker = None,
            }
        }
    }
}

const KILL: i32 = 9;
