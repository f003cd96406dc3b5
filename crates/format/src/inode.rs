// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inode records, compact and extended. format.md §3.

use crate::num::{u64_from_usize, usize_from_u32};
use crate::superblock::low_half;
use crate::{FormatError, Result, limits};
use alloc::vec::Vec;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a compact record.
pub const COMPACT_LEN: usize = 32;
/// Bytes of an extended record.
pub const EXTENDED_LEN: usize = 64;

const FORMAT_EXTENDED: u16 = 1;
const FORMAT_BIT4: u16 = 1 << 4;
const FORMAT_KNOWN: u16 = 0x1F;

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
#[repr(C)]
struct Compact {
    i_format: U16,
    i_xattr_icount: U16,
    i_mode: U16,
    i_nb: U16,
    i_size: U32,
    i_mtime: U32,
    i_u: U32,
    i_ino: U32,
    i_uid: U16,
    i_gid: U16,
    i_reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
#[repr(C)]
struct Extended {
    i_format: U16,
    i_xattr_icount: U16,
    i_mode: U16,
    i_nb: U16,
    i_size: U64,
    i_u: U32,
    i_ino: U32,
    i_uid: U32,
    i_gid: U32,
    i_mtime: I64,
    i_mtime_nsec: U32,
    i_nlink: U32,
    i_reserved2: [u8; 16],
}

const _: () = assert!(size_of::<Compact>() == COMPACT_LEN);
const _: () = assert!(size_of::<Extended>() == EXTENDED_LEN);

/// Data layout, bits 1 to 3 of `i_format`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Layout {
    /// Contiguous blocks.
    FlatPlain = 0,
    /// Compressed with full (8-byte) indexes or encoded extents.
    CompressedFull = 1,
    /// Contiguous blocks and an inline tail.
    FlatInline = 2,
    /// Compressed with compact (4B/2B) indexes.
    CompressedCompact = 3,
    /// Chunks.
    Chunk = 4,
}

impl Layout {
    const fn parse(bits: u16) -> Option<Self> {
        match bits {
            0 => Some(Self::FlatPlain),
            1 => Some(Self::CompressedFull),
            2 => Some(Self::FlatInline),
            3 => Some(Self::CompressedCompact),
            4 => Some(Self::Chunk),
            _ => None,
        }
    }

    const fn bits(self) -> u16 {
        match self {
            Self::FlatPlain => 0,
            Self::CompressedFull => 1,
            Self::FlatInline => 2,
            Self::CompressedCompact => 3,
            Self::Chunk => 4,
        }
    }

    /// Whether data is compressed.
    #[must_use]
    pub const fn is_compressed(self) -> bool {
        matches!(self, Self::CompressedFull | Self::CompressedCompact)
    }

    /// The field's name for it, as tools print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlatPlain => "flat-plain",
            Self::CompressedFull => "compressed-full",
            Self::FlatInline => "flat-inline",
            Self::CompressedCompact => "compressed-compact",
            Self::Chunk => "chunk-based",
        }
    }
}

/// What an inode is; the numbers are those of a dirent's `file_type`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum FileType {
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Character device.
    CharDevice = 3,
    /// Block device.
    BlockDevice = 4,
    /// FIFO.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Symlink = 7,
}

impl FileType {
    /// From the type bits of a POSIX mode.
    #[must_use]
    pub const fn from_mode(mode: u16) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::Regular),
            0o040_000 => Some(Self::Directory),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            0o120_000 => Some(Self::Symlink),
            _ => None,
        }
    }

    /// The type bits of a POSIX mode.
    #[must_use]
    pub const fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// From a dirent's `file_type`; 0 and unknown values are `None`.
    #[must_use]
    pub const fn from_dirent(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Regular),
            2 => Some(Self::Directory),
            3 => Some(Self::CharDevice),
            4 => Some(Self::BlockDevice),
            5 => Some(Self::Fifo),
            6 => Some(Self::Socket),
            7 => Some(Self::Symlink),
            _ => None,
        }
    }

    /// A dirent's `file_type`.
    #[must_use]
    pub const fn dirent(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The character `ls -l` begins with.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Regular => '-',
            Self::Directory => 'd',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::Symlink => 'l',
        }
    }
}

