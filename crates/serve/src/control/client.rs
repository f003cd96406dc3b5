// SPDX-License-Identifier: MIT OR Apache-2.0
//! The asking side.

use super::kernel::KernelMount;
use super::message::{Change, Command, REPLY_MAX, Reply, Request, Snapshot, VERSION};
use super::place::Place;
use super::socket::{candidates, connect, peer_uid};
use crate::settings::{EngineSettings, show_given};
use crate::{Error, MountOptions, Result};
use ferrofs_linux::mountinfo::MountEntry;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long between tries when the server has enough to do.
const RETRY_TIME: Duration = Duration::from_millis(20);
/// How long whether something is recorded may take to be told, before unmounting.
const RECORDER_TIME: Duration = Duration::from_secs(2);
/// How long a trace may take to be written, after it.
const TRACE_TIME: Duration = Duration::from_secs(30);

/// A mount, to be looked at and changed.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it is served by a process or by the kernel")]
pub enum Control {
    /// By FUSE: its server.
    Fuse(Client),
    /// By the kernel.
    Kernel(KernelMount),
    /// By the kernel, which gets the image's bytes from a process of ours.
    Both(Client, KernelMount),
}

/// Finds the mount that `path` is in, whoever serves it.
pub fn control(path: &Path) -> Result<Control> {
    let place = Place::find(path)?;
    if place.is_kernel() {
        // What a dead server left there says nothing.
        let server = Client::find(&place).ok().filter(|client| connect(&client.socket).is_ok());
        let mount = KernelMount::new(place);
        return Ok(match server {
            Some(client) => Control::Both(client, mount),
            None => Control::Kernel(mount),
        });
    }
    if !place.is_fuse() {
        let fs_type = place.entry.fs_type;
        return Err(Error::NotOurs { path: place.path, fs_type });
    }
    Client::find(&place).map(Control::Fuse)
}

/// Changes the mount that `target` is in to what `options` say; what they do not say stays. Options
/// that cannot change are errors, and then nothing changes.
pub fn remount(target: &Path, options: &MountOptions) -> Result<()> {
    let what = "it cannot change while the image is mounted";
    if let Some(option) = options.fixed.clone() {
        return Err(Error::Option { option, what });
    }
    let found = control(target)?;
    options.check_attributes(found.mount_options())?;
    let changes = show_given(&options.engine);
    match found {
        Control::Fuse(client) => {
            if let Some((name, _)) = options.kernel.first() {
                let what = "only mounts by the kernel have it";
                return Err(Error::Option { option: name.clone(), what });
            }
            client.ask(&Command::Set(changes)).map(|_| ())
        }
        Control::Kernel(mount) | Control::Both(_, mount) => mount.change(&changes, &options.kernel),
    }
}

impl Control {
    /// Attributes of the mount point, with commas between.
    fn mount_options(&self) -> &str {
        match self {
            Self::Fuse(client) => &client.mount_options,
            Self::Kernel(mount) | Self::Both(_, mount) => mount.mount_options(),
        }
    }
}

/// The server of a FUSE mount.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    socket: PathBuf,
    owner: u32,
    mount_options: String,
    answer_time: Duration,
}

/// The server of a mount that records a trace.
#[derive(Debug)]
pub(crate) struct Recorder {
    socket: PathBuf,
}

impl Recorder {
    /// If there is one. A server that does not answer soon is not waited for later, either.
    pub(crate) fn of(path: &Path, entry: &MountEntry) -> Option<Self> {
        // The mount itself is not asked where it is: it may be dead.
        let place = Place { path: path.to_owned(), entry: entry.clone() };
        let client = Client::find(&place).ok()?;
        let client = Client { answer_time: RECORDER_TIME, ..client };
        let is_recording = client.stats().ok()?.store.contains_key("recorded_touches");
        is_recording.then_some(Self { socket: client.socket })
    }

    /// Waits until it has written the trace: then its socket goes.
    pub(crate) fn wait(&self) {
        let give_up = Instant::now() + TRACE_TIME;
        let is_there = || match connect(&self.socket) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        while is_there() && Instant::now() < give_up {
            std::thread::sleep(RETRY_TIME);
        }
    }
}

