// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owner, xattrs, permissions and times of what was made, in the order that keeps them: a change of
//! owner clears capabilities and set-ID bits, and permissions may forbid setting `user.` attributes.

use super::walk::Job;
use super::{ExtractOptions, ProblemKind};
use ferrofs_image::Inode;
use ferrofs_image::format::inode::FileType;
use ferrofs_linux::{at, xattr};
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// What of the attributes is restored, decided once.
#[derive(Debug)]
pub(super) struct Policy {
    owners: bool,
    permissions: bool,
    xattrs: bool,
    times: bool,
    uid: u32,
    gid: u32,
    /// With what mask of permissions new files are made, if nothing else decides about them: neither
    /// the group of a set-group-ID directory, nor a default access control list, nor a file that
    /// existed. Then what a file gets by being made need not be set again.
    fresh: Option<u32>,
    pub(super) privileged_xattrs_skipped: AtomicU64,
    pub(super) set_id_bits_dropped: AtomicU64,
}

/// What attributes are set on: an open file, or a name that cannot be opened for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum On<'a> {
    File(BorrowedFd<'a>),
    Name(BorrowedFd<'a>, &'a OsStr),
}

impl Policy {
    pub(super) fn new(options: &ExtractOptions, top: BorrowedFd<'_>) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let plain = !options.overwrite && has_plain_rules(top, gid);
        Self {
            owners: options.owners.unwrap_or(uid == 0),
            permissions: options.permissions,
            xattrs: options.xattrs,
            times: options.times,
            uid,
            gid,
            fresh: if plain { umask() } else { None },
            privileged_xattrs_skipped: AtomicU64::new(0),
            set_id_bits_dropped: AtomicU64::new(0),
        }
    }

    /// Owners would be restored, if the process might.
    pub(super) fn skips_owners(&self, options: &ExtractOptions) -> bool {
        !self.owners && options.owners.is_none()
    }

    /// Whether anything but a directory, once made, has its owner.
    fn is_made_with_owner(&self, inode: &Inode) -> bool {
        let own = inode.uid == self.uid && inode.gid == self.gid;
        self.fresh.is_some() && own && inode.file_type != FileType::Directory
    }

    /// Whether a regular file is made with its final permissions.
    fn is_made_with_mode(&self, inode: &Inode) -> bool {
        let mode = u32::from(inode.mode);
        inode.file_type == FileType::Regular
            && self.fresh.is_some_and(|umask| mode & (0o7000 | umask) == 0)
            && (!self.owners || self.is_made_with_owner(inode))
            // Setting some takes permission to write.
            && (self.uid == 0 || inode.record.xattr_icount == 0)
    }

    /// Permissions that a new file or directory is made with. Nobody else gets at it before it is
    /// complete: directories are closed until all in them is done.
    pub(super) fn first_mode(&self, inode: &Inode) -> u32 {
        if self.permissions && self.is_made_with_mode(inode) {
            return u32::from(inode.mode) & 0o777;
        }
        let own = if inode.file_type == FileType::Directory { 0o700 } else { 0o600 };
        if self.permissions { own } else { u32::from(inode.mode) & 0o777 | own }
    }

    fn final_mode(&self, inode: &Inode) -> u32 {
        let mut mode = u32::from(inode.mode) & 0o7777;
        if !self.owners {
            // Such a bit is a promise of the image's owner, not of whoever unpacks it.
            let before = mode;
            if inode.uid != self.uid {
                mode &= !SET_USER_ID;
            }
            if inode.gid != self.gid && inode.file_type != FileType::Directory {
                mode &= !SET_GROUP_ID;
            }
            if mode != before {
                self.set_id_bits_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        mode
    }
}

impl Job<'_> {
    /// Sets the attributes of `inode`. Every failure is reported through `report`.
    pub(super) fn set_attributes(
        &self,
        on: On<'_>,
        inode: &Inode,
        mut report: impl FnMut(ProblemKind, String, Option<i32>),
    ) {
        let policy = &self.policy;
        let mut check = |doing: &str, result: io::Result<()>| {
            if let Err(error) = result {
                let text = format!("cannot set {doing}: {error}");
                report(ProblemKind::Attribute, text, error.raw_os_error());
            }
        };
        if policy.owners && !policy.is_made_with_owner(inode) {
            let result = match on {
                On::File(file) => at::fchown(file, inode.uid, inode.gid),
                On::Name(dir, name) => at::chown(dir, name, inode.uid, inode.gid),
            };
            check("owner", result);
        }
        if policy.xattrs && inode.record.xattr_icount != 0 {
            match self.image().xattrs(inode) {
                Err(error) => {
                    check("attributes", Err(io::Error::other(error.to_string())));
                }
                Ok(attributes) => {
                    for found in attributes.into_iter().filter(|found| found.visible) {
                        if policy.uid != 0 && is_privileged(&found.name) {
                            policy.privileged_xattrs_skipped.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        let result = match on {
                            On::File(file) => xattr::set(file, &found.name, &found.value),
                            On::Name(dir, name) => {
                                xattr::set_at(dir, name, &found.name, &found.value)
                            }
                        };
                        let name = String::from_utf8_lossy(&found.name).into_owned();
                        check(&format!("attribute {name}"), result);
                    }
                }
            }
        }
        let has_mode = inode.file_type == FileType::Symlink || policy.is_made_with_mode(inode);
        if policy.permissions && !has_mode {
            let mode = policy.final_mode(inode);
            let result = match on {
                On::File(file) => at::fchmod(file, mode),
                On::Name(dir, name) => at::chmod(dir, name, mode),
            };
            check("permissions", result);
        }
        if policy.times {
            let time = (inode.mtime, inode.mtime_nsec);
            let result = match on {
                On::File(file) => at::fset_times(file, time, time),
                On::Name(dir, name) => at::set_times(dir, name, time, time),
            };
            check("times", result);
        }
    }
}

/// Whether files below `top` get the process's group and the permissions that they are made with.
fn has_plain_rules(top: BorrowedFd<'_>, gid: u32) -> bool {
    let Ok(stat) = rustix::fs::fstat(top) else { return false };
    // Some mounts give new files the directory's group, which then is the same.
    let group = stat.st_gid == gid && stat.st_mode & SET_GROUP_ID == 0;
    let mut value = vec![];
    let list = xattr::get(top, b"system.posix_acl_default", &mut value);
    group && matches!(list, Ok(false))
}

/// The process's mask of permissions; asking the kernel for it directly would change it.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// Only the administrator may set it.
fn is_privileged(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}
