// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a mount whose blobs the kernel reads after asking, when nobody is left who fetches.
//!
//! Without the group the kernel would read holes as zeros, so three processes hold it: the keeper, the
//! worker, which takes over when the keeper is killed, and a guard, which takes over when both are. The
//! guard does nothing else: it waits for the end of a socket whose other side those two have. It is
//! nobody's child here: who ends a keeper with all that it has started does not mean to have zeros read.
//! A guard that is killed is followed by another. Invariants: who takes over detaches the mount, lets reads of what is present go on, refuses all
//! else, and ends when the file system has; the guard takes no lock before.

use super::WorkerLog;
use super::marks::{self, Instance, Marks};
use crate::handover::{Mounted, receive, send};
use ferrofs_fuse::{MountHow, Unmounter};
use ferrofs_linux::UnmountFlags;
use ferrofs_linux::fanotify::PreAccess;
use ferrofs_store::{KernelFiles, KernelHold};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The word by which the program is told to be a guard ([`guard`]).
pub const GUARD_COMMAND: &str = "__guard";
/// The second word, of a process that starts the guard and ends, so that the guard has no parent here.
const APART: &str = "apart";
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
pub(super) struct Guard(OwnedFd);

impl Guard {
    /// Starts one for a group.
    pub(super) fn start(group: BorrowedFd<'_>, log: &WorkerLog) -> io::Result<Self> {
        let (socket, theirs) = ferrofs_linux::process::message_pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.args([GUARD_COMMAND, APART]).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // It may live as long as somebody has a file open, and is not to hold a folder for that.
        command.stderr(log.stdio()?).current_dir("/").process_group(0);
        if !command.status()?.success() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        send(&socket, &ToGuard::Group, &[group])?;
        Ok(Self(socket))
    }

    /// Whether it has been killed.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.socket(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// One more blob that is asked about.
    pub(super) fn add(&self, hold: &KernelHold) -> io::Result<()> {
        let KernelFiles { data, map, lock } = hold.files()?;
        send(&self.0, &ToGuard::Files, &[data.as_fd(), map.as_fd(), lock.as_fd()])
    }

    /// Where users see it.
    pub(super) fn set_mounted(&self, mounted: &Mounted) -> io::Result<()> {
        send(&self.0, &ToGuard::Mounted(mounted.clone()), &[])
    }

    /// As long as somebody has a copy of this the guard waits.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Is a guard, of whoever is at the other side of the standard input, or starts it; `arguments` are those
/// behind [`GUARD_COMMAND`]. The exit code.
#[must_use]
pub fn guard(arguments: &[OsString]) -> u8 {
    if arguments.first().is_some_and(|word| word == APART) {
        return u8::from(Command::new("/proc/self/exe").arg(GUARD_COMMAND).spawn().is_err());
    }
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
