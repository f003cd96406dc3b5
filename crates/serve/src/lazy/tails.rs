// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ends of files among an image's metadata: what readers who have these files need not fetch with it.
//!
//! Invariant: each tail is the end of what its file holds, in the primary device's own bytes.

use ferrofs_format::inode::FileType;
use ferrofs_format::xattr::InodeDigest;
use ferrofs_image::{Image, Inode, Nid, Result, Source, Space};
use ferrofs_store::Tail;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Where the ends of regular files lie among metadata, in order, and where the digests lie that tell what
/// else such a file holds.
///
/// # Errors
/// If the image's metadata cannot be read.
pub fn metadata_tails(image: &Image) -> Result<Vec<Tail>> {
    let root = image.root();
    let mut pending = vec![root];
    let mut seen: HashSet<Nid> = HashSet::from([root]);
    let mut tails = Vec::new();
    while let Some(nid) = pending.pop() {
        let inode = image.inode(nid)?;
        match inode.file_type {
            FileType::Directory => {
                image.directory(&inode)?.walk(0, |entry, _| {
                    if seen.insert(entry.nid) {
                        pending.push(entry.nid);
                    }
                    ControlFlow::Continue(())
                })?;
            }
            FileType::Regular => tails.extend(tail_of(image, &inode)?),
            _ => {}
        }
    }
    tails.sort_unstable_by_key(|tail: &Tail| tail.range.start);
    Ok(tails)
}

fn tail_of(image: &Image, inode: &Inode) -> Result<Option<Tail>> {
    if inode.size == 0 || inode.space() != Space::Primary {
        return Ok(None);
    }
    let map = image.map(inode)?;
    let last = map.cursor(image).extent_at(inode.size - 1)?;
    let Source::Inline { space: Space::Primary, offset } = last.source else { return Ok(None) };
    let end = inode.size - last.start;
    let range = offset..offset.saturating_add(end);
    let Some(InodeDigest::Sha256(digest)) = image.inode_digest(inode)? else {
        return Ok(Some(Tail { range, digest_at: None }));
    };
    // As a rule it lies among the inode's own attributes.
    let mut body = vec![0; usize::try_from(offset.saturating_sub(inode.offset())).unwrap_or(0)];
    image.read_metadata(Space::Primary, inode.offset(), &mut body)?;
    let at = body.windows(digest.len()).rposition(|bytes| bytes == digest);
    let digest_at = at.map(|at| inode.offset().saturating_add(at as u64));
    Ok(Some(Tail { range, digest_at }))
}
