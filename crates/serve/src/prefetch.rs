// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is fetched of an image though nobody waits for it: by a trace, by lists of paths, or all.
//!
//! Knows where wishes come from and what they mean in bytes of blobs; how they are fetched beside
//! readers is the store's. Invariants: nothing here fails a mount or a reader: what cannot be done is
//! a note; nothing is asked of anybody before the mount answers.

mod look;
mod record;
mod walk;

pub use look::LazyLook;
pub(crate) use record::Recording;
pub(crate) use walk::metadata_start;

use crate::control::{ImagePath, Prefetched};
use crate::lazy::{LazySpec, Whence};
use ferrofs_store::source::remote::{Location, RemoteOptions};
use ferrofs_store::{
    Blob, Demand, Fill, FindEnd, Order, PrefetchConfig, PrefetchJob, Prefetcher, Progress, Replay,
    ReplayConfig, Trace,
};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a trace may take to be found.
const FIND_TIME: Duration = Duration::from_secs(30);
/// How long a copy of metadata may take to come; then readers fetch what they need.
const COPY_TIME: Duration = Duration::from_secs(30);
/// Encoded bytes of it that come first: of the directories of 20,000 files, less than a MiB.
const COPY_START: u64 = 256 << 10;
/// How long who asks for paths waits to hear what they are; then it is told later, by counters.
const REPLY_TIME: Duration = Duration::from_secs(2);
/// The threads of the pool end when there was nothing to do for so long.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// At the end of the mount, prefetches have so long to end.
const END_TIME: Duration = Duration::from_secs(1);
/// Notes that are kept, the first ones.
const NOTES_MAX: usize = 16;
/// Bytes of a list of paths.
const LIST_MAX: u64 = 16 << 20;

/// How much of an image is fetched without being asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum PrefetchWhat {
    /// Nothing.
    None,
    /// The beginning of its metadata.
    #[default]
    Metadata,
    /// That, and in the end everything.
    All,
}

/// Which trace is replayed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum TraceFrom {
    /// The one that is kept with the image, if there is one.
    #[default]
    Image,
    /// None.
    Nowhere,
    /// A file (an absolute path).
    File(OsString),
    /// The file at this URL, or the artifact of the image at this `oci://`.
    Url(String),
}

impl TraceFrom {
    /// Reads the trace; `kept` finds the one that is kept with the image. `None`: there is none, and
    /// none has to be.
    pub(crate) fn read(
        &self,
        remote: &RemoteOptions,
        kept: impl FnOnce() -> Result<Option<Trace>, String>,
    ) -> Result<Option<Trace>, String> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Image => kept(),
            Self::File(path) => {
                let shown = Path::new(path).display();
                let read = File::open(path).and_then(|file| Trace::read(BufReader::new(file)));
                read.map(Some).map_err(|error| format!("{shown}: {error}"))
            }
            Self::Url(url) => {
                let deadline = Instant::now().checked_add(FIND_TIME);
                let options = RemoteOptions { deadline, ..remote.clone() };
                let found = Location::parse(url).and_then(|at| Trace::fetch(&at, &options));
                found.map(Some).map_err(|error| error.to_string())
            }
        }
    }
}

/// What is to be done.
enum Task {
    Trace(TraceFrom),
    List(PathBuf),
    Paths(Vec<ImagePath>, Sender<Result<Prefetched, String>>),
    All,
    End(Sender<()>),
}

/// Fetches what nobody waits for, until the mount ends.
#[derive(Debug)]
pub(crate) struct Ahead {
    tasks: Sender<Task>,
    shared: Arc<Shared>,
    recording: Option<Recording>,
    blobs: Vec<Blob>,
}

/// Between the thread and those who ask.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<PrefetchJob>,
    /// Sums of jobs that are over.
    over: Totals,
    notes: Vec<String>,
    /// Touches of the trace that was replayed.
    replayed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    wanted: u64,
    done: u64,
    failed: u64,
}

