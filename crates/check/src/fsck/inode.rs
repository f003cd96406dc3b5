// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fields of an inode, and what hangs on it.

use super::Check;
use crate::Code;
use ferrofs_image::Inode;
use ferrofs_image::format::features::IncompatFeatures;
use ferrofs_image::format::inode::{FileType, Layout};
use std::sync::atomic::Ordering;

impl Check<'_> {
    /// Checks an inode that was not seen before.
    pub(super) fn inode(&self, inode: &Inode) {
        let nid = Some(inode.nid);
        if inode.record.is_extended() && inode.mtime_nsec >= 1_000_000_000 {
            self.find(Code::Nanoseconds, nid, None, inode.mtime_nsec.to_string());
        }
        self.feature_bits(inode);
        self.xattrs(inode);
        match inode.file_type {
            FileType::Regular | FileType::Directory => self.content(inode),
            FileType::Symlink => self.symlink(inode),
            _ => {
                if inode.size != 0 {
                    let text = format!("{} bytes", inode.size);
                    self.find(Code::SpecialSize, nid, None, text);
                }
            }
        }
        if self.options.digests && inode.file_type == FileType::Regular {
            self.digest(inode);
        }
    }

    fn symlink(&self, inode: &Inode) {
        let nid = Some(inode.nid);
        if inode.size == 0 {
            return self.find(Code::SymlinkEmpty, nid, None, "size 0".to_owned());
        }
        self.content(inode);
        match self.image.readlink(inode) {
            Ok(target) => {
                if let Some(at) = target.iter().position(|&byte| byte == 0) {
                    self.find(Code::SymlinkNul, nid, Some(at as u64), "NUL".to_owned());
                }
            }
            Err(error) => self.image_error(Code::Layout, nid, &error),
        }
    }

    fn feature_bits(&self, inode: &Inode) {
        let superblock = self.image.superblock();
        if inode.layout() == Layout::Chunk
            && !superblock.incompat.has(IncompatFeatures::CHUNKED_FILE)
        {
            self.once_feature("chunk-based inodes", inode);
        }
    }

    /// Reported for the first inode only: the bit is missing once.
    fn once_feature(&self, what: &str, inode: &Inode) {
        if !self.feature_missing.swap(true, Ordering::Relaxed) {
            self.find(Code::FeatureBit, Some(inode.nid), None, what.to_owned());
        }
    }
}
