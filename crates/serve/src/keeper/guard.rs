// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a mount whose blobs the kernel reads after asking, when nobody is left who fetches.
//!
//! Without the group the kernel would read holes as zeros, so three processes hold it: the keeper, the
//! worker, which takes over when the keeper is killed, and a guard, which takes over when both are. The
//! guard does nothing else: it waits for the end of a socket whose other side those two have.
//! Invariants: who takes over detaches the mount, lets reads of what is present go on, refuses all
//! else, and ends when the file system has; the guard takes no lock before.

use super::WorkerLog;
use super::marks::{self, Instance, Marks};
use crate::handover::{Mounted, receive, send};
use ferrofs_fuse::{MountHow, Unmounter};
use ferrofs_linux::UnmountFlags;
use ferrofs_linux::fanotify::PreAccess;
use ferrofs_store::{KernelFiles, KernelHold};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The word by which the program is told to be a guard ([`guard`]).
pub const GUARD_COMMAND: &str = "__guard";
/// No keeper has a descriptor of this number; those of questions that a dead one has taken are below.
const NUMBERS_END: i32 = 1 << 20;

/// What the keeper tells the guard.
#[derive(Debug, Deserialize, Serialize)]
enum ToGuard {
    /// The group comes along.
    Group,
    /// A blob's files come along: data, map and lock.
    Files,
    /// The kernel has mounted.
    Mounted(Mounted),
}

/// The keeper's side of a guard, which ends some time after this.
#[derive(Debug)]
pub(super) struct Guard {
    socket: OwnedFd,
    _child: Child,
}

impl Guard {
    /// Starts one for a group.
    pub(super) fn start(group: BorrowedFd<'_>, log: &WorkerLog) -> io::Result<Self> {
        let (socket, theirs) = ferrofs_linux::process::message_pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(GUARD_COMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        command.stderr(log.stdio()?).current_dir("/").process_group(0);
        let child = command.spawn()?;
        send(&socket, &ToGuard::Group, &[group])?;
        Ok(Self { socket, _child: child })
    }

    /// One more blob that is asked about.
    pub(super) fn add(&self, hold: &KernelHold) -> io::Result<()> {
        let KernelFiles { data, map, lock } = hold.files()?;
        send(&self.socket, &ToGuard::Files, &[data.as_fd(), map.as_fd(), lock.as_fd()])
    }

    /// Where users see it.
    pub(super) fn set_mounted(&self, mounted: &Mounted) -> io::Result<()> {
        send(&self.socket, &ToGuard::Mounted(mounted.clone()), &[])
    }

    /// As long as somebody has a copy of this the guard waits.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Is a guard, of whoever is at the other side of the standard input. The exit code.
#[must_use]
pub fn guard() -> u8 {
    u8::from(wait_and_end().is_err())
}

fn wait_and_end() -> io::Result<()> {
    super::stay_in_memory();
    let socket = io::stdin();
    let (mut group, mut files, mut mounted) = (None, Vec::new(), None);
    while let Some((message, mut fds)) = receive::<ToGuard>(&socket)? {
        match message {
            ToGuard::Group => group = fds.pop(),
            ToGuard::Files => {
                let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
                let [data, map, lock] = <[OwnedFd; 3]>::try_from(fds).map_err(bad)?;
                files.push(KernelFiles { data, map, lock });
            }
            ToGuard::Mounted(told) => mounted = Some(told),
        }
    }
    match (group, mounted) {
        (Some(group), Some(mounted)) => end_mount(&mounted, group, files.into_iter().map(Ok)),
        // It never was mounted.
        _ => Ok(()),
    }
}

/// Detaches a mount that nobody fetches for any more, and answers until the file system is gone; at
/// once if it is gone.
pub(crate) fn end_mount(
    mounted: &Mounted,
    group: OwnedFd,
    files: impl Iterator<Item = io::Result<KernelFiles>>,
) -> io::Result<()> {
    let (target, names) = (PathBuf::from(&mounted.target), mounted.instance.clone());
    let instance = Instance::new(target.clone(), mounted.device, names)?;
    if !instance.lives() {
        return Ok(());
    }
    tracing::error!("nobody fetches any more; the mount ends");
    // If a hold cannot be had everything is refused, which is as safe.
    let holds = files.map(|files| KernelHold::new(files?)).collect::<io::Result<_>>();
    let mut marks = Marks::new(PreAccess::adopt(group), holds.unwrap_or_default());
    let unmounter = Unmounter::existing(target, mounted.device, MountHow::Direct);
    if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
        tracing::error!(%error, "the mount stays");
    }
    marks::guard(&mut marks, &instance, NUMBERS_END);
    Ok(())
}
