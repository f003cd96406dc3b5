// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server of a domain: one FUSE file system, into which images come and from which they go.
//!
//! It is started by the first mount and ends when the last image has been unmounted for as long as
//! caches are kept. Invariants: an image leaves only when the kernel has forgotten its root, so never
//! under somebody; what one client asks holds up no reader.

mod clients;
mod images;

use super::folder;
use super::fs::{DomainFs, FILES};
use super::guard::{self, Guard};
use super::message::{DomainImage, DomainSpec, DomainStats, Mechanism};
use super::sight;
use super::view::{ViewServer, probe};
use crate::control::{LINE_MAX, make_folder};
use crate::{Error, MountOptions, Result, lazy};
use ferrofs_fuse::{Session, SessionConfig};
use ferrofs_linux::{UnmountFlags, mountinfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The word by which the program is told, as its first argument, to call [`serve_domain`].
pub const DOMAIN_COMMAND: &str = "__domain";

/// How often it is looked what is mounted.
const LOOK_TIME: Duration = Duration::from_millis(500);
/// From joining the domain to being mounted.
const JOIN_TIME: Duration = Duration::from_secs(30);
/// Threads of a file system: readers of images read on demand, and of content that is hashed, wait.
pub(crate) const THREADS_MAX: usize = 32;

struct Domain {
    spec: DomainSpec,
    fs: Arc<DomainFs>,
    session: Arc<Session>,
    device: Option<(u32, u32)>,
    guard: Guard,
    begun: Instant,
    /// The process is about to end.
    ending: AtomicBool,
    keep_seconds: AtomicU64,
    /// The number of the next image. Locked while one joins or leaves.
    next: Mutex<u16>,
    /// When images were last seen mounted, or joined and were not seen yet.
    seen: Mutex<BTreeMap<u16, Seen>>,
    clients: AtomicUsize,
    /// Images that are file systems of their own.
    views: Mutex<BTreeMap<u16, ViewServer>>,
    /// What answers `ctl`, and serves metrics, of each image.
    sights: Mutex<BTreeMap<u16, Vec<sight::Seen>>>,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    mounted: bool,
}

/// Serves a domain, as told on the standard input; says on the standard output when it can be used. Or
/// is the guard of such a process, if `arguments`, those behind [`DOMAIN_COMMAND`], say so.
#[must_use]
pub fn serve_domain(arguments: &[OsString]) -> u8 {
    if let Some(code) = guard::guard(arguments) {
        return code;
    }
    let mut line = Vec::new();
    let spec = io::stdin().lock().take(LINE_MAX as u64).read_until(b'\n', &mut line);
    let spec = spec.and_then(|_| Ok(serde_json::from_slice::<DomainSpec>(&line)?));
    let begun = spec
        .map_err(|error| Error::Io { doing: "read what domain to serve", error })
        .and_then(Domain::start);
    match begun {
        Ok((domain, listener)) => {
            // Who waits for this word looks at nothing else.
            let _ = io::stdout().write_all(b"ready\n");
            let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
            if let Ok(null) = null {
                let _ = rustix::stdio::dup2_stdout(&null);
                let _ = rustix::stdio::dup2_stdin(null);
            }
            domain.run(listener)
        }
        Err(error) => {
            let _ = io::stdout().write_all(error.to_string().as_bytes());
            1
        }
    }
}

impl Domain {
    fn start(spec: DomainSpec) -> Result<(Arc<Self>, UnixListener)> {
        crate::server::Server::share_heaps();
        let fail = |doing| move |error| Error::Io { doing, error };
        // A session of its own: it outlives the terminal of the mount that began it.
        rustix::process::setsid().map_err(|errno| fail("leave the terminal")(errno.into()))?;
        // Before there is anything that it must not have.
        let guard = Guard::start(&spec.folder).map_err(fail("start the domain's guard"))?;
        let tree = folder::tree(&spec.folder);
        make_folder(&tree).map_err(fail("make the domain's folder"))?;
        let mut spec = spec;
        if spec.mechanism == Mechanism::Auto {
            let works = probe(&tree);
            spec.mechanism = if works { Mechanism::Passthrough } else { Mechanism::Superblock };
        }
        let by_content = spec.mechanism == Mechanism::Passthrough;
        let fs = Arc::new(DomainFs::new(spec.trust, by_content));
        let config = MountOptions::default().session(&format!("ferrofs-domain:{}", spec.name));
        // By listing files the kernel gets to know them, which is what those read ahead need.
        let readdirplus_always = true;
        let config = SessionConfig {
            threads_max: THREADS_MAX,
            readdirplus_always,
            // Readers of views are served by two sessions in turn: measured, nothing is gained there.
            follow_reader: !by_content,
            ..config
        };
        let session = Arc::new(Session::mount(Arc::clone(&fs) as _, &tree, config)?);
        if !by_content {
            fs.read_files_ahead(session.notifier()).map_err(fail("start a thread"))?;
        }
        let device = session.unmounter().as_ref().and_then(ferrofs_fuse::Unmounter::device);
        guard.watch(device);
        let socket = folder::socket(&spec.folder);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail("replace the domain's socket")(error));
            }
            _ => {}
        }
        // The folder lets in its owner alone.
        let listener = UnixListener::bind(&socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(fail("make the domain's socket"))?;
        let domain = Self {
            keep_seconds: AtomicU64::new(spec.keep_seconds),
            spec,
            fs,
            session,
            device,
            guard,
            begun: Instant::now(),
            ending: AtomicBool::new(false),
            next: Mutex::new(1),
            seen: Mutex::default(),
            clients: AtomicUsize::new(0),
            views: Mutex::default(),
            sights: Mutex::default(),
        };
        Ok((Arc::new(domain), listener))
    }

    fn run(self: Arc<Self>, listener: UnixListener) -> u8 {
        let domain = Arc::clone(&self);
        let thread = std::thread::Builder::new().name(String::from("domain"));
        if thread.spawn(move || domain.attend(&listener)).is_err() {
            return 1;
        }
        let code = u8::from(self.session.run().is_err());
        if self.ending.load(Ordering::Acquire) {
            // The other thread has unmounted it, and ends the process when all else is done.
            loop {
                std::thread::park();
            }
        }
        code
    }

    /// Answers clients and looks what is mounted.
    fn attend(self: &Arc<Self>, listener: &UnixListener) {
        let mut look = Instant::now();
        loop {
            let wait = look.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: wait.as_secs().cast_signed(),
                tv_nsec: wait.subsec_nanos().into(),
            };
            let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
            if matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
                self.accept(listener);
            }
            if look <= Instant::now() {
                if self.look() {
                    self.end();
                }
                look = Instant::now() + LOOK_TIME;
            }
        }
    }

    /// Where images are mounted, as far as this mount namespace shows.
    fn mounted(&self) -> BTreeMap<u16, Vec<PathBuf>> {
        let mut mounted: BTreeMap<u16, Vec<PathBuf>> = BTreeMap::new();
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |device| {
            views.iter().find(|(_, view)| view.device() == Some(device)).map(|(slot, _)| *slot)
        };
        for entry in mountinfo::read().unwrap_or_default() {
            if entry.target.starts_with(&self.spec.folder) {
                continue;
            }
            if let Some(slot) = view(entry.device) {
                mounted.entry(slot).or_default().push(entry.target);
                continue;
            }
            if Some(entry.device) != self.device {
                continue;
            }
            let first = entry.root.components().nth(1);
            let slot = first.and_then(|name| name.as_os_str().to_str()?.parse().ok());
            if let Some(slot) = slot {
                mounted.entry(slot).or_default().push(entry.target);
            }
        }
        mounted
    }

    /// Lets images go that have not been mounted for long enough; whether none is left.
    fn look(&self) -> bool {
        for slot in self.mounted().into_keys() {
            self.see(slot, true);
        }
        let keep = Duration::from_secs(self.keep_seconds.load(Ordering::Relaxed));
        // Nobody joins meanwhile.
        let Ok(_next) = self.next.try_lock() else { return false };
        let members = self.fs.members();
        for member in &members {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Seen { at, mounted }) = seen.get(&member.slot).copied() else { continue };
            drop(seen);
            // Who has just joined is about to be mounted.
            let keep = if mounted { keep } else { keep.max(JOIN_TIME) };
            let since = at.elapsed();
            if since < keep {
                continue;
            }
            self.forget(member);
        }
        // Who has begun it may not have had an image that can be opened.
        let begun = self.begun.elapsed() > JOIN_TIME;
        self.fs.members().is_empty() && (begun || !members.is_empty())
    }

    /// Ends the process.
    fn end(&self) -> ! {
        self.ending.store(true, Ordering::Release);
        // If it cannot go, the next server replaces it.
        let _ = std::fs::remove_file(folder::socket(&self.spec.folder));
        // Their sockets and files go with them.
        drop(std::mem::take(&mut *self.sights.lock().unwrap_or_else(PoisonError::into_inner)));
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        for view in views.values() {
            view.end();
        }
        if let Some(unmounter) = self.session.unmounter() {
            // Nothing is mounted from it any more; whoever looks at its folder has lost.
            let _ = unmounter.unmount(UnmountFlags { lazy: true, force: false });
        }
        let _ = std::fs::remove_dir(folder::tree(&self.spec.folder));
        // Whoever has the lock is about to begin another server, or removes the folder himself.
        if let Some(lock) = folder::lock_now(&self.spec.folder) {
            folder::remove(&self.spec.folder, lock);
        }
        std::process::exit(0)
    }

    /// What the kernel has in memory of shared contents.
    fn memory_bytes(&self) -> u64 {
        let files = folder::tree(&self.spec.folder).join(FILES);
        let cached = |node: u64| {
            let file = std::fs::File::open(files.join(DomainFs::name_of(node))).ok()?;
            ferrofs_linux::pagecache::cached_bytes(&file).ok()
        };
        // What cannot be opened has left a moment ago.
        self.fs.sharing.nodes().into_iter().filter_map(cached).sum()
    }

    fn stats(&self) -> DomainStats {
        let sharing = self.fs.sharing.stats();
        let mut targets = self.mounted();
        for slot in targets.keys() {
            self.see(*slot, true);
        }
        let members = self.fs.members();
        let images = members.iter().map(|member| DomainImage {
            number: member.slot,
            image: member.spec.image.clone(),
            targets: targets.remove(&member.slot).unwrap_or_default(),
            seconds: member.added.elapsed().as_secs(),
            lies: member.lies.load(Ordering::Relaxed),
            fetched_bytes: lazy::stats(&member.blobs).fetched_bytes,
        });
        let device_bytes = members.iter().map(|member| member.fs.engine().stats().device_bytes);
        let cached = members.iter().map(|member| {
            let stats = member.fs.engine().stats();
            stats.extent_cache_bytes + stats.page_cache_bytes + stats.encoded_cache_bytes
        });
        DomainStats {
            domain: self.spec.name.clone(),
            mechanism: self.spec.mechanism,
            pid: std::process::id(),
            trusts_digests: self.spec.trust,
            keep_seconds: self.keep_seconds.load(Ordering::Relaxed),
            contents: sharing.contents,
            files: sharing.files,
            mapped_bytes: sharing.mapped_bytes,
            saved_bytes: sharing.saved_bytes,
            memory_bytes: None,
            device_bytes: device_bytes.sum(),
            differing_bytes: sharing.differing_bytes,
            hashed_bytes: sharing.hashed_bytes,
            cache_bytes: cached.sum(),
            images: images.collect(),
        }
    }
}
