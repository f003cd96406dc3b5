// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mount without a server: what outlives the processes that answer.
//!
//! Whoever holds one keeps the mount alive while its server is replaced: as long as a descriptor of
//! the session is open somewhere, the kernel lets readers wait. Refuses to know file systems.
//! Invariant: over `/dev/fuse` only, and on one channel: what was read from a channel of its own is
//! answered with an error when that is closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ferrofs_linux::UnmountFlags;
use rustix::fs::{AtFlags, StatxFlags};

use super::config::{SessionConfig, SessionError};
use super::handshake::{self, Host, Negotiated};
use super::raise_readahead;
use crate::mount::{self, MountHow, Unmounter};

/// A mounted file system, its INIT done, that [`Session::from_fd`] serves: here or in another
/// process, one after the other.
///
/// Dropping it unmounts.
///
/// [`Session::from_fd`]: crate::Session::from_fd
#[derive(Debug)]
pub struct Connection {
    device: Option<OwnedFd>,
    negotiated: Negotiated,
    /// None for a mount that is nowhere.
    unmounter: Option<Unmounter>,
    how: MountHow,
}

impl Connection {
    /// Mounts, but nowhere, and agrees with the kernel on the protocol: for files that the system
    /// itself is to use and no user to see. Gives the root, to open them by; the mount is gone when
    /// that and all of them are closed. Needs root.
    pub fn detached(config: &SessionConfig) -> Result<(Self, OwnedFd), SessionError> {
        config.check()?;
        if config.clone_fd {
            return Err(SessionError::Config("clone_fd"));
        }
        let (made, root) = mount::mount_detached(config)?;
        let negotiated = handshake::perform(&made.device, config, &Host::read())?;
        // What the kernel knows of the root already: nobody serves it yet.
        let stat = rustix::fs::statx(
            &root,
            "",
            AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
            StatxFlags::empty(),
        );
        let number = stat.ok().map(|stat| (stat.stx_dev_major, stat.stx_dev_minor));
        let max_readahead = raise_readahead(number, config, negotiated.max_readahead);
        let negotiated = Negotiated { max_readahead, ..negotiated };
        Ok((Self { device: Some(made.device), negotiated, unmounter: None, how: made.how }, root))
    }

    /// Mounts on the directory `target` and agrees with the kernel on the protocol. Who asks
    /// there waits until somebody serves.
    pub fn mount(target: &Path, config: &SessionConfig) -> Result<Self, SessionError> {
        config.check()?;
        if config.clone_fd {
            return Err(SessionError::Config("clone_fd"));
        }
        ferrofs_linux::check_target(target).map_err(SessionError::Mount)?;
        let target = target.canonicalize().map_err(SessionError::Device)?;
        let made = mount::mount(&target, config)?;
        let unmounter = Unmounter::new(target, made.how);
        match handshake::perform(&made.device, config, &Host::read()) {
            Ok(negotiated) => {
                let max_readahead =
                    raise_readahead(unmounter.device(), config, negotiated.max_readahead);
                let negotiated = Negotiated { max_readahead, ..negotiated };
                let (device, how) = (Some(made.device), made.how);
                Ok(Self { device, negotiated, unmounter: Some(unmounter), how })
            }
            Err(error) => {
                // The reason counts, not how the cleaning up went.
                let _ = unmounter.unmount(UnmountFlags { lazy: true, force: false });
                Err(error)
            }
        }
    }

    /// The descriptor of `/dev/fuse`. A poll of it tells an error when the mount is gone. None once
    /// the mount was abandoned.
    pub fn device(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(AsFd::as_fd)
    }

    /// What was agreed on with the kernel.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Who made the mount.
    pub fn how(&self) -> MountHow {
        self.how
    }

    /// A handle that unmounts. None for a mount that is nowhere.
    pub fn unmounter(&self) -> Option<&Unmounter> {
        self.unmounter.as_ref()
    }

    /// Closes this process' descriptor and leaves the mount where it is. If no other process has
    /// one, everything asked there is an error from now on.
    pub fn abandon(&mut self) {
        self.device = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (Some(unmounter), Some(_)) = (&self.unmounter, &self.device) else { return };
        // Lazy: nobody may answer any more, so nothing may wait for us.
        if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
            tracing::warn!(%error, "the mount stays");
        }
    }
}
