// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mount` and `umount`.

use crate::args::{Method, MountArgs, ShareBy, UmountArgs};
use crate::commands::share::overlay;
use crate::errors::{self, Advice};
use crate::network::device_urls;
use anyhow::Context;
use ferrofs_linux::daemon::{self, Readiness};
use ferrofs_serve::{
    Chosen, FusePlan, Keeper, LazySpec, Mechanism, MountMethod, MountOptions, MountSpec, Outcome,
    ShareSpec, WorkerLog,
};
use ferrofs_store::source::remote::Location;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a server is to run.
#[derive(Clone, Debug)]
pub(crate) struct Running<'a> {
    /// The name before messages.
    pub(crate) program: &'a str,
    /// Stays with the terminal.
    pub(crate) foreground: bool,
    /// Does not say what was chosen.
    pub(crate) quiet: bool,
    /// Tells everything that happens, if in the foreground.
    pub(crate) verbose: bool,
    /// Where to tell it, if in the background.
    pub(crate) log: Option<Arc<File>>,
}

impl Running<'_> {
    /// Where workers of this process are to tell what goes wrong.
    fn worker_log(&self) -> WorkerLog {
        match &self.log {
            _ if self.foreground => WorkerLog::Inherit,
            Some(file) => WorkerLog::File(Arc::clone(file)),
            None => WorkerLog::Discard,
        }
    }

    /// Lets whoever waits go on.
    fn ready(&self, waiting: Option<&mut Option<Readiness>>) -> anyhow::Result<()> {
        if let Some(readiness) = waiting.and_then(Option::take) {
            let told = readiness.ready_with(self.log.as_deref());
            told.context("cannot tell the waiting process")?;
        }
        Ok(())
    }

    fn tell(&self, chosen: &Chosen) {
        if !self.quiet {
            eprintln!("{}: {chosen}", self.program);
        }
    }

    fn tell_more(&self, metrics: Option<SocketAddr>, notes: &[String]) {
        if self.quiet {
            return;
        }
        if let Some(address) = metrics {
            eprintln!("{}: metrics are at http://{address}/metrics", self.program);
        }
        for note in notes {
            eprintln!("{}: {note}", self.program);
        }
    }
}

