// SPDX-License-Identifier: MIT OR Apache-2.0
//! An opened EROFS image over [`ReadAt`]: superblock, devices, inodes, directories, xattrs and the
//! mapping of file ranges to extents.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ferrofs_image::Image;
//! let image = Image::open(std::fs::File::open("root.erofs")?)?;
//! let inode = image.resolve(b"/etc/os-release")?;
//! let mut text = vec![0; usize::try_from(inode.size)?];
//! image.read(&image.map(&inode)?, 0, &mut text)?;
//! # Ok(()) }
//! ```
//!
//! The crate refuses to know threads, the network, and caches of decoded file data: [`Image::read`]
//! is the plain way, good for tools and tests; `ferrofs-engine` is the fast one. What it does cache
//! is metadata: pages of the primary device and decoded parts of the metabox and packed inodes, in
//! a few bounded megabytes.
//!
//! Invariant: bytes of an image are hostile. Whatever they say, a call ends, allocates no more than
//! the format's own limits (1 MiB encoded, 12 MiB decoded, 256 KiB of xattrs), and returns either
//! what the format defines or an [`Error`] that names the place.
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

mod decode;
mod device;
mod dir;
mod error;
mod inode;
mod map;
mod meta;
mod open;
mod read;
mod source;
mod stored;
mod xattr;

pub use decode::{CodecRules, Piece, decode_extent, decode_extent_in_place, stored_pieces};
pub use device::DeviceAddress;
pub use dir::{DirCursor, Directory, Entry};
pub use error::{Error, Place, Result};
pub use ferrofs_codec::{Algorithm, Corruption, DecodeError, Decoder};
pub use ferrofs_format as format;
pub use ferrofs_format::xattr::InodeDigest;
pub use ferrofs_format::{BlockBits, Nid};
pub use inode::Inode;
pub use map::{Encoding, Extent, FileMap, Location, MapCursor, Pcluster, Source};
pub use meta::Space;
pub use open::{Image, OpenOptions};
pub use source::ReadAt;
pub use xattr::Xattr;
