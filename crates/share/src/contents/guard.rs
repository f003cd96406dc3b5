// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nobody cuts off what is mounted: its files are immutable as long as that may be.
//!
//! The kernel shows zeros for what is gone from a file that it has mounted, without an error (Linux
//! 6.18), so it must not go. The flag is root's to clear: it is against accidents, not against root.
//! Where the file system has no such flag, nothing guards ([`ContentStore::is_guarded`]). Invariant:
//! what is not mounted any more can be removed after [`ContentStore::prune`].

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::{ContentStore, Error, ImageId, Result};

impl ContentStore {
    /// Whether nobody can cut off the files that a mounted image needs: not where the file system lacks
    /// immutable files.
    pub fn is_guarded(&self, id: ImageId) -> Result<bool> {
        let stores = self.stores_of(id)?.into_iter().map(|id| self.store_path(id));
        for path in stores.chain([self.image_path(id)]) {
            let found = File::open(&path).and_then(|file| Ok(flags(&file)?));
            let found = found.map_err(|error| Error::io("look at", &path, error))?;
            if !found.contains(IFlags::IMMUTABLE) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes a file immutable, if its file system can.
pub(super) fn guard(path: &Path) -> Result<()> {
    set(path, true).map_err(|error| Error::io("guard", path, error))
}

/// Lets a file be changed and removed again. It need not be there.
pub(super) fn release(path: &Path) -> Result<()> {
    match set(path, false) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("release", path, error))
        }
        _ => Ok(()),
    }
}

fn set(path: &Path, immutable: bool) -> io::Result<()> {
    let file = File::open(path)?;
    let before = flags(&file)?;
    let mut after = before;
    after.set(IFlags::IMMUTABLE, immutable);
    if after == before {
        return Ok(());
    }
    match ioctl_setflags(&file, after) {
        // Not root, or root without the right to: nothing is mounted then either.
        Err(Errno::PERM) if immutable => Ok(()),
        Err(errno) if immutable && is_lacking(errno) => Ok(()),
        result => Ok(result?),
    }
}

/// Flags of a file; none where its file system has none.
fn flags(file: &File) -> std::result::Result<IFlags, Errno> {
    match ioctl_getflags(file) {
        Err(errno) if is_lacking(errno) => Ok(IFlags::empty()),
        result => result,
    }
}

fn is_lacking(errno: Errno) -> bool {
    [Errno::NOTTY, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].contains(&errno)
}
