// SPDX-License-Identifier: MIT OR Apache-2.0
//! Joining a domain, and asking what there is.
//!
//! Invariants: a domain has one server, also if two mounts begin it at once; only its owner gets near.

use super::daemon::DOMAIN_COMMAND;
use super::folder;
use super::member::MemberSpec;
use super::message::{Added, DomainCommand, DomainSpec, DomainStats, Mechanism, ask};
use super::sight::SightSpec;
use crate::control::{connect, folder_of_root, make_folder};
use crate::{Chosen, Error, Method, MountSpec, Result};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest name of a domain in bytes.
const NAME_MAX: usize = 64;
/// A server that was stopped is gone after this time.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How long caches are kept if nobody says.
pub const KEEP_SECONDS: u64 = 600;

/// Mounts that share memory.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..ShareSpec::default()`")]
pub struct ShareSpec {
    /// Name of the domain: whose images trust each other.
    pub domain: String,
    /// How; a domain has one mechanism for all its images.
    pub mechanism: Mechanism,
    /// Believe the digests of images.
    pub trust_digests: bool,
    /// How long caches are kept of images that are not mounted any more; [`KEEP_SECONDS`] at first.
    pub keep_seconds: Option<u64>,
}

/// An image mounted in a domain.
#[derive(Debug)]
#[non_exhaustive]
pub struct SharedMount {
    /// How, and why so.
    pub chosen: Chosen,
    /// Where its metrics are served over HTTP.
    pub metrics: Option<SocketAddr>,
    /// What does not work though it is mounted.
    pub notes: Vec<String>,
}

/// Mounts an image in a domain: by its server, as one of its images.
pub fn mount_shared(spec: &MountSpec, share: &ShareSpec) -> Result<SharedMount> {
    if !rustix::process::geteuid().is_root() {
        let what = "mounting a part of another mount needs root";
        return Err(Error::Option { option: String::from("--share"), what });
    }
    if let Some(option) = spec.options.not_for_shared() {
        let what = "mounts that share memory do not have it";
        return Err(Error::Option { option, what });
    }
    ferrofs_linux::check_target(&spec.target)?;
    let folder = folder_of(&share.domain)?;
    let image = member_spec(spec)?;
    let lock = folder::lock(&folder)?;
    let keep_seconds = share.keep_seconds;
    let sight = sight_spec(spec)?;
    let command = DomainCommand::Add {
        image: Box::new(image),
        mechanism: share.mechanism,
        trust: share.trust_digests,
        keep_seconds,
        sight,
    };
    let running = connect(&folder::socket(&folder));
    let asked = running.ok().map(|stream| ask(&stream, &folder, &command));
    let added: Added = match asked {
        // It was about to end.
        None | Some(Err(Error::NoServer { .. })) => {
            ask(&begin(spec, share, &folder, &lock)?, &folder, &command)?
        }
        Some(answer) => answer?,
    };
    drop(lock);
    let tree = folder.join(&added.tree);
    ferrofs_linux::mount_tree(&tree, &spec.target, spec.options.kernel_flags())?;
    let chosen = Chosen { method: Method::Shared(share.domain.clone()), reason: describe(&added) };
    Ok(SharedMount { chosen, metrics: added.metrics, notes: added.notes })
}

fn describe(added: &Added) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let how = match added.stats.mechanism {
        Mechanism::Passthrough => "FUSE passthrough to one file for each content",
        _ => "one FUSE superblock, in which equal files are one",
    };
    let plural = if added.images == 1 { "" } else { "s" };
    let mut text = format!("{how}, for its {} image{plural}", added.images);
    if added.again {
        text.push_str("; this image was there before, with its cache");
    }
    if added.stats.differing_bytes > 0 {
        let more = mib(added.stats.differing_bytes);
        text = format!("{text}; {more:.1} MiB are equal but for mode, owner, time or attributes");
    }
    text
}

fn sight_spec(spec: &MountSpec) -> Result<SightSpec> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Error::Open { path: path.to_owned(), error })
    };
    let fuse = &spec.options.fuse;
    let metrics_file = match &fuse.metrics_file {
        Some((path, interval)) => Some((absolute(path)?, *interval)),
        None => None,
    };
    // As the kernel will show it.
    let target = spec.target.canonicalize().or_else(|_| absolute(&spec.target))?;
    Ok(SightSpec { target, metrics: fuse.metrics, metrics_file })
}

fn member_spec(spec: &MountSpec) -> Result<MemberSpec> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Error::Open { path: path.clone(), error })
    };
    if let Some(lazy) = &spec.lazy {
        let image = PathBuf::from(&lazy.location);
        return Ok(MemberSpec { image, lazy: Some(lazy.clone()), ..MemberSpec::default() });
    }
    let devices = spec.files.devices.iter().chain(&spec.options.devices);
    Ok(MemberSpec {
        image: absolute(&spec.files.image)?,
        offset: spec.options.offset.unwrap_or(spec.files.offset),
        devices: devices.map(absolute).collect::<Result<_>>()?,
        lazy: None,
    })
}

/// The folder of all domains of root.
fn domains() -> Result<PathBuf> {
    let fail = |error| Error::Io { doing: "make the folder of domains", error };
    let folder = folder_of_root().map_err(fail)?.join("share");
    make_folder(&folder).map_err(fail)?;
    Ok(folder)
}

