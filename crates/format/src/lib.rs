// SPDX-License-Identifier: MIT OR Apache-2.0
//! The EROFS on-disk format as types: every record is parsed from bytes into a decoded value and
//! emitted from a decoded value into bytes.
//!
//! This crate knows structures, flags, limits and packing rules. It refuses to know files, threads,
//! codecs and where bytes come from; whoever calls it has read the bytes already. Section numbers in
//! the documentation ("format.md §N") refer to `docs/format.md`.
//!
//! Invariant: every input is hostile. A parser returns a value that satisfies the rules of its
//! section or an error; it never panics, never allocates by a size it has not compared with the
//! bytes at hand, and does no unchecked arithmetic. Whoever builds on this crate relies on it.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod chunk;
pub mod compression;
pub mod device;
pub mod dirent;
mod error;
pub mod features;
pub mod inode;
pub mod lcluster;
pub mod limits;
pub mod num;
pub mod superblock;
mod units;
pub mod xattr;

pub use error::{FormatError, Result};
pub use units::{BlockBits, Nid};
