// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session: one mount served until it is unmounted.
//!
//! Holds the threads. Invariants: at most `threads_max` workers; as long as the session lives at
//! least one of them waits for requests or all are at work; when the kernel says the mount is
//! gone, all end.

mod config;
mod handshake;
mod worker;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

pub use config::{SessionConfig, SessionError};
use ferrofs_linux::UnmountFlags;
pub use handshake::Negotiated;
use worker::Pool;
pub use worker::SessionStats;

use crate::fs::ReadOnlyFs;
use crate::mount::{self, MountHow, Unmounter};

/// A mounted file system that waits to be served.
///
/// Dropping it unmounts.
#[derive(Debug)]
pub struct Session {
    pool: Arc<Pool>,
    negotiated: Negotiated,
    unmounter: Option<Unmounter>,
    how: MountHow,
}

impl Session {
    /// Mounts `fs` on the directory `target` and agrees with the kernel on the protocol. Requests
    /// are answered once [`Session::run`] is called; until then whoever asks waits.
    pub fn mount(
        fs: Arc<dyn ReadOnlyFs>,
        target: &Path,
        config: SessionConfig,
    ) -> Result<Self, SessionError> {
        config.check()?;
        ferrofs_linux::check_target(target).map_err(SessionError::Mount)?;
        let target = target.canonicalize().map_err(SessionError::Device)?;
        let made = mount::mount(&target, &config)?;
        let unmounter = Unmounter::new(target, made.how);
        let negotiated = match handshake::perform(&made.device, &config) {
            Ok(negotiated) => negotiated,
            Err(error) => {
                // The reason counts, not how the cleaning up went.
                let _ = unmounter.unmount(UnmountFlags { lazy: true, force: false });
                return Err(error);
            }
        };
        let readahead = raise_readahead(&unmounter, &config, negotiated.max_readahead);
        let negotiated = Negotiated { max_readahead: readahead, ..negotiated };
        let mut session = Self::from_fd(fs, made.device, negotiated, config)?;
        session.unmounter = Some(unmounter);
        session.how = made.how;
        Ok(session)
    }

    /// Serves a mount that was made elsewhere and whose INIT is done, as `negotiated` tells: the
    /// way to take over a live session. It is not unmounted when this is dropped.
    pub fn from_fd(
        fs: Arc<dyn ReadOnlyFs>,
        device: OwnedFd,
        negotiated: Negotiated,
        config: SessionConfig,
    ) -> Result<Self, SessionError> {
        config.check()?;
        let pool = Arc::new(Pool::new(fs, device, &negotiated, config));
        Ok(Self { pool, negotiated, unmounter: None, how: MountHow::Direct })
    }

    /// Answers requests until the mount is gone. Blocks; needs no thread of the caller's but this.
    pub fn run(&self) -> Result<SessionStats, SessionError> {
        let result = Pool::run(&self.pool);
        if let (Ok(_), Some(unmounter)) = (&result, &self.unmounter) {
            unmounter.set_gone();
        }
        result
    }

    /// A handle that unmounts, which ends [`Session::run`]; for the thread that gets the signals.
    /// None for a session that was taken over.
    pub fn unmounter(&self) -> Option<Unmounter> {
        self.unmounter.clone()
    }

    /// What was agreed on with the kernel.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Who made the mount.
    pub fn how(&self) -> MountHow {
        self.how
    }

    /// Counters so far.
    pub fn stats(&self) -> SessionStats {
        self.pool.stats()
    }

    /// The descriptor of `/dev/fuse`, to be kept elsewhere so that another process can go on if
    /// this one dies.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.pool.device()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(unmounter) = &self.unmounter {
            // Lazy: nobody answers any more, so nothing may wait for us.
            if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
                tracing::warn!(%error, "the mount stays");
            }
        }
    }
}

/// Raises the mount's readahead above what the kernel offers by itself, if wanted and permitted
/// (root). Returns the readahead in effect, in bytes.
fn raise_readahead(unmounter: &Unmounter, config: &SessionConfig, agreed: u32) -> u32 {
    let Some((major, minor)) = unmounter.device() else { return agreed };
    if config.max_readahead <= agreed {
        return agreed;
    }
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    match std::fs::write(path, (config.max_readahead / 1024).to_string()) {
        Ok(()) => config.max_readahead,
        Err(error) => {
            tracing::debug!(%error, "readahead stays at the kernel's default");
            agreed
        }
    }
}
