// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that reads an image and answers for it, on behalf of a keeper.
//!
//! Knows nothing of the workers before it: every request can be answered from the image alone.
//! Invariant: when the keeper is gone the mount fails: nobody would be there to replace this process.

use crate::device_files::{self, DeviceFiles};
use crate::handover::{
    Fill, Front, Mounted, Opened, Plan, Serve, Serving, ToKeeper, ToWorker, receive, send,
};
use crate::keeper::marks::{self, Instance, Marks};
use crate::lazy::{self, LazyDevice, LazyImage, LazySpec, Whence};
use crate::prefetch::{self, Ahead, Recording};
use crate::server::{Place, Server};
use crate::{ErofsFs, Error, Result, kernel};
use ferrofs_fuse::{MountHow, ReadOnlyFs, Session, Transport, Unmounter};
use ferrofs_linux::fanotify::PreAccess;
use ferrofs_linux::{UnmountFlags, mountinfo};
use ferrofs_store::{Blob, Cancel, KernelFiles, KernelHold, Policy};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Threads that fetch what the kernel asks for: they wait for the network.
const FILLING_THREADS: usize = 16;
/// How long threads have to end when the mount is gone.
const LAST_TIME: Duration = Duration::from_millis(500);
/// No keeper has a descriptor of this number.
const NUMBERS_END: i32 = 1 << 20;

/// Works for the keeper at the other end of the standard input, until the mount is gone. The exit
/// code: 0 if nothing is left to be served.
#[must_use]
pub fn work() -> u8 {
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "no keeper");
            return 1;
        }
    };
    match serve(&socket) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the worker ends");
            // Without a keeper there is nobody to tell.
            let _ = send(&socket, &ToKeeper::Failed(error.to_string()), &[]);
            1
        }
    }
}

fn serve(socket: &OwnedFd) -> Result<()> {
    let ToWorker::Prepare(plan) = next(socket)?.0 else { return Err(Error::Answer) };
    if let Some(score) = plan.oom_score {
        // It was the user's choice; if it stays lower than that, nothing breaks.
        let _ = ferrofs_linux::process::set_oom_score(score);
    }
    Server::share_heaps();
    let LazyImage { image, blobs, devices, whence, cancel } = if let Some(lazy) = &plan.lazy {
        let policy = if plan.marks { Policy::for_kernel() } else { Policy::default() };
        lazy.open(plan.patience(), policy)?
    } else {
        let image = plan.files().open_whole()?;
        let (blobs, devices, cancel) = (Vec::new(), Vec::new(), Cancel::new());
        LazyImage { image, blobs, devices, whence: None, cancel }
    };
    let opened = Opened { devices: devices.len(), obstacle: kernel::obstacle(&image) };
    let fs = Arc::new(ErofsFs::new(Arc::new(image), plan.options()?.engine_config()));
    say(socket, &ToKeeper::Prepared(opened))?;
    let (message, mut fds) = next(socket)?;
    let (ToWorker::Serve(serve), Some(device)) = (message, fds.pop()) else {
        return Err(Error::Answer);
    };
    let ahead = match (&plan.lazy, whence) {
        (Some(lazy), Some(whence)) => Some(Arc::new(begin_ahead(lazy, whence, &blobs, &serve)?)),
        _ => None,
    };
    let end = Arc::new(End { cancel, ahead, is_over: Mutex::default() });
    let work = Work { socket, plan: &plan, fs, blobs, end: Arc::clone(&end) };
    let served = match serve.front {
        Front::Tree => work.serve_tree(serve, device),
        Front::Files => work.serve_files(serve, device, devices),
        Front::Marks => work.serve_marks(serve, device, &devices),
    };
    end.finish();
    served
}

/// What is to be done when the mount is gone.
#[derive(Debug)]
struct End {
    /// Of those who wait for bytes.
    cancel: Cancel,
    ahead: Option<Arc<Ahead>>,
    is_over: Mutex<bool>,
}

impl End {
    /// Writes down what there is to be written, once; others wait for that. The control socket is there
    /// until then: who unmounts waits for its end.
    fn finish(&self) {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ahead) = self.ahead.as_ref().filter(|_| !*is_over) {
            ahead.finish();
        }
        *is_over = true;
    }
}

/// Begins to record and to fetch what nobody waits for.
fn begin_ahead(lazy: &LazySpec, whence: Whence, blobs: &[Blob], serve: &Serve) -> Result<Ahead> {
    let begin = |target| Recording::start(target, blobs, serve.takeovers, serve.uptime);
    let recording = lazy.record.as_ref().map(PathBuf::from).map(begin).transpose();
    let recording = match recording {
        Ok(recording) => recording,
        // The first worker fails the mount; a later one must not.
        Err(error) if serve.takeovers > 0 => {
            tracing::error!(%error, "nothing is recorded any more");
            None
        }
        Err(error) => return Err(Error::Io { doing: "record a trace", error }),
    };
    Ok(Ahead::start(lazy, whence, blobs, recording))
}

