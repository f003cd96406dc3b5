// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stat`.

use super::ls::Row;
use crate::args::StatArgs;
use crate::json::Array;
use crate::output::{Out, hex, mode_text, shown};
use crate::{size, time};
use anyhow::Context;
use ferrofs_check::RawPath;
use ferrofs_image::{Image, Inode, Xattr};
use serde::Serialize;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    row: Row,
    layout: &'static str,
    inode_bytes: usize,
    inode_offset: u64,
    in_metabox: bool,
    stored_bytes: u64,
    xattrs: Vec<XattrRow>,
}

#[derive(Serialize)]
struct XattrRow {
    name: RawPath,
    value_hex: String,
    shared: bool,
    visible: bool,
}

impl Details {
    fn new(image: &Image, path: &[u8], inode: &Inode) -> anyhow::Result<Self> {
        let xattrs = image.xattrs(inode)?;
        Ok(Self {
            row: Row::new(image, RawPath(path.to_vec()), inode)?,
            layout: inode.layout().name(),
            inode_bytes: inode.record.record_len(),
            inode_offset: inode.offset(),
            in_metabox: inode.nid.in_metabox(),
            stored_bytes: inode.blocks_512(image).saturating_mul(512),
            xattrs: xattrs.iter().map(XattrRow::new).collect(),
        })
    }
}

impl XattrRow {
    fn new(xattr: &Xattr) -> Self {
        Self {
            name: RawPath(xattr.name.clone()),
            value_hex: hex(&xattr.value),
            shared: xattr.shared,
            visible: xattr.visible,
        }
    }
}

pub(crate) fn run(args: &StatArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let mut out = Out::new();
    let mut array = args.json.then(|| Array::begin(&mut out)).transpose()?;
    for path in &args.paths {
        let bytes = path.as_os_str().as_bytes();
        let inode = super::resolve(&image, path)?;
        if let Some(array) = &mut array {
            let details = Details::new(&image, bytes, &inode).with_context(|| shown(bytes))?;
            array.push(&mut out, &details)?;
        } else {
            text(&image, bytes, &inode, &mut out).with_context(|| shown(bytes))?;
        }
    }
    if let Some(array) = array {
        array.end(&mut out)?;
    }
    out.flush()?;
    Ok(0)
}

fn text(image: &Image, path: &[u8], inode: &Inode, out: &mut Out) -> anyhow::Result<()> {
    write!(out, "  File: ")?;
    out.write_name(path)?;
    if inode.file_type == ferrofs_format::inode::FileType::Symlink {
        write!(out, " -> ")?;
        out.write_name(&image.readlink(inode)?)?;
    }
    let stored = inode.blocks_512(image).saturating_mul(512);
    writeln!(out)?;
    writeln!(
        out,
        "  Size: {} ({})   Stored: {stored}   {}",
        inode.size,
        size::show(inode.size),
        super::ls::kind_name(inode.file_type)
    )?;
    let record = if inode.record.is_extended() { "extended" } else { "compact" };
    writeln!(
        out,
        " Inode: {} ({record}, at {:#x} of {})   Links: {}   Layout: {}",
        inode.nid,
        inode.offset(),
        inode.space(),
        inode.nlink,
        inode.layout().name()
    )?;
    write!(
        out,
        "Access: {:04o}/{}   Uid: {}   Gid: {}",
        inode.mode & 0o7777,
        mode_text(inode.file_type.letter(), inode.mode),
        inode.uid,
        inode.gid
    )?;
    if let Some((major, minor)) = super::ls::device_of(inode) {
        write!(out, "   Device: {major}, {minor}")?;
    }
    writeln!(out, "\nModify: {}", time::show_precise(inode.mtime, inode.mtime_nsec))?;
    for xattr in image.xattrs(inode)? {
        write!(out, " Xattr: ")?;
        out.write_name(&xattr.name)?;
        write!(out, "=0x{}", hex(&xattr.value))?;
        let marks = [(xattr.shared, "shared"), (!xattr.visible, "hidden")];
        for (_, mark) in marks.iter().filter(|(set, _)| *set) {
            write!(out, " ({mark})")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