/// Modification time as stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mtime {
    /// Compact: seconds to add to the superblock's epoch; nanoseconds are the superblock's.
    Delta(u32),
    /// Extended: seconds and nanoseconds.
    Full {
        /// Seconds since 1970.
        seconds: i64,
        /// Nanoseconds, as stored (not yet checked to be below 10^9).
        nanoseconds: u32,
    },
}

/// One inode record, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InodeRecord {
    /// Data layout.
    pub layout: Layout,
    /// Bit 4 of `i_format` on a directory: `.` is not stored.
    pub dot_omitted: bool,
    /// Number of xattr words as stored, see [`InodeRecord::xattr_len`].
    pub xattr_icount: u16,
    /// POSIX mode with type.
    pub mode: u16,
    /// The type, which the mode's bits name.
    pub file_type: FileType,
    /// Size in bytes, below 2^63.
    pub size: u64,
    /// Modification time; its variant tells compact from extended.
    pub mtime: Mtime,
    /// `i_u`: start block, device number, compressed blocks or chunk format.
    pub u: u32,
    /// High 16 bits that go with `u` where it is a block count or address.
    pub u_high: u16,
    /// Serial number for stat(2) compatibility.
    pub ino: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
}

impl InodeRecord {
    /// Parses a record at the start of `bytes`; 32 bytes suffice for a compact one, else 64 are
    /// needed.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let i_format = crate::num::u16_at(bytes, 0, "inode")?;
        if i_format & !FORMAT_KNOWN != 0 {
            return Err(FormatError::Unsupported {
                what: "inode format bits",
                value: u64::from(i_format),
            });
        }
        let layout = Layout::parse(i_format >> 1 & 7).ok_or(FormatError::Unsupported {
            what: "inode data layout",
            value: u64::from(i_format >> 1 & 7),
        })?;
        let bit4 = i_format & FORMAT_BIT4 != 0;
        let record = if i_format & FORMAT_EXTENDED == 0 {
            Self::parse_compact(bytes, layout, bit4)?
        } else {
            Self::parse_extended(bytes, layout, bit4)?
        };
        if record.size >= limits::FILE_SIZE_END {
            return Err(FormatError::corrupt("file size is negative", record.size));
        }
        Ok(record)
    }

    fn parse_compact(bytes: &[u8], layout: Layout, bit4: bool) -> Result<Self> {
        let (raw, _) =
            Compact::ref_from_prefix(bytes).map_err(|_| cut_short(bytes, COMPACT_LEN))?;
        let (mode, file_type) = parse_mode(raw.i_mode.get())?;
        let high_address = bit4 && file_type != FileType::Directory;
        let (nlink, u_high) =
            if high_address { (1, raw.i_nb.get()) } else { (u32::from(raw.i_nb.get()), 0) };
        Ok(Self {
            layout,
            dot_omitted: bit4 && file_type == FileType::Directory,
            xattr_icount: raw.i_xattr_icount.get(),
            mode,
            file_type,
            size: u64::from(raw.i_size.get()),
            mtime: Mtime::Delta(raw.i_mtime.get()),
            u: raw.i_u.get(),
            u_high,
            ino: raw.i_ino.get(),
            uid: u32::from(raw.i_uid.get()),
            gid: u32::from(raw.i_gid.get()),
            nlink,
        })
    }

    fn parse_extended(bytes: &[u8], layout: Layout, bit4: bool) -> Result<Self> {
        let (raw, _) =
            Extended::ref_from_prefix(bytes).map_err(|_| cut_short(bytes, EXTENDED_LEN))?;
        let (mode, file_type) = parse_mode(raw.i_mode.get())?;
        Ok(Self {
            layout,
            dot_omitted: bit4 && file_type == FileType::Directory,
            xattr_icount: raw.i_xattr_icount.get(),
            mode,
            file_type,
            size: raw.i_size.get(),
            mtime: Mtime::Full { seconds: raw.i_mtime.get(), nanoseconds: raw.i_mtime_nsec.get() },
            u: raw.i_u.get(),
            u_high: raw.i_nb.get(),
            ino: raw.i_ino.get(),
            uid: raw.i_uid.get(),
            gid: raw.i_gid.get(),
            nlink: raw.i_nlink.get(),
        })
    }

    /// Whether the record is an extended one.
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        matches!(self.mtime, Mtime::Full { .. })
    }

    /// Bytes of the record.
    #[must_use]
    pub const fn record_len(&self) -> usize {
        if self.is_extended() { EXTENDED_LEN } else { COMPACT_LEN }
    }

    /// Bytes of the xattr body behind the record. format.md §3.2.
    #[must_use]
    pub fn xattr_len(&self) -> u32 {
        match self.xattr_icount {
            0 => 0,
            count => u32::from(count).saturating_sub(1).saturating_mul(4).saturating_add(12),
        }
    }

    /// Start block of flat data; `None` is the null address. format.md §3.3.
    #[must_use]
    pub fn start_block(&self) -> Option<u64> {
        let has_high = self.is_extended() || self.u_high != 0;
        let null = self.u == u32::MAX && (!has_high || self.u_high == u16::MAX);
        (!null).then(|| self.wide_u())
    }

    /// `u` with its high half: a block address, or the count of compressed blocks.
    #[must_use]
    pub fn wide_u(&self) -> u64 {
        u64::from(self.u) | u64::from(self.u_high) << 32
    }

    /// Device number (major, minor) of a device node. format.md §3.3.
    #[must_use]
    pub const fn rdev(&self) -> (u32, u32) {
        (self.u >> 8 & 0xFFF, self.u & 0xFF | self.u >> 12 & 0xFFF_00)
    }

    /// `i_u` of a device node.
    pub fn rdev_word(major: u32, minor: u32) -> Result<u32> {
        if major > 0xFFF {
            return Err(FormatError::DoesNotFit { what: "major number", value: major.into() });
        }
        if minor > 0xF_FFFF {
            return Err(FormatError::DoesNotFit { what: "minor number", value: minor.into() });
        }
        Ok(minor & 0xFF | major << 8 | (minor & 0xFFF_00) << 12)
    }

    /// Appends the record. A compact one needs [`Mtime::Delta`] and values that fit
    /// (format.md §3.5).
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<()> {
        let bit4 = if self.is_extended() || self.file_type == FileType::Directory {
            self.dot_omitted
        } else {
            self.u_high != 0
        };
        let i_format = self.layout.bits() << 1
            | if self.is_extended() { FORMAT_EXTENDED } else { 0 }
            | if bit4 { FORMAT_BIT4 } else { 0 };
        match self.mtime {
            Mtime::Delta(delta) => self.emit_compact(i_format, delta, out),
            Mtime::Full { seconds, nanoseconds } => {
                let raw = Extended {
                    i_format: i_format.into(),
                    i_xattr_icount: self.xattr_icount.into(),
                    i_mode: self.mode.into(),
                    i_nb: self.u_high.into(),
                    i_size: self.size.into(),
                    i_u: self.u.into(),
                    i_ino: self.ino.into(),
                    i_uid: self.uid.into(),
                    i_gid: self.gid.into(),
                    i_mtime: seconds.into(),
                    i_mtime_nsec: nanoseconds.into(),
                    i_nlink: self.nlink.into(),
                    i_reserved2: [0; 16],
                };
                out.extend_from_slice(raw.as_bytes());
                Ok(())
            }
        }
    }

    fn emit_compact(&self, i_format: u16, delta: u32, out: &mut Vec<u8>) -> Result<()> {
        let half = |value: u32, what| {
            u16::try_from(value)
                .map_err(|_| FormatError::DoesNotFit { what, value: u64::from(value) })
        };
        if self.u_high != 0 && (self.nlink != 1 || self.file_type == FileType::Directory) {
            return Err(FormatError::DoesNotFit {
                what: "compact inode (48-bit address and link count)",
                value: self.wide_u(),
            });
        }
        let i_nb = if self.u_high != 0 { self.u_high } else { half(self.nlink, "link count")? };
        let raw = Compact {
            i_format: i_format.into(),
            i_xattr_icount: self.xattr_icount.into(),
            i_mode: self.mode.into(),
            i_nb: i_nb.into(),
            i_size: u32::try_from(self.size)
                .map_err(|_| FormatError::DoesNotFit { what: "compact size", value: self.size })?
                .into(),
            i_mtime: delta.into(),
            i_u: self.u.into(),
            i_ino: self.ino.into(),
            i_uid: half(self.uid, "compact uid")?.into(),
            i_gid: half(self.gid, "compact gid")?.into(),
            i_reserved: 0.into(),
        };
        out.extend_from_slice(raw.as_bytes());
        Ok(())
    }

    /// Splits a start block into `u` and `u_high`; `None` is the null address.
    pub fn split_start(start: Option<u64>, extended: bool) -> Result<(u32, u16)> {
        match start {
            None => Ok((u32::MAX, if extended { u16::MAX } else { 0 })),
            Some(block) => {
                let high = u16::try_from(block >> 32)
                    .map_err(|_| FormatError::DoesNotFit { what: "start block", value: block })?;
                Ok((low_half(block), high))
            }
        }
    }
}

