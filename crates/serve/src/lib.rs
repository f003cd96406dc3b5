// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounting: puts an image, the engine, the FUSE server and the kernel's own EROFS together.
//!
//! [`mount`] chooses the way ([`MountMethod`]) and says why; [`ErofsFs`] is an image as a file
//! system for the FUSE server; [`unmount`] undoes either; [`control`] looks at a running mount and
//! changes it. What the crate refuses to know: how
//! arguments are written, and where messages go. Invariants: an image is opened and its structure
//! looked at before anything is mounted; options are honoured or refused by name, never dropped; a
//! FUSE mount is gone when its server ends.
#![forbid(unsafe_code)]

mod access;
mod cachefiles;
pub mod control;
mod device_files;
mod domain;
mod error;
mod files;
mod fs;
mod handover;
mod keeper;
mod kernel;
mod lazy;
mod metrics;
mod mount;
mod node;
mod options;
mod prefetch;
mod pressure;
mod server;
mod service;
pub mod settings;
mod siblings;
mod unmount;
mod worker;

pub use control::remount;
pub use domain::{
    DOMAIN_COMMAND, DomainImage, DomainStats, KEEP_SECONDS, Mechanism, ShareSpec, SharedMount,
    Stopped, domain_stats, domains_dead, domains_running, kernel_shares, mount_shared,
    mount_shared_by_kernel, not_for_kernel_sharing, serve_domain, shared_by_kernel, stop_domain,
};
pub use error::{Error, Result};
pub use ferrofs_engine::{Engine, EngineConfig, EngineStats};
pub use ferrofs_fuse::{SessionError, SessionStats};
pub use files::ImageFiles;
pub use fs::ErofsFs;
pub use keeper::guard::{GUARD_COMMAND, guard};
pub use keeper::{Keeper, Patience, WORKER_COMMAND};
pub use lazy::{LazySpec, PINS_XATTR, metadata_ranges, metadata_tails};
pub use mount::{Chosen, FusePlan, Method, MountMethod, MountSpec, Outcome, WorkerLog, mount};
pub use node::{nid_of, node_of};
pub use options::{FuseOptions, MountOptions};
pub use prefetch::{LazyLook, PrefetchWhat, TraceFrom};
pub use server::Server;
pub use unmount::unmount;
pub use worker::work;

/// What fuzz targets call. Not an interface: it may change or go at any time.
#[doc(hidden)]
pub mod fuzzing {
    /// Takes bytes for what is said to and by the server of a domain.
    pub fn domain_message(bytes: &[u8]) {
        crate::domain::exercise_message(bytes);
    }
}
