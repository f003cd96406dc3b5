// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeper and worker say to each other: messages with descriptors, over a pair of sockets.
//!
//! Both are the same program, so the messages need no version. Refuses to know what is done with
//! them. Invariant: a message is whole or an error; nothing is allocated by what it says.

use crate::control::Change;
use crate::settings::{EngineSettings, Taken, show_given};
use crate::{
    Error, FuseOptions, ImageFiles, LazySpec, MountMethod, MountOptions, MountSpec, Patience,
    Result,
};
use ferrofs_fuse::Negotiated;
use ferrofs_linux::descriptors;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest message in bytes: names of a few thousand devices.
const MESSAGE_MAX: usize = 128 << 10;

/// From the keeper.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToWorker {
    /// What is to be served: open it and say so.
    Prepare(Box<Plan>),
    /// Serve it, on the descriptor that comes along.
    Serve(Serve),
    /// The kernel's own EROFS is mounted on what is served.
    Mounted(Mounted),
    /// Somebody waits for this.
    Fill(Fill),
    /// The mount is gone: end.
    End,
}

/// From the worker.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToKeeper {
    /// All that can fail has not.
    Prepared(Opened),
    /// A device's files come along: data, map and lock.
    Files,
    /// Requests are answered.
    Serving(Serving),
    /// What was to be filled is, or cannot be.
    Filled(u64),
    /// It cannot be: why, for people.
    Failed(String),
}

/// What is served. Paths are absolute.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    image: OsString,
    offset: u64,
    devices: Vec<OsString>,
    ignore_checksum: bool,
    ignore_root: bool,
    engine: Vec<Change>,
    threads_max: Option<usize>,
    allow_other: Option<bool>,
    max_read: Option<u32>,
    fsname: Option<String>,
    subtype: Option<String>,
    psi: Option<u8>,
    pub(crate) metrics: Option<SocketAddr>,
    metrics_file: Option<(OsString, Duration)>,
    pub(crate) lazy: Option<LazySpec>,
    /// The kernel reads the cache's own files, after asking.
    pub(crate) marks: bool,
    /// How long readers wait; none: for ever.
    pub(crate) soft: Option<Duration>,
    /// How readily the worker may be killed for want of memory, which is not how the keeper may.
    pub(crate) oom_score: Option<i16>,
}

/// What the worker answers for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Front {
    /// The image's tree.
    Tree,
    /// The image's devices, one file each, on which the kernel mounts EROFS.
    Files,
    /// Questions of the kernel, which reads the cache's own files.
    Marks,
}

/// A range of a device that somebody waits for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Fill {
    pub(crate) id: u64,
    pub(crate) device: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What the worker found.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Opened {
    /// Devices of the image, itself included.
    pub(crate) devices: usize,
    /// Why this kernel cannot mount it.
    pub(crate) obstacle: Option<String>,
}

/// Where users see it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Mounted {
    pub(crate) target: OsString,
    pub(crate) device: (u32, u32),
    pub(crate) by_helper: bool,
    /// Names of the kernel's instance in sysfs, if it must be known when that is gone.
    pub(crate) instance: Vec<String>,
}

/// How it is to be served.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Serve {
    pub(crate) front: Front,
    /// What was agreed on with the kernel's FUSE, if that is spoken.
    pub(crate) fuse: Option<Fuse>,
    /// None: it is told later.
    pub(crate) mounted: Option<Mounted>,
    /// Workers before this one.
    pub(crate) takeovers: u64,
    /// Seconds since it was mounted.
    pub(crate) uptime: Duration,
}

/// What was agreed on with the kernel.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Fuse {
    pub(crate) minor: u32,
    pub(crate) kernel_minor: u32,
    pub(crate) flags: u64,
    pub(crate) max_read: u32,
    pub(crate) max_readahead: u32,
}

/// How it is served.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Serving {
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) notes: Vec<String>,
}

