// SPDX-License-Identifier: MIT OR Apache-2.0
//! Letting the kernel offer FUSE over `io_uring` while tests need it.
//!
//! The parameter belongs to the whole machine, and tests run in several threads and processes. Two
//! lock files keep them apart: under the exclusive lock of "gate" the parameter is looked at and
//! changed, and everybody who needs it holds a shared lock of "state", which says what it was
//! before. Whoever leaves and finds that no other has "state" puts the parameter back. A process
//! that dies lets go of its locks; what it left behind the next one puts back.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The kernel offers rings as long as this lives.
#[derive(Debug)]
pub(crate) struct Allowed {
    state: File,
}

impl Allowed {
    /// None, and why is said, if that cannot be.
    pub(crate) fn new() -> Option<Self> {
        if !Path::new(PARAMETER).exists() {
            println!("skipped: ring: the kernel knows no FUSE over io_uring");
            return None;
        }
        if is_on().unwrap_or(false) && !rustix::process::geteuid().is_root() {
            let state = tempfile::tempfile().ok()?;
            return Some(Self { state });
        }
        match Self::lock() {
            Ok(allowed) => Some(allowed),
            Err(error) => {
                println!("skipped: ring: enable_uring cannot be set: {error}");
                None
            }
        }
    }

    fn lock() -> io::Result<Self> {
        let gate = open("gate")?;
        flock(&gate, FlockOperation::LockExclusive)?;
        let mut state = open("state")?;
        flock(&state, FlockOperation::LockShared)?;
        if !is_on()? {
            state.write_all(b"N")?;
            fs::write(PARAMETER, "Y")?;
        }
        Ok(Self { state })
    }

    fn unlock(&mut self) -> io::Result<()> {
        let gate = open("gate")?;
        flock(&gate, FlockOperation::LockExclusive)?;
        flock(&self.state, FlockOperation::Unlock)?;
        // Another open file: locks belong to those.
        let mut state = open("state")?;
        if flock(&state, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let mut before = String::new();
        state.rewind()?;
        state.read_to_string(&mut before)?;
        if before.starts_with('N') {
            fs::write(PARAMETER, "N")?;
        }
        state.set_len(0)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root()
            && let Err(error) = self.unlock()
        {
            println!("enable_uring stays as it is: {error}");
        }
    }
}

fn is_on() -> io::Result<bool> {
    Ok(fs::read_to_string(PARAMETER)?.starts_with('Y'))
}

fn open(name: &str) -> io::Result<File> {
    // Only root comes here, and only root can put anything there.
    let path = Path::new("/run").join(format!("ferrofs-test-enable-uring.{name}"));
    File::options().read(true).append(true).create(true).open(path)
}
