// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `ctl` and `top`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Look at a running mount and change it
///
/// Works for mounts by FUSE through their server, and for mounts by the kernel as far as the kernel
/// lets them be changed. Only who has mounted and root may.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs ctl /mnt stats --json
  ferrofs ctl /mnt set cache_strategy=split cache=256M
  ferrofs ctl /mnt set cache_strategy=disabled on_change=flush
  ferrofs ctl /mnt drop-caches 3
  ferrofs ctl /mnt prefetch /usr/bin /usr/lib/libc.so
  ferrofs ctl /mnt prefetch --all
  ferrofs ctl /mnt inject read-error,probability=0.01 --file /etc/passwd
  ferrofs ctl /mnt inject --clear")]
pub(crate) struct CtlArgs {
    /// Where it is mounted; any path in it will do
    pub(crate) mount: PathBuf,

    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// Show what it has done: counters, caches, latencies
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the settings in force
    Get {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Change settings, all of those given or none
    #[command(after_help = "Settings: cache_strategy=disabled|readahead|readaround|split, \
cache_rule=current|original, cache=SIZE, sync_decompress=auto|always|never, sync_bytes=SIZE, \
readmore=on|off, merge=SIZE (see `ferrofs mount --help`), and beside cache_strategy \
on_change=keep|flush|refuse: what becomes of compressed data that is in memory [keep].

A mount by the kernel has cache_strategy (without split) and sync_decompress.")]
    Set {
        /// Settings
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Drop what is cached, numbered as the kernel does
    #[command(alias = "drop_caches")]
    DropCaches {
        /// 1: compressed data; 2: decoded data; 3: both
        #[arg(value_name = "1|2|3", value_parser = clap::value_parser!(u8).range(1..=3))]
        what: u8,
    },
    /// Let something go wrong, to see what comes of it
    #[command(after_help = "FAULT is read-error, short-read, no-memory, delay=MILLISECONDSms or \
decode, then any of nth=N (at the n-th occasion, once), probability=P, device=N, nid=N, with commas \
between. Without nth and probability it happens always.")]
    Inject {
        /// What, when and where
        #[arg(required_unless_present = "clear", conflicts_with = "clear")]
        fault: Option<String>,

        /// Only for this file, a path inside the image
        #[arg(long, value_name = "PATH", conflicts_with = "clear")]
        file: Option<PathBuf>,

        /// Nothing goes wrong any more
        #[arg(long)]
        clear: bool,
    },
    /// Decode files into memory in the background, as much as fits; of images that are read on demand,
    /// fetch what is stored of them. How far that is, `stats` tells
    Prefetch {
        /// Files and directories: paths inside the image, from its root
        #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "PATH")]
        paths: Vec<PathBuf>,

        /// Fetch all of an image that is read on demand
        #[arg(long)]
        all: bool,
    },
    /// Print all counters in Prometheus' text format
    Metrics,
}

/// Watch a running mount
///
/// Shows rates, latencies and how full the caches are, again and again. q ends it. Without a terminal
/// it prints a block of lines each time.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs top /mnt
  ferrofs top --once /mnt
  ferrofs top --interval 5 /mnt >> log")]
pub(crate) struct TopArgs {
    /// Where it is mounted; any path in it will do
    pub(crate) mount: PathBuf,

    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: f64,

    /// Look once: rates are those since it was mounted
    #[arg(long)]
    pub(crate) once: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let number = number.filter(|number| (0.1..=86400.0).contains(number));
    number.ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 86400"))
}
