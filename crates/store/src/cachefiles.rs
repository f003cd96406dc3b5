// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cachefiles on-demand protocol, both ends.
//!
//! The cache asks, a daemon answers: for the size of a blob when it is opened, for bytes that a
//! reader misses. The cache is a kernel's (`/dev/cachefiles`, Linux 5.19 to 7.1) or ours
//! ([`Emulator`]), which speaks the same over a Unix socket. So the process that reads untrusted
//! images and the one with credentials and a network are two. It refuses to know what is in blobs.
//! Invariant: a reader gets the bytes that a daemon wrote or an error, and never waits for ever
//! for a daemon that is gone.

mod command;
mod daemon;
mod emulator;
mod message;
mod provider;
mod socket;
mod stored;

pub use command::{COMMAND_MAX, Command, CommandError, Limit};
pub use daemon::{
    Culler, Daemon, DaemonConfig, DaemonStats, Device, KernelDevice, ObjectFile, Ready,
    SocketDevice,
};
pub use emulator::{
    Emulator, EmulatorConfig, LocalDevice, LocalObject, Object, ReadError, Space, Thresholds,
    Volume,
};
pub use message::{
    Body, Form, KEY_MAX, MESSAGE_MAX, Message, MessageError, ORIGINAL_MESSAGE_MAX, Open, Read,
    WANT_CACHE_SIZE,
};
pub use provider::{BlobProvider, DirectoryBlobs, ProvidedBlob, ProviderError, SourceBlobs};
pub use socket::{CacheSocket, Peers};
pub use stored::{KeyedImage, StoredBlobs};
