// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sharing between images: equal contents on the disk and in memory once.
//!
//! * [`contents`]: each distinct content once in stores that the kernel mounts, and images that
//!   refer to them, put together by overlayfs.
//!
//! The crate refuses to know arguments and where messages go. Invariant: what is shared was hashed
//! here, or comes from a domain that the user declared trusted; a claim of an image alone never
//! decides what another image's reader sees.
#![forbid(unsafe_code)]

pub mod contents;
