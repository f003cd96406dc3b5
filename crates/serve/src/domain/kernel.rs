// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sharing by the kernel itself: its EROFS has equal files of one domain in memory once (Linux 7.0).
//!
//! Knows what that needs of kernel, image and request, and refuses to know what the kernel does with
//! it. Invariant: an image that is mounted so is one whose files are shared: where the kernel would
//! drop the option in silence, the mount is refused.

use super::client::{ShareSpec, SharedMount, folder_of};
use crate::mount::{Chosen, MountMethod, MountSpec, Outcome, mount};
use crate::{Error, Result};
use ferrofs_image::format::features::CompatFeatures;
use ferrofs_linux::mountinfo::{self, MountEntry};
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

const OPTION: &str = "inode_share";
/// As users ask for it.
const ASKED: &str = "--share-by kernel";
const NO_DIGESTS: &str = "the image has no inode digests, by which the kernel knows what is equal; build it with --inode-digest";

/// Whether this kernel's EROFS can share page cache by digests.
#[must_use]
pub fn kernel_shares() -> bool {
    ferrofs_linux::probe_flag("erofs", OPTION).is_ok()
}

/// Why the kernel itself would not share what is in this image, though it could share; `None` if it
/// would.
pub fn not_for_kernel_sharing(spec: &MountSpec) -> Result<Option<&'static str>> {
    if spec.lazy.is_some() {
        return Ok(Some("it has no such mounts of images that are read on demand"));
    }
    let image = spec.files.open()?;
    let has_digests = image.superblock().compat.has(CompatFeatures::ISHARE_XATTRS);
    Ok((!has_digests).then_some(NO_DIGESTS))
}

/// Mounts an image by the kernel, which shares what it has in memory of the image with what it has of
/// others in the same domain. It believes the digests in images.
pub fn mount_shared_by_kernel(mut spec: MountSpec, share: &ShareSpec) -> Result<SharedMount> {
    let refuse = |option: &str, what| Err(Error::Option { option: option.to_owned(), what });
    // The name becomes a part of the list of options.
    folder_of(&share.domain)?;
    if !share.trust_digests {
        return refuse(ASKED, "the kernel believes the digests in images: --trust-digests");
    }
    if share.keep_seconds.is_some() {
        return refuse("--share-keep", "the kernel lets go of content with its last mount");
    }
    if !kernel_shares() {
        return refuse(
            ASKED,
            "this kernel's EROFS cannot; that of Linux 7.0 can, built with CONFIG_EROFS_FS_PAGE_CACHE_SHARE",
        );
    }
    if let Some(what) = not_for_kernel_sharing(&spec)? {
        return refuse(ASKED, what);
    }
    spec.options.add(OsStr::new(&format!("{OPTION},domain_id={}", share.domain)))?;
    spec.method = MountMethod::Kernel;
    let Outcome::Kernel(chosen) = mount(spec)? else {
        return refuse(ASKED, "only mounts by the kernel have it");
    };
    let reason = format!(
        "its page cache is shared with other such mounts in the domain {}, by inode digests",
        share.domain
    );
    Ok(SharedMount { chosen: Chosen { reason, ..chosen }, metrics: None, notes: Vec::new() })
}

/// Where images are mounted whose content the kernel itself shares. It tells nobody in which domains.
pub fn shared_by_kernel() -> io::Result<Vec<PathBuf>> {
    Ok(shared_of(mountinfo::read()?))
}

fn shared_of(mounts: Vec<MountEntry>) -> Vec<PathBuf> {
    let shares = |mount: &MountEntry| {
        mount.fs_type == "erofs" && mount.super_options.split(',').any(|option| option == OPTION)
    };
    mounts.into_iter().filter(shares).map(|mount| mount.target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_mounts_are_told_by_their_option() {
        let text = b"30 1 7:0 / /a ro - erofs /dev/loop0 ro,user_xattr,acl,inode_share\n\
            31 1 7:1 / /b ro - erofs /dev/loop1 ro,user_xattr,acl\n\
            32 1 7:2 / /c ro - ext4 /dev/loop2 ro,inode_share\n\
            33 1 0:44 / /d\\040e ro - erofs /images/a.erofs ro,inode_share,cache_strategy=disabled\n";
        let found = shared_of(mountinfo::parse(text));
        assert_eq!(found, [PathBuf::from("/a"), PathBuf::from("/d e")]);
    }
}
