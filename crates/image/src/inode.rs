// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inodes: where a nid points, and the record there with times and links resolved. format.md §3.

use crate::{Error, Image, Place, Result, Space};
use ferrofs_format::inode::{COMPACT_LEN, EXTENDED_LEN, FileType, InodeRecord, Layout, Mtime};
use ferrofs_format::num::{u64_from_usize, usize_from_u64};
use ferrofs_format::{Nid, limits};

/// An inode, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Type.
    pub file_type: FileType,
    /// POSIX mode with type bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Bytes of content.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds, as stored.
    pub mtime_nsec: u32,
    /// The record as stored.
    pub record: InodeRecord,
    /// Space that the record and what follows it lie in.
    pub(crate) space: Space,
    /// Byte offset of the record in `space`.
    pub(crate) offset: u64,
}

impl Inode {
    /// Data layout.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.record.layout
    }

    /// Major and minor number of a device node; (0, 0) of anything else.
    #[must_use]
    pub const fn rdev(&self) -> (u32, u32) {
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice => self.record.rdev(),
            _ => (0, 0),
        }
    }

    /// Space that the record lies in.
    #[must_use]
    pub const fn space(&self) -> Space {
        self.space
    }

    /// Byte offset of the record in its space.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the xattr body.
    pub(crate) fn xattr_at(&self) -> u64 {
        self.offset.saturating_add(u64_from_usize(self.record.record_len()))
    }

    /// Offset behind the xattr body: where inline tails begin and index areas are aligned from.
    #[must_use]
    pub fn body_end(&self) -> u64 {
        self.xattr_at().saturating_add(u64::from(self.record.xattr_len()))
    }

    /// Units of 512 bytes that the content takes on the device, as stat(2) shows.
    #[must_use]
    pub fn blocks_512(&self, image: &Image) -> u64 {
        let bits = image.superblock().block_bits;
        let bytes = if self.layout().is_compressed() {
            self.record.wide_u().saturating_mul(bits.size_u64())
        } else {
            self.size
        };
        bytes.saturating_add(511) >> 9
    }

    /// A number for stat(2): see [`Nid::stat_ino`].
    #[must_use]
    pub const fn stat_ino(&self) -> u64 {
        self.nid.stat_ino()
    }
}

impl Image {
    /// Reads the inode of `nid`.
    pub fn inode(&self, nid: Nid) -> Result<Inode> {
        let (space, offset) = self.inode_place(nid)?;
        let place = Place::meta(space, offset).of(nid);
        let have = self.space_len(space).saturating_sub(offset).min(u64_from_usize(EXTENDED_LEN));
        if have < u64_from_usize(COMPACT_LEN) {
            return Err(Error::corrupt(place, "inode lies behind the end of its space", nid.0));
        }
        let mut bytes = [0; EXTENDED_LEN];
        let bytes = bytes.get_mut(..usize_from_u64(have)).unwrap_or_default();
        self.read_meta(space, offset, bytes).map_err(|error| error.with_nid(nid))?;
        let record = InodeRecord::parse(bytes).map_err(|error| Error::format(error, place))?;
        let inode = self.decode_inode(nid, record, space, offset);
        self.check_inode(&inode)?;
        Ok(inode)
    }

    fn inode_place(&self, nid: Nid) -> Result<(Space, u64)> {
        let slot = nid.slot().checked_mul(limits::INODE_SLOT).ok_or(Error::corrupt(
            Place::inode(nid),
            "inode number is impossible",
            nid.0,
        ))?;
        if nid.in_metabox() {
            if self.superblock.metabox.is_none() {
                return Err(Error::corrupt(
                    Place::inode(nid),
                    "inode in a metabox that the image does not have",
                    nid.0,
                ));
            }
            return Ok((Space::Metabox, slot));
        }
        let offset = self.superblock.meta_base().checked_add(slot).ok_or(Error::corrupt(
            Place::inode(nid),
            "inode number is impossible",
            nid.0,
        ))?;
        Ok((Space::Primary, offset))
    }

    fn decode_inode(&self, nid: Nid, record: InodeRecord, space: Space, offset: u64) -> Inode {
        let (mtime, mtime_nsec) = match record.mtime {
            Mtime::Full { seconds, nanoseconds } => (seconds, nanoseconds),
            Mtime::Delta(delta) => {
                (self.superblock.epoch.saturating_add(i64::from(delta)), self.superblock.fixed_nsec)
            }
        };
        Inode {
            nid,
            file_type: record.file_type,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            size: record.size,
            mtime,
            mtime_nsec,
            record,
            space,
            offset,
        }
    }

    /// Checks that need no more than the record. The rest is checked when it is used.
    fn check_inode(&self, inode: &Inode) -> Result<()> {
        let place = Place::meta(inode.space, inode.offset).of(inode.nid);
        let body = u64::from(inode.record.xattr_len());
        self.check_space(inode.space, inode.xattr_at(), body)
            .map_err(|error| error.with_nid(inode.nid))?;
        if inode.file_type == FileType::Symlink && inode.size > limits::SYMLINK_LEN_MAX {
            return Err(Error::corrupt(
                place,
                "symlink target is longer than 4095 bytes",
                inode.size,
            ));
        }
        Ok(())
    }
}
