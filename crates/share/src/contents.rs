// SPDX-License-Identifier: MIT OR Apache-2.0
//! A content store under overlayfs.
//!
//! A domain is a folder. `stores/` holds EROFS images with each distinct content once, compressed,
//! under `/ab/` and the other 62 digits of its SHA-256; `images/` an EROFS image of metadata for
//! each image that was added: names, modes, owners, times and attributes, and for each file with
//! content the path into a store, as overlayfs keeps it for files copied up without their data. A
//! store is mounted once for all images of a domain, so the page cache belongs to it, whatever the
//! images' codecs, writers and attributes are.
//!
//! Whatever changes the folder holds its lock, and makes things under other names first: a store,
//! then the image that uses it, in one step each. What a crash leaves is a file under a working
//! name, a store that no image uses, or a mount that nobody needs, and whoever takes the lock next
//! removes those. A content's name is the digest of bytes that were read here, and is compared again
//! with what the builder wrote; an image's own digests are asked only where the user trusts the
//! domain, and then only for contents that are in a store already.

mod add;
mod error;
mod folder;
mod guard;
mod hash;
mod mount;
mod scan;
mod stats;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ferrofs_build::{Compression, Method};

pub use add::Added;
pub use error::{Error, Result};
pub use folder::{ImageId, Removed, StoreId};
pub use stats::{Found, StoreStats, StoredImage};

/// How a domain works.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..StoreOptions::default()`")]
pub struct StoreOptions {
    /// How stores are compressed.
    pub compression: Option<Compression>,
    /// Threads that read, hash and compress.
    pub workers: NonZeroUsize,
    /// Believes the digests of images for contents that a store has.
    pub trust_digests: bool,
    /// Most bytes of content of one image, holes included.
    pub bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            compression: Some(Compression {
                method: Method::Zstd { level: 3, window_log: None },
                pcluster_size: 32 << 10,
                legacy_indexes: false,
            }),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            trust_digests: false,
            bytes_max: 1 << 40,
        }
    }
}

/// Where an image lies.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Input::default()`")]
pub struct Input {
    /// The image: a file or block device.
    pub image: PathBuf,
    /// Bytes in front of it.
    pub offset: u64,
    /// Its extra devices, in the order of its table.
    pub devices: Vec<PathBuf>,
}

/// The contents of one domain.
#[derive(Clone, Debug)]
pub struct ContentStore {
    folder: PathBuf,
    run: PathBuf,
    options: StoreOptions,
}

impl ContentStore {
    /// Where the domains of root are.
    pub const PLACE: &'static str = "/var/lib/ferrofs/share";

    /// The domain's folder, which only its owner may enter.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder in which its stores are mounted.
    #[must_use]
    pub fn run_folder(&self) -> &Path {
        &self.run
    }
}
