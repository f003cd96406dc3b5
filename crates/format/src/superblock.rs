// SPDX-License-Identifier: MIT OR Apache-2.0
//! The superblock at byte 1024. format.md §2.

use crate::features::{CompatFeatures, IncompatFeatures};
use crate::num::{u64_from_usize, usize_from_u32};
use crate::{BlockBits, FormatError, Nid, Result, checksum};
use alloc::vec::Vec;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The magic number, bytes `e2 e1 f5 e0`.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// Bytes of the superblock without extension slots.
pub const BASE_LEN: usize = 128;
/// Bytes of one extension slot.
pub const EXT_SLOT_LEN: usize = 16;

/// The record as it lies on disk; names are the kernel's.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    checksum: U32,
    feature_compat: U32,
    blkszbits: u8,
    sb_extslots: u8,
    rootnid_2b: U16,
    inos: U64,
    epoch: I64,
    fixed_nsec: U32,
    blocks_lo: U32,
    meta_blkaddr: U32,
    xattr_blkaddr: U32,
    uuid: [u8; 16],
    volume_name: [u8; 16],
    feature_incompat: U32,
    u1: U16,
    extra_devices: U16,
    devt_slotoff: U16,
    dirblkbits: u8,
    xattr_prefix_count: u8,
    xattr_prefix_start: U32,
    packed_nid: U64,
    xattr_filter_reserved: u8,
    ishare_xattr_prefix_id: u8,
    reserved0: [u8; 2],
    build_time: U32,
    rootnid_8b: U64,
    reserved1: [u8; 8],
}

const _: () = assert!(size_of::<Raw>() == BASE_LEN);

/// Everything the superblock says, decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SuperBlock {
    /// Stored checksum; meaningful with [`CompatFeatures::SB_CHKSUM`].
    pub checksum: u32,
    /// Features a reader may ignore.
    pub compat: CompatFeatures,
    /// Features a reader must know.
    pub incompat: IncompatFeatures,
    /// Block size.
    pub block_bits: BlockBits,
    /// Extension slots of 16 bytes behind the first 128.
    pub ext_slots: u8,
    /// Root directory.
    pub root: Nid,
    /// Inodes written; informational.
    pub inodes: u64,
    /// Seconds that compact inodes count from.
    pub epoch: i64,
    /// Nanoseconds of every compact inode.
    pub fixed_nsec: u32,
    /// Blocks of the primary device.
    pub blocks: u64,
    /// Block that inode numbers count from.
    pub meta_blkaddr: u32,
    /// Block that shared xattr ids count from.
    pub xattr_blkaddr: u32,
    /// Filesystem UUID.
    pub uuid: [u8; 16],
    /// Volume name, NUL-padded.
    pub volume_name: [u8; 16],
    /// With COMPR_CFGS the bitmap of algorithms, else LZ4's largest match distance.
    pub u1: u16,
    /// Extra devices; zero without DEVICE_TABLE.
    pub extra_devices: u16,
    /// First slot of the device table, in units of 128 bytes.
    pub device_slot: u16,
    /// Long xattr prefixes.
    pub xattr_prefix_count: u8,
    /// Start of the long-prefix table, in units of 4 bytes, in the space of format.md §6.4.
    pub xattr_prefix_start: u32,
    /// Packed inode, if any.
    pub packed: Option<Nid>,
    /// Non-zero: name filters must be ignored.
    pub xattr_filter_reserved: u8,
    /// Prefix that names the inode digest xattr, with ISHARE_XATTRS.
    pub ishare_prefix_id: u8,
    /// Seconds from `epoch` to the build's time.
    pub build_time: u32,
    /// Metabox inode, if any.
    pub metabox: Option<Nid>,
}

