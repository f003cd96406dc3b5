// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mount.erofs`: called by mount(8), or by hand.
//!
//! mount(8) calls a helper as `mount.TYPE SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.

use super::getopt::{self, Item, Spec, Value};
use super::{Tool, unsupported, usage};
use crate::commands::mount::{Running, mount};
use anyhow::Context;
use ferrofs_serve::{ImageFiles, MountMethod, MountOptions, MountSpec};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

const SPECS: &[Spec] = &[
    ("h", Value::None),
    ("help", Value::None),
    ("V", Value::None),
    ("version", Value::None),
    ("f", Value::None),
    ("n", Value::None),
    ("N", Value::Required),
    ("o", Value::Required),
    ("s", Value::None),
    ("t", Value::Required),
    ("u", Value::None),
    ("v", Value::None),
    ("d", Value::Required),
    ("reattach", Value::None),
    ("disconnect", Value::None),
];

const HELP: &str = "\
Usage: mount.erofs [OPTIONS] SOURCE DIR
       mount.erofs -u DIR
Mounts an EROFS image. This is ferrofs with the options of erofs-utils 1.9.3.

 -h, --help             show this
 -V, --version          show the version
 -t erofs[.TYPE]        erofs: by the kernel if possible, else by FUSE; erofs.local: by the kernel;
                        erofs.fuse: by FUSE
 -o OPTION[,...]        options of mount(8), of the kernel's EROFS and of the FUSE server
 -u                     unmount
 -f                     try everything but mounting
 -n                     nothing: there is no mtab to leave alone
 -s                     pass over options that are not known
 -v                     say how it was mounted
 -N NAMESPACE           mount in another mount namespace: a process id or a file
";

pub(super) fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let items = getopt::parse(SPECS, words).map_err(|text| usage(Tool::Mount, text))?;
    let mut spec = MountSpec::default();
    let mut running = Running {
        program: "mount.erofs",
        foreground: false,
        quiet: true,
        verbose: false,
        log: None,
    };
    let (mut unmount, mut fake, mut sloppy) = (false, false, false);
    let mut namespace = None;
    let mut texts: Vec<OsString> = Vec::new();
    let mut operands: Vec<PathBuf> = Vec::new();
    for item in &items {
        let (name, value) = match item {
            Item::Operand(word) => {
                operands.push(word.into());
                continue;
            }
            Item::Option(name, value) => (*name, value.clone().unwrap_or_default()),
        };
        match name {
            "h" | "help" => {
                print!("{HELP}");
                return Ok(0);
            }
            "V" | "version" => {
                Tool::Mount.print_version("decompressors");
                return Ok(0);
            }
            "f" => fake = true,
            "n" | "d" => {}
            "N" => namespace = Some(value),
            "o" => texts.push(value),
            "s" => sloppy = true,
            "t" => spec.method = method(&value)?,
            "u" => unmount = true,
            "v" => running.quiet = false,
            other => return Err(unsupported(&getopt::dashed(other))),
        }
    }
    for operand in &mut operands {
        // Entering a namespace changes the working directory.
        *operand = std::path::absolute(&*operand)?;
    }
    if let Some(namespace) = namespace {
        enter(&namespace)?;
    }
    if unmount {
        let Ok([target]) = <[PathBuf; 1]>::try_from(operands) else {
            return Err(usage(Tool::Mount, "there must be one argument: DIR"));
        };
        ferrofs_serve::unmount(&target, false)?;
        return Ok(0);
    }
    let Ok([image, target]) = <[PathBuf; 2]>::try_from(operands) else {
        return Err(usage(Tool::Mount, "there must be two arguments: SOURCE DIR"));
    };
    (spec.files, spec.target) = (ImageFiles::new(image), target);
    for text in &texts {
        add(&mut spec.options, text, sloppy)?;
    }
    if fake {
        // All that can be known without mounting.
        ferrofs_linux::check_target(&spec.target)?;
        spec.files.devices.append(&mut spec.options.devices);
        spec.files.offset = spec.options.offset.unwrap_or(0);
        spec.files.open_whole()?;
        return Ok(0);
    }
    mount(spec, &running)
}

fn method(kind: &OsStr) -> anyhow::Result<MountMethod> {
    Ok(match kind.to_str() {
        Some("erofs" | "erofs.ferrofs") => MountMethod::Auto,
        Some("erofs.local") => MountMethod::Kernel,
        Some("erofs.fuse") => MountMethod::Fuse,
        Some(known @ ("erofs.nbd" | "erofs.ublk" | "erofs.fanotify")) => {
            return Err(unsupported(&format!("-t {known}")));
        }
        _ => return Err(usage(Tool::Mount, format!("unknown type {}", kind.display()))),
    })
}

/// Adds options; with `sloppy` those that are not known are passed over.
fn add(options: &mut MountOptions, text: &OsStr, sloppy: bool) -> anyhow::Result<()> {
    for part in text.as_bytes().split(|&byte| byte == b',').filter(|part| !part.is_empty()) {
        if part.starts_with(b"oci.") || part.starts_with(b"s3.") {
            return Err(unsupported(&format!("-o {}", String::from_utf8_lossy(part))));
        }
        match options.add(&OsString::from_vec(part.to_vec())) {
            Err(_) if sloppy => {}
            other => other?,
        }
    }
    Ok(())
}

/// Goes to another mount namespace, named by a process or a file.
fn enter(namespace: &OsStr) -> anyhow::Result<()> {
    let is_number = namespace.as_bytes().iter().all(u8::is_ascii_digit);
    let path = if is_number {
        PathBuf::from("/proc").join(namespace).join("ns/mnt")
    } else {
        PathBuf::from(namespace)
    };
    let context = || format!("cannot enter the mount namespace {}", path.display());
    let file = std::fs::File::open(&path).with_context(context)?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
        .with_context(context)
}
