// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content against the digests that an image stores for sharing it. format.md §6.5.

use super::Check;
use crate::Code;
use ferrofs_image::{Inode, InodeDigest};
use sha2::{Digest, Sha256};
use std::fmt::Write;

const READ: usize = 1 << 20;

impl Check<'_> {
    /// Compares a file with its digest, if it has one.
    pub(super) fn digest(&self, inode: &Inode) {
        // Errors were reported with the attributes.
        let Ok(Some(value)) = self.image.inode_digest_value(inode) else { return };
        let Some(stored) = InodeDigest::parse(&value) else {
            let text = format!("{} bytes", value.len());
            return self.find(Code::DigestMalformed, Some(inode.nid), None, text);
        };
        // Holes must be hashed, too: their size counts as work.
        if !self.charge(inode.size >> 12) {
            return;
        }
        // So were those of the content.
        let Ok(found) = self.hash(inode) else { return };
        if let Some(found) = found
            && found != stored.bytes()[..]
        {
            let text = format!("stored {}, content has {}", hex(stored.bytes()), hex(&found));
            self.find(Code::DigestMismatch, Some(inode.nid), None, text);
        }
    }

    /// `None` when the check is over before the file.
    fn hash(&self, inode: &Inode) -> ferrofs_image::Result<Option<Vec<u8>>> {
        let file = self.engine.open(inode)?;
        let mut hash = Sha256::new();
        let mut buf = vec![0; inode.size.min(READ as u64) as usize];
        let mut offset = 0;
        while offset < inode.size {
            if self.is_over() {
                return Ok(None);
            }
            let count = self.engine.read_into(&file, offset, &mut buf)?;
            hash.update(&buf[..count]);
            offset += count as u64;
        }
        Ok(Some(hash.finalize().to_vec()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