impl SuperBlock {
    /// Parses `bytes`, which begin at byte 1024 of the primary device. Does not verify the checksum
    /// (see [`SuperBlock::verify_checksum`]), since it covers a whole block.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (raw, rest) = Raw::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
            what: "superblock",
            needed: u64_from_usize(BASE_LEN),
            have: u64_from_usize(bytes.len()),
        })?;
        if raw.magic.get() != MAGIC {
            return Err(FormatError::corrupt(
                "not an EROFS image: wrong magic number at byte 1024",
                u64::from(raw.magic.get()),
            ));
        }
        let block_bits = BlockBits::new(raw.blkszbits)?;
        let incompat = IncompatFeatures(raw.feature_incompat.get());
        if incompat.unknown() != 0 {
            return Err(FormatError::Unsupported {
                what: "incompatible feature bits",
                value: u64::from(incompat.unknown()),
            });
        }
        if raw.dirblkbits != 0 {
            return Err(FormatError::Unsupported {
                what: "directory block size bits",
                value: u64::from(raw.dirblkbits),
            });
        }
        let wide_root = incompat.has(IncompatFeatures::BIT48) && raw.rootnid_8b.get() != 0;
        let root = if wide_root {
            Nid(raw.rootnid_8b.get())
        } else {
            Nid(u64::from(raw.rootnid_2b.get()))
        };
        let blocks_hi = if wide_root { u64::from(raw.rootnid_2b.get()) } else { 0 };
        let compat = CompatFeatures(raw.feature_compat.get());
        let superblock = Self {
            checksum: raw.checksum.get(),
            compat,
            incompat,
            block_bits,
            ext_slots: raw.sb_extslots,
            root,
            inodes: raw.inos.get(),
            epoch: raw.epoch.get(),
            fixed_nsec: raw.fixed_nsec.get(),
            blocks: u64::from(raw.blocks_lo.get()) | (blocks_hi << 32),
            meta_blkaddr: raw.meta_blkaddr.get(),
            xattr_blkaddr: raw.xattr_blkaddr.get(),
            uuid: raw.uuid,
            volume_name: raw.volume_name,
            u1: raw.u1.get(),
            extra_devices: if incompat.has(IncompatFeatures::DEVICE_TABLE) {
                raw.extra_devices.get()
            } else {
                0
            },
            device_slot: raw.devt_slotoff.get(),
            xattr_prefix_count: raw.xattr_prefix_count,
            xattr_prefix_start: raw.xattr_prefix_start.get(),
            packed: special_nid(
                raw.packed_nid.get(),
                incompat.has(IncompatFeatures::FRAGMENTS),
                "packed inode lies in the metabox",
            )?,
            xattr_filter_reserved: raw.xattr_filter_reserved,
            ishare_prefix_id: raw.ishare_xattr_prefix_id,
            build_time: raw.build_time.get(),
            metabox: parse_metabox(incompat, raw.sb_extslots, rest)?,
        };
        superblock.validate()?;
        Ok(superblock)
    }

    fn validate(&self) -> Result<()> {
        // The kernel wants the whole superblock in the page that byte 1024 lies in. Pages are no
        // smaller than blocks, and have 4 KiB at least.
        let page = self.block_bits.size_usize().max(4096);
        if self.byte_len() > page.saturating_sub(1024) {
            return Err(FormatError::corrupt(
                "superblock has too many extension slots",
                u64::from(self.ext_slots),
            ));
        }
        if self.incompat.has(IncompatFeatures::COMPR_CFGS) && self.u1 > 0xF {
            return Err(FormatError::Unsupported {
                what: "compression algorithm bits",
                value: u64::from(self.u1),
            });
        }
        if self.compat.has(CompatFeatures::ISHARE_XATTRS)
            && self.ishare_prefix_id >= self.xattr_prefix_count
        {
            return Err(FormatError::corrupt(
                "inode digest names an xattr prefix that is not in the table",
                u64::from(self.ishare_prefix_id),
            ));
        }
        Ok(())
    }

    /// Bytes of the superblock with its extension slots.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        usize::from(self.ext_slots).saturating_mul(EXT_SLOT_LEN).saturating_add(BASE_LEN)
    }

    /// Volume name up to the first NUL.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        self.volume_name.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// Byte address that nids of the primary device count from.
    #[must_use]
    pub const fn meta_base(&self) -> u64 {
        // 32 bits of blocks, at most 16 bits of block size: fits.
        #[expect(clippy::as_conversions, reason = "u64::from is not const")]
        let block = self.meta_blkaddr as u64;
        block << self.block_bits.bits()
    }

    /// Byte address that shared xattr ids count from.
    #[must_use]
    pub fn xattr_base(&self) -> u64 {
        u64::from(self.xattr_blkaddr) << self.block_bits.bits()
    }

    /// Whether compressed inodes may exist. format.md §2.6.
    #[must_use]
    pub const fn may_be_compressed(&self) -> bool {
        self.u1 != 0 || self.incompat.has(IncompatFeatures::LZ4_0PADDING)
    }

    /// Compares the stored checksum with that of `area` ([`checksum::covered_len`] bytes from byte
    /// 1024). Images without the flag pass.
    pub fn verify_checksum(&self, area: &[u8]) -> Result<()> {
        if !self.compat.has(CompatFeatures::SB_CHKSUM) {
            return Ok(());
        }
        let computed = checksum::superblock_checksum(area, self.block_bits)?;
        if computed == self.checksum {
            Ok(())
        } else {
            Err(FormatError::corrupt(
                "superblock checksum does not match its block",
                u64::from(computed),
            ))
        }
    }

    /// Emits the superblock with its extension slots; the checksum field holds `self.checksum`,
    /// which the caller fills in last with [`checksum::superblock_checksum`].
    pub fn emit(&self) -> Result<Vec<u8>> {
        let wide = self.incompat.has(IncompatFeatures::BIT48);
        let narrow_root = u16::try_from(self.root.0);
        let blocks_hi = u16::try_from(self.blocks >> 32)
            .map_err(|_| FormatError::DoesNotFit { what: "block count", value: self.blocks })?;
        let (rootnid_2b, rootnid_8b) = match narrow_root {
            Ok(root) if !wide || blocks_hi == 0 => (root, 0),
            _ if wide => (blocks_hi, self.root.0),
            _ => {
                return Err(FormatError::DoesNotFit {
                    what: "root nid without 48-bit addresses",
                    value: self.root.0,
                });
            }
        };
        if !wide && blocks_hi != 0 {
            return Err(FormatError::DoesNotFit {
                what: "block count without 48-bit addresses",
                value: self.blocks,
            });
        }
        let raw = Raw {
            magic: MAGIC.into(),
            checksum: self.checksum.into(),
            feature_compat: self.compat.0.into(),
            blkszbits: self.block_bits.bits(),
            sb_extslots: self.ext_slots,
            rootnid_2b: rootnid_2b.into(),
            inos: self.inodes.into(),
            epoch: self.epoch.into(),
            fixed_nsec: self.fixed_nsec.into(),
            blocks_lo: low_half(self.blocks).into(),
            meta_blkaddr: self.meta_blkaddr.into(),
            xattr_blkaddr: self.xattr_blkaddr.into(),
            uuid: self.uuid,
            volume_name: self.volume_name,
            feature_incompat: self.incompat.0.into(),
            u1: self.u1.into(),
            extra_devices: self.extra_devices.into(),
            devt_slotoff: self.device_slot.into(),
            dirblkbits: 0,
            xattr_prefix_count: self.xattr_prefix_count,
            xattr_prefix_start: self.xattr_prefix_start.into(),
            packed_nid: self.packed.map_or(0, |nid| nid.0).into(),
            xattr_filter_reserved: self.xattr_filter_reserved,
            ishare_xattr_prefix_id: self.ishare_prefix_id,
            reserved0: [0; 2],
            build_time: self.build_time.into(),
            rootnid_8b: rootnid_8b.into(),
            reserved1: [0; 8],
        };
        let mut out = Vec::with_capacity(self.byte_len());
        out.extend_from_slice(raw.as_bytes());
        if let Some(nid) = self.metabox {
            if self.ext_slots == 0 {
                return Err(FormatError::DoesNotFit {
                    what: "superblock without extension slots (metabox)",
                    value: nid.0,
                });
            }
            out.extend_from_slice(&nid.0.to_le_bytes());
        }
        out.resize(self.byte_len(), 0);
        Ok(out)
    }
}