fn parse_mode(mode: u16) -> Result<(u16, FileType)> {
    FileType::from_mode(mode)
        .map(|file_type| (mode, file_type))
        .ok_or(FormatError::corrupt("inode mode names no file type", u64::from(mode)))
}

fn cut_short(bytes: &[u8], needed: usize) -> FormatError {
    FormatError::Truncated {
        what: "inode",
        needed: u64_from_usize(needed),
        have: u64_from_usize(bytes.len()),
    }
}

const _: () = assert!(usize_from_u32(32) == COMPACT_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> InodeRecord {
        // format.md §3.6: "a.txt" at nid 0x28.
        let bytes = [
            4, 0, 3, 0, 0xa4, 0x81, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let record = InodeRecord::parse(&bytes).unwrap();
        let mut out = Vec::new();
        record.emit(&mut out).unwrap();
        assert_eq!(out, bytes);
        record
    }

    #[test]
    fn worked_example() {
        let record = example();
        assert_eq!(record.layout, Layout::FlatInline);
        assert_eq!(record.xattr_len(), 20);
        assert_eq!((record.size, record.nlink, record.ino), (6, 1, 2));
        assert_eq!(record.start_block(), None);
        assert_eq!(record.file_type, FileType::Regular);
    }

    #[test]
    fn extended_round_trip_and_refusals() {
        let mut record = example();
        record.mtime = Mtime::Full { seconds: -5, nanoseconds: 999 };
        (record.uid, record.gid, record.nlink) = (70_000, 3, 100_000);
        (record.size, record.u, record.u_high) = (1 << 40, 7, 9);
        let mut out = Vec::new();
        record.emit(&mut out).unwrap();
        assert_eq!(out.len(), 64);
        assert_eq!(InodeRecord::parse(&out).unwrap(), record);
        assert!(InodeRecord::parse(&out[..63]).is_err());
        out[15] = 0x80;
        assert!(InodeRecord::parse(&out).is_err(), "negative size");
        record.mtime = Mtime::Delta(0);
        assert!(record.emit(&mut Vec::new()).is_err(), "uid does not fit");
    }

    #[test]
    fn bit4_means_one_link_on_files_and_no_dot_on_directories() {
        let mut record = example();
        record.u_high = 5;
        let mut out = Vec::new();
        record.emit(&mut out).unwrap();
        assert_eq!(out[0], 4 | 16);
        let back = InodeRecord::parse(&out).unwrap();
        assert_eq!((back.nlink, back.u_high), (1, 5));
        out[5] = 0x41;
        let directory = InodeRecord::parse(&out).unwrap();
        assert!(directory.dot_omitted);
        assert_eq!((directory.nlink, directory.u_high), (5, 0));
    }

    #[test]
    fn device_numbers() {
        for (major, minor) in [(1, 3), (259, 70_000), (4095, 0xF_FFFF), (0, 0)] {
            let mut record = example();
            record.u = InodeRecord::rdev_word(major, minor).unwrap();
            assert_eq!(record.rdev(), (major, minor));
        }
        assert!(InodeRecord::rdev_word(4096, 0).is_err());
    }

    #[test]
    fn unknown_bits_and_layouts() {
        let mut out = Vec::new();
        example().emit(&mut out).unwrap();
        for (byte, value) in [(0, 4 | 32), (1, 1), (0, 5 << 1), (0, 7 << 1), (5, 0xf0)] {
            let mut bytes = out.clone();
            bytes[byte] = value;
            assert!(InodeRecord::parse(&bytes).is_err(), "byte {byte} = {value:#x}");
        }
    }
}