impl Plan {
    pub(crate) fn new(spec: &MountSpec) -> io::Result<Self> {
        let MountSpec { files, options, lazy, .. } = spec;
        let whole = |path: &Path| std::path::absolute(path).map(PathBuf::into_os_string);
        let FuseOptions {
            threads_max, allow_other, max_read, fsname, subtype, psi, metrics, ..
        } = options.fuse.clone();
        let metrics_file = match &options.fuse.metrics_file {
            Some((path, interval)) => Some((whole(path)?, *interval)),
            None => None,
        };
        Ok(Self {
            // The name to show; what is opened is told by `lazy`.
            image: match lazy {
                Some(_) => files.image.clone().into_os_string(),
                None => whole(&files.image)?,
            },
            offset: files.offset,
            devices: files.devices.iter().map(|path| whole(path)).collect::<io::Result<_>>()?,
            ignore_checksum: files.ignore_checksum,
            ignore_root: files.ignore_root,
            engine: show_given(&options.engine),
            threads_max,
            allow_other,
            max_read,
            fsname,
            subtype,
            psi,
            metrics,
            metrics_file,
            lazy: lazy.clone(),
            marks: spec.method == MountMethod::Fanotify,
            soft: match options.fuse.patience {
                Some(Patience::Soft(time)) => Some(time),
                _ => None,
            },
            oom_score: ferrofs_linux::process::oom_score().ok(),
        })
    }

    pub(crate) fn files(&self) -> ImageFiles {
        ImageFiles {
            image: PathBuf::from(&self.image),
            offset: self.offset,
            devices: self.devices.iter().map(PathBuf::from).collect(),
            ignore_checksum: self.ignore_checksum,
            ignore_root: self.ignore_root,
            ..ImageFiles::default()
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.soft.map_or(Patience::Hard, Patience::Soft)
    }

    pub(crate) fn options(&self) -> Result<MountOptions> {
        let mut engine = EngineSettings::default();
        for Change { name, value } in &self.engine {
            if engine.take(name, value.as_deref()) != Taken::Yes {
                return Err(Error::Answer);
            }
        }
        let fuse = FuseOptions {
            threads_max: self.threads_max,
            allow_other: self.allow_other,
            max_read: self.max_read,
            fsname: self.fsname.clone(),
            subtype: self.subtype.clone(),
            psi: self.psi,
            metrics: self.metrics,
            metrics_file: self
                .metrics_file
                .as_ref()
                .map(|(path, interval)| (PathBuf::from(path), *interval)),
            ..FuseOptions::default()
        };
        Ok(MountOptions { engine, fuse, ..MountOptions::default() })
    }
}

impl From<&Negotiated> for Fuse {
    fn from(negotiated: &Negotiated) -> Self {
        Self {
            minor: negotiated.minor,
            kernel_minor: negotiated.kernel_minor,
            flags: negotiated.flags,
            max_read: negotiated.max_read,
            max_readahead: negotiated.max_readahead,
        }
    }
}

impl Fuse {
    pub(crate) const fn negotiated(&self) -> Negotiated {
        Negotiated {
            minor: self.minor,
            kernel_minor: self.kernel_minor,
            flags: self.flags,
            max_read: self.max_read,
            max_readahead: self.max_readahead,
        }
    }
}

/// Sends a message, and descriptors with it.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    descriptors::send(socket, &bytes, fds).map(|_| ())
}

/// The next message; `None` when the other side is gone.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buf = vec![0; MESSAGE_MAX];
    let (len, fds) = match descriptors::receive(socket, &mut buf) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    };
    if len == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(buf.get(..len).unwrap_or_default())?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn plans_arrive_as_they_were() {
        let (ours, theirs) = ferrofs_linux::process::message_pair().unwrap();
        let name = PathBuf::from(OsString::from_vec(b"/a\xff\"b".to_vec()));
        let files =
            ImageFiles { offset: 512, devices: vec![name.clone()], ..ImageFiles::new(&name) };
        let mut options = MountOptions::default();
        options.add("cache=3M,workers=2,psi=20,max_read=65536,noreadmore".as_ref()).unwrap();
        let spec = MountSpec { files, options: options.clone(), ..MountSpec::default() };
        let plan = Plan::new(&spec).unwrap();
        send(&ours, &ToWorker::Prepare(Box::new(plan)), &[ours.as_fd()]).unwrap();
        let (message, fds) = receive::<ToWorker>(&theirs).unwrap().unwrap();
        let ToWorker::Prepare(plan) = message else { panic!("another message") };
        assert_eq!(
            (plan.files().image, plan.files().devices, fds.len()),
            (name.clone(), vec![name], 1)
        );
        let given = plan.options().unwrap();
        assert_eq!(given.engine, options.engine);
        assert_eq!((given.fuse.psi, given.fuse.max_read), (Some(20), Some(65536)));
        descriptors::send(&ours, b"{}", &[]).unwrap();
        assert!(receive::<ToWorker>(&theirs).is_err());
        drop((ours, fds));
        assert!(receive::<ToWorker>(&theirs).unwrap().is_none());
    }
}
