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

/// By what content is named.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Algorithm {
    /// SHA-256 of all of it: what images say of their files.
    Sha256,
    /// BLAKE3 of the BLAKE3 digests of each [`GROUP`] bytes, the last may be shorter: what reads of it are
    /// verified by anyway.
    Groups,
}

/// The name of content. In one domain nothing else can have the same name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Content {
    pub(crate) algorithm: Algorithm,
    pub(crate) digest: [u8; 32],
    pub(crate) size: u64,
}

/// What a file was found to hold.
#[derive(Debug)]
pub(crate) struct Proof {
    /// Its name by [`Algorithm::Groups`].
    pub(crate) content: Content,
    /// BLAKE3 of each [`GROUP`] bytes, the last may be shorter.
    pub(crate) groups: Vec<[u8; 32]>,
    /// Its name by [`Algorithm::Sha256`], if that was wanted.
    pub(crate) sha256: Option<Content>,
}

impl Proof {
    /// Reads all of a file. Returns its bytes, too, if it is no larger than [`WHOLE_MAX`].
    pub(crate) fn of(
        fs: &ErofsFs,
        file: &OpenFile,
        sha256: bool,
    ) -> Result<(Self, Option<Vec<u8>>)> {
        let size = file.size();
        let mut whole = sha256.then(Sha256::new);
        let mut groups = Vec::new();
        let mut buf = vec![0; usize::try_from(size).unwrap_or(PIECE).min(PIECE)];
        let mut offset = 0;
        while offset < size {
            let request =
                Request { offset, len: buf.len(), hint: Hint::Readahead, ..Request::default() };
            let report = fs.engine().read(file, &request, &mut [IoSliceMut::new(&mut buf)]);
            let count = report.into_result()?;
            let bytes = &buf[..count];
            if let Some(whole) = &mut whole {
                whole.update(bytes);
            }
            // Pieces are whole groups, but for the last.
            groups.extend(bytes.chunks(GROUP).map(group));
            offset += count as u64;
        }
        let digest = group(groups.as_flattened());
        let content = Content { algorithm: Algorithm::Groups, digest, size };
        let sha256 = whole.map(|whole| Content {
            algorithm: Algorithm::Sha256,
            digest: whole.finalize().into(),
            size,
        });
        Ok((Self { content, groups, sha256 }, (size <= WHOLE_MAX).then_some(buf)))
    }

    /// Whether this is what a name stands for, as far as it is known by that algorithm.
    pub(crate) fn is(&self, content: Content) -> bool {
        content == self.content || Some(content) == self.sha256
    }
}

/// Bytes at each end of a file that a [`sample`] is made of.
const END: u64 = 4096;
/// Files up to this size are hashed instead: as a whole a file is decoded to where it is wanted; of a
/// part, the engine would keep the rest.
pub(crate) const WHOLE_MAX: u64 = 128 << 10;

/// A hash of the ends of a file that is larger than [`WHOLE_MAX`]: if two differ, so do the files.
pub(crate) fn sample(member: &Member, nid: Nid) -> Result<[u8; 32]> {
    let engine = member.fs.engine();
    let file = engine.open(&member.image().inode(nid)?)?;
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
        Some(InodeDigest::Sha256(digest)) => {
            Some(Content { algorithm: Algorithm::Sha256, digest, size: inode.size })
        }
        _ => None,
    })
}