pub(super) fn folder_of(domain: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = !domain.is_empty()
        && domain.len() <= NAME_MAX
        && !domain.starts_with('.')
        && domain.chars().all(plain);
    if !good {
        let what = "a domain's name is 1 to 64 letters, digits, dots, hyphens, underscores";
        return Err(Error::Option { option: format!("--share {domain}"), what });
    }
    Ok(domains()?.join(domain))
}

/// Starts the server of a domain.
fn begin(
    spec: &MountSpec,
    share: &ShareSpec,
    folder: &Path,
    lock: &folder::Lock,
) -> Result<UnixStream> {
    let fail = |doing| move |error| Error::Io { doing, error };
    // What a server left behind that was killed. What users have mounted of it stays, and gives errors:
    // never what lies below, as if it were the image.
    folder::detach(folder, lock)?;
    let mut child = Command::new("/proc/self/exe")
        .arg(DOMAIN_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(spec.log.stdio().map_err(fail("open the log"))?)
        .current_dir("/")
        .spawn()
        .map_err(fail("start the domain's server"))?;
    let told = DomainSpec {
        name: share.domain.clone(),
        folder: folder.to_owned(),
        mechanism: share.mechanism,
        trust: share.trust_digests,
        keep_seconds: share.keep_seconds.unwrap_or(KEEP_SECONDS),
        cache_bytes: spec.options.engine_config().cache_bytes,
    };
    let mut line = serde_json::to_vec(&told).map_err(|_| Error::Answer)?;
    line.push(b'\n');
    let mut said = String::new();
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&line).map_err(fail("tell the domain's server what to do"))?;
    }
    if let Some(output) = child.stdout.take() {
        let read = output.take(4096).read_to_string(&mut said);
        read.map_err(fail("hear of the domain's server"))?;
    }
    if said != "ready\n" {
        let message = format!("the domain's server did not start: {said}");
        return Err(Error::Refused { message });
    }
    connect(&folder::socket(folder))
        .map_err(|error| Error::NoServer { path: folder.to_owned(), error })
}

/// The domains that have a server now, with what they share.
pub fn domains_running() -> Result<Vec<DomainStats>> {
    let fail = |error| Error::Io { doing: "read the folder of domains", error };
    let mut found = Vec::new();
    if !rustix::process::geteuid().is_root() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(domains()?).map_err(fail)? {
        let folder = entry.map_err(fail)?.path();
        let Ok(stream) = connect(&folder::socket(&folder)) else { continue };
        match ask(&stream, &folder, &DomainCommand::Stats { memory: false }) {
            Ok(stats) => found.push(stats),
            // It has just ended, or is of another version: no reason to hide the others.
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "a domain is silent"),
        }
    }
    found.sort_by(|one: &DomainStats, other| one.domain.cmp(&other.domain));
    Ok(found)
}

fn server(domain: &str) -> Result<(UnixStream, PathBuf)> {
    let folder = folder_of(domain)?;
    match connect(&folder::socket(&folder)) {
        Ok(stream) => Ok((stream, folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Refused { message: format!("there is no domain {domain} now") })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let message = format!(
                "the server of domain {domain} was killed; `ferrofs share stop {domain}` removes what \
                 it has left, and `ferrofs mount --share {domain}` begins anew"
            );
            Err(Error::Refused { message })
        }
        Err(error) => Err(Error::NoServer { path: folder, error }),
    }
}

/// What a domain shares.
pub fn domain_stats(domain: &str) -> Result<DomainStats> {
    let (stream, folder) = server(domain)?;
    ask(&stream, &folder, &DomainCommand::Stats { memory: true })
}

/// How a domain was ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stopped {
    /// Its server had been killed.
    pub dead: bool,
    /// Mounts of the dead server, which gave errors only, and were detached.
    pub detached: Vec<PathBuf>,
}

/// Ends a domain of which nothing is mounted, and so its cache; or removes what one has left whose
/// server was killed.
pub fn stop_domain(domain: &str) -> Result<Stopped> {
    let folder = folder_of(domain)?;
    if folder::is_dead(&folder) {
        let lock = folder::lock(&folder)?;
        // Nobody has begun another meanwhile.
        if folder::is_dead(&folder) {
            let detached = folder::detach_users(&folder, &lock)?;
            folder::detach(&folder, &lock)?;
            folder::remove(&folder, lock);
            return Ok(Stopped { dead: true, detached });
        }
    }
    let (stream, folder) = server(domain)?;
    ask::<serde_json::Value>(&stream, &folder, &DomainCommand::Stop)?;
    // Its mounts go last of all that it does, then its folder.
    let begun = Instant::now();
    while folder.exists() && begun.elapsed() < STOP_TIME {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Stopped::default())
}

/// Names of domains whose servers were killed.
pub fn domains_dead() -> Result<Vec<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let fail = |error| Error::Io { doing: "read the folder of domains", error };
    let entries = std::fs::read_dir(domains()?).map_err(fail)?;
    let dead = entries.flatten().filter(|entry| folder::is_dead(&entry.path()));
    let mut names: Vec<String> =
        dead.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
