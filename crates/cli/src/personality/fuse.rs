// SPDX-License-Identifier: MIT OR Apache-2.0
//! `erofsfuse`.
//!
//! Returns when the mount is there, with 0; what is wrong, unknown options among it, is 1 (erofs-utils
//! has 0 for those and mounts nothing).

use super::getopt::{self, Item, Spec, Value, number};
use super::{Tool, VERSION, unsupported, usage};
use crate::commands::mount::{Running, mount};
use ferrofs_serve::{ImageFiles, MountMethod, MountOptions, MountSpec};
use std::ffi::OsString;
use std::path::PathBuf;

const SPECS: &[Spec] = &[
    ("h", Value::None),
    ("help", Value::None),
    ("V", Value::None),
    ("version", Value::None),
    ("d", Value::None),
    ("f", Value::None),
    ("s", Value::None),
    ("o", Value::Required),
    ("offset", Value::Required),
    ("dbglevel", Value::Required),
    ("device", Value::Required),
];

const HELP: &str = "\
Usage: erofsfuse [OPTIONS] IMAGE MOUNTPOINT
Mounts an EROFS image by FUSE. This is ferrofs with the options of erofs-utils 1.9.3.

    --offset=#          the image begins # bytes into its file
    --dbglevel=#        how much to print
    --device=X          an extra device of the image; may be repeated
 -h, --help             show this
 -V, --version          show the version
 -d                     print more, stay in the foreground
 -f                     stay in the foreground
 -s                     one thread only
 -o OPTION[,...]        ro, nosuid, suid, nodev, dev, noexec, allow_other, clone_fd, max_threads=#,
                        max_read=#, fsname=X, subtype=X; of ferrofs: cache=#, cache_strategy=X,
                        sync_decompress=X, [no]readmore, psi and others (see `ferrofs mount --help`)
";

pub(super) fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let items = getopt::parse(SPECS, words).map_err(|text| usage(Tool::Fuse, text))?;
    // It mounts what has a superblock; whatever else is wrong is an error of who looks there.
    let mut files = ImageFiles { ignore_root: true, ..ImageFiles::default() };
    let mut options = MountOptions::default();
    // As with libfuse, others get in only if that is asked for.
    options.fuse.allow_other = Some(false);
    options.fuse.subtype = Some(String::from("erofsfuse"));
    let mut running =
        Running { program: "erofsfuse", foreground: false, quiet: true, verbose: false, log: None };
    let mut operands: Vec<PathBuf> = Vec::new();
    let bad = |message: String| usage(Tool::Fuse, message);
    for item in &items {
        let (name, value) = match item {
            Item::Operand(word) => {
                operands.push(word.into());
                continue;
            }
            Item::Option(name, value) => (*name, value.as_deref()),
        };
        match name {
            "h" | "help" => {
                print!("{HELP}");
                return Ok(0);
            }
            "V" | "version" => {
                Tool::Fuse.print_version("decompressors");
                return Ok(0);
            }
            "f" => running.foreground = true,
            "d" => (running.foreground, running.quiet, running.verbose) = (true, false, true),
            "s" => options.fuse.threads_max = Some(1),
            "o" if value.is_some_and(|value| value == "debug") => {
                (running.foreground, running.quiet, running.verbose) = (true, false, true);
            }
            "o" => options.add(value.unwrap_or_default())?,
            "offset" => {
                let offset = number(name, value).map_err(bad)?;
                files.offset =
                    u64::try_from(offset).map_err(|_| bad(String::from("--offset: below 0")))?;
            }
            "dbglevel" => running.quiet = number(name, value).map_err(bad)? <= 2,
            "device" => files.devices.push(value.unwrap_or_default().into()),
            other => return Err(unsupported(&getopt::dashed(other))),
        }
    }
    let Ok([image, target]) = <[PathBuf; 2]>::try_from(operands) else {
        return Err(usage(Tool::Fuse, "there must be two arguments: IMAGE MOUNTPOINT"));
    };
    files.image = image;
    println!("erofsfuse {VERSION}");
    mount(
        MountSpec { files, target, method: MountMethod::Fuse, options, ..MountSpec::default() },
        &running,
    )
}