fn say(socket: &OwnedFd, message: &ToKeeper) -> Result<()> {
    send(socket, message, &[]).map_err(|error| Error::Io { doing: "tell the keeper", error })
}

/// What is to be done, and for whom.
struct Work<'a> {
    socket: &'a OwnedFd,
    plan: &'a Plan,
    fs: Arc<ErofsFs>,
    blobs: Vec<Blob>,
    end: Arc<End>,
}

impl Work<'_> {
    fn serve_tree(self, mut serve: Serve, device: OwnedFd) -> Result<()> {
        let mounted = serve.mounted.take().ok_or(Error::Answer)?;
        let session = self.session(Arc::clone(&self.fs) as _, &serve, device)?;
        let end = Arc::clone(&self.end);
        let server = self.control(&serve, &mounted, Some(session))?;
        let served = server.run();
        end.finish();
        served.map(|_| ())
    }

    /// Answers for the devices, then hears where the kernel has mounted them.
    fn serve_files(
        self,
        mut serve: Serve,
        device: OwnedFd,
        devices: Vec<LazyDevice>,
    ) -> Result<()> {
        let files = Arc::new(DeviceFiles::new(devices));
        let session = self.session(Arc::clone(&files) as _, &serve, device)?;
        let served = Arc::clone(&session);
        let thread = std::thread::Builder::new()
            .name(String::from("files"))
            .spawn(move || served.run())
            .map_err(|error| Error::Io { doing: "start a thread", error })?;
        let mounted = if let Some(mounted) = serve.mounted.take() {
            mounted
        } else {
            say(self.socket, &ToKeeper::Serving(Serving::default()))?;
            let ToWorker::Mounted(mounted) = next(self.socket)?.0 else {
                return Err(Error::Answer);
            };
            mounted
        };
        let end = Arc::clone(&self.end);
        let server = self.control(&serve, &mounted, Some(session))?;
        let ended = thread.join().map_err(|_| Error::Answer)?;
        end.finish();
        drop(server);
        Ok(ended.map(|_| ())?)
    }

    /// Fetches what the kernel asks for, by the keeper, which alone answers.
    fn serve_marks(self, mut serve: Serve, group: OwnedFd, devices: &[LazyDevice]) -> Result<()> {
        let socket = self.socket;
        let filling = Filling::start(socket, devices)?;
        let mounted = if let Some(mounted) = serve.mounted.take() {
            mounted
        } else {
            let primary = devices.first().ok_or(Error::Answer)?;
            prefetch::all_metadata(&self.blobs, None);
            lazy::complete(self.fs.engine().image(), primary, &self.plan.files().image)?;
            for device in devices {
                let KernelFiles { data, map, lock } = device.blob().kernel_files()?;
                let fds = [data.as_fd(), map.as_fd(), lock.as_fd()];
                send(socket, &ToKeeper::Files, &fds).map_err(tell_failed)?;
            }
            loop {
                match next(socket)?.0 {
                    ToWorker::Mounted(mounted) => break mounted,
                    // The kernel may ask while it mounts.
                    ToWorker::Fill(fill) => filling.add(fill),
                    _ => return Err(Error::Answer),
                }
            }
        };
        let end = Arc::clone(&self.end);
        let server = self.control(&serve, &mounted, None)?;
        loop {
            match receive(socket) {
                Ok(Some((ToWorker::Fill(fill), _))) => filling.add(fill),
                Ok(Some(_)) => return Err(Error::Answer),
                Ok(None) | Err(_) => break,
            }
        }
        end.finish();
        drop(server);
        guard(&mounted, group, devices)
    }

    fn session(
        &self,
        fs: Arc<dyn ReadOnlyFs>,
        serve: &Serve,
        device: OwnedFd,
    ) -> Result<Arc<Session>> {
        let mut config = self.plan.options()?.session(&self.plan.files().image.to_string_lossy());
        config.transport = Transport::Device;
        if serve.front == Front::Files {
            config.max_readahead = device_files::READAHEAD;
        }
        let negotiated = serve.fuse.as_ref().ok_or(Error::Answer)?.negotiated();
        let session = Session::from_fd(fs, device, negotiated, config)?;
        if serve.takeovers > 0 {
            session.resend()?;
        }
        Ok(Arc::new(session))
    }

    /// Lets itself be controlled, tells the keeper so, and watches it.
    fn control(
        self,
        serve: &Serve,
        mounted: &Mounted,
        session: Option<Arc<Session>>,
    ) -> Result<Server> {
        let place = Place {
            device: Some(mounted.device),
            target: PathBuf::from(&mounted.target),
            source: self.plan.files().image,
            blobs: self.blobs,
            ahead: self.end.ahead.clone(),
            takeovers: Some(serve.takeovers),
            started: Instant::now().checked_sub(serve.uptime).unwrap_or_else(Instant::now),
            by_kernel: serve.front != Front::Tree,
        };
        let server = Server::of_session(&self.plan.options()?, self.fs, session, place)?;
        let (metrics, notes) = (server.metrics(), server.notes().to_vec());
        say(self.socket, &ToKeeper::Serving(Serving { metrics, notes }))?;
        watch_mount(mounted, self.end.cancel.clone())?;
        if serve.front != Front::Marks {
            watch_keeper(self.socket, mounted, self.end)?;
        }
        Ok(server)
    }
}

