// SPDX-License-Identifier: MIT OR Apache-2.0
//! A FUSE low-level server for file systems that never change.
//!
//! What it does: speaks the kernel's FUSE protocol (7.31 and later) on `/dev/fuse` and over
//! `io_uring`, mounts and unmounts, and calls a [`ReadOnlyFs`] for the answers. What it refuses to know: EROFS, images,
//! caches. Invariants: every request gets exactly one well-formed reply (or none, where the
//! protocol wants none); whatever bytes arrive, nothing panics and the session goes on; only
//! capabilities that are honoured are negotiated.
//!
//! Layers, each ignorant of those above it, so that another transport or a session handed
//! over by another process can take the place of one without touching the rest:
//!
//! * `abi`: the kernel's structures, byte for byte;
//! * `request`, `reply`: bytes to operations and answers to bytes, no system calls;
//! * `dispatch`: an operation to calls of the file system;
//! * `notify`: messages to the kernel that answer nothing;
//! * [`Session`]: threads, `/dev/fuse`, rings, mounting, ending.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn demo(fs: Arc<dyn ferrofs_fuse::ReadOnlyFs>) -> Result<(), ferrofs_fuse::SessionError> {
//! use ferrofs_fuse::{Session, SessionConfig};
//! let session = Session::mount(fs, "/mnt".as_ref(), SessionConfig::default())?;
//! let stop = session.unmounter(); // for a signal thread
//! session.run()?; // until unmounted
//! # drop(stop); Ok(()) }
//! ```

// Denied, not forbidden: `session::ring::channel` shares memory with the kernel.
#![deny(unsafe_code)]

mod abi;
mod buffer;
mod dispatch;
mod fs;
mod mount;
mod notify;
mod reply;
mod request;
mod session;

pub use fs::{
    Attr, DirEntry, Entry, Errno, FileKind, OpenAs, ROOT_NODE, ReadOnlyFs, ReadRequest, SPARE_LEN,
    StatFs, Timestamp, Whence,
};
pub use mount::{MountHow, Unmounter};
pub use notify::{Backings, Companions, Notifier, Surplus, SurplusStats};
pub use session::{
    Connection, Negotiated, RingObstacle, Session, SessionConfig, SessionError, SessionStats,
    Transport,
};
