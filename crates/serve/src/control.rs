// SPDX-License-Identifier: MIT OR Apache-2.0
//! Talking to a running mount: where its socket is, and what is said.
//!
//! Each FUSE server listens on a Unix socket named by the device number of its mount, so that whoever
//! has a path in it, through whichever bind mount, finds the server. One line of JSON asks, one line
//! answers. For a mount by the kernel there are the few things that the kernel lets be changed.
//! Invariants: only the server's own user and root are listened to, and only the mount's owner and
//! root are believed; both sides bound what they read and how long they wait.

mod client;
mod execute;
mod kernel;
mod message;
mod place;
mod socket;

pub(crate) use client::Recorder;
pub use client::{Client, Control, control, remount};
pub(crate) use execute::{Shared, answer};
pub use kernel::KernelMount;
pub use message::{
    Change, Command, HistogramJson, ImagePath, InjectFault, Prefetched, SharingSnapshot, Snapshot,
    VERSION,
};
pub(crate) use message::{LINE_MAX, Refusal, Reply, Request, latencies};
pub(crate) use socket::{Listener, SocketFile, connect, folder_of_root, make_folder, peer_uid};