pub(crate) fn run(args: MountArgs) -> anyhow::Result<u8> {
    let of_lazy = args.of_lazy();
    let mut options = MountOptions::default();
    options.engine.cache_bytes = args.cache;
    options.fuse.threads_max = args.threads;
    if args.cache.is_some() {
        options.fuse_only = Some(String::from("--cache"));
    }
    if args.threads.is_some() {
        options.fuse_only = Some(String::from("--threads"));
        options.fixed.clone_from(&options.fuse_only);
    }
    if args.allow_other {
        options.fuse.allow_other = Some(true);
        options.fuse_only = Some(String::from("--allow-other"));
        options.fixed.clone_from(&options.fuse_only);
    }
    if let Some(address) = args.metrics {
        options.fuse.metrics = Some(address);
        options.fuse_only = Some(String::from("--metrics"));
        options.fixed.clone_from(&options.fuse_only);
    }
    if let Some(path) = args.metrics_file {
        options.fuse.metrics_file = Some((path, Duration::from_secs(args.metrics_interval.into())));
        options.fuse_only = Some(String::from("--metrics-file"));
        options.fixed.clone_from(&options.fuse_only);
    }
    for text in &args.options {
        options.add(text)?;
    }
    if args.keeper {
        options.fuse.patience.get_or_insert_default();
        options.fuse_only.get_or_insert_with(|| String::from("--keeper"));
        options.fixed.get_or_insert_with(|| String::from("--keeper"));
    }
    let mut files = args.image.files();
    let is_lazy = files.image.to_str().is_some_and(Location::is_location) && !options.remount;
    // Whoever gives a pin must not get an image that nobody has verified.
    if let Some(option) = of_lazy.filter(|_| !is_lazy && !args.lazy) {
        return Err(Advice::error(
            format!("{option} is for images that are read on demand"),
            "name the image by http://, https://, oci://, s3:// or file:///PATH",
        ));
    }
    let target = match args.target {
        Some(target) => target,
        // The one path that `-o remount` and `-o fsid=` need.
        None if options.remount || options.fsid().is_some() => files.image.clone(),
        None => {
            return Err(Advice::error(
                "no directory is given to mount on",
                "ferrofs mount -o OPTIONS IMAGE DIRECTORY",
            ));
        }
    };
    if let Some(domain) = args.share.as_deref().filter(|_| args.share_by == ShareBy::Overlay) {
        if args.share_keep.is_some() {
            return Err(Advice::error(
                "--share-keep: mounts by overlayfs do not have it",
                "what was read of content stores stays in memory until `ferrofs share prune DOMAIN`",
            ));
        }
        let place = overlay::Place {
            domain,
            folder: args.share_dir.as_deref(),
            trust_digests: args.trust_digests,
        };
        let told = overlay::overlay(&place, files, &target, options)?;
        if !args.quiet {
            eprintln!("ferrofs: {told}");
        }
        return Ok(0);
    }
    let exists = files.image.exists();
    let mut lazy = match files.image.to_str() {
        Some(text) if is_lazy => Some(LazySpec {
            location: text.to_owned(),
            // Servers in the background have another working directory.
            cache: args
                .cache_dir
                .map(|folder| std::path::absolute(folder).map(PathBuf::into_os_string))
                .transpose()
                .context("the cache's folder")?,
            cache_bytes: args.cache_dir_max,
            devices: device_urls(&std::mem::take(&mut files.devices))?,
            pin: args.pin,
            device_pins: args.device_pins.by_tag()?,
            digests: args.digests,
            insecure: args.insecure,
            mirrors: args.mirror,
            bandwidth: args.bandwidth,
            network: args.network.network()?,
            ..LazySpec::default()
        }),
        name if args.lazy || name.is_some_and(|name| name.contains("://") && !exists) => {
            return Err(Advice::error(
                format!("{} is no place to fetch from", files.image.display()),
                "name it by http://, https://, oci://, s3:// or file:///PATH",
            ));
        }
        _ => None,
    };
    if let Some(lazy) = &mut lazy {
        args.ahead.apply(lazy)?;
    }
    let method = match (args.kernel, args.fuse, args.method) {
        (true, _, _) | (_, _, Method::Kernel) => MountMethod::Kernel,
        (_, true, _) | (_, _, Method::Fuse) => MountMethod::Fuse,
        (_, _, Method::Auto) => MountMethod::Auto,
        (_, _, Method::FuseFile) => MountMethod::FuseFile,
        (_, _, Method::Fanotify) => MountMethod::Fanotify,
    };
    let log = match &args.log {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            Some(Arc::new(file.with_context(|| format!("cannot open {}", path.display()))?))
        }
        None => None,
    };
    let spec = MountSpec { files, target, method, options, lazy, ..MountSpec::default() };
    let share = args.share.map(|domain| ShareSpec {
        domain,
        trust_digests: args.trust_digests,
        keep_seconds: args.share_keep,
        mechanism: match args.share_by {
            ShareBy::Auto | ShareBy::Kernel | ShareBy::Overlay => Mechanism::Auto,
            ShareBy::Superblock => Mechanism::Superblock,
            ShareBy::Passthrough => Mechanism::Passthrough,
        },
    });
    let running = Running {
        program: "ferrofs",
        foreground: args.foreground,
        quiet: args.quiet,
        verbose: false,
        log,
    };
    match share {
        Some(share) => mount_shared(spec, &share, args.share_by, &running),
        None => mount(spec, &running),
    }
}

/// Mounts in a domain.
fn mount_shared(
    mut spec: MountSpec,
    share: &ShareSpec,
    by: ShareBy,
    running: &Running<'_>,
) -> anyhow::Result<u8> {
    spec.log = running.worker_log();
    let mounted = match by {
        ShareBy::Kernel if !share.trust_digests => {
            return Err(Advice::error(
                "the kernel believes the digests in images, and so must you",
                "add --trust-digests, or take --share-by passthrough, which verifies them",
            ));
        }
        ShareBy::Kernel => ferrofs_serve::mount_shared_by_kernel(spec, share)?,
        ShareBy::Auto if share.trust_digests && ferrofs_serve::kernel_shares() => {
            let obstacle = match share.keep_seconds {
                Some(_) => Some("it has no --share-keep"),
                None => ferrofs_serve::not_for_kernel_sharing(&spec)?,
            };
            if let Some(obstacle) = obstacle {
                let mut mounted = ferrofs_serve::mount_shared(&spec, share)?;
                mounted.notes.push(format!("not shared by the kernel itself: {obstacle}"));
                mounted
            } else {
                ferrofs_serve::mount_shared_by_kernel(spec, share)?
            }
        }
        _ => ferrofs_serve::mount_shared(&spec, share)?,
    };
    running.tell(&mounted.chosen);
    running.tell_more(mounted.metrics, &mounted.notes);
    Ok(0)
}

