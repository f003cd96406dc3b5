// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that goes to the background once it is ready.
//!
//! The process that was started waits until its child says that it is ready, or why it is not, and
//! ends with the status that this deserves. So a script that starts a server may use it at once.
//! Until then the child keeps the terminal, for messages, and the working directory, for relative
//! paths.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

/// The longest message that the waiting process passes on.
const MESSAGE_MAX: u64 = 64 << 10;

/// The child's way to tell its parent. If it is dropped, or the child dies, the parent says that
/// the process in the background ended before it was ready.
#[derive(Debug)]
pub struct Readiness {
    /// None if there is no parent that waits: the process stays in the foreground.
    pipe: Option<File>,
}

impl Readiness {
    /// For a process that stays in the foreground: nobody waits.
    pub fn foreground() -> Self {
        Self { pipe: None }
    }

    /// Whether a parent waits.
    pub fn is_background(&self) -> bool {
        self.pipe.is_some()
    }

    /// Lets go of the terminal and the working directory and lets the parent end with status 0.
    pub fn ready(self) -> io::Result<()> {
        self.ready_with(None)
    }

    /// As [`Readiness::ready`]; what is written to the standard error from now on goes to `log`, if
    /// there is one.
    pub fn ready_with(mut self, log: Option<&File>) -> io::Result<()> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(log.unwrap_or(&null))?;
        rustix::process::chdir("/")?;
        pipe.write_all(&[0])
    }

    /// Lets the parent show `message` and end with `status` (1 to 255; 0 becomes 1).
    pub fn failed(mut self, status: u8, message: &str) -> io::Result<()> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        let mut bytes = vec![status.max(1)];
        bytes.extend_from_slice(message.as_bytes());
        pipe.write_all(&bytes)
    }
}

/// Splits off a child that goes on in a session of its own; this process never returns from here
/// but waits for the child's word and ends. To be called before any thread is started; fails
/// otherwise. Buffered output is to be flushed before.
pub fn daemonize() -> io::Result<Readiness> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        // Locks held by other threads would stay locked in the child for ever.
        return Err(io::Error::other("cannot go to the background: threads are running"));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, as was just seen, and only this thread could start
    // another. So no lock or other state is in the hands of a thread that the child lacks.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            rustix::process::setsid()?;
            Ok(Readiness { pipe: Some(File::from(writer)) })
        }
        child => {
            drop(writer);
            std::process::exit(wait_for_word(&reader, child))
        }
    }
}

/// The parent: the status to end with.
fn wait_for_word(reader: &OwnedFd, child: c_int) -> i32 {
    let mut word = Vec::new();
    let read = reader
        .as_fd()
        .try_clone_to_owned()
        .and_then(|reader| File::from(reader).take(MESSAGE_MAX).read_to_end(&mut word));
    match (read, word.split_first()) {
        (Ok(_), Some((0, _))) => 0,
        (Ok(_), Some((&status, message))) => {
            eprintln!("{}", String::from_utf8_lossy(message));
            status.into()
        }
        _ => {
            let status = Pid::from_raw(child)
                .and_then(|pid| waitpid(Some(pid), WaitOptions::empty()).ok().flatten())
                .and_then(|(_, status)| status.exit_status());
            eprintln!("the process in the background ended before it was ready");
            status.filter(|status| *status != 0).unwrap_or(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_forbid_it() {
        // The test runner itself has several; one more for sure.
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || receive.recv());
            assert!(daemonize().is_err());
            drop(send);
        });
    }

    #[test]
    fn the_parent_takes_the_childs_word() {
        for (word, status) in [(&b"\0"[..], 0), (b"\x05no", 5)] {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            File::from(writer).write_all(word).unwrap();
            assert_eq!(wait_for_word(&reader, 1), status);
        }
    }

    #[test]
    fn in_the_foreground_nobody_waits() {
        assert!(!Readiness::foreground().is_background());
        Readiness::foreground().ready().unwrap();
        Readiness::foreground().failed(1, "why").unwrap();
    }
}
