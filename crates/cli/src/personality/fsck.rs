// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fsck.erofs`.
//!
//! Without `--extract` it looks at the structure; with it, it also decodes everything, and with a
//! directory unpacks there. Its exit codes are 0 and 1, as those of erofs-utils; `ferrofs check` has
//! those of fsck(8).

use super::getopt::{self, Item, Spec, Value, number};
use super::{Tool, unsupported, usage};
use crate::commands::{check, extract};
use crate::progress::Bar;
use ferrofs_check::{CheckOptions, Context, ExtractOptions, Severity};
use ferrofs_serve::ImageFiles;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SPECS: &[Spec] = &[
    ("V", Value::None),
    ("h", Value::None),
    ("version", Value::None),
    ("help", Value::None),
    ("d", Value::Required),
    ("p", Value::None),
    ("a", Value::None),
    ("A", Value::None),
    ("y", Value::None),
    ("device", Value::Required),
    ("extract", Value::Optional),
    ("offset", Value::Required),
    ("nid", Value::Required),
    ("path", Value::Required),
    ("no-sbcrc", Value::None),
    ("xattr-inode-digest", Value::None),
    ("xattrs", Value::None),
    ("no-xattrs", Value::None),
    ("force", Value::None),
    ("overwrite", Value::None),
    ("preserve", Value::None),
    ("no-preserve", Value::None),
    ("preserve-owner", Value::None),
    ("no-preserve-owner", Value::None),
    ("preserve-perms", Value::None),
    ("no-preserve-perms", Value::None),
];

const HELP: &str = "\
Usage: fsck.erofs [OPTIONS] IMAGE
Checks an EROFS image. This is ferrofs with the options of erofs-utils 1.9.3.

 -V, --version          show the version
 -h, --help             show this
 -d<0-9>                how much to print (default 2)
 -p                     print the compression ratio of all files
    --device=X          an extra device of the image; may be repeated
    --extract[=X]       check that all files decode; with X, unpack them there
    --offset=#          the image begins # bytes into its file
    --path=X            unpack from the path X
    --no-sbcrc          do not mind the checksum of the superblock
    --xattr-inode-digest
                        compare files with the digests stored in the image
    --[no-]xattrs       restore extended attributes, or not (default)
 -a, -A, -y             nothing, as for other file systems

With --extract=X:
    --force             unpack even into /
    --overwrite         replace files that exist
    --[no-]preserve     restore owners and permissions exactly (default for root), or not
    --[no-]preserve-owner, --[no-]preserve-perms
";

/// What a command line asks for.
struct Request {
    files: ImageFiles,
    verbosity: i64,
    ratio: bool,
    digests: bool,
    /// Decode everything.
    data: bool,
    target: Option<PathBuf>,
    force: bool,
    extract: ExtractOptions,
}

pub(super) fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let items = getopt::parse(SPECS, words).map_err(|text| usage(Tool::Fsck, text))?;
    for item in &items {
        match item {
            Item::Option("h" | "help", _) => {
                print!("{HELP}");
                return Ok(0);
            }
            Item::Option("V" | "version", _) => {
                Tool::Fsck.print_version("decompressors");
                return Ok(0);
            }
            _ => {}
        }
    }
    let request = parse(&items)?;
    let clean = match &request.target {
        Some(target) => unpack(&request, target)?,
        None => look(&request)?,
    };
    if clean && request.ratio {
        ratio(&request.files)?;
    }
    if request.verbosity > 2 && clean {
        println!("fsck.erofs: No errors found");
    }
    Ok(u8::from(!clean))
}

