// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mkfs.erofs`.

mod options;

use super::getopt::{self, Item};
use super::{Tool, VERSION, usage};
use crate::commands::build::{Built, tell_omitted};
use crate::output::uuid_text;
use crate::progress::Bar;
use options::{Request, SPECS};
use std::ffi::OsString;

const HELP: &str = "\
Usage: mkfs.erofs [OPTIONS] IMAGE SOURCE
Builds an EROFS image of the directory SOURCE. This is ferrofs with the options of erofs-utils 1.9.3;
those that it knows but cannot do yet are refused by name: use mkfs.erofs of erofs-utils for them.

 -V, --version          show the version
 -h, --help             show this
 -b#                    block size of # bytes (default 4096)
 -d<0-9>                how much to print: 0 nothing, 2 a summary (default)
 -x#                    store xattrs once that more than # inodes have (default 2; below 0: no xattrs)
 -zX[,level=Y][,dictsize=Z]
                        compress by lz4, lz4hc, lzma, deflate, libdeflate or zstd
 -C#                    size of compressed clusters in bytes, up to 1M
 -EX[,...]              extended options, ^X turns X off:
                          legacy-compress, force-inode-compact, force-inode-extended,
                          force-inode-blockmap, force-chunk-indexes, inline_data, noinline_data,
                          nosbcrc, xattr-name-filter, plain-xattr-prefixes
 -L label               volume name of at most 15 bytes
 -T#                    time of the build and of all files, in seconds since 1970
    --all-time          -T is for all files, too (default)
    --mkfs-time         -T is for the time of the build only
 -UX                    UUID: one, `clear` or `random`
    --all-root          everything belongs to root
    --blobdev=X         put the data of chunks into the file X
    --chunksize=#       store files as chunks of # bytes
    --compress-hints=X  sizes of compressed clusters for files by pattern
    --exclude-path=X    leave out the path X
    --exclude-regex=X   leave out paths that the expression X matches
    --force-uid=#       everything belongs to the user #
    --force-gid=#       everything belongs to the group #
    --uid-offset=#      add # to all user ids
    --gid-offset=#      add # to all group ids
    --hard-dereference  make hard links files of their own
    --ignore-mtime      use the time of the build for all files
    --preserve-mtime    keep the times of files (default)
    --quiet             print nothing
    --workers=#         threads that compress
    --xattr-prefix=X    store the beginning X of xattr names once
SOURCE_DATE_EPOCH in the environment sets the time of the build; later times of files become it.
";

pub(super) fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let items = getopt::parse(SPECS, words).map_err(|text| usage(Tool::Mkfs, text))?;
    for item in &items {
        match item {
            Item::Option("h" | "help", _) => {
                print!("{HELP}");
                return Ok(0);
            }
            Item::Option("V" | "version", _) => {
                Tool::Mkfs.print_version("compressors");
                return Ok(0);
            }
            _ => {}
        }
    }
    let request = Request::new(&items)?;
    let quiet = request.verbosity == 0;
    let block_size = request.job.options.block_bits.size();
    if !quiet {
        println!("mkfs.erofs {VERSION} (ferrofs {})", env!("CARGO_PKG_VERSION"));
    }
    let mut bar = Bar::new(quiet, "walking");
    let built = request.job.run((b"", None), &mut bar)?;
    drop(bar);
    if !quiet {
        tell(&built, block_size);
        tell_omitted(&built.walk);
    }
    Ok(0)
}

/// The summary in the words of mkfs.erofs.
fn tell(built: &Built, block_size: u32) {
    let report = &built.report;
    let blocks = |bytes: u64| bytes.div_ceil(block_size.into());
    println!("Build completed.\n\n------");
    println!("Filesystem UUID: {}", uuid_text(&report.uuid));
    println!(
        "Filesystem total blocks: {} (of {block_size}-byte blocks)",
        blocks(report.image_bytes)
    );
    println!("Filesystem total inodes: {}", report.inodes);
    println!("Filesystem total metadata blocks: {}", blocks(report.metadata_bytes));
    println!(
        "Filesystem total deduplicated bytes (of source files): {}",
        report.deduplicated_bytes
    );
}