impl Client {
    /// The server of a mount. That it has a socket is looked at, that it answers is not.
    fn find(place: &Place) -> Result<Self> {
        let fail = |error| Error::NoServer { path: place.path.clone(), error };
        let me = rustix::process::geteuid().as_raw();
        // Only root can have the kernel mount EROFS.
        let owner = if place.is_kernel() { 0 } else { place.owner().unwrap_or(me) };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for socket in candidates(place.entry.device, place.part(), owner) {
            match socket.symlink_metadata() {
                Ok(_) => {
                    let mount_options = place.entry.options.clone();
                    let (path, answer_time) = (place.path.clone(), ANSWER_TIME);
                    return Ok(Self { path, socket, owner, mount_options, answer_time });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => last = error,
            }
        }
        if last.kind() == io::ErrorKind::PermissionDenied {
            let text = format!("only user {owner}, who has mounted it, and root may");
            last = io::Error::new(last.kind(), text);
        } else if last.kind() == io::ErrorKind::NotFound {
            let text = "it has no control socket: it is gone, or is no ferrofs";
            last = io::Error::new(last.kind(), text);
        }
        Err(fail(last))
    }

    /// Asks and waits for the answer.
    pub fn ask(&self, command: &Command) -> Result<serde_json::Value> {
        let fail = |error| Error::NoServer { path: self.path.clone(), error };
        let mut stream = self.connect().map_err(fail)?;
        let command = serde_json::to_value(command).map_err(|_| Error::Answer)?;
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })
            .map_err(|_| Error::Answer)?;
        line.push(b'\n');
        // A server that refuses early has its reason in its answer.
        let sent = stream.write_all(&line);
        let mut answer = Vec::new();
        let read = (&stream).take(REPLY_MAX).read_to_end(&mut answer);
        if answer.is_empty() {
            sent.and(read.map(|_| ())).map_err(fail)?;
            return Err(fail(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        let reply: Reply = serde_json::from_slice(&answer).map_err(|_| Error::Answer)?;
        match reply {
            Reply { error: Some(message), .. } => Err(Error::Refused { message }),
            Reply { version: VERSION, ok, .. } => Ok(ok.unwrap_or_default()),
            Reply { .. } => Err(Error::Answer),
        }
    }

    /// Its counters.
    pub fn stats(&self) -> Result<Snapshot> {
        let value = self.ask(&Command::Stats)?;
        serde_json::from_value(value).map_err(|_| Error::Answer)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let give_up = Instant::now() + self.answer_time;
        let stream = loop {
            match connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up =>
                {
                    std::thread::sleep(RETRY_TIME);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(io::Error::new(error.kind(), "it is gone"));
                }
                Err(error) => return Err(error),
            }
        };
        // The folder may be one that anybody could have made.
        let peer = peer_uid(&stream)?;
        if peer != 0 && peer != self.owner {
            let text = format!("{} is user {peer}'s, not the server's", self.socket.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.answer_time))?;
        stream.set_write_timeout(Some(self.answer_time))?;
        Ok(stream)
    }
}

/// Changes as options have them: `KEY=VALUE`, or a switch.
impl From<&str> for Change {
    fn from(text: &str) -> Self {
        match text.split_once('=') {
            Some((name, value)) => Self { name: name.into(), value: Some(value.into()) },
            None => Self { name: text.into(), value: None },
        }
    }
}

impl EngineSettings {
    /// Takes changes of a running mount.
    pub(crate) fn of_changes(changes: &[Change]) -> std::result::Result<Self, String> {
        use crate::settings::Taken;
        let mut settings = Self::default();
        for Change { name, value } in changes {
            let value = value.as_deref();
            let shown = || value.map_or_else(|| name.clone(), |value| format!("{name}={value}"));
            match settings.take(name, value) {
                Taken::Yes if settings.workers.is_some() => {
                    return Err(String::from(
                        "workers: it is fixed when the image is mounted (-o workers=N)",
                    ));
                }
                Taken::Yes => {}
                Taken::Bad(what) => return Err(format!("{}: {what}", shown())),
                Taken::Unknown => {
                    return Err(format!("{}: not known; there are {}", shown(), Self::CHANGEABLE));
                }
            }
        }
        if settings.on_change.is_some() && settings.strategy.is_none() {
            return Err(String::from("on_change: it goes with cache_strategy only"));
        }
        Ok(settings)
    }
}
