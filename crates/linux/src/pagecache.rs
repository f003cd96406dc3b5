// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel's page cache holds of a file.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Number of the system call, the same on all architectures; the C library has no wrapper for it.
const SYS_CACHESTAT: libc::c_long = 451;

/// A range of a file; the length 0 stands for all that follows.
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

/// Pages of a range, by state.
#[derive(Default)]
#[repr(C)]
struct Pages {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Bytes of `file` that are in the page cache, in whole pages. Reads nothing and raises no events, as
/// mapping it would. Needs Linux 6.5.
pub fn cached_bytes(file: &impl AsFd) -> io::Result<u64> {
    let range = Range { offset: 0, len: 0 };
    let mut pages = Pages::default();
    // SAFETY: the descriptor is open for the call; the first structure is only read, the second is
    // written, and both are of the form that the call has.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_fd().as_raw_fd(),
            &raw const range,
            &raw mut pages,
            0_u32,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pages.cached.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_there() {
        let mut file = tempfile::tempfile().unwrap();
        match cached_bytes(&file) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                println!("skipped: this kernel has no cachestat");
                return;
            }
            other => assert_eq!(other.unwrap(), 0),
        }
        file.write_all(&vec![1; 100_000]).unwrap();
        let page = rustix::param::page_size() as u64;
        assert_eq!(cached_bytes(&file).unwrap(), 100_000_u64.next_multiple_of(page));
    }
}
