// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first bytes of an image: superblock, compression records, device table, long prefixes.
//! format.md §2, §6.4, §8.
//!
//! What lies here has a size that the options alone determine, so data can begin right behind it
//! before anything else is known.

use ferrofs_codec::Algorithm;
use ferrofs_format::compression::{CompressionConfigs, Lz4Config};
use ferrofs_format::device::{DeviceSlot, SLOT_LEN, TAG_LEN};
use ferrofs_format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_format::limits::SUPERBLOCK_OFFSET;
use ferrofs_format::superblock::{BASE_LEN, SuperBlock};
use ferrofs_format::{FormatError, checksum};

use crate::metadata::Zone;
use crate::output::Output;
use crate::plan::Plan;
use crate::{BuildOptions, Compression, Result};

/// Places of the parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    configs: Option<CompressionConfigs>,
    device_at: Option<u64>,
    prefixes_at: Option<u64>,
    /// First byte behind all of it.
    pub(crate) end: u64,
}

/// What the device table says of the blob, whose addresses follow those of the image.
pub(crate) fn slot(tag: &[u8], blocks: u32, zone: &Zone) -> DeviceSlot {
    let mut padded = [0; TAG_LEN];
    padded[..tag.len()].copy_from_slice(tag);
    let (blocks, unified_start) = (u64::from(blocks), u64::from(zone.blocks));
    DeviceSlot { tag: padded, blocks, unified_start }
}

impl Header {
    pub(crate) fn new(options: &BuildOptions, plan: &Plan, blob: bool) -> Result<Self> {
        let configs = options.compression.as_ref().map(|c| configs(c, options));
        let mut end = SUPERBLOCK_OFFSET + BASE_LEN as u64;
        if let Some(configs) = &configs {
            end += configs.emit().len() as u64;
        }
        let device_at = blob.then(|| end.next_multiple_of(SLOT_LEN as u64));
        if let Some(at) = device_at {
            end = at + SLOT_LEN as u64;
        }
        let table = plan.xattrs.prefix_table()?;
        let prefixes_at = (!table.is_empty()).then(|| end.next_multiple_of(4));
        if let Some(at) = prefixes_at {
            end = at + table.len() as u64;
        }
        Ok(Self { configs, device_at, prefixes_at, end })
    }

    /// Writes the header; the checksum comes last, since it covers what else lies in the block.
    pub(crate) fn write(
        &self,
        options: &BuildOptions,
        plan: &Plan,
        zone: &Zone,
        slot: DeviceSlot,
        uuid: [u8; 16],
        image: &Output,
    ) -> Result<()> {
        let mut superblock = self.superblock(options, plan, zone, uuid);
        let mut bytes = superblock.emit()?;
        let at = |byte: u64| (byte - SUPERBLOCK_OFFSET) as usize;
        if let Some(configs) = &self.configs
            && superblock.incompat.has(IncompatFeatures::COMPR_CFGS)
        {
            bytes.extend_from_slice(&configs.emit());
        }
        if let Some(device) = self.device_at {
            bytes.resize(at(device), 0);
            bytes.extend_from_slice(&slot.emit(false)?);
        }
        if let Some(prefixes) = self.prefixes_at {
            bytes.resize(at(prefixes), 0);
            bytes.extend_from_slice(&plan.xattrs.prefix_table()?);
        }
        image.write_at(&bytes, SUPERBLOCK_OFFSET)?;
        if options.checksum {
            let mut area = vec![0; checksum::covered_len(options.block_bits)];
            image.read_at(&mut area, SUPERBLOCK_OFFSET)?;
            superblock.checksum = checksum::superblock_checksum(&area, options.block_bits)?;
            image.write_at(&superblock.emit()?, SUPERBLOCK_OFFSET)?;
        }
        Ok(())
    }