impl Totals {
    fn add(&mut self, progress: &Progress) {
        self.wanted = self.wanted.saturating_add(progress.total);
        self.done = self.done.saturating_add(progress.done);
        self.failed = self.failed.saturating_add(progress.failed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: String) {
        tracing::warn!("{note}");
        let mut state = self.lock();
        if state.notes.len() < NOTES_MAX {
            state.notes.push(note);
        }
    }
}

impl State {
    /// Books the jobs that are over; whether others are left.
    fn settle(&mut self) -> bool {
        let Self { jobs, over, notes, .. } = self;
        jobs.retain(|job| {
            let progress = job.progress();
            if progress.is_over {
                over.add(&progress);
                if let Some(error) = progress.error.filter(|_| notes.len() < NOTES_MAX) {
                    notes.push(format!("a prefetch: {error}"));
                }
            }
            !progress.is_over
        });
        !jobs.is_empty()
    }
}

impl Ahead {
    /// Begins with what `spec` wishes. Without threads nothing is fetched, which is noted.
    pub(crate) fn start(
        spec: &LazySpec,
        whence: Whence,
        blobs: &[Blob],
        recording: Option<Recording>,
    ) -> Self {
        let (tasks, receiver) = channel();
        let shared = Arc::new(Shared::default());
        // The receiver is there, or nothing is done anyhow.
        let wish = |task| drop(tasks.send(task));
        if spec.trace != TraceFrom::Nowhere {
            wish(Task::Trace(spec.trace.clone()));
        }
        if let Some(list) = &spec.prefetch_list {
            wish(Task::List(PathBuf::from(list)));
        }
        if spec.prefetch == PrefetchWhat::All {
            wish(Task::All);
        }
        let worker = Worker {
            remote: spec.remote(),
            whence,
            blobs: blobs.to_vec(),
            shared: Arc::clone(&shared),
            pool: None,
        };
        let thread = std::thread::Builder::new().name(String::from("prefetch"));
        if let Err(error) = thread.spawn(move || worker.run(&receiver)) {
            shared.note(format!("nothing is fetched ahead: {error}"));
        }
        Self { tasks, shared, recording, blobs: blobs.to_vec() }
    }

    /// Fetches files and what is below directories. What they are is found out while the caller
    /// waits, but not for long.
    pub(crate) fn paths(&self, paths: &[ImagePath]) -> Result<Prefetched, String> {
        let (sender, receiver) = channel();
        let gone = || String::from("nothing is fetched ahead any more");
        self.tasks.send(Task::Paths(paths.to_vec(), sender)).map_err(|_| gone())?;
        match receiver.recv_timeout(REPLY_TIME) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Ok(Prefetched::default()),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Fetches everything; how much that is.
    pub(crate) fn all(&self) -> Result<Prefetched, String> {
        let gone = |_| String::from("nothing is fetched ahead any more");
        self.tasks.send(Task::All).map_err(gone)?;
        let bytes = self.blobs.iter().map(Blob::size).fold(0, u64::saturating_add);
        Ok(Prefetched { bytes, complete: true, ..Prefetched::default() })
    }

    /// Counters, by name.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut state = self.shared.lock();
        state.settle();
        let mut totals = state.over;
        for job in &state.jobs {
            totals.add(&job.progress());
        }
        let mut counters = vec![
            ("prefetch_wanted_bytes", totals.wanted),
            ("prefetch_done_bytes", totals.done),
            ("prefetch_failed_bytes", totals.failed),
            ("prefetch_jobs", state.jobs.len() as u64),
            ("replayed_touches", state.replayed),
        ];
        if let Some(recording) = &self.recording {
            counters.push(("recorded_touches", recording.touch_count()));
        }
        counters
    }

    /// What could not be done, for people.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.shared.lock().notes.clone()
    }

