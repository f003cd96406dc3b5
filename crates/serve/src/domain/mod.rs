// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains: mounts that trust each other and share memory.
//!
//! One FUSE file system holds all images of a domain, and files of equal content and equal attributes
//! are one node in it, so one in the page cache, whatever images, codecs and layouts they come from.
//! An image is mounted where the user wants it as a part of that file
//! system ([`Mechanism::Superblock`]), or as a file system of its own whose files are opened as those of
//! the first (`view`, [`Mechanism::Passthrough`]), which shares content of other attributes, too. The
//! modules: `daemon` is the process that serves, `client` asks it, `fs` is the file system, `sharing` decides
//! what is one node, `shared` reads it, `member` is an image, `backing` and `ahead` have files of views
//! ready, `survey` finds what need not be fetched, `sight` shows an image to `ctl`, `folder` is where a domain is found, `guard` sees to it that a
//! killed server leaves errors and no waiting.
//!
//! Invariants: domains are processes and file systems of their own, so nothing is shared between
//! them; what an image says of its content never decides what another image's users read.

mod ahead;
mod backing;
mod client;
mod content;
mod daemon;
mod folder;
mod fs;
mod guard;
mod kernel;
mod member;
mod message;
mod nodes;
mod shared;
mod sharing;
mod sight;
mod stash;
mod survey;
mod view;

pub use client::{
    KEEP_SECONDS, ShareSpec, SharedMount, Stopped, domain_stats, domains_dead, domains_running,
    mount_shared, stop_domain,
};
pub use daemon::{DOMAIN_COMMAND, serve_domain};
pub use kernel::{kernel_shares, mount_shared_by_kernel, not_for_kernel_sharing, shared_by_kernel};
pub(crate) use member::METADATA_CACHE;
pub(crate) use message::exercise as exercise_message;
pub use message::{DomainImage, DomainStats, Mechanism};
pub(crate) use sight::Sight;
