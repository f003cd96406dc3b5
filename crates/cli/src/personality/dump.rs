// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dump.erofs`, with its labels, which scripts look for.

mod report;
mod statistics;

use super::getopt::{self, Item, Spec, Value, number};
use super::{Tool, unsupported, usage};
use crate::commands::cat;
use crate::output::{Out, uuid_text};
use ferrofs_check::RawPath;
use ferrofs_image::{Image, Inode};
use ferrofs_serve::{Engine, EngineConfig, ImageFiles};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

const SPECS: &[Spec] = &[
    ("h", Value::None),
    ("help", Value::None),
    ("V", Value::None),
    ("version", Value::None),
    ("S", Value::None),
    ("e", Value::None),
    ("s", Value::None),
    ("blkid-udev", Value::None),
    ("device", Value::Required),
    ("ls", Value::None),
    ("cat", Value::None),
    ("nid", Value::Required),
    ("offset", Value::Required),
    ("path", Value::Required),
];

const HELP: &str = "\
Usage: dump.erofs [OPTIONS] IMAGE
Shows what is in an EROFS image. This is ferrofs with the options of erofs-utils 1.9.3.

 -V, --version   show the version
 -h, --help      show this
 -s              show the superblock (default)
 -S              show statistics
 -e              show the extents of an inode
 --blkid-udev    show the image as blkid(8) does for udev
 --device=X      an extra device of the image; may be repeated
 --ls            show a directory
 --cat           write the content of a file
 --nid=#         the inode of number #
 --path=X        the inode of path X
 --offset=#      the image begins # bytes into its file
";

/// What a command line asks for.
#[derive(Default)]
struct Request {
    files: ImageFiles,
    superblock: bool,
    statistics: bool,
    extents: bool,
    list: bool,
    cat: bool,
    udev: bool,
    nid: Option<u64>,
    path: Option<RawPath>,
}

pub(super) fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let items = getopt::parse(SPECS, words).map_err(|text| usage(Tool::Dump, text))?;
    for item in &items {
        match item {
            Item::Option("h" | "help", _) => {
                print!("{HELP}");
                return Ok(0);
            }
            Item::Option("V" | "version", _) => {
                Tool::Dump.print_version("decompressors");
                return Ok(0);
            }
            _ => {}
        }
    }
    let request = parse(&items)?;
    let image = Arc::new(request.files.open()?);
    let mut out = Out::new();
    show(&request, &image, &mut out)?;
    out.flush()?;
    Ok(0)
}

fn parse(items: &[Item]) -> anyhow::Result<Request> {
    let mut request = Request::default();
    let mut images: Vec<PathBuf> = Vec::new();
    let bad = |message: String| usage(Tool::Dump, message);
    for item in items {
        let (name, value) = match item {
            Item::Operand(word) => {
                images.push(word.into());
                continue;
            }
            Item::Option(name, value) => (*name, value.as_deref()),
        };
        let unsigned = || {
            // Inode numbers of compressed metadata have the highest bit set.
            let text = value.and_then(|value| value.to_str()).unwrap_or_default();
            text.parse::<u64>()
                .or_else(|_| number(name, value).map(|number| number as u64))
                .map_err(bad)
        };
        match name {
            "s" => request.superblock = true,
            "S" => request.statistics = true,
            "e" => request.extents = true,
            "ls" => request.list = true,
            "cat" => request.cat = true,
            "blkid-udev" => request.udev = true,
            "device" => request.files.devices.push(value.unwrap_or_default().into()),
            "nid" => request.nid = Some(unsigned()?),
            "offset" => request.files.offset = unsigned()?,
            "path" => request.path = Some(RawPath::from(value.unwrap_or_default().as_bytes())),
            other => return Err(unsupported(&getopt::dashed(other))),
        }
    }
    let Ok([image]) = <[PathBuf; 1]>::try_from(images) else {
        return Err(usage(Tool::Dump, "there must be one argument: IMAGE"));
    };
    request.files.image = image;
    let of_inode = request.nid.is_some() || request.path.is_some();
    if (request.extents || request.list || request.cat) && !of_inode {
        return Err(usage(Tool::Dump, "-e, --ls and --cat need --path or --nid"));
    }
    let something = of_inode || request.statistics || request.udev;
    request.superblock |= !something;
    Ok(request)
}

fn show(request: &Request, image: &Arc<Image>, out: &mut Out) -> anyhow::Result<()> {
    if request.udev {
        return Ok(udev(image, out)?);
    }
    if request.superblock {
        report::superblock(image, out)?;
    }
    if request.statistics {
        statistics::count(image)?.show(out)?;
    }
    if request.nid.is_none() && request.path.is_none() {
        return Ok(());
    }
    let root = RawPath::from(&b"/"[..]);
    let path = request.path.as_ref().unwrap_or(&root);
    let inode = ferrofs_check::find(image, path.as_bytes(), request.nid)?;
    if request.cat {
        let engine = Engine::new(Arc::clone(image), EngineConfig::default());
        return cat::copy(&engine, &inode, out);
    }
    inode_report(request, image, &inode, out)
}

fn inode_report(
    request: &Request,
    image: &Image,
    inode: &Inode,
    out: &mut Out,
) -> anyhow::Result<()> {
    report::inode(image, request.path.as_ref(), inode, out)?;
    if request.extents {
        report::extents(image, request.path.as_ref(), inode, out)?;
    }
    if request.list {
        report::list(image, inode, out)?;
    }
    Ok(())
}

/// The lines that blkid(8) gives to udev.
fn udev(image: &Image, out: &mut Out) -> std::io::Result<()> {
    let superblock = image.superblock();
    let label = RawPath(superblock.label().to_vec());
    if !label.as_bytes().is_empty() {
        // udev's own form: what is not plain becomes \xNN, as RawPath does, spaces included.
        let text = label.to_string();
        writeln!(out, "ID_FS_LABEL={}", text.replace(' ', "_"))?;
        writeln!(out, "ID_FS_LABEL_ENC={}", text.replace(' ', "\\x20"))?;
    }
    let uuid = uuid_text(&superblock.uuid);
    writeln!(out, "ID_FS_UUID={uuid}\nID_FS_UUID_ENC={uuid}")?;
    writeln!(out, "ID_FS_TYPE=erofs\nID_FS_USAGE=filesystem")
}
