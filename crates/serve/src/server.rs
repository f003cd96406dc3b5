// SPDX-License-Identifier: MIT OR Apache-2.0
//! A FUSE mount and the process that serves it.
//!
//! Invariant: a signal that asks to end ends the mount first; files that are open then can be read to
//! their end.

use crate::control::{Listener, Shared, SocketFile};
use crate::metrics::MetricsFile;
use crate::mount::FusePlan;
use crate::prefetch::Ahead;
use crate::service::{Duties, Service};
use crate::{Chosen, ErofsFs, Error, MountOptions, Result};
use ferrofs_fuse::{Session, SessionStats, Unmounter};
use ferrofs_linux::UnmountFlags;
use ferrofs_linux::psi::MemoryPressure;
use ferrofs_linux::signals::{Signal, Signals};
use ferrofs_store::Blob;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Heaps of the process. Buffers of file data are reused and not fought for; with one heap for each
/// thread an idle mount of 100,000 files that were all looked at holds 25 MiB instead of 17.
const HEAPS: u8 = 2;
/// Decoded bytes that may wait for being put into the kernel's page cache.
const PAGE_CACHE_QUEUE: usize = 4 << 20;

/// Where a session is mounted, and what.
pub(crate) struct Place {
    /// Device number of the mount.
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) target: PathBuf,
    /// The image.
    pub(crate) source: PathBuf,
    /// Where its bytes come from, if not from files.
    pub(crate) blobs: Vec<Blob>,
    /// Who fetches what nobody waits for.
    pub(crate) ahead: Option<Arc<Ahead>>,
    /// Servers before this one; none where there cannot be any.
    pub(crate) takeovers: Option<u64>,
    /// When it was mounted.
    pub(crate) started: Instant,
    /// The kernel reads the image; what is served are its devices.
    pub(crate) by_kernel: bool,
}

