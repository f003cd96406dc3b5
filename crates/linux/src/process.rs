// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process asks of the system for itself: to stay in memory, to be killed last; and how it
//! talks to a process that it starts.
//!
//! All of it is a wish: without the right to it the process goes on as it is.

use std::io;
use std::os::fd::OwnedFd;

use rustix::mm::MlockAllFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Keeps what the process has in memory there: it must be able to act when nothing can be read from
/// disk. What it gets later is kept once it is used.
pub fn lock_memory() -> io::Result<()> {
    Ok(rustix::mm::mlockall(
        MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT,
    )?)
}

/// How likely the process is to be killed when memory is short: -1000 never, 1000 first.
pub fn oom_score() -> io::Result<i16> {
    let text = std::fs::read_to_string(OOM_SCORE)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets it, for this process and those it starts. To lower it takes rights.
pub fn set_oom_score(score: i16) -> io::Result<()> {
    std::fs::write(OOM_SCORE, score.to_string())
}

/// Two connected sockets that keep the borders of messages, closed on exec.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_can_be_raised_by_nothing() {
        let score = oom_score().unwrap();
        set_oom_score(score).unwrap();
        assert_eq!(oom_score().unwrap(), score);
    }

    #[test]
    fn messages_keep_their_borders() {
        let (ours, theirs) = message_pair().unwrap();
        crate::descriptors::send(&ours, b"one", &[]).unwrap();
        crate::descriptors::send(&ours, b"three", &[]).unwrap();
        drop(ours);
        let mut buf = [0; 64];
        for len in [3, 5, 0] {
            assert_eq!(crate::descriptors::receive(&theirs, &mut buf).unwrap().0, len);
        }
    }
}
