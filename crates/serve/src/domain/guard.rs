// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process beside the server of a domain, for one case: the server is killed while a thread of it
//! opens a file of the domain, which the server itself would have to answer.
//!
//! Such a thread cannot die before it is answered, so the server's descriptors stay open, the kernel
//! does not see that nobody will answer any more, and readers wait for ever. The guard sees that the
//! server is dying for too long, and has the kernel end its file systems: then all get errors.
//! Invariants: it holds no descriptor of the domain's file systems; it ends when the server has; it
//! touches a mount only while the dying server holds it, so never one that came after it.

use super::daemon::DOMAIN_COMMAND;
use ferrofs_linux::{UnmountFlags, mountinfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The word by which the program is told to be a guard.
const WORD: &str = "guard";
/// How often it is looked whether the server lives.
const LOOK_TIME: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Dying takes no longer than this.
const DEATH_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// Longest of what the server says at once.
const WORDS_MAX: usize = 4096;

/// The server's side.
#[derive(Debug)]
pub(crate) struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    _child: Child,
}

impl Guard {
    /// Starts the guard of this process, whose mounts will be below `folder`.
    pub(crate) fn start(folder: &Path) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([DOMAIN_COMMAND, WORD, &std::process::id().to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            // Somebody may wait for the end of what the server says.
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        Ok(Self { pipe: Mutex::new(child.stdin.take()), _child: child })
    }

    /// One more file system of this process.
    pub(crate) fn watch(&self, device: Option<(u32, u32)>) {
        let Some((major, minor)) = device else { return };
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let told =
            pipe.as_mut().map(|pipe| pipe.write_all(format!("{major}:{minor}\n").as_bytes()));
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "the domain's guard is gone");
        }
    }
}

/// Guards, if the program's arguments say so; the exit code then.
pub(super) fn guard(arguments: &[OsString]) -> Option<u8> {
    let [word, pid, folder] = arguments else { return None };
    if word != WORD {
        return None;
    }
    let pid: u32 = pid.to_str()?.parse().ok()?;
    Some(u8::from(watch(pid, &PathBuf::from(folder)).is_err()))
}

/// Waits for the end of the server, and helps if it cannot end.
fn watch(pid: u32, folder: &Path) -> io::Result<()> {
    let mut input = io::stdin();
    let mut devices: Vec<(u32, u32)> = Vec::new();
    let mut line = Vec::new();
    let mut time = LOOK_TIME;
    loop {
        let mut fds = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(0) if !is_dying(pid) => time = LOOK_TIME,
            // Its descriptors may be about to be closed.
            Ok(0) if time == LOOK_TIME => time = DEATH_TIME,
            Ok(0) => end_all(folder, &devices),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                let mut words = [0; WORDS_MAX];
                let count = input.read(&mut words)?;
                // All descriptors of the server are closed, and the kernel has seen it.
                if count == 0 {
                    return Ok(());
                }
                line.extend_from_slice(words.get(..count).unwrap_or_default());
                while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    let text: Vec<u8> = line.drain(..=end).collect();
                    devices.extend(device(&text));
                }
                // Nothing that it says is longer.
                line.truncate(WORDS_MAX);
            }
        }
    }
}

fn device(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = str::from_utf8(text).ok()?.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether the process has begun to end: then its first thread has ended.
fn is_dying(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name may hold anything, also parentheses.
    let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('Z' | 'X'))
}

/// Has everything fail that is asked of the file systems.
fn end_all(folder: &Path, devices: &[(u32, u32)]) {
    for mount in mountinfo::find_under(folder).unwrap_or_default() {
        if devices.contains(&mount.device) {
            // What stays is tried again, as long as the server is dying.
            let _ = ferrofs_linux::unmount(&mount.target, UnmountFlags { lazy: true, force: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_not_dying() {
        assert!(!is_dying(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        while !is_dying(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_dying(child.id()), "gone");
    }

    #[test]
    fn devices_are_numbers() {
        assert_eq!(device(b"0:57\n"), Some((0, 57)));
        for bad in [&b"\n"[..], b"0\n", b":\n", b"a:1\n", b"0:-1\n", b"\xff:1\n"] {
            assert_eq!(device(bad), None);
        }
    }
}
