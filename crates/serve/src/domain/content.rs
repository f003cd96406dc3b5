// SPDX-License-Identifier: MIT OR Apache-2.0
//! What content is known by, and how it is proven.
//!
//! Invariant: a [`Proof`] comes from the bytes alone, never from what an image says of them.

use ferrofs_engine::{Hint, OpenFile, Request};
use ferrofs_image::format::xattr::InodeDigest;
use ferrofs_image::{Image, Inode, Nid, Result};
use sha2::{Digest, Sha256};
use std::io::IoSliceMut;

use super::member::Member;
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

/// Bytes at each end of a file that a [`sample`] is made of.
const END: u64 = 4096;
/// Files up to this size are read whole for it.
const WHOLE_MAX: u64 = 128 << 10;

/// A hash of the ends of a file, or of all of a small one: if two differ, so do the files.
pub(crate) fn sample(member: &Member, nid: Nid) -> Result<[u8; 32]> {
    let engine = member.fs.engine();
    let file = engine.open(&member.image().inode(nid)?)?;
    if file.size() <= WHOLE_MAX {
        // As a whole it is decoded to where it is wanted; of a part, the engine would keep the rest.
        let mut whole = vec![0; file.size() as usize];
        engine.read_into(&file, 0, &mut whole)?;
        return Ok(group(&whole));
    }
    let mut ends = vec![0; 2 * END as usize];
    let (first, last) = ends.split_at_mut(END as usize);
    for (offset, end) in [(0, first), (file.size().saturating_sub(END), last)] {
        // What lies around is not wanted: it would fill the cache with both ends of all large files.
        let request = Request { offset, len: end.len(), hint: Hint::Random, ..Request::default() };
        engine.read(&file, &request, &mut [IoSliceMut::new(end)]).into_result()?;
    }
    Ok(group(&ends))
}

/// The digest of a group.
pub(crate) fn group(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What the image says that a file holds, if it says so in a form that is known. format.md §6.5
pub(crate) fn claim(image: &Image, inode: &Inode) -> Result<Option<Content>> {
    Ok(match image.inode_digest(inode)? {
        Some(InodeDigest::Sha256(digest)) => Some(Content { digest, size: inode.size }),
        _ => None,
    })
}
