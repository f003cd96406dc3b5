// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digests of an image's contents: read, or believed where that is allowed.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ferrofs_engine::Engine;
use ferrofs_image::{Inode, InodeDigest};
use sha2::{Digest, Sha256};

use super::folder::Contents;
use super::scan::Found;
use super::{Error, Result, StoreOptions};

/// Bytes read at once.
const READ: usize = 1 << 20;

/// The digests of `files`, in their order, and how many were believed.
pub(super) fn digests(
    engine: &Engine,
    files: &[Found],
    known: &Contents,
    options: &StoreOptions,
    path: &Path,
) -> Result<(Vec<[u8; 32]>, u64)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new((vec![[0; 32]; files.len()], 0));
    let work = || -> ferrofs_image::Result<()> {
        let mut buf = vec![0; READ];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(found) = files.get(number) else { return Ok(()) };
            let claim =
                if options.trust_digests { claim(engine, &found.inode, known)? } else { None };
            let digest = match claim {
                Some(digest) => digest,
                None => hash(engine, &found.inode, &mut buf)?,
            };
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0[number] = digest;
            done.1 += u64::from(claim.is_some());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.workers.get()).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => {
                    result.map_err(|error| Error::Image { path: path.to_owned(), error })?;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
    .map(|()| done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What the image says, if a store has a content of that digest and size.
fn claim(
    engine: &Engine,
    inode: &Inode,
    known: &Contents,
) -> ferrofs_image::Result<Option<[u8; 32]>> {
    let Some(InodeDigest::Sha256(digest)) = engine.image().inode_digest(inode)? else {
        return Ok(None);
    };
    Ok(known.get(&digest).is_some_and(|content| content.size == inode.size).then_some(digest))
}

fn hash(engine: &Engine, inode: &Inode, buf: &mut [u8]) -> ferrofs_image::Result<[u8; 32]> {
    let file = engine.open(inode)?;
    let mut hash = Sha256::new();
    let mut offset = 0;
    while offset < inode.size {
        let count = engine.read_into(&file, offset, buf)?;
        if count == 0 {
            return Err(ferrofs_image::Error::NotFound);
        }
        hash.update(&buf[..count]);
        offset += count as u64;
    }
    Ok(hash.finalize().into())
}
