// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing written bytes to the disk early.
//!
//! Refuses to know what is written and why; promises nothing about what survives a crash, which is
//! what `fsync` is for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Begins to write `len` bytes from `offset` on to the disk, without waiting for the end of it. A
/// hint: file systems that cannot do this do nothing.
pub fn begin(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(start), Ok(count)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(Errno::INVAL.into());
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call takes numbers only, and `fd` is open for as long as `file` is borrowed.
    let result = unsafe { libc::sync_file_range(fd, start, count, libc::SYNC_FILE_RANGE_WRITE) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A pipe, or a file system without it.
            error if error.raw_os_error() == Some(libc::ESPIPE) => Ok(()),
            error if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_written_stays_as_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        begin(&file, 0, 8192).unwrap();
        begin(&file, 8192, 1 << 40).unwrap();
        assert!(begin(&file, u64::MAX, 1).is_err());
        assert_eq!(file.metadata().unwrap().len(), 10_000);
    }
}
