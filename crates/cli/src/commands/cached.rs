// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cached`: the daemon of a cache, and the small process that keeps the cache alive over its death.
//!
//! The supervisor opens and binds the device and gives its descriptors to each worker over a
//! socket, the worker's standard input. It reads nothing from the cache and nothing from a network.

mod sources;

use crate::args::CachedArgs;
use crate::errors::{self, Advice};
use anyhow::Context;
use ferrofs_linux::daemon::{self as background, Readiness};
use ferrofs_linux::signals::{Signal, Signals};
use ferrofs_linux::{descriptors, process};
use ferrofs_store::Deadline;
use ferrofs_store::cachefiles::{
    Command, Culler, Daemon, DaemonConfig, Device, Form, KernelDevice, SocketDevice,
};
use rustix::io::Errno;
use sources::Sources;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A worker that lived less than this was not started in vain only if the next one does better.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// A process that may have fewer descriptors serves fewer than the 5,000 blobs we promise.
const DESCRIPTORS_MIN: u64 = 12_000;
/// So many workers that end at once are enough.
const SHORT_LIVES_MAX: u32 = 10;

/// The device, whichever it is.
enum Cache {
    Kernel(KernelDevice),
    Socket(SocketDevice),
}

impl Cache {
    fn open(args: &CachedArgs) -> anyhow::Result<Self> {
        if let Some(path) = &args.socket {
            let device = SocketDevice::connect(path).map_err(|error| refused(path, &error))?;
            return Ok(Self::Socket(device));
        }
        if args.device != Path::new("/dev/cachefiles") {
            return Err(Advice::error(
                format!("{} is not the kernel's cache", args.device.display()),
                "it is always /dev/cachefiles; for a cache at a socket give --socket PATH",
            ));
        }
        let device = KernelDevice::open().map_err(|error| refused(&args.device, &error))?;
        Ok(Self::Kernel(device))
    }

    /// What the supervisor has sent to our standard input.
    fn inherit() -> anyhow::Result<Self> {
        let mut kind = [0; 2];
        let (len, fds) = descriptors::receive(io::stdin(), &mut kind)?;
        match (&kind[..len], fds.len()) {
            (b"K", 1) => {
                let fd = fds.into_iter().next().context("no descriptor")?;
                Ok(Self::Kernel(KernelDevice::adopt(fd)?))
            }
            ([b'S', form], 3) => {
                let fds = <[OwnedFd; 3]>::try_from(fds).ok().context("no descriptors")?;
                let form = if *form == 0 { Form::Original } else { Form::Merged };
                Ok(Self::Socket(SocketDevice::adopt(fds, form)?))
            }
            _ => Err(anyhow::anyhow!("--worker is for the supervisor alone")),
        }
    }

    /// Gives the device to a worker.
    fn give(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Kernel(device) => descriptors::send(socket, b"K", &[device.as_fd()]),
            Self::Socket(device) => {
                let form = u8::from(device.form() == Form::Merged);
                descriptors::send(socket, &[b'S', form], &device.descriptors())
            }
        }
        .map(|_| ())
    }

    fn shared(self) -> Arc<dyn Device> {
        match self {
            Self::Kernel(device) => Arc::new(device),
            Self::Socket(device) => Arc::new(device),
        }
    }
}

pub(crate) fn run(args: &CachedArgs) -> anyhow::Result<u8> {
    let sources = Sources::new(args)?;
    if args.worker {
        return serve(args, &sources, Cache::inherit()?, true, Readiness::foreground());
    }
    if args.foreground {
        return start(args, &sources, Readiness::foreground());
    }
    let readiness = background::daemonize().context("cannot go to the background")?;
    start(args, &sources, readiness)
}

/// In the process that stays.
fn start(args: &CachedArgs, sources: &Sources, readiness: Readiness) -> anyhow::Result<u8> {
    let opened = sources.check().and_then(|()| Cache::open(args));
    let cache = match opened {
        Ok(cache) => cache,
        Err(error) if readiness.is_background() => {
            readiness.failed(1, &errors::render("ferrofs", &error))?;
            return Ok(1);
        }
        Err(error) => return Err(error),
    };
    if args.supervise {
        supervise(args, sources, &cache, readiness)
    } else {
        serve(args, sources, cache, false, readiness)
    }
}

/// Serves, in this process.
fn serve(
    args: &CachedArgs,
    sources: &Sources,
    cache: Cache,
    restore: bool,
    readiness: Readiness,
) -> anyhow::Result<u8> {
    // Fails only if it was done before.
    let _ = tracing_subscriber::fmt().with_writer(io::stderr).without_time().try_init();
    let kernel = matches!(cache, Cache::Kernel(_));
    let device = cache.shared();
    let prepared = prepare(args, sources, Arc::clone(&device), restore);
    let daemon = match prepared {
        Ok(daemon) => daemon,
        Err(error) if readiness.is_background() => {
            readiness.failed(1, &errors::render("ferrofs", &error))?;
            return Ok(1);
        }
        Err(error) => return Err(error),
    };
    let signals = Signals::catch(&[Signal::Interrupt, Signal::Terminate])?;
    let culler = args.dir.as_deref().filter(|_| kernel).map(std::fs::canonicalize).transpose()?;
    readiness.ready().context("cannot tell the waiting process")?;
    let ended = AtomicBool::new(false);
    let stopper = daemon.stopper();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if !matches!(signals.wait(Some(Duration::from_millis(300))), Ok(None)) {
                    stopper.cancel();
                    return;
                }
                let Some(dir) = &culler else { continue };
                let short = device.wait(Duration::ZERO).is_ok_and(|ready| ready.culling);
                if short && let Err(error) = Culler::new(dir).cull(&*device) {
                    tracing::warn!(%error, "cannot make room in the cache");
                }
            }
        });
        let result = daemon.run();
        ended.store(true, Ordering::Relaxed);
        result
    })
    .context("the cache's device fails")?;
    tracing::info!(stats = ?daemon.stats(), "ended");
    Ok(0)
}