fn parse_metabox(incompat: IncompatFeatures, ext_slots: u8, rest: &[u8]) -> Result<Option<Nid>> {
    if !incompat.has(IncompatFeatures::METABOX) {
        return Ok(None);
    }
    if ext_slots == 0 {
        return Err(FormatError::corrupt("metabox without its superblock extension slot", 0));
    }
    let nid = crate::num::u64_at(rest, 0, "superblock extension slot")?;
    if nid == 0 {
        return Err(FormatError::corrupt("metabox feature without a metabox inode", 0));
    }
    special_nid(nid, true, "metabox inode lies in the metabox")
}

fn special_nid(nid: u64, enabled: bool, in_metabox: &'static str) -> Result<Option<Nid>> {
    if !enabled || nid == 0 {
        return Ok(None);
    }
    if Nid(nid).in_metabox() {
        return Err(FormatError::corrupt(in_metabox, nid));
    }
    Ok(Some(Nid(nid)))
}

/// Low 32 bits.
pub(crate) fn low_half(value: u64) -> u32 {
    let bytes = value.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

const _: () = assert!(usize_from_u32(1) == 1);

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of format.md §2.9.
    const EXAMPLE: [u8; 48] = [
        0xe2, 0xe1, 0xf5, 0xe0, 0xb5, 0x42, 0x87, 0x96, 7, 0, 0, 0, 0x0c, 0, 0x24, 0, 6, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn example() -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..48].copy_from_slice(&EXAMPLE);
        bytes
    }

    #[test]
    fn parses_and_emits_the_worked_example() {
        let superblock = SuperBlock::parse(&example()).unwrap();
        assert_eq!(superblock.root, Nid(0x24));
        assert_eq!(superblock.inodes, 6);
        assert_eq!(superblock.blocks, 1);
        assert_eq!(superblock.block_bits, BlockBits::DEFAULT);
        assert_eq!(superblock.checksum, 0x9687_42b5);
        assert_eq!(superblock.emit().unwrap(), example());
    }

    #[test]
    fn refuses_by_name() {
        let table: &[(usize, u8, &str)] = &[
            (0, 0, "wrong magic"),
            (12, 8, "block size"),
            (12, 17, "block size"),
            (90, 1, "directory block size"),
            (81, 2, "incompatible feature"),
            (13, 255, "extension slots"),
        ];
        for &(offset, value, text) in table {
            let mut bytes = example();
            bytes[offset] = value;
            let error = SuperBlock::parse(&bytes).unwrap_err();
            assert!(std::format!("{error}").contains(text), "{offset}: {error}");
        }
    }

    #[test]
    fn metabox_needs_its_slot() {
        let mut bytes = example().to_vec();
        bytes[81] = 1;
        assert!(SuperBlock::parse(&bytes).is_err());
        bytes[13] = 1;
        assert!(SuperBlock::parse(&bytes).is_err(), "slot cut short");
        bytes.extend_from_slice(&[0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(SuperBlock::parse(&bytes).unwrap().metabox, Some(Nid(0x30)));
        bytes[135] = 0x80;
        assert!(SuperBlock::parse(&bytes).is_err(), "metabox in itself");
    }

    #[test]
    fn wide_root_moves_the_block_count() {
        let mut superblock = SuperBlock::parse(&example()).unwrap();
        superblock.incompat.insert(IncompatFeatures::BIT48);
        superblock.root = Nid(0x1_2345);
        superblock.blocks = 0x7_0000_0001;
        let bytes = superblock.emit().unwrap();
        assert_eq!(SuperBlock::parse(&bytes).unwrap(), superblock);
    }
}
