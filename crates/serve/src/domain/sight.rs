// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to see of one image of a domain: its control socket, its counters.
//!
//! Each image has a socket and a thread as a mount of its own has; so `ctl`, `top` and metrics need to
//! know nothing of domains. Refuses to know how images come and go. Invariant: what is asked for here
//! opens no file of the domain's own mounts, so whoever serves them is never waited for.

use super::fs::DomainFs;
use super::member::Member;
use super::message::Mechanism;
use crate::control::{Listener, Shared, SharingSnapshot};
use crate::server::duties;
use crate::service::{Duties, Service};
use crate::siblings::ahead::AheadStats;
use crate::{Error, FuseOptions, MountOptions, Result, lazy};
use ferrofs_fuse::Session;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How an image is to be seen, as whoever mounts it says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SightSpec {
    /// Where it will be mounted: its name in metrics.
    pub(crate) target: PathBuf,
    /// Serve metrics over HTTP.
    pub(crate) metrics: Option<SocketAddr>,
    /// Write metrics to a file, so often.
    pub(crate) metrics_file: Option<(PathBuf, Duration)>,
}

/// Metrics that can be served.
pub(crate) struct Prepared {
    target: PathBuf,
    duties: Duties,
    facts: Vec<(&'static str, String)>,
}

impl SightSpec {
    /// Opens what the user has named.
    pub(crate) fn prepare(self) -> Result<Prepared> {
        let Self { target, metrics, metrics_file } = self;
        let fuse = FuseOptions { metrics, metrics_file, ..FuseOptions::default() };
        let (duties, facts) = duties(&MountOptions { fuse, ..MountOptions::default() })?;
        Ok(Prepared { target, duties, facts })
    }
}

/// An image as its domain sees it.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) domain: String,
    pub(crate) mechanism: Mechanism,
    pub(crate) fs: Arc<DomainFs>,
    pub(crate) member: Arc<Member>,
}

/// What can be seen of an image, as long as this lives.
#[derive(Debug)]
pub(crate) struct Seen {
    _service: Service,
    /// Where its metrics are.
    pub(crate) metrics: Option<SocketAddr>,
    /// What does not work.
    pub(crate) notes: Vec<String>,
}

impl Sight {
    /// Starts the thread that answers. With `socket`, `ctl` finds it by the mount's device number;
    /// where all images have one, by their numbers, too.
    pub(crate) fn open(
        self,
        prepared: Prepared,
        session: Arc<Session>,
        socket: Option<(u32, u32)>,
    ) -> Result<Seen> {
        let Prepared { target, mut duties, mut facts } = prepared;
        facts.push(("domain", self.domain.clone()));
        facts.push(("mechanism", self.mechanism.to_string()));
        let mut notes = Vec::new();
        let part = (self.mechanism != Mechanism::Passthrough).then_some(self.member.slot);
        match socket.map(|device| Listener::bind(device, part)) {
            Some(Ok(listener)) => duties.control = Some(listener),
            Some(Err(error)) => {
                notes.push(format!("no control socket, so `ferrofs ctl` cannot work: {error}"));
            }
            None => {}
        }
        let metrics = duties.http.as_ref().and_then(|listener| listener.local_addr().ok());
        let member = Arc::clone(&self.member);
        let shared = Shared {
            fs: Arc::clone(&member.fs),
            session: Some(session),
            started: member.added,
            target,
            image: member.spec.image.clone(),
            takeovers: None,
            blobs: member.blobs.clone(),
            ahead: None,
            by_kernel: false,
            cache_bytes: Arc::clone(&member.cache_bytes),
            facts,
            sight: Some(self),
        };
        let fail = |error| Error::Io { doing: "start a thread", error };
        let service = Service::start(shared, duties).map_err(fail)?;
        Ok(Seen { _service: service, metrics, notes })
    }

    /// What was put into the kernel's page cache before it was asked for, of all images together.
    pub(crate) fn ahead_stats(&self) -> AheadStats {
        self.fs.ahead_stats()
    }

    /// What the image shares now.
    pub(crate) fn look(&self) -> SharingSnapshot {
        let member = &self.member;
        let own = self.fs.sharing.stats_of(member.slot);
        let all = self.fs.sharing.stats();
        let counters = [
            ("contents", own.contents),
            ("files", own.files),
            ("mapped_bytes", own.mapped_bytes),
            ("saved_bytes", own.saved_bytes),
            ("hits", member.hits.load(Ordering::Relaxed)),
            ("misses", member.misses.load(Ordering::Relaxed)),
            ("hashed_bytes", member.hashed_bytes.load(Ordering::Relaxed)),
            ("verified_bytes", member.verified_bytes.load(Ordering::Relaxed)),
            ("lies", member.lies.load(Ordering::Relaxed)),
            ("fetched_bytes", lazy::stats(&member.blobs).fetched_bytes),
            ("domain_contents", all.contents),
            ("domain_files", all.files),
            ("domain_mapped_bytes", all.mapped_bytes),
            ("domain_saved_bytes", all.saved_bytes),
        ];
        SharingSnapshot {
            domain: self.domain.clone(),
            mechanism: self.mechanism.to_string(),
            image: member.slot.into(),
            images: self.fs.members().len() as u64,
            counters: counters.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }
}