    /// The mount has ended: writes what was recorded, and ends what is under way.
    pub(crate) fn finish(&self) {
        if let Some(recording) = &self.recording
            && let Err(error) = recording.finish()
        {
            tracing::error!(%error, "the trace was not written");
        }
        for blob in &self.blobs {
            // The thread, which has them too, may not come to it.
            if let Err(error) = blob.flush() {
                tracing::warn!(%error, "what is in the cache is trusted only until a loss of power");
            }
        }
        let (sender, receiver) = channel();
        for job in &self.shared.lock().jobs {
            job.cancel();
        }
        if self.tasks.send(Task::End(sender)).is_ok() {
            // Who hangs in a request is ended with the process.
            let _ = receiver.recv_timeout(END_TIME);
        }
    }
}

/// The thread.
struct Worker {
    remote: RemoteOptions,
    whence: Whence,
    blobs: Vec<Blob>,
    shared: Arc<Shared>,
    pool: Option<Prefetcher>,
}

impl Worker {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(IDLE_TIME) {
                Ok(Task::End(sender)) => {
                    self.pool = None;
                    // If nobody listens it has taken too long.
                    let _ = sender.send(());
                    return;
                }
                Ok(task) => self.work(task),
                Err(RecvTimeoutError::Timeout) => {
                    if !self.shared.lock().settle() {
                        self.pool = None;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn work(&mut self, task: Task) {
        match task {
            Task::Trace(from) => {
                let found = || self.whence.found.trace(FIND_TIME);
                let kept = || found().map_err(|error| error.to_string());
                match from.read(&self.remote, kept) {
                    Ok(Some(trace)) => self.replay(&trace),
                    Ok(None) => {}
                    Err(error) => self.shared.note(format!("no trace is replayed: {error}")),
                }
            }
            Task::List(path) => match read_list(&path) {
                Ok(paths) => {
                    if let Err(error) = self.fetch_paths(&paths, true) {
                        self.shared.note(format!("{}: {error}", path.display()));
                    }
                }
                Err(error) => self.shared.note(format!("{}: {error}", path.display())),
            },
            Task::Paths(paths, reply) => {
                let paths: Vec<Vec<u8>> =
                    paths.iter().map(|path| path.as_bytes().to_vec()).collect();
                let answer = self.fetch_paths(&paths, false);
                if let Err(mpsc) = reply.send(answer)
                    && let Err(error) = mpsc.0
                {
                    self.shared.note(format!("a prefetch: {error}"));
                }
            }
            Task::All => {
                for blob in self.blobs.clone() {
                    self.submit(Order::complete(Arc::new(blob)));
                }
            }
            Task::End(_) => {}
        }
    }

    fn replay(&mut self, trace: &Trace) {
        let (replay, blobs) = plan(trace, &self.blobs);
        if blobs.iter().all(Option::is_none) {
            self.shared.note(String::from("the trace is of another image: it is not replayed"));
            return;
        }
        self.shared.lock().replayed = trace.touches.len() as u64;
        self.submit(Order::replay(replay, &blobs));
    }

    /// Fetches what is stored of files. `forgiving`: what is not there is noted and passed over.
    fn fetch_paths(&mut self, paths: &[Vec<u8>], forgiving: bool) -> Result<Prefetched, String> {
        let mut found = walk::Found::new(&self.blobs)?;
        for path in paths {
            if let Err(error) = found.add(path) {
                if !forgiving {
                    return Err(error);
                }
                self.shared.note(error);
            }
        }
        let (trace, prefetched) = found.into_trace();
        let (replay, blobs) = plan(&trace, &self.blobs);
        self.submit(Order::replay(replay, &blobs));
        Ok(prefetched)
    }

    fn submit(&mut self, order: Order) {
        if self.pool.is_none() {
            let limits = Some(Arc::clone(&self.whence.limits));
            match Prefetcher::new(PrefetchConfig { limits, ..PrefetchConfig::default() }) {
                Ok(pool) => self.pool = Some(pool),
                Err(error) => {
                    self.shared.note(format!("nothing is fetched ahead: {error}"));
                    return;
                }
            }
        }
        if let Some(pool) = &self.pool {
            let job = pool.submit(order);
            let mut state = self.shared.lock();
            state.settle();
            state.jobs.push(job);
        }
    }
}

/// Steps for a trace, and its blobs as far as they are here.
pub(crate) fn plan(trace: &Trace, blobs: &[Blob]) -> (Replay, Vec<Option<Arc<dyn Fill>>>) {
    let find = |name: &String| blobs.iter().find(|blob| blob.id().to_string() == *name);
    let found: Vec<Option<&Blob>> = trace.blobs.iter().map(find).collect();
    let sizes: Vec<Option<u64>> = found.iter().map(|blob| blob.map(Blob::size)).collect();
    let replay = Replay::plan(trace, &sizes, &ReplayConfig::default());
    let fill = |blob: Option<&Blob>| blob.map(|blob| Arc::new(blob.clone()) as Arc<dyn Fill>);
    (replay, found.into_iter().map(fill).collect())
}

/// Paths, one a line.
fn read_list(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > LIST_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a list of more than 16 MiB"));
    }
    let lines = BufReader::new(io::Read::take(file, LIST_MAX)).split(b'\n');
    lines.filter(|line| line.as_ref().map_or(true, |line| !line.is_empty())).collect()
}

/// Fetches metadata, as much as is worth it: whoever looks for a file needs pages here and there of
/// it, each of which would be a request. In a thread of its own.
pub(crate) fn metadata(blobs: &[Blob]) {
    let blobs = blobs.to_vec();
    let work = move || {
        if !copy(&blobs, COPY_START, &Demand::ahead()) {
            metadata_itself(&blobs);
        }
    };
    // Without the thread readers fetch what they need.
    let _ = std::thread::Builder::new().name(String::from("read-ahead")).spawn(work);
}

/// Fetches all metadata, compressed if it is to be had so, and without the ends of files that `find` has;
/// else its beginning.
pub(crate) fn all_metadata(blobs: &[Blob], find: Option<FindEnd<'_>>) {
    // No prefetch: readers wait for it.
    let demand = Demand::soft(COPY_TIME);
    let is_there = match find {
        Some(find) => blobs.first().is_some_and(|blob| blob.take_copy_beside(find, &demand)),
        None => copy(blobs, u64::MAX, &demand),
    };
    if !is_there {
        metadata_itself(blobs);
    }
}

/// Fetches so many encoded bytes of metadata's copy, and has readers take the rest from there; whether
/// there is one.
fn copy(blobs: &[Blob], len: u64, demand: &Demand) -> bool {
    /// Decoded bytes that come with the first encoded ones, more or less.
    const NEAR: u64 = 1 << 20;
    let Some(blob) = blobs.first() else { return false };
    let start = walk::Found::new(blobs).and_then(|found| metadata_start(found.image()));
    let near = |start: u64| start.min(blob.size())..start.saturating_add(NEAR).min(blob.size());
    let near: Vec<_> = start.into_iter().map(near).collect();
    blob.take_copy(len, &near, demand)
}

/// Fetches the beginning of the metadata.
fn metadata_itself(blobs: &[Blob]) {
    /// Metadata that is fetched: what a reader wants next comes on the same link.
    const LEN: u64 = 1 << 20;
    /// Of that, at once: readers of the same are not to wait for the rest.
    const PIECE: u64 = 256 << 10;
    /// Pieces at the same time: each costs a round trip.
    const THREADS: usize = 4;
    // Who needs it will fetch it, or get the error.
    let lost = |error: &dyn fmt::Display| {
        tracing::debug!(%error, "metadata was not fetched ahead");
    };
    let Some(blob) = blobs.first() else { return };
    let start = match walk::Found::new(blobs).and_then(|found| metadata_start(found.image())) {
        Ok(start) => start.min(blob.size()),
        Err(error) => return lost(&error),
    };
    let end = start.saturating_add(LEN).min(blob.size());
    let next = AtomicU64::new(start);
    let fetch = || loop {
        let at = next.fetch_add(PIECE, Ordering::Relaxed);
        if at >= end {
            return;
        }
        let piece = at..at.saturating_add(PIECE).min(end);
        if let Err(error) = blob.fill(piece, &Demand::ahead()) {
            next.store(end, Ordering::Relaxed);
            return lost(&error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(fetch);
        }
        fetch();
    });
}