fn parse(items: &[Item]) -> anyhow::Result<Request> {
    let root = rustix::process::geteuid().is_root();
    let mut request = Request {
        files: ImageFiles::default(),
        verbosity: 2,
        ratio: false,
        digests: false,
        data: false,
        target: None,
        force: false,
        extract: ExtractOptions {
            xattrs: false,
            permissions: root,
            overwrite: false,
            ..ExtractOptions::default()
        },
    };
    let mut images: Vec<PathBuf> = Vec::new();
    let bad = |message: String| usage(Tool::Fsck, message);
    for item in items {
        let (name, value) = match item {
            Item::Operand(word) => {
                images.push(word.into());
                continue;
            }
            Item::Option(name, value) => (*name, value.as_deref()),
        };
        let path = || PathBuf::from(value.unwrap_or_default());
        match name {
            "d" => request.verbosity = number(name, value).map_err(bad)?,
            "p" => request.ratio = true,
            "device" => request.files.devices.push(path()),
            "extract" => {
                request.data = true;
                request.target = value.map(PathBuf::from);
            }
            "offset" => {
                let offset = number(name, value).map_err(bad)?;
                request.files.offset =
                    u64::try_from(offset).map_err(|_| bad(String::from("--offset: below 0")))?;
            }
            "path" => {
                request.extract.subtree = Some(value.unwrap_or_default().as_bytes().to_vec());
            }
            "no-sbcrc" => request.files.ignore_checksum = true,
            "xattr-inode-digest" => (request.digests, request.data) = (true, true),
            "xattrs" => request.extract.xattrs = true,
            "no-xattrs" => request.extract.xattrs = false,
            "force" => request.force = true,
            "overwrite" => request.extract.overwrite = true,
            "preserve" => {
                (request.extract.owners, request.extract.permissions) = (Some(true), true);
            }
            "no-preserve" => {
                (request.extract.owners, request.extract.permissions) = (Some(false), false);
            }
            "preserve-owner" => request.extract.owners = Some(true),
            "no-preserve-owner" => request.extract.owners = Some(false),
            "preserve-perms" => request.extract.permissions = true,
            "no-preserve-perms" => request.extract.permissions = false,
            // For the sake of fsck(8), which passes them on; images are never repaired.
            "a" | "A" | "y" => {}
            other => return Err(unsupported(&getopt::dashed(other))),
        }
    }
    let Ok([image]) = <[PathBuf; 1]>::try_from(images) else {
        return Err(usage(Tool::Fsck, "there must be one argument: IMAGE"));
    };
    request.files.image = image;
    Ok(request)
}

/// Checks; whether all is well.
fn look(request: &Request) -> anyhow::Result<bool> {
    let options =
        CheckOptions { data: request.data, digests: request.digests, ..CheckOptions::default() };
    let bar = Bar::new(request.verbosity == 0, "checking");
    let report = check::check(&request.files, &options, 0, &bar)?;
    drop(bar);
    for finding in &report.findings {
        let wanted = match finding.severity {
            Severity::Error => true,
            Severity::Warning => request.verbosity > 0,
            Severity::Info => request.verbosity > 2,
        };
        if wanted {
            eprintln!("fsck.erofs: {finding}");
        }
    }
    if !report.is_clean() {
        eprintln!("fsck.erofs: Found some filesystem corruption");
    }
    Ok(report.is_clean())
}

/// Unpacks; whether all went well.
fn unpack(request: &Request, target: &Path) -> anyhow::Result<bool> {
    let is_root = std::path::absolute(target).is_ok_and(|path| path.parent().is_none());
    if is_root && !request.force {
        return Err(usage(Tool::Fsck, "unpacking into / needs --force"));
    }
    let image = Arc::new(request.files.open_whole()?);
    let engine = ferrofs_check::engine(Arc::clone(&image), 64 << 20);
    let bar = Bar::new(request.verbosity == 0, "extracting");
    let cancel = Some(crate::interrupt::watch());
    let context = Context { workers: 0, progress: Some(&bar), cancel };
    let report = ferrofs_check::extract(&engine, target, &request.extract, context)?;
    drop(bar);
    extract::print_problems(&report);
    if !report.is_clean() {
        eprintln!("fsck.erofs: Failed to extract filesystem");
    }
    Ok(report.is_clean())
}

/// Bytes of the image against bytes of its files.
fn ratio(files: &ImageFiles) -> anyhow::Result<()> {
    let image = files.open_whole()?;
    let statistics = ferrofs_check::statistics(&image, Context::default())?;
    println!("Compression ratio: {:.2}(%)", 100.0 / statistics.ratio());
    Ok(())
}
