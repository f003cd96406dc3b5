// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image says about itself.

use crate::output::{Out, uuid_text};
use crate::{size, time};
use ferrofs_check::RawPath;
use ferrofs_image::Image;
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
pub(super) struct SuperblockView {
    block_size: u32,
    blocks: u64,
    inodes: u64,
    root_nid: u64,
    packed_nid: Option<u64>,
    metabox_nid: Option<u64>,
    metadata_start_block: u32,
    shared_xattr_start_block: u32,
    uuid: String,
    label: RawPath,
    checksum: String,
    /// The epoch that compact inodes count from.
    epoch: i64,
    epoch_nsec: u32,
    build_time: i64,
    compatible_features: Vec<&'static str>,
    incompatible_features: Vec<&'static str>,
    compression: Vec<CompressionView>,
    devices: Vec<DeviceView>,
    xattr_prefixes: Vec<RawPath>,
}

#[derive(Serialize)]
struct CompressionView {
    algorithm: &'static str,
    /// Bytes of the window, or of LZ4's largest distance.
    window: u64,
    /// Largest pcluster in blocks, as far as the record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pcluster_blocks_max: Option<u16>,
}

#[derive(Serialize)]
struct DeviceView {
    id: usize,
    tag: RawPath,
    blocks: u64,
    unified_start: u64,
}

impl SuperblockView {
    pub(super) fn new(image: &Image) -> Self {
        let superblock = image.superblock();
        let devices = image.device_slots().iter().enumerate().map(|(index, slot)| DeviceView {
            id: index + 1,
            tag: RawPath(slot.label().to_vec()),
            blocks: slot.blocks,
            unified_start: slot.unified_start,
        });
        let prefixes = image.long_prefixes().iter().map(|prefix| {
            let base = ferrofs_format::xattr::base_prefix(prefix.base_index).unwrap_or(b"?");
            RawPath([base, &prefix.infix].concat())
        });
        Self {
            block_size: superblock.block_bits.size(),
            blocks: superblock.blocks,
            inodes: superblock.inodes,
            root_nid: superblock.root.0,
            packed_nid: superblock.packed.map(|nid| nid.0),
            metabox_nid: superblock.metabox.map(|nid| nid.0),
            metadata_start_block: superblock.meta_blkaddr,
            shared_xattr_start_block: superblock.xattr_blkaddr,
            uuid: uuid_text(&superblock.uuid),
            label: RawPath(superblock.label().to_vec()),
            checksum: format!("{:08x}", superblock.checksum),
            epoch: superblock.epoch,
            epoch_nsec: superblock.fixed_nsec,
            build_time: superblock.epoch.saturating_add(superblock.build_time.into()),
            compatible_features: superblock.compat.names().collect(),
            incompatible_features: superblock.incompat.names().collect(),
            compression: compression(image),
            devices: devices.collect(),
            xattr_prefixes: prefixes.collect(),
        }
    }

    pub(super) fn show(&self, out: &mut Out) -> io::Result<()> {
        let bytes = self.blocks.saturating_mul(self.block_size.into());
        writeln!(out, "block size          {}", self.block_size)?;
        writeln!(out, "blocks              {} ({})", self.blocks, size::show(bytes))?;
        writeln!(out, "inodes              {}", self.inodes)?;
        writeln!(out, "root nid            {}", self.root_nid)?;
        for (name, nid) in [("packed nid", self.packed_nid), ("metabox nid", self.metabox_nid)] {
            if let Some(nid) = nid {
                writeln!(out, "{name:<20}{nid}")?;
            }
        }
        writeln!(out, "metadata start      block {}", self.metadata_start_block)?;
        writeln!(out, "shared xattrs start block {}", self.shared_xattr_start_block)?;
        writeln!(out, "UUID                {}", self.uuid)?;
        writeln!(out, "label               {}", self.label)?;
        writeln!(out, "checksum            {}", self.checksum)?;
        writeln!(out, "epoch               {}", time::show_precise(self.epoch, self.epoch_nsec))?;
        writeln!(out, "built               {} UTC", time::show(self.build_time))?;
        writeln!(out, "compatible          {}", self.compatible_features.join(" "))?;
        writeln!(out, "incompatible        {}", self.incompatible_features.join(" "))?;
        for record in &self.compression {
            write!(out, "compression         {}: window {}", record.algorithm, record.window)?;
            if let Some(blocks) = record.pcluster_blocks_max {
                write!(out, ", pclusters up to {blocks} blocks")?;
            }
            writeln!(out)?;
        }
        for device in &self.devices {
            writeln!(
                out,
                "device {:<12} {} blocks, unified from {}, tag \"{}\"",
                device.id, device.blocks, device.unified_start, device.tag
            )?;
        }
        for prefix in &self.xattr_prefixes {
            writeln!(out, "xattr prefix        {prefix}")?;
        }
        Ok(())
    }
}

fn compression(image: &Image) -> Vec<CompressionView> {
    let configs = image.compression();
    let mut records = Vec::new();
    // Images without any compression declare nothing of use.
    if !image.superblock().may_be_compressed() {
        return records;
    }
    let mut add = |algorithm, window: Option<u64>, pcluster_blocks_max| {
        if let Some(window) = window {
            records.push(CompressionView { algorithm, window, pcluster_blocks_max });
        }
    };
    let lz4 = configs.lz4;
    add("lz4", lz4.map(|lz4| lz4.max_distance.into()), lz4.map(|lz4| lz4.max_pcluster_blocks));
    add("lzma", configs.lzma_dict_size.map(u64::from), None);
    let power = |bits: u8| 1_u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
    // 0 stands for the largest.
    let deflate = |bits: u8| power(if bits == 0 { 15 } else { bits });
    add("deflate", configs.deflate_window_bits.map(deflate), None);
    add("zstd", configs.zstd_window_log.map(power), None);
    records
}