/// A daemon whose cache is bound.
fn prepare(
    args: &CachedArgs,
    sources: &Sources,
    device: Arc<dyn Device>,
    restore: bool,
) -> anyhow::Result<Daemon> {
    let descriptors =
        descriptors::raise_limit().context("cannot raise the number of descriptors")?;
    if descriptors < DESCRIPTORS_MIN {
        tracing::warn!(
            "only {descriptors} descriptors may be open, which is enough for about {} blobs; raise \
             the hard limit (ulimit -Hn, LimitNOFILE=)",
            descriptors / 2
        );
    }
    let daemon = Daemon::new(device, sources.open(descriptors)?, config(args, restore)?);
    match daemon.bind() {
        // Kernels before the command are served all the same; what was left unanswered stays so.
        Err(error) if restore && Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {
            tracing::warn!("the kernel cannot hand over requests of a daemon that was killed");
        }
        other => other.context("cannot bind the cache")?,
    }
    Ok(daemon)
}

fn config(args: &CachedArgs, restore: bool) -> anyhow::Result<DaemonConfig> {
    let mut setup = Vec::new();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = std::fs::canonicalize(dir)?;
        setup.push(Command::Dir(dir.as_os_str().as_bytes().to_vec()));
        let tag = args.tag.as_deref().unwrap_or("ferrofs");
        setup.push(Command::Tag(tag.as_bytes().to_vec()));
    }
    for (name, percent) in &args.limit {
        setup.push(Command::parse(format!("{name} {percent}%").as_bytes())?);
    }
    let deadline = match args.patience {
        0 => Deadline::Hard,
        seconds => Deadline::Soft(Duration::from_secs(seconds)),
    };
    Ok(DaemonConfig { threads: args.threads.into(), deadline, setup, restore })
}

/// Keeps the device open, and a worker running.
fn supervise(
    args: &CachedArgs,
    sources: &Sources,
    cache: &Cache,
    readiness: Readiness,
) -> anyhow::Result<u8> {
    let signals = Signals::catch(&[Signal::Interrupt, Signal::Terminate])?;
    let bound = bind(args, cache).context("cannot bind the cache");
    if let Err(error) = bound {
        if readiness.is_background() {
            readiness.failed(1, &errors::render("ferrofs", &error))?;
            return Ok(1);
        }
        return Err(error);
    }
    // Absolute from here on: the working directory changes.
    let dir = args.dir.as_deref().map(std::fs::canonicalize).transpose()?;
    let mut worker = spawn(args, sources, cache, dir.as_deref())?;
    readiness.ready().context("cannot tell the waiting process")?;
    let (mut born, mut short_lives) = (Instant::now(), 0);
    loop {
        if signals.wait(Some(Duration::from_millis(100)))?.is_some() {
            if let Some(pid) = rustix::process::Pid::from_raw(worker.id().cast_signed()) {
                // It is ours and not waited for, so the number is still its own.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            worker.wait()?;
            return Ok(0);
        }
        let Some(status) = worker.try_wait()? else { continue };
        if status.success() {
            return Ok(0);
        }
        short_lives = if born.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if short_lives >= SHORT_LIVES_MAX {
            return Err(Advice::error(
                format!("the worker has ended {short_lives} times at once, last with {status}"),
                "run it with --foreground and without --supervise to see why",
            ));
        }
        eprintln!("ferrofs: the worker has ended with {status}; starting another");
        born = Instant::now();
        worker = spawn(args, sources, cache, dir.as_deref())?;
    }
}

fn bind(args: &CachedArgs, cache: &Cache) -> anyhow::Result<()> {
    let device: &dyn Device = match cache {
        Cache::Kernel(device) => device,
        Cache::Socket(device) => device,
    };
    let mut commands = config(args, false)?.setup;
    commands.push(Command::Bind { on_demand: true });
    for command in commands {
        let text = command.text();
        let shown = String::from_utf8_lossy(&text);
        device.command(&text).with_context(|| format!("the cache refuses `{shown}`"))?;
    }
    Ok(())
}

fn spawn(
    args: &CachedArgs,
    sources: &Sources,
    cache: &Cache,
    dir: Option<&Path>,
) -> anyhow::Result<Child> {
    let (ours, theirs) = process::message_pair()?;
    cache.give(ours.as_fd())?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["cached", "--worker"]).args(sources.arguments());
    if let Some(path) = &args.socket {
        command.arg("--socket").arg(path);
    }
    if let Some(dir) = dir {
        command.arg("--dir").arg(dir);
    }
    command.args(["--patience", &args.patience.to_string()]);
    command.args(["--threads", &args.threads.to_string()]);
    command.stdin(Stdio::from(theirs)).spawn().context("cannot start the worker")
}

/// What to do about a cache that cannot be opened.
fn refused(path: &Path, error: &io::Error) -> anyhow::Error {
    let help = match Errno::from_io_error(error) {
        Some(Errno::BUSY) => "another daemon serves this cache: stop it first",
        Some(Errno::NOENT) => {
            "nothing is there: the kernel has no CACHEFILES_ONDEMAND (5.19 to 7.1 may have it), or \
             the cache at the socket was not started; `ferrofs mount` needs neither"
        }
        Some(Errno::CONNREFUSED) => "nobody listens there: start the cache first",
        Some(Errno::PERM | Errno::ACCESS) => "run it as the cache's user, or as root",
        _ => "see docs/cachefiles.md",
    };
    Advice::error(format!("cannot open {}: {error}", path.display()), help)
}
