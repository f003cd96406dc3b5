// SPDX-License-Identifier: MIT OR Apache-2.0
//! What content is known by, and how it is proven.
//!
//! Invariant: a [`Proof`] comes from the bytes alone, never from what an image says of them.

use ferrofs_engine::{Hint, OpenFile, Request};
use ferrofs_image::format::features::CompatFeatures;
use ferrofs_image::format::xattr::base_prefix;
use ferrofs_image::{Image, Inode, Result};
use sha2::{Digest, Sha256};
use std::io::IoSliceMut;

use crate::ErofsFs;

/// Bytes that are verified at once when shared content is read.
pub(crate) const GROUP: usize = 64 << 10;
/// Bytes that are read at once when a file is hashed.
const PIECE: usize = 1 << 20;

/// The name of content: SHA-256 of all of it, and its length. In one domain and of one algorithm, so
/// that nothing else can have the same name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Content {
    pub(crate) digest: [u8; 32],
    pub(crate) size: u64,
}

/// What a file was found to hold.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) content: Content,
    /// BLAKE3 of each [`GROUP`] bytes, the last may be shorter.
    pub(crate) groups: Vec<[u8; 32]>,
}

impl Proof {
    /// Reads all of a file.
    pub(crate) fn of(fs: &ErofsFs, file: &OpenFile) -> Result<Self> {
        let size = file.size();
        let mut whole = Sha256::new();
        let mut groups = Vec::new();
        let mut buf = vec![0; usize::try_from(size).unwrap_or(PIECE).min(PIECE)];
        let mut offset = 0;
        while offset < size {
            let request =
                Request { offset, len: buf.len(), hint: Hint::Readahead, ..Request::default() };
            let report = fs.engine().read(file, &request, &mut [IoSliceMut::new(&mut buf)]);
            let count = report.into_result()?;
            let bytes = &buf[..count];
            whole.update(bytes);
            // Pieces are whole groups, but for the last.
            groups.extend(bytes.chunks(GROUP).map(group));
            offset += count as u64;
        }
        Ok(Self { content: Content { digest: whole.finalize().into(), size }, groups })
    }
}

/// The digest of a group.
pub(crate) fn group(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What the image says that a file holds, if it says so in a form that is known. format.md §6.5
pub(crate) fn claim(image: &Image, inode: &Inode) -> Result<Option<Content>> {
    let superblock = image.superblock();
    if !superblock.compat.has(CompatFeatures::ISHARE_XATTRS) {
        return Ok(None);
    }
    let prefix = image.long_prefixes().get(usize::from(superblock.ishare_prefix_id));
    let Some(prefix) = prefix else { return Ok(None) };
    let name = [base_prefix(prefix.base_index).unwrap_or_default(), &prefix.infix].concat();
    let value = image.xattr(inode, &name)?;
    let digest = value.as_deref().and_then(|value| value.strip_prefix(b"sha256:"));
    let digest = digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok());
    Ok(digest.map(|digest| Content { digest, size: inode.size }))
}
