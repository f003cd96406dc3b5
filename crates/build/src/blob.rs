// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file that the data of chunks goes to, and what the image says about it.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use ferrofs_format::xattr::{XattrEntry, split_name};

/// Takes the data of chunks; the image then needs it as its device number 1.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by `new`, changed by its fields")]
pub struct BlobTarget<'a> {
    /// The file. One of this name is replaced when the new one is complete.
    pub path: &'a Path,
    /// By what the image's device table calls it, up to 64 bytes without NUL; empty: by nothing.
    /// format.md §8.
    pub tag: &'a [u8],
    /// Something about its bytes that the image is to hold.
    pub seal: Option<&'a dyn BlobSeal>,
}

impl<'a> BlobTarget<'a> {
    /// A blob without a tag and a seal.
    #[must_use]
    pub const fn new(path: &'a Path) -> Self {
        Self { path, tag: b"", seal: None }
    }
}

/// An attribute of the image's root that tells something about the blob's bytes, such as a digest. It
/// replaces attributes of this name in the tree.
pub trait BlobSeal: Debug {
    /// Its full name.
    fn name(&self) -> &[u8];

    /// Bytes of the value. The root's place is chosen before the blob is known.
    fn value_len(&self) -> usize;

    /// The value, of just that length, for the first `len` bytes of a file, which are a complete blob
    /// that has no name yet.
    fn value(&self, blob: &File, len: u64) -> io::Result<Vec<u8>>;
}

/// The seal's attribute, before and after its value is known.
#[derive(Clone, Debug)]
pub(crate) struct SealEntry {
    pub(crate) base: u8,
    pub(crate) rest: Vec<u8>,
    value_len: usize,
}

impl SealEntry {
    pub(crate) fn new(seal: &dyn BlobSeal) -> Self {
        let (base, rest) = split_name(seal.name());
        Self { base, rest: rest.to_vec(), value_len: seal.value_len() }
    }

    /// Bytes of its entry in a body.
    pub(crate) const fn entry_len(&self) -> u32 {
        let len = XattrEntry::HEADER_LEN + self.rest.len() + self.value_len;
        len.next_multiple_of(4) as u32
    }

    /// Its entry; `None` if the value has another length than was said.
    pub(crate) fn entry<'a>(&'a self, value: &'a [u8]) -> Option<XattrEntry<'a>> {
        let fits = value.len() == self.value_len;
        fits.then_some(XattrEntry { index: self.base, name: &self.rest, value })
    }
}
