// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the scheduler is told of a thread.

use std::io;

/// How urgent a thread is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "those that are used")]
pub enum Policy {
    /// As others (`SCHED_OTHER`).
    Normal,
    /// Whoever else wants the processor goes first (`SCHED_IDLE`).
    Idle,
}

/// Sets the policy of a thread of this process, by its number (`gettid`). Back to normal takes rights
/// (`CAP_SYS_NICE`).
pub fn set_policy(thread: rustix::process::Pid, policy: Policy) -> io::Result<()> {
    let number = match policy {
        Policy::Normal => libc::SCHED_OTHER,
        Policy::Idle => libc::SCHED_IDLE,
    };
    let param = libc::sched_param { sched_priority: 0 };
    let thread = thread.as_raw_nonzero().get();
    // By its number, since musl has no such function.
    // SAFETY: reads one structure, which lives until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, thread, number, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the calling thread is one as others are: nobody has given it another policy.
#[must_use]
pub fn is_normal() -> bool {
    // SAFETY: takes no memory.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    policy == libc::c_long::from(libc::SCHED_OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_go_and_come_back() {
        let thread = std::thread::spawn(|| {
            let policy = || {
                let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
                let fields = stat.rsplit_once(')').unwrap().1;
                // proc(5): the 41st field.
                fields.split_whitespace().nth(38).unwrap().parse::<i32>().unwrap()
            };
            assert!(policy() == libc::SCHED_OTHER && is_normal());
            set_policy(rustix::thread::gettid(), Policy::Idle).unwrap();
            assert_eq!(policy(), libc::SCHED_IDLE);
            assert!(!is_normal());
            match set_policy(rustix::thread::gettid(), Policy::Normal) {
                Ok(()) => assert_eq!(policy(), libc::SCHED_OTHER),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            }
        });
        thread.join().unwrap();
    }
}
