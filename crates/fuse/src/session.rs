// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session: one mount served until it is unmounted.
//!
//! Holds the threads. Invariants: at most `threads_max` workers on `/dev/fuse`, and as many beyond
//! those that each processor has on rings; as long as the session lives at least one of them waits
//! for requests or all are at work; when the kernel says the mount is gone, all end.

mod config;
mod connection;
mod follow;
mod handshake;
mod ring;
mod worker;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

pub use config::{RingObstacle, SessionConfig, SessionError, Transport};
pub use connection::Connection;
use ferrofs_linux::UnmountFlags;
use handshake::Host;
pub use handshake::Negotiated;
use ring::Rings;
pub(crate) use worker::Pool;
pub use worker::SessionStats;

use crate::fs::ReadOnlyFs;
use crate::mount::{self, MountHow, Unmounter};
use crate::notify::{self, Notifier};

/// A mounted file system that waits to be served.
///
/// Dropping it unmounts.
#[derive(Debug)]
pub struct Session {
    pool: Arc<Pool>,
    rings: Option<Arc<Rings>>,
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
        let mut host = Host::read();
        let rings = prepare_rings(&config, &host)?;
        host.ring = rings.is_some();
        let made = mount::mount(&target, &config)?;
        let unmounter = Unmounter::new(target, made.how);
        let agreed = handshake::perform(&made.device, &config, &host)
            .and_then(|negotiated| Ok((choose_rings(rings, &negotiated, &config)?, negotiated)));
        let (rings, negotiated) = match agreed {
            Ok(agreed) => agreed,
            Err(error) => {
                // The reason counts, not how the cleaning up went.
                let _ = unmounter.unmount(UnmountFlags { lazy: true, force: false });
                return Err(error);
            }
        };
        let readahead = raise_readahead(unmounter.device(), &config, negotiated.max_readahead);
        let negotiated = Negotiated { max_readahead: readahead, ..negotiated };
        let mut session = Self::new(fs, made.device, negotiated, config);
        session.unmounter = Some(unmounter);
        session.rings = rings.map(Arc::new);
        session.how = made.how;
        Ok(session)
    }

    /// Serves a mount that was made elsewhere and whose INIT is done, as `negotiated` tells: the
    /// way to take over a live session. It is not unmounted when this is dropped. Not for sessions
    /// over `io_uring`, whose requests are lost with the rings of the process that had them: who
    /// means to hand a session over mounts it with [`Transport::Device`].
    pub fn from_fd(
        fs: Arc<dyn ReadOnlyFs>,
        device: OwnedFd,
        negotiated: Negotiated,
        config: SessionConfig,
    ) -> Result<Self, SessionError> {
        config.check()?;
        if negotiated.is_over_ring() || config.transport == Transport::Ring {
            return Err(SessionError::Ring(RingObstacle::TakenOver));
        }
        Ok(Self::new(fs, device, negotiated, config))
    }

    fn new(
        fs: Arc<dyn ReadOnlyFs>,
        device: OwnedFd,
        negotiated: Negotiated,
        config: SessionConfig,
    ) -> Self {
        let pool = Arc::new(Pool::new(fs, device, &negotiated, config));
        Self { pool, rings: None, negotiated, unmounter: None, how: MountHow::Direct }
    }

    /// Has the kernel send all requests again that a server before this one has read but not
    /// answered. To be called after [`Session::from_fd`] and before [`Session::run`]; without it
    /// who made them waits for ever. Fails where the kernel lacks it
    /// ([`Negotiated::can_resend`], Linux 6.9).
    pub fn resend(&self) -> Result<(), SessionError> {
        if !self.negotiated.can_resend() {
            return Err(SessionError::Device(std::io::ErrorKind::Unsupported.into()));
        }
        notify::resend(self.device()).map_err(SessionError::Device)
    }

    /// Answers requests until the mount is gone. Blocks; needs no thread of the caller's but this.
    pub fn run(&self) -> Result<SessionStats, SessionError> {
        let unmounter = self.unmounter.as_ref();
        if let Some(rings) = &self.rings
            && let Err(error) = rings.start(&self.pool, unmounter)
        {
            rings.give_up(error, unmounter);
        }
        let served = Pool::run(&self.pool);
        if let Some(rings) = &self.rings {
            if served.is_err() {
                // Else the rings would wait for requests for ever.
                rings.give_up(std::io::ErrorKind::BrokenPipe.into(), unmounter);
            }
            rings.join().map_err(SessionError::Device)?;
        }
        served?;
        if let Some(unmounter) = unmounter {
            unmounter.set_gone();
        }
        Ok(self.stats())
    }

    /// A handle that unmounts, which ends [`Session::run`]; for the thread that gets the signals.
    /// None for a session that was taken over.
    pub fn unmounter(&self) -> Option<Unmounter> {
        self.unmounter.clone()
    }

    /// A handle that tells the kernel about file data, from any thread but one that answers a
    /// request. It does not keep the session alive.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(&self.pool)
    }

    /// Ends what [`SessionConfig::follow_reader`] began, for good: to be called before the file system
    /// becomes one that starts threads while it answers.
    pub fn stop_following(&self) {
        self.pool.stop_following();
    }

    /// What was agreed on with the kernel.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// How requests come: [`Transport::Device`] or [`Transport::Ring`].
    pub fn transport(&self) -> Transport {
        if self.rings.is_some() { Transport::Ring } else { Transport::Device }
    }

    /// Who made the mount.
    pub fn how(&self) -> MountHow {
        self.how
    }

    /// Counters so far.
    pub fn stats(&self) -> SessionStats {
        let mut stats = self.pool.stats();
        if let Some(rings) = &self.rings {
            let (threads, peak) = rings.threads();
            stats.ring_requests = rings.requests();
            stats.requests = stats.requests.saturating_add(stats.ring_requests);
            stats.threads = stats.threads.saturating_add(threads);
            stats.threads_peak = stats.threads_peak.saturating_add(peak);
        }
        stats
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

/// Rings, if they are wanted and can be made.
fn prepare_rings(config: &SessionConfig, host: &Host) -> Result<Option<Rings>, SessionError> {
    let auto = match config.transport {
        Transport::Device => return Ok(None),
        Transport::Ring => false,
        Transport::Auto => true,
    };
    let enabled = ferrofs_linux::fuse_device::uring_enabled();
    let made = if config.max_read < RING_MAX_READ_MIN {
        Err(RingObstacle::MaxRead(RING_MAX_READ_MIN))
    } else if enabled == Some(true) {
        Rings::prepare(host.payload_len(config.max_read), config.threads_max)
    } else {
        Err(RingObstacle::NotOffered { enabled })
    };
    match made {
        Ok(rings) => Ok(Some(rings)),
        Err(obstacle) if auto => {
            tracing::debug!(%obstacle, "FUSE over /dev/fuse, not io_uring");
            Ok(None)
        }
        Err(obstacle) => Err(SessionError::Ring(obstacle)),
    }
}

/// The largest attribute must fit into an answer.
const RING_MAX_READ_MIN: u32 = 64 << 10;

/// The rings, if the kernel has agreed to use them.
fn choose_rings(
    rings: Option<Rings>,
    negotiated: &Negotiated,
    config: &SessionConfig,
) -> Result<Option<Rings>, SessionError> {
    if negotiated.is_over_ring() || config.transport != Transport::Ring {
        return Ok(rings.filter(|_| negotiated.is_over_ring()));
    }
    let enabled = ferrofs_linux::fuse_device::uring_enabled();
    Err(SessionError::Ring(RingObstacle::NotOffered { enabled }))
}

/// Raises the mount's readahead above what the kernel offers by itself, if wanted and permitted
/// (root). Returns the readahead in effect, in bytes.
fn raise_readahead(device: Option<(u32, u32)>, config: &SessionConfig, agreed: u32) -> u32 {
    let Some((major, minor)) = device else { return agreed };
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
