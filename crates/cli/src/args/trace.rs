// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `trace`, and those of `mount` about what is fetched before it is asked for.

use super::look::PlaceArgs;
use super::network::{DevicePinArgs, DeviceUrlArgs, NetworkArgs};
use crate::size;
use clap::{Args, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// What a lazy mount fetches before it is asked for, and what it learns.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Prefetching, of images that are read on demand")]
pub(crate) struct AheadArgs {
    /// What is fetched in the background: nothing; the beginning of the metadata [default]; or in the
    /// end everything
    #[arg(long, value_name = "WHAT")]
    pub(crate) prefetch: Option<PrefetchArg>,

    /// Fetch the files that are named in this file, and what is below the directories; a path in the
    /// image on each line
    #[arg(long, value_name = "FILE")]
    pub(crate) prefetch_list: Option<PathBuf>,

    /// Most bytes a second that are fetched while nobody waits for them
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) prefetch_bandwidth: Option<u64>,

    /// Fetch what this trace tells, in its order: a file, a URL, `auto` (the one beside the image,
    /// IMAGE.trace, or attached to it in its registry, if there is one) or `none` [default: auto]
    #[arg(long, value_name = "FILE|URL|auto|none")]
    pub(crate) trace: Option<OsString>,

    /// Record what is read, in its order, and merge it into this trace when the image is unmounted
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// What is fetched in the background.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PrefetchArg {
    None,
    Metadata,
    All,
}

/// How an image that is read on demand is got.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Where the image is and how it is believed (see `ferrofs mount`)")]
pub(crate) struct SourceArgs {
    /// Where what was fetched is kept
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Most bytes on disk that it may take
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) cache_dir_max: Option<u64>,

    /// The pin of the image's digest table
    #[arg(long, value_name = "blake3:HEX")]
    pub(crate) pin: Option<String>,

    #[command(flatten)]
    pub(crate) device_pins: DevicePinArgs,

    /// Where the image's table is
    #[arg(long, value_name = "URL")]
    pub(crate) digests: Option<String>,

    /// Believe what has no digest table, and registries without encryption
    #[arg(long)]
    pub(crate) insecure: bool,

    /// Another place of the image, asked first; repeat it
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Vec<String>,

    /// Most bytes a second that are fetched
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bandwidth: Option<u64>,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Learn which parts of an image a program reads first, and use that
///
/// A trace is a text: the parts of an image's blobs in the order in which they were first read. It
/// is made by `record` or `ferrofs mount --record`, and used by mounts (--trace), by `replay` and by
/// `ferrofs build --order`. Kept beside an image as IMAGE.trace, or attached to it in a registry,
/// mounts find it themselves.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs trace record --pin PIN https://example.org/app.erofs -o app.erofs.trace -- {}/bin/app
  ferrofs trace show app.erofs.trace
  ferrofs trace replay app.erofs.trace --pin PIN https://example.org/app.erofs
  ferrofs trace attach app.erofs.trace oci://example.org/app:v1
  ferrofs build DIR -o app2.erofs --order app.erofs.trace --order-image app.erofs")]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

/// What to do with traces.
#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Mount an image, run a program on it, and write what was read
    ///
    /// The image is mounted in a folder of its own, which replaces {} in the words of the program and
    /// is FERROFS_MOUNT in its environment. A trace that is there is merged. The exit code is that of
    /// the program.
    Record {
        /// The image: a URL, as for `ferrofs mount`
        url: String,

        /// The trace
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,

        #[command(flatten)]
        devices: DeviceUrlArgs,

        #[command(flatten)]
        source: SourceArgs,

        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Fetch what a trace tells into the cache, without mounting
    Replay {
        /// A file, a URL, or `auto`: the one that is kept with the image
        #[arg(value_name = "TRACE")]
        trace: OsString,

        /// The image: a URL
        url: String,

        #[command(flatten)]
        devices: DeviceUrlArgs,

        #[command(flatten)]
        source: SourceArgs,

        /// Then fetch all the rest
        #[arg(long)]
        all: bool,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is in a trace
    Show {
        /// The trace
        trace: PathBuf,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make one trace of several
    Merge {
        /// The traces
        #[arg(required = true)]
        traces: Vec<PathBuf>,

        /// The trace to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,

        /// Leave out what fewer runs have read
        #[arg(long, value_name = "N", default_value_t = 1)]
        runs_min: u32,
    },
    /// Attach a trace to an image in a registry or an image layout, where mounts find it
    #[command(alias = "push")]
    Attach {
        /// The trace
        trace: PathBuf,

        /// The image: oci://..., or file:///FOLDER[:NAME] of an OCI image layout
        url: String,

        /// Talk to the registry without encryption
        #[arg(long)]
        insecure: bool,

        #[command(flatten)]
        network: NetworkArgs,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the files that a trace has read, in its order: what `ferrofs build --order` lays out
    Files {
        /// The trace
        trace: PathBuf,

        /// The image that was read: a file or a URL
        image: PathBuf,

        #[command(flatten)]
        place: PlaceArgs,

        #[command(flatten)]
        source: SourceArgs,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
