// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stat`.

use crate::args::StatArgs;
use crate::json::Array;
use crate::output::{Out, kind_letter, mode_text};
use crate::{errors, size, time};
use anyhow::Context;
use ferrofs_check::{RawPath, Stat};
use ferrofs_image::Image;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &StatArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let mut out = Out::new();
    let mut array = args.json.then(|| Array::begin(&mut out)).transpose()?;
    let mut code = 0;
    for path in &args.paths {
        match (look(&image, path.as_os_str().as_bytes()), &mut array) {
            (Ok(stat), Some(array)) => array.push(&mut out, &stat)?,
            (Ok(stat), None) => show(&mut out, &stat)?,
            (Err(error), _) => {
                // The others may be there.
                errors::print("ferrofs", &error);
                code = 1;
            }
        }
    }
    if let Some(array) = array {
        array.end(&mut out)?;
    }
    out.flush()?;
    Ok(code)
}

fn look(image: &Image, path: &[u8]) -> anyhow::Result<Stat> {
    let raw = RawPath::from(path);
    let inode = ferrofs_check::find(image, path, None)?;
    ferrofs_check::stat(image, raw.clone(), &inode).with_context(|| raw.to_string())
}

fn show(out: &mut Out, stat: &Stat) -> io::Result<()> {
    let row = &stat.listing;
    write!(out, "  File: ")?;
    out.write_name(row.path.as_bytes())?;
    if let Some(target) = &row.target {
        write!(out, " -> ")?;
        out.write_name(target.as_bytes())?;
    }
    let stored = stat.blocks_512.saturating_mul(512);
    writeln!(
        out,
        "\n  Size: {} ({})   Stored: {stored}   Type: {}",
        row.size,
        size::show(row.size),
        row.kind
    )?;
    writeln!(
        out,
        "   Nid: {}   Inode: {}   Links: {}   Layout: {}",
        row.nid, stat.ino, row.nlink, stat.layout
    )?;
    let record = if stat.extended { "extended" } else { "compact" };
    writeln!(
        out,
        "Record: {record}, at {:#x} of {}, with {} bytes of xattrs",
        stat.offset, stat.space, stat.xattr_bytes
    )?;
    write!(
        out,
        "Access: {:04o}/{}   Uid: {}   Gid: {}",
        row.mode & 0o7777,
        mode_text(kind_letter(row.mode), row.mode),
        row.uid,
        row.gid
    )?;
    if let Some((major, minor)) = row.rdev {
        write!(out, "   Device: {major}, {minor}")?;
    }
    writeln!(out, "\nModify: {}", time::show_precise(row.mtime, row.mtime_nsec))?;
    for xattr in &stat.xattrs {
        // Values hold anything: they are escaped wherever they go.
        write!(out, " Xattr: {}=\"{}\"", xattr.name, xattr.value)?;
        let marks = [(xattr.shared, "shared"), (!xattr.visible, "hidden")];
        for (_, mark) in marks.iter().filter(|(set, _)| *set) {
            write!(out, " ({mark})")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
