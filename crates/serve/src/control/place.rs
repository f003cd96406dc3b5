// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which mount a path is in.
//!
//! Invariant: neither the server of the mount nor the disk below it is asked, so a dead or stuck one
//! cannot hang us (if the path is the mount point itself).

use crate::unmount::resolve;
use crate::{Error, Result};
use ferrofs_linux::mountinfo::{self, MountEntry};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A mount, found by a path in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The path as given.
    pub(crate) path: PathBuf,
    pub(crate) entry: MountEntry,
}

impl Place {
    /// The mount that `path` is in: its mount point, or whatever lies below.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let fail = |error: std::io::Error| Error::Open { path: path.to_owned(), error };
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
        let stat = match rustix::fs::statx(CWD, path, flags, wanted) {
            Ok(stat) => stat,
            // Root may not look into another user's FUSE mount, but may talk to its server; and a
            // mount whose server has died is still one.
            Err(errno @ (Errno::ACCESS | Errno::NOTCONN)) => {
                let entry = resolve(path).ok().and_then(|path| mountinfo::find(&path).ok()?);
                let entry = entry.ok_or_else(|| fail(errno.into()))?;
                return Ok(Self { path: path.to_owned(), entry });
            }
            Err(errno) => return Err(fail(errno.into())),
        };
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let has_id = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let list = mountinfo::read()
            .map_err(|error| Error::Io { doing: "read the list of mounts", error })?;
        // Before Linux 5.8 there is no number of the mount; the device is the same for all of its
        // bind mounts anyway.
        let fits = |entry: &MountEntry| {
            if has_id { entry.id == stat.stx_mnt_id } else { entry.device == device }
        };
        let entry = list.into_iter().rfind(fits);
        let entry = entry.ok_or_else(|| Error::NotMounted { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), entry })
    }

    pub(crate) fn is_fuse(&self) -> bool {
        self.entry.fs_type == "fuse" || self.entry.fs_type.starts_with("fuse.")
    }

    pub(crate) fn is_kernel(&self) -> bool {
        self.entry.fs_type == "erofs"
    }

    /// The number of the image in a file system that holds several, if it is one.
    pub(crate) fn part(&self) -> Option<u16> {
        let first = self.entry.root.components().nth(1)?;
        first.as_os_str().to_str()?.parse().ok()
    }

    /// The user who mounted it by FUSE.
    pub(crate) fn owner(&self) -> Option<u32> {
        let mut options = self.entry.super_options.split(',');
        options.find_map(|option| option.strip_prefix("user_id="))?.parse().ok()
    }
}
