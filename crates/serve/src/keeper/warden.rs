// SPDX-License-Identifier: MIT OR Apache-2.0
//! A third process that has the group of a mount that asks, for one case: keeper and worker are killed
//! together.
//!
//! The kernel forgets a group whose last descriptor is closed, and then reads holes as zeros. The warden
//! has a descriptor and does nothing with it until both are gone; from then on it refuses what is asked
//! and takes the mount down. It knows no blobs, so it refuses also what is present. It is nobody's child
//! here: who ends a keeper with all that it has started does not mean to have zeros read. Invariants: it
//! ends with the file system; it never answers while another could.

use super::WORKER_COMMAND;
use crate::handover::{Mounted, ToWorker, receive, send};
use crate::{Result, WorkerLog, worker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The second word, of a process that starts the warden and ends, so that the warden has no parent here.
const APART: &str = "apart";

/// Starts the warden, if the program's arguments say so; the exit code then.
pub(crate) fn start_apart() -> Option<u8> {
    if std::env::args_os().nth(2).is_none_or(|word| word != APART) {
        return None;
    }
    let started = Command::new("/proc/self/exe").arg(WORKER_COMMAND).spawn();
    Some(u8::from(started.is_err()))
}

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Warden {
    /// Who has this lives. The keeper has it, and each worker a copy.
    lifeline: OwnedFd,
}

impl Warden {
    pub(super) fn start(group: BorrowedFd<'_>, log: &WorkerLog) -> io::Result<Self> {
        let (lifeline, theirs) = ferrofs_linux::process::message_pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.args([WORKER_COMMAND, APART]).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // It may live as long as somebody has a file open, and is not to hold a folder for that.
        command.stderr(log.stdio()?).current_dir("/").process_group(0);
        if !command.status()?.success() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        send(&lifeline, &ToWorker::Guard, &[group])?;
        Ok(Self { lifeline })
    }

    /// Whether it has been killed.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.lifeline(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// What a worker is to have as long as it lives.
    pub(super) fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// The kernel has mounted it.
    pub(super) fn mounted(&self, mounted: &Mounted) -> io::Result<()> {
        send(&self.lifeline, &ToWorker::Mounted(mounted.clone()), &[])
    }
}

/// The warden: waits for the end of those who have the lifeline.
pub(crate) fn watch(socket: &OwnedFd, group: OwnedFd) -> Result<()> {
    let mut mounted = None;
    while let Ok(Some((message, _))) = receive::<ToWorker>(socket) {
        if let ToWorker::Mounted(told) = message {
            mounted = Some(told);
        }
    }
    // Most often the file system is gone, too.
    mounted.map_or(Ok(()), |mounted| worker::guard(&mounted, group, &[]))
}
