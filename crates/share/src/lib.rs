// SPDX-License-Identifier: MIT OR Apache-2.0
//! Equal content in memory once: what it would save, and the pools that do it.
//!
//! The crate refuses to know arguments, terminals and mounts. Invariant: nothing that an image says
//! about its content is believed; bytes are equal because they were looked at.
#![forbid(unsafe_code)]

mod error;
pub mod estimate;
pub mod pool;

pub use error::{Error, Result};