pub(crate) type Prepared = (Duties, Vec<(&'static str, String)>);

/// An image mounted by FUSE, to be served.
#[derive(Debug)]
pub struct Server {
    // Ends before the session does, which it refers to.
    _service: Service,
    /// None: the kernel serves itself.
    session: Option<Arc<Session>>,
    fs: Arc<ErofsFs>,
    /// Known to whoever has mounted.
    chosen: Option<Chosen>,
    socket: Option<SocketFile>,
    metrics: Option<SocketAddr>,
    notes: Vec<String>,
}

impl Server {
    pub(crate) fn start(plan: FusePlan) -> Result<Self> {
        let FusePlan { image, spec, chosen } = plan;
        let source = std::path::absolute(&spec.files.image).unwrap_or(spec.files.image);
        let mut config = spec.options.session(&source.to_string_lossy());
        config.follow_reader = true;
        // For the files that are read ahead; the file system says which entries need none.
        config.readdirplus_always = true;
        Self::share_heaps();
        // What can fail does before anything is mounted.
        let prepared = duties(&spec.options)?;
        let fs = Arc::new(ErofsFs::new(Arc::new(image), spec.options.engine_config()));
        let session = Arc::new(Session::mount(Arc::clone(&fs) as _, &spec.target, config)?);
        // Threads that a worker started later would inherit its processor.
        let companions = session.notifier().companions();
        fs.engine().begin_workers_with(move || companions.join());
        fs.engine().start_workers();
        let unmounter = session.unmounter();
        let place = Place {
            device: unmounter.as_ref().and_then(Unmounter::device),
            target: unmounter.map_or(spec.target, |unmounter| unmounter.target().to_owned()),
            source,
            blobs: Vec::new(),
            ahead: None,
            takeovers: None,
            started: Instant::now(),
            by_kernel: false,
        };
        let server = Self::assemble(fs, Some(session), place, prepared)?;
        Ok(Self { chosen: Some(chosen), ..server })
    }

    /// Before there are threads: each would get a heap of its own.
    pub(crate) fn share_heaps() {
        ferrofs_linux::memory::share_heaps(HEAPS);
    }

    /// For a mount that a keeper has made.
    pub(crate) fn of_session(
        options: &MountOptions,
        fs: Arc<ErofsFs>,
        session: Option<Arc<Session>>,
        place: Place,
    ) -> Result<Self> {
        Self::assemble(fs, session, place, duties(options)?)
    }

    fn assemble(
        fs: Arc<ErofsFs>,
        session: Option<Arc<Session>>,
        place: Place,
        (mut duties, mut facts): Prepared,
    ) -> Result<Self> {
        if let Some(takeovers) = place.takeovers {
            facts.push(("takeovers", takeovers.to_string()));
        }
        // Who puts bytes into the kernel's page cache waits there, and cannot be killed, for pages that
        // others read; if those who would answer them are killed at that moment, nobody dies and
        // nobody takes over.
        if let Some(session) = session.as_ref().filter(|_| place.takeovers.is_none()) {
            let page_cache = session.notifier().surplus(PAGE_CACHE_QUEUE);
            let fail = |error| Error::Io { doing: "start a thread", error };
            fs.set_page_cache(page_cache.map_err(fail)?);
            if place.blobs.is_empty() {
                fs.read_files_ahead(session.notifier()).map_err(fail)?;
            }
        }
        let mut notes = Vec::new();
        let listener = match place.device.ok_or_else(|| io::Error::other("its number is not known"))
        {
            Ok(device) => Listener::bind(device, None),
            Err(error) => Err(error),
        };
        match listener {
            Ok(listener) => duties.control = Some(listener),
            Err(error) => {
                notes.push(format!("no control socket, so `ferrofs ctl` cannot work: {error}"));
            }
        }
        let metrics = duties.http.as_ref().and_then(|listener| listener.local_addr().ok());
        let socket = duties.control.as_ref().map(|listener| listener.file.clone());
        let shared = Shared {
            fs: Arc::clone(&fs),
            session: session.clone(),
            started: place.started,
            target: place.target,
            image: place.source,
            takeovers: place.takeovers,
            blobs: place.blobs,
            ahead: place.ahead,
            by_kernel: place.by_kernel,
            cache_bytes: Arc::new(AtomicU64::new(fs.engine().config().cache_bytes)),
            facts,
            sight: None,
        };
        let service = Service::start(shared, duties)
            .map_err(|error| Error::Io { doing: "start a thread", error })?;
        Ok(Self { _service: service, session, fs, chosen: None, socket, metrics, notes })
    }

    /// What does not work though the mount does.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where counters are served over HTTP.
    #[must_use]
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(SocketFile::path)
    }

    /// Why FUSE.
    #[must_use]
    pub const fn chosen(&self) -> Option<&Chosen> {
        self.chosen.as_ref()
    }

    /// The file system, for its counters and limits.
    #[must_use]
    pub const fn fs(&self) -> &Arc<ErofsFs> {
        &self.fs
    }

    /// Unmounts, which ends [`Server::run`].
    #[must_use]
    pub fn unmounter(&self) -> Option<Unmounter> {
        self.session.as_ref()?.unmounter()
    }

    /// Serves until the mount is gone.
    pub fn run(&self) -> Result<SessionStats> {
        match &self.session {
            Some(session) => Ok(session.run()?),
            None => Ok(SessionStats::default()),
        }
    }

    /// Serves until the mount is gone; SIGINT, SIGTERM and SIGHUP unmount it. `say` gets what there
    /// is to tell meanwhile.
    ///
    /// While files are in use the mount is only detached, and served until the last one is closed.
    /// A second signal does not wait for that.
    pub fn run_until_signal(&self, say: impl Fn(&str) + Send + 'static) -> Result<SessionStats> {
        let signals = Signals::catch(&[Signal::Hangup, Signal::Interrupt, Signal::Terminate])
            .map_err(|error| Error::Io { doing: "catch signals", error })?;
        if let Some(unmounter) = self.unmounter() {
            let socket = self.socket.clone();
            // Ends with the process: it waits for signals all its life.
            std::thread::Builder::new()
                .name(String::from("signals"))
                .spawn(move || unmount_on_signal(signals, &unmounter, socket.as_ref(), &say))
                .map_err(|error| Error::Io { doing: "start a thread", error })?;
        }
        self.run()
    }
}

/// Sets up what the service thread needs besides the control socket, and what `get` tells of it.
pub(crate) fn duties(options: &MountOptions) -> Result<Prepared> {
    let mut duties = Duties::default();
    let mut facts = Vec::new();
    if let Some(percent) = options.fuse.psi {
        let watch = MemoryPressure::watch(percent)
            .map_err(|error| Error::Io { doing: "watch memory pressure (psi)", error })?;
        let how = if watch.has_trigger() { "" } else { " (polled)" };
        facts.push(("psi", format!("{percent}%{how}")));
        duties.pressure = Some(watch);
    }
    if let Some(address) = options.fuse.metrics {
        let fail = |error| Error::Io { doing: "serve metrics", error };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        facts.push(("metrics", listener.local_addr().map_err(fail)?.to_string()));
        duties.http = Some(listener);
    }
    if let Some((path, interval)) = &options.fuse.metrics_file {
        let file =
            MetricsFile::new(path).map_err(|error| Error::Open { path: path.clone(), error })?;
        facts.push(("metrics_file", path.display().to_string()));
        duties.file = Some((file, *interval));
    }
    Ok((duties, facts))
}

fn unmount_on_signal(
    signals: Signals,
    unmounter: &Unmounter,
    socket: Option<&SocketFile>,
    say: &dyn Fn(&str),
) {
    let mut detached = false;
    while let Ok(Some(_)) = signals.wait(None) {
        if detached {
            say("ended while files were in use");
            // Whoever still reads gets an error now; that is what the second signal asks for.
            if let Some(socket) = socket {
                socket.remove();
            }
            std::process::exit(1);
        }
        if unmounter.unmount(UnmountFlags::default()).is_ok() {
            continue;
        }
        match unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
            Ok(()) => {
                detached = true;
                say("detached, but still in use: serving until the last file is closed \
                     (another signal ends it at once)");
            }
            Err(error) => say(&format!("cannot unmount: {error}")),
        }
    }
}