/// The process that serves a domain.
pub(crate) fn serve_domain(words: &[OsString]) -> u8 {
    log(false);
    ferrofs_serve::serve_domain(words)
}

/// Mounts, and serves if that is to be done by FUSE.
pub(crate) fn mount(mut spec: MountSpec, running: &Running<'_>) -> anyhow::Result<u8> {
    spec.log = running.worker_log();
    if spec.options.remount {
        ferrofs_serve::remount(&spec.target, &spec.options)?;
        return Ok(0);
    }
    if spec.lazy.is_some() {
        return in_background(running, |waiting| keep(Keeper::lazy(spec)?, running, waiting));
    }
    match ferrofs_serve::mount(spec)? {
        Outcome::Kernel(chosen) => {
            running.tell(&chosen);
            Ok(0)
        }
        Outcome::Fuse(plan) => serve(plan, running),
    }
}

/// Serves a mount until it is gone.
fn serve(plan: Box<FusePlan>, running: &Running<'_>) -> anyhow::Result<u8> {
    in_background(running, |waiting| start(plan, running, waiting))
}

/// Does what may take long in the background, if it is not to be in the foreground.
fn in_background(
    running: &Running<'_>,
    start: impl FnOnce(Option<&mut Option<Readiness>>) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    if running.foreground {
        return start(None);
    }
    let readiness = daemon::daemonize().context("cannot go to the background")?;
    // From here on this is the child, whose parent waits for its word.
    let mut waiting = Some(readiness);
    match start(Some(&mut waiting)) {
        Ok(code) => Ok(code),
        Err(error) => match waiting.take() {
            // The parent shows the error and ends with the same status.
            Some(readiness) => {
                readiness.failed(1, &errors::render(running.program, &error))?;
                Ok(1)
            }
            // Nobody listens any more.
            None => Ok(1),
        },
    }
}

fn start(
    plan: Box<FusePlan>,
    running: &Running<'_>,
    waiting: Option<&mut Option<Readiness>>,
) -> anyhow::Result<u8> {
    if running.foreground || running.log.is_some() {
        log(running.verbose);
    }
    if plan.wants_keeper() {
        return keep(plan.keep()?, running, waiting);
    }
    let server = plan.start()?;
    if let Some(chosen) = server.chosen() {
        running.tell(chosen);
    }
    running.tell_more(server.metrics(), server.notes());
    running.ready(waiting)?;
    let program = running.program.to_owned();
    server.run_until_signal(move |text| eprintln!("{program}: {text}"))?;
    Ok(0)
}

/// Keeps a mount that another process serves.
fn keep(
    keeper: Keeper,
    running: &Running<'_>,
    waiting: Option<&mut Option<Readiness>>,
) -> anyhow::Result<u8> {
    running.tell(keeper.chosen());
    running.tell_more(keeper.metrics(), keeper.notes());
    running.ready(waiting)?;
    keeper.run_until_signal(&|text| eprintln!("{}: {text}", running.program))?;
    Ok(0)
}

/// The process that serves on a keeper's behalf.
pub(crate) fn work() -> u8 {
    log(false);
    ferrofs_serve::work()
}

/// What goes wrong while serving, on the standard error.
fn log(verbose: bool) {
    let level = if verbose { tracing::Level::TRACE } else { tracing::Level::WARN };
    // Fails only if it was done before.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A file of --log is read by people and programs alike.
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(level)
        .without_time()
        .try_init();
}

pub(crate) fn unmount(args: &UmountArgs) -> u8 {
    let mut code = 0;
    for target in &args.targets {
        if let Err(error) = ferrofs_serve::unmount(target, args.lazy) {
            errors::print("ferrofs", &error.into());
            code = 1;
        }
    }
    code
}
