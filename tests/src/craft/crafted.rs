// SPDX-License-Identifier: MIT OR Apache-2.0
//! A finished image: its bytes, where its parts lie, and ways to damage it.

use ferrofs_image::format::{BlockBits, checksum};
use ferrofs_image::{Nid, ReadAt};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Text that compresses about four to one; the same for the same seed.
#[must_use]
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "extent ", "block ", "of ", "the ", "inode ", "reads ", "as ", "zero ", "and ", "index ",
        "packs ", "cluster ", "in ", "a ", "tail ", "offset\n",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(WORDS[(state >> 33) as usize % WORDS.len()].as_bytes());
        out.extend_from_slice(format!("{:x} ", state >> 56).as_bytes());
    }
    out.truncate(len);
    out
}

/// A finished image and where its parts lie.
#[derive(Clone, Debug)]
pub struct Crafted {
    /// The image.
    pub bytes: Vec<u8>,
    /// Byte offset of named parts: `NAME` is a file's inode, `NAME.map` its map header, index area
    /// or chunk table, `NAME.data` its first data block, `NAME.xattr` its xattr body.
    pub places: BTreeMap<String, usize>,
    /// What files hold, by path.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// Block size exponent.
    pub bits: u8,
    /// End of the metadata: what lies behind is file data.
    pub meta_end: usize,
}

impl Crafted {
    /// Offset of a named part.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn at(&self, name: &str) -> usize {
        *self.places.get(name).unwrap_or_else(|| panic!("no part {name}"))
    }

    /// Overwrites bytes.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The nid of a file of the primary device.
    #[must_use]
    pub fn nid(&self, name: &str) -> Nid {
        Nid(self.at(name) as u64 / 32)
    }

    /// Computes the superblock's checksum anew.
    pub fn seal(&mut self) {
        seal(&mut self.bytes);
    }
}

/// Computes the checksum of the superblock in `image` anew, if that is long enough.
pub fn seal(image: &mut [u8]) {
    let bits = image.get(1036).copied().and_then(|bits| BlockBits::new(bits).ok());
    if let Some(bits) = bits
        && let Some(area) = image.get(1024..)
        && let Ok(sum) = checksum::superblock_checksum(area, bits)
    {
        image[1028..1032].copy_from_slice(&sum.to_le_bytes());
    }
}

/// An image with one byte changed, without a copy of it.
#[derive(Clone, Debug)]
pub struct Patched {
    /// The image.
    pub base: Arc<Vec<u8>>,
    /// Which byte.
    pub offset: usize,
    /// Bits to flip in it.
    pub mask: u8,
    /// What the four bytes of the checksum become.
    pub checksum: Option<u32>,
    /// Bytes there are.
    pub len: usize,
}

impl ReadAt for Patched {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let range = self.base.get(start..end).filter(|_| end <= self.len);
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        if (start..end).contains(&self.offset) {
            buf[self.offset - start] ^= self.mask;
        }
        if let Some(checksum) = self.checksum {
            for (index, byte) in checksum.to_le_bytes().into_iter().enumerate() {
                if (start..end).contains(&(1028 + index)) {
                    buf[1028 + index - start] = byte;
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len as u64)
    }
}
