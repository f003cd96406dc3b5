// SPDX-License-Identifier: MIT OR Apache-2.0
//! Equal content of several images once: on the disk, in memory, and what that would save.
//!
//! * [`contents`]: each distinct content once in stores that the kernel mounts, and images that
//!   refer to them, put together by overlayfs.
//! * [`estimate`]: what sharing would save, told without mounting.
//! * [`pool`]: equal chunks and pages of several images once, for those who embed the engine.
//!
//! The crate refuses to know arguments and where messages go. Invariant: what is shared was hashed
//! here, or comes from a domain that the user declared trusted; a claim of an image alone never
//! decides what another image's reader sees.
#![forbid(unsafe_code)]

pub mod contents;
mod error;
pub mod estimate;
pub mod pool;

pub use error::{Error, Result};
