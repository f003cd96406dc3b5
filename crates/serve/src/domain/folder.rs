// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder of a domain: its lock, and what a server leaves there that was killed.
//!
//! Invariant: whoever has the lock has that of the folder that is there, also if the folder was
//! removed and made again while he waited.

use crate::control::{connect, make_folder};
use crate::{Error, Result};
use ferrofs_linux::{UnmountFlags, mountinfo};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The lock of a domain, held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

pub(super) fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

/// The hidden file system of a domain.
pub(super) fn tree(folder: &Path) -> PathBuf {
    folder.join("tree")
}

/// Takes the lock, waiting for others; makes the folder.
pub(super) fn lock(folder: &Path) -> Result<Lock> {
    let fail = |error| Error::Io { doing: "lock the domain", error };
    loop {
        make_folder(folder)
            .map_err(|error| Error::Io { doing: "make the domain's folder", error })?;
        match try_lock(folder, FlockOperation::LockExclusive) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => {}
            // Removed between the two.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

/// Takes the lock if nobody has it.
pub(super) fn lock_now(folder: &Path) -> Option<Lock> {
    try_lock(folder, FlockOperation::NonBlockingLockExclusive).ok().flatten()
}

/// `None` if the file that was locked is not there any more.
fn try_lock(folder: &Path, how: FlockOperation) -> io::Result<Option<Lock>> {
    let path = folder.join("lock");
    let file = File::create(&path)?;
    rustix::fs::flock(&file, how)?;
    let own = file.metadata()?;
    let same = |there: std::fs::Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
    Ok(path.symlink_metadata().is_ok_and(same).then_some(Lock { _file: file }))
}

/// Whether a server was there and is not any more, though it has not ended by itself.
pub(super) fn is_dead(folder: &Path) -> bool {
    connect(&socket(folder)).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Detaches what a dead server had mounted here.
pub(super) fn detach(folder: &Path, _: &Lock) -> Result<()> {
    let fail = |error| Error::Io { doing: "read the list of mounts", error };
    for mount in mountinfo::find_under(folder).map_err(fail)? {
        ferrofs_linux::unmount(&mount.target, UnmountFlags { lazy: true, force: false })?;
    }
    Ok(())
}

/// Detaches what users had mounted of a dead server, as far as this mount namespace shows; where that
/// was. To be called before [`detach`], after which nothing tells whose these mounts are.
pub(super) fn detach_users(folder: &Path, _: &Lock) -> Result<Vec<PathBuf>> {
    let fail = |error| Error::Io { doing: "read the list of mounts", error };
    let all = mountinfo::read().map_err(fail)?;
    let (hidden, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|entry| entry.target.starts_with(folder));
    let mut detached = Vec::new();
    // The last is on top.
    for entry in others.into_iter().rev() {
        if hidden.iter().any(|hidden| hidden.device == entry.device) {
            ferrofs_linux::unmount(&entry.target, UnmountFlags { lazy: true, force: false })?;
            detached.push(entry.target);
        }
    }
    Ok(detached)
}

/// Removes the folder of a domain that has no server and no mounts. What is in it besides stays, and
/// then so does the folder.
pub(super) fn remove(folder: &Path, _: Lock) {
    // What cannot be removed is in nobody's way: the next server takes it over.
    let _ = std::fs::remove_file(socket(folder));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name == "tree" || name.starts_with("image-"));
        if ours {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    // Whoever waits for it sees that it is gone.
    let _ = std::fs::remove_file(folder.join("lock"));
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_removed_lock_gets_that_of_the_new_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("domain");
        let first = lock(&folder).unwrap();
        std::fs::create_dir(tree(&folder)).unwrap();
        assert!(lock_now(&folder).is_none());
        let other = folder.clone();
        let waiting = std::thread::spawn(move || lock(&other).unwrap());
        remove(&folder, first);
        let second = waiting.join().unwrap();
        assert!(folder.join("lock").exists() && !tree(&folder).exists());
        assert!(lock_now(&folder).is_none(), "it is locked");
        drop(second);
        assert!(lock_now(&folder).is_some() && !is_dead(&folder));
    }
}
