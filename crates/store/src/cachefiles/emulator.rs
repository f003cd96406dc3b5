// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache's side of the protocol, in user space.
//!
//! One lock guards the table of requests and the objects; files are read and written outside it.
//! It refuses to know sockets: a device is opened, read and written by calls. Invariant: every
//! waiter is woken by an answer, by the death of the cache, by its deadline or by its cancel.

mod config;
mod device;
mod files;
mod object;
mod state;
#[cfg(test)]
mod tests;

pub use config::{EmulatorConfig, Space, Thresholds};
pub(super) use device::wait_for;
pub use device::{LocalDevice, LocalObject};
pub use object::{Object, ReadError, Volume};

use super::Limit;
use files::Files;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use state::State;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cache. Clones are the same.
#[derive(Clone, Debug)]
pub struct Emulator {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    config: EmulatorConfig,
    files: Files,
    state: Mutex<State>,
    /// Readable while a request is new.
    requests: OwnedFd,
    /// Readable while there is too little room.
    culling: OwnedFd,
}

impl Emulator {
    /// A cache in the folder `root`, which is made if it is not there. Objects of a run that ended
    /// with the machine are dropped: presence in a file says nothing then.
    pub fn new(root: &Path, config: EmulatorConfig) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let inner = Inner {
            files: Files::open(root)?,
            state: Mutex::new(State::new(config.thresholds)),
            config,
            requests: rustix::event::eventfd(0, flags)?,
            culling: rustix::event::eventfd(0, flags)?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The volume of this key: all blobs of one file system or one domain.
    pub fn volume(&self, key: &[u8]) -> Result<Volume, ReadError> {
        Volume::new(self.clone(), key)
    }

    /// Opens the device, as one process may at a time. EBUSY: another has it.
    pub fn device(&self) -> io::Result<LocalDevice> {
        LocalDevice::open(self.clone())
    }

    pub(super) fn inner_form(&self) -> super::Form {
        self.inner.config.form
    }

    /// Whether a daemon serves it now.
    pub fn is_bound(&self) -> bool {
        self.lock().is_bound()
    }

    /// Number of requests without an answer, and of objects in use.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.request_count(), state.object_count())
    }

    /// Readable while the device has a request that was not delivered.
    pub fn requests_fd(&self) -> BorrowedFd<'_> {
        self.inner.requests.as_fd()
    }

    /// Readable while room is short.
    pub fn culling_fd(&self) -> BorrowedFd<'_> {
        self.inner.culling.as_fd()
    }

    /// Looks at the free room again, and at once deletes objects that nobody uses, longest unused
    /// first, until there is enough. Returns how many. Call it from time to time.
    pub fn cull(&self) -> io::Result<usize> {
        let mut culled = 0;
        if !self.measure()? {
            return Ok(culled);
        }
        for (_, name) in self.inner.files.by_age()? {
            // In use is no error: the next one.
            if self.remove(&name).is_ok() {
                culled += 1;
                if !self.measure()? {
                    break;
                }
            }
        }
        Ok(culled)
    }

    /// Whether there is too little room; tells whoever polls.
    fn measure(&self) -> io::Result<bool> {
        let space = match &self.inner.config.space {
            Some(space) => space(),
            None => self.inner.files.space()?,
        };
        let culling = self.lock().measured(space);
        signal(&self.inner.culling, culling);
        Ok(culling)
    }

    /// Deletes an object by the name of its file, unless it is in use.
    fn remove(&self, name: &str) -> Result<(), Errno> {
        // Under the lock: nobody opens it meanwhile.
        let state = self.lock();
        if state.uses_file(name) {
            return Err(Errno::BUSY);
        }
        self.inner.files.remove(name).map_err(|error| errno_of(&error))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor to poll say what is so. The lock is held, so that it stays so.
    fn publish(&self, state: &mut State) {
        signal(&self.inner.requests, state.has_new());
    }
}

/// Sets a limit as `brun` and its like do.
fn set_limit(thresholds: &mut Thresholds, limit: Limit, percent: u8) {
    *match limit {
        Limit::BlocksRun => &mut thresholds.blocks_run,
        Limit::BlocksCull => &mut thresholds.blocks_cull,
        Limit::BlocksStop => &mut thresholds.blocks_stop,
        Limit::FilesRun => &mut thresholds.files_run,
        Limit::FilesCull => &mut thresholds.files_cull,
        Limit::FilesStop => &mut thresholds.files_stop,
    } = percent;
}

fn signal(event: &OwnedFd, on: bool) {
    // An event that cannot be set is full (and so on), one that cannot be read is empty.
    let mut count = [0; 8];
    let _ = rustix::io::read(event, &mut count);
    if on {
        let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
