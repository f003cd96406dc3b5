// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reports of `dump.erofs`.

use crate::output::{Out, kind_letter, mode_text, uuid_text};
use crate::time;
use ferrofs_check::RawPath;
use ferrofs_format::features::IncompatFeatures;
use ferrofs_format::inode::FileType;
use ferrofs_image::{Image, Inode};
use std::io::Write;
use std::ops::ControlFlow;

/// `Label:` and its value, in columns.
fn line(out: &mut Out, label: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(out, "{:<46}{value}", format!("{label}:"))
}

/// The compression algorithms that an image declares, by their bits.
const ALGORITHMS: [&str; 4] = ["lz4", "lzma", "deflate", "zstd"];

pub(super) fn superblock(image: &Image, out: &mut Out) -> std::io::Result<()> {
    let superblock = image.superblock();
    let build_time = superblock.epoch.saturating_add(superblock.build_time.into());
    line(out, "Filesystem magic number", "0xE0F5E1E2")?;
    line(out, "Filesystem blocksize", superblock.block_bits.size())?;
    line(out, "Filesystem blocks", superblock.blocks)?;
    line(out, "Filesystem inode metadata start block", superblock.meta_blkaddr)?;
    line(out, "Filesystem shared xattr metadata start block", superblock.xattr_blkaddr)?;
    line(out, "Filesystem root nid", superblock.root.0)?;
    if let Some(nid) = superblock.packed {
        line(out, "Filesystem packed nid", nid.0)?;
    }
    if let Some(nid) = superblock.metabox {
        line(out, "Filesystem metabox nid", nid.0)?;
    }
    if superblock.incompat.has(IncompatFeatures::COMPR_CFGS) {
        let declared =
            |(id, name): (u8, &'static str)| image.compression().declares(id).then_some(name);
        let names: Vec<&str> = (0..).zip(ALGORITHMS).filter_map(declared).collect();
        line(out, "Filesystem compr_algs", names.join(" "))?;
    } else {
        line(out, "Filesystem lz4_max_distance", superblock.u1)?;
    }
    line(out, "Filesystem sb_size", superblock.byte_len())?;
    line(out, "Filesystem inode count", superblock.inodes)?;
    line(out, "Filesystem created", time::show_ctime(build_time))?;
    // Each name with a space behind it, as scripts know it.
    let names = |names: Vec<&str>| names.iter().flat_map(|name| [name, " "]).collect::<String>();
    line(out, "Filesystem compatible features", names(superblock.compat.names().collect()))?;
    line(out, "Filesystem incompatible features", names(incompatible(image)))?;
    line(out, "Filesystem UUID", uuid_text(&superblock.uuid))?;
    if !superblock.label().is_empty() {
        line(out, "Filesystem volume name", RawPath(superblock.label().to_vec()))?;
    }
    line(out, "Required upstream Linux kernel version", kernel_needed(image))
}

/// Feature names; those that share a bit are told apart by what the image has.
fn incompatible(image: &Image) -> Vec<&'static str> {
    let superblock = image.superblock();
    let mut names = Vec::new();
    for name in superblock.incompat.names() {
        match name {
            "0padding" => names.push("lz4_0padding"),
            "compr_cfgs" => names.extend(["compr_cfgs", "big_pcluster"]),
            "fragments" if superblock.packed.is_some() => names.extend(["fragments", "dedupe"]),
            "fragments" => names.push("dedupe"),
            "device_table" if image.device_slots().is_empty() => names.push("compr_head2"),
            other => names.push(other),
        }
    }
    names
}

/// The oldest kernel that mounts the image.
fn kernel_needed(image: &Image) -> &'static str {
    type I = IncompatFeatures;
    let configs = image.compression();
    let has = |feature| image.superblock().incompat.has(feature);
    let declared = has(I::COMPR_CFGS);
    let table = [
        (has(I::METABOX), "6.17"),
        (has(I::BIT48), "6.15"),
        (declared && configs.zstd_window_log.is_some(), "6.10"),
        (declared && configs.deflate_window_bits.is_some(), "6.6"),
        (has(I::XATTR_PREFIXES), "6.4"),
        (has(I::FRAGMENTS), "6.1"),
        (has(I::ZTAILPACKING), "5.17"),
        (has(I::DEVICE_TABLE), "5.16"),
        (declared && configs.lzma_dict_size.is_some(), "5.16"),
        (has(I::CHUNKED_FILE), "5.15"),
        (declared, "5.13"),
    ];
    table.iter().find(|(needed, _)| *needed).map_or("5.4", |(_, version)| version)
}