fn next(socket: &OwnedFd) -> Result<(ToWorker, Vec<OwnedFd>)> {
    let received =
        receive(socket).map_err(|error| Error::Io { doing: "hear the keeper", error })?;
    received.ok_or(Error::Answer)
}

fn tell_failed(error: io::Error) -> Error {
    Error::Io { doing: "tell the keeper", error }
}

/// Threads that fetch what is asked for.
struct Filling {
    queue: mpsc::Sender<Fill>,
}

impl Filling {
    fn start(socket: &OwnedFd, devices: &[LazyDevice]) -> Result<Self> {
        let (queue, fills) = mpsc::channel::<Fill>();
        let fills = Arc::new(Mutex::new(fills));
        for _ in 0..FILLING_THREADS {
            let socket = socket.try_clone().map_err(tell_failed)?;
            let (fills, devices) = (Arc::clone(&fills), devices.to_vec());
            let work = move || {
                loop {
                    let next = fills.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(fill) = next else { return };
                    if let Some(device) = devices.get(fill.device) {
                        // Why not is in the log; what is present is seen in the map.
                        let _ = device.fetch(fill.start..fill.end);
                    }
                    if send(&socket, &ToKeeper::Filled(fill.id), &[]).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(String::from("fill"));
            thread.spawn(work).map_err(|error| Error::Io { doing: "start a thread", error })?;
        }
        Ok(Self { queue })
    }

    fn add(&self, fill: Fill) {
        // The threads end with the keeper only, and then nobody waits for an answer.
        let _ = self.queue.send(fill);
    }
}

/// The keeper is done, or gone: then who reads what is not there must get errors from here.
fn guard(mounted: &Mounted, group: OwnedFd, devices: &[LazyDevice]) -> Result<()> {
    let fail = |error| Error::Io { doing: "guard the mount", error };
    let (target, names) = (PathBuf::from(&mounted.target), mounted.instance.clone());
    let instance = Instance::new(target.clone(), mounted.device, names).map_err(fail)?;
    if !instance.lives() {
        return Ok(());
    }
    tracing::error!("the keeper is gone; the mount ends");
    let unmounter = Unmounter::existing(target, mounted.device, MountHow::Direct);
    if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
        tracing::error!(%error, "the mount stays");
    }
    let holds = devices.iter().map(|device| {
        let files = device.blob().kernel_files()?;
        KernelHold::new(files).map_err(fail)
    });
    // If a hold cannot be had everything is refused, which is as safe.
    let holds = holds.collect::<Result<Vec<_>>>().unwrap_or_default();
    let mut marks = Marks::new(PreAccess::adopt(group), holds);
    marks::guard(&mut marks, &instance, NUMBERS_END);
    Ok(())
}

/// Whoever reads when the mount is not among the others any more, or because its end waits for pages
/// that are being read, does not wait for what cannot be fetched.
fn watch_mount(mounted: &Mounted, cancel: Cancel) -> Result<()> {
    let fail = |error| Error::Io { doing: "watch the mount", error };
    let list = File::open("/proc/self/mountinfo").map_err(fail)?;
    let device = mounted.device;
    let watch = move || {
        loop {
            // Before the look: what changes after it is told by the next one.
            let mut fds = [PollFd::new(&list, PollFlags::PRI)];
            match mountinfo::read() {
                Ok(entries) if entries.iter().all(|entry| entry.device != device) => break,
                _ => {}
            }
            if poll(&mut fds, None).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
        }
        cancel.end_retries();
    };
    let thread = std::thread::Builder::new().name(String::from("mount-watch"));
    thread.spawn(watch).map(|_| ()).map_err(fail)
}

/// Ends the mount and this process when the keeper does, and this process when it says so.
fn watch_keeper(socket: &OwnedFd, mounted: &Mounted, end: Arc<End>) -> Result<()> {
    let fail = |error| Error::Io { doing: "watch the keeper", error };
    let socket = socket.try_clone().map_err(fail)?;
    let how = if mounted.by_helper { MountHow::Helper } else { MountHow::Direct };
    let unmounter = Unmounter::existing(PathBuf::from(&mounted.target), mounted.device, how);
    let thread = std::thread::Builder::new().name(String::from("keeper-watch"));
    let watch = move || {
        while let Ok(Some((message, _))) = receive::<ToWorker>(&socket) {
            if !matches!(message, ToWorker::End) {
                continue;
            }
            // Nobody is there any more for whom a thread could wait. Most often all of them end now;
            // who hangs in a request is ended with the process.
            end.cancel.cancel();
            std::thread::sleep(LAST_TIME);
            end.finish();
            std::process::exit(0);
        }
        tracing::error!("the keeper is gone; the mount ends");
        if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: true }) {
            tracing::error!(%error, "the mount stays");
        }
        std::process::exit(1);
    };
    thread.spawn(watch).map(|_| ()).map_err(fail)
}
