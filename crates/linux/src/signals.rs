// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals as something to read.
//!
//! A handler writes each signal's number into a pipe. Unlike a signalfd this needs no mask in
//! every thread, so it may be set up at any time. One pipe for the process, made at the first use
//! and never closed, so that a late handler cannot write into another's descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// A signal that can be caught here.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Signal {
    /// The terminal is gone (or: read the configuration anew).
    Hangup,
    /// Interrupted from the keyboard.
    Interrupt,
    /// Asked to end.
    Terminate,
    /// Free for use.
    User1,
    /// Free for use.
    User2,
}

impl Signal {
    const ALL: [Self; 5] =
        [Self::Hangup, Self::Interrupt, Self::Terminate, Self::User1, Self::User2];

    /// The number.
    pub const fn raw(self) -> i32 {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::User1 => libc::SIGUSR1,
            Self::User2 => libc::SIGUSR2,
        }
    }

    fn from_raw(raw: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.raw() == raw)
    }
}

static PIPE: OnceLock<Pipe> = OnceLock::new();
/// The pipe's writing end, for the handler, which may take no lock.
static WRITER: AtomicI32 = AtomicI32::new(-1);

struct Pipe {
    reader: OwnedFd,
    _writer: OwnedFd,
}

/// Caught signals, to be read. All values read from the same pipe.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    reader: BorrowedFd<'static>,
}

impl Signals {
    /// Catches these signals from now on, for the rest of the process's life.
    pub fn catch(signals: &[Signal]) -> io::Result<Self> {
        let pipe = if let Some(pipe) = PIPE.get() {
            pipe
        } else {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // If another thread was faster, ours is closed again unused.
            PIPE.get_or_init(|| {
                WRITER.store(std::os::fd::AsRawFd::as_raw_fd(&writer), Ordering::SeqCst);
                Pipe { reader, _writer: writer }
            })
        };
        for signal in signals {
            install(*signal)?;
        }
        Ok(Self { reader: pipe.reader.as_fd() })
    }

    /// The next signal, waiting for it at most `timeout`; without one, for ever.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        loop {
            let mut byte = [0; 1];
            match rustix::io::read(self.reader, &mut byte) {
                Ok(1) => {
                    if let Some(signal) = Signal::from_raw(byte[0].into()) {
                        return Ok(Some(signal));
                    }
                    continue;
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut fds = [PollFd::from_borrowed_fd(self.reader, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Signals {
    /// Readable when there is a signal to [`wait`](Signals::wait) for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader
    }
}

fn install(signal: Signal) -> io::Result<()> {
    // SAFETY: zeros are a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised and lives through the call; the handler does only what a
    // signal handler may (see there); no old action is asked for.
    let result = unsafe { libc::sigaction(signal.raw(), &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs between any two instructions of any thread: so it only loads an atomic, writes to a pipe
/// that does not block, and keeps `errno`.
extern "C" fn handler(raw: libc::c_int) {
    // SAFETY: the address of this thread's errno, valid as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else uses this thread's errno meanwhile.
    let saved = unsafe { errno.read() };
    let byte = raw as u8;
    let writer = WRITER.load(Ordering::SeqCst);
    // SAFETY: write is async-signal-safe; the buffer is one live byte; the descriptor is the
    // pipe's, which is never closed. A full pipe loses the signal, after 65536 unread ones.
    unsafe { libc::write(writer, (&raw const byte).cast(), 1) };
    // SAFETY: as for the read.
    unsafe { errno.write(saved) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_can_be_read() {
        let signals = Signals::catch(&[Signal::User2]).unwrap();
        let again = Signals::catch(&[Signal::User2]).unwrap();
        assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), None);
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::USR2).unwrap();
        assert_eq!(again.wait(Some(Duration::from_secs(30))).unwrap(), Some(Signal::User2));
        assert_eq!(signals.wait(Some(Duration::from_millis(1))).unwrap(), None);
    }
}