const fn type_words(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "regular file",
        FileType::Directory => "directory",
        FileType::CharDevice => "char dev",
        FileType::BlockDevice => "block dev",
        FileType::Fifo => "FIFO file",
        FileType::Socket => "SOCK file",
        FileType::Symlink => "symlink file",
    }
}

pub(super) fn inode(
    image: &Image,
    path: Option<&RawPath>,
    inode: &Inode,
    out: &mut Out,
) -> anyhow::Result<()> {
    let mut stored = 0_u64;
    ferrofs_check::extents(image, inode, |row| {
        stored = stored.saturating_add(row.encoded_len);
        ControlFlow::Continue(())
    })?;
    write!(out, "Path : ")?;
    match path {
        Some(path) => out.write_name(path.as_bytes())?,
        None => write!(out, "path not found")?,
    }
    writeln!(
        out,
        "\nSize: {}  On-disk size: {stored}  {}",
        inode.size,
        type_words(inode.file_type)
    )?;
    let ratio = if inode.size == 0 { 100.0 } else { stored as f64 * 100.0 / inode.size as f64 };
    writeln!(
        out,
        "NID: {}   Links: {}   Layout: {}   Compression ratio: {ratio:.2}%",
        inode.nid.0,
        inode.nlink,
        inode.layout() as u8
    )?;
    writeln!(
        out,
        "Inode size: {}   Xattr size: {}",
        inode.record.record_len(),
        inode.record.xattr_len()
    )?;
    let mode = mode_text(kind_letter(inode.mode), inode.mode);
    writeln!(
        out,
        "Uid: {}   Gid: {}  Access: {:04o}/{}",
        inode.uid,
        inode.gid,
        inode.mode & 0o7777,
        mode.get(1..).unwrap_or_default()
    )?;
    writeln!(out, "Timestamp: {}.{:09}", time::show(inode.mtime), inode.mtime_nsec)?;
    Ok(())
}

pub(super) fn extents(
    image: &Image,
    path: Option<&RawPath>,
    inode: &Inode,
    out: &mut Out,
) -> anyhow::Result<()> {
    writeln!(out, "\n Ext:   logical offset   |  length :     physical offset    |  length")?;
    let mut count = 0_u64;
    let mut written = Ok(());
    ferrofs_check::extents(image, inode, |row| {
        let address = row.address.unwrap_or(0);
        written = write!(
            out,
            "{count:>4}: {:>8}..{:>8} | {:>7} : {address:>10}..{:>10} | {:>7}",
            row.start,
            row.start.saturating_add(row.len),
            row.len,
            address.saturating_add(row.encoded_len),
            row.encoded_len
        )
        .and_then(|()| match (row.device, &row.space) {
            (Some(device @ 1..), _) => writeln!(out, "  # device {device}"),
            (_, Some(space)) if space != "primary device" => writeln!(out, "  # {space}"),
            _ => writeln!(out),
        });
        count += 1;
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    let root = RawPath::from(&b"/"[..]);
    out.write_name(path.unwrap_or(&root).as_bytes())?;
    writeln!(out, ": {count} extents found")?;
    Ok(())
}

pub(super) fn list(image: &Image, inode: &Inode, out: &mut Out) -> anyhow::Result<()> {
    writeln!(out, "\n       NID TYPE  FILENAME")?;
    for entry in image.directory(inode)?.cursor() {
        let entry = entry?;
        let kind = entry.file_type.map_or(0, FileType::dirent);
        write!(out, "{:>10} {kind:>4}  ", entry.nid.0)?;
        out.write_name(&entry.name)?;
        writeln!(out)?;
    }
    Ok(())
}