    fn superblock(
        &self,
        options: &BuildOptions,
        plan: &Plan,
        zone: &Zone,
        uuid: [u8; 16],
    ) -> SuperBlock {
        let mut compat = CompatFeatures::MTIME;
        let mut incompat = IncompatFeatures::default();
        let mut u1 = 0;
        if options.checksum {
            compat.insert(CompatFeatures::SB_CHKSUM);
        }
        if plan.xattrs.filter {
            compat.insert(CompatFeatures::XATTR_FILTER);
        }
        if self.prefixes_at.is_some() {
            compat.insert(CompatFeatures::PLAIN_XATTR_PFX);
            incompat.insert(IncompatFeatures::XATTR_PREFIXES);
        }
        if plan.xattrs.digest_prefix().is_some() {
            compat.insert(CompatFeatures::ISHARE_XATTRS);
        }
        if let (true, Some(configs)) = (zone.compressed, &self.configs) {
            incompat.insert(IncompatFeatures::LZ4_0PADDING);
            if let Some(Lz4Config { max_distance, max_pcluster_blocks: 1 }) = configs.lz4 {
                // What kernels since 5.4 know.
                u1 = max_distance;
            } else {
                incompat.insert(IncompatFeatures::COMPR_CFGS);
                u1 = configs.bitmap();
            }
        }
        if zone.chunks {
            incompat.insert(IncompatFeatures::CHUNKED_FILE);
        }
        if self.device_at.is_some() {
            incompat.insert(IncompatFeatures::DEVICE_TABLE);
        }
        let mut volume_name = [0; 16];
        volume_name[..options.volume_name.len()].copy_from_slice(&options.volume_name);
        SuperBlock {
            checksum: 0,
            compat,
            incompat,
            block_bits: options.block_bits,
            ext_slots: 0,
            root: zone.root,
            inodes: plan.order.len() as u64,
            epoch: plan.epoch.seconds,
            fixed_nsec: plan.epoch.nanoseconds,
            blocks: u64::from(zone.blocks),
            meta_blkaddr: 0,
            xattr_blkaddr: zone.xattr_block,
            uuid,
            volume_name,
            u1,
            extra_devices: u16::from(self.device_at.is_some()),
            device_slot: self.device_at.map_or(0, |at| (at / SLOT_LEN as u64) as u16),
            xattr_prefix_count: plan.xattrs.prefix_count(),
            xattr_prefix_start: self.prefixes_at.map_or(0, |at| (at / 4) as u32),
            packed: None,
            xattr_filter_reserved: 0,
            ishare_prefix_id: plan.xattrs.digest_prefix().unwrap_or(0),
            build_time: 0,
            metabox: None,
        }
    }
}

fn configs(compression: &Compression, options: &BuildOptions) -> CompressionConfigs {
    let largest = options.pcluster_size_max(compression);
    let method = compression.method.resolve(largest as usize);
    let window = method.window_size();
    let mut configs = CompressionConfigs::default();
    match method.algorithm() {
        Algorithm::Lz4 => {
            configs.lz4 = Some(Lz4Config {
                max_distance: u16::MAX,
                max_pcluster_blocks: (largest >> options.block_bits.bits()) as u16,
            });
        }
        Algorithm::Lzma => configs.lzma_dict_size = Some(window),
        Algorithm::Deflate => configs.deflate_window_bits = Some(window.ilog2() as u8),
        Algorithm::Zstd => configs.zstd_window_log = Some(window.ilog2() as u8),
    }
    configs
}

/// A UUID of version 8 out of checksums and everything the superblock says.
pub(crate) fn derived_uuid(
    options: &BuildOptions,
    plan: &Plan,
    zone: &Zone,
    header: &Header,
    digest: u32,
) -> core::result::Result<[u8; 16], FormatError> {
    let superblock = header.superblock(options, plan, zone, [0; 16]).emit()?;
    let mut hash = blake3::Hasher::new();
    hash.update(&superblock);
    hash.update(&zone.digest.to_le_bytes());
    hash.update(&digest.to_le_bytes());
    hash.update(&plan.xattrs.prefix_table()?);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    Ok(uuid::Builder::from_custom_bytes(uuid).into_uuid().into_bytes())
}
