// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `cache` and `digests`.

use super::network::NetworkArgs;
use crate::size;
use clap::{Args, Subcommand, ValueEnum};
use ferrofs_store::Pin;
use std::path::PathBuf;

/// Look at what lazy mounts have fetched and kept; check and tidy it
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs cache ls
  ferrofs cache verify
  ferrofs cache prune 10G

A blob is named as `ls` shows it, or by the first digits of its name.
Exit codes: 0 all is well; 1 it could not be done; 4 verify or scrub found wrong bytes.")]
pub(crate) struct CacheArgs {
    /// The cache's folder [default: /var/cache/ferrofs, or ferrofs in the user's cache]
    #[arg(long, value_name = "FOLDER", global = true)]
    pub(crate) cache_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the blobs
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of a blob
    Stat {
        /// The blob
        blob: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show which parts of a blob are there
    Map {
        /// The blob
        blob: String,
        /// Write one self-contained page with a picture; `-` is the standard output
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        html: Option<PathBuf>,
        /// Print the ranges as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare what is there with the digest tables
    Verify {
        /// The blobs; all if none is named
        blobs: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Verify, and drop what is wrong: it is fetched again when it is read
    Scrub {
        /// The blobs; all if none is named
        blobs: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what was not used for longest and is not in use
    Prune {
        /// How many bytes are to be freed [default: all that may go]
        #[arg(value_parser = size::parse)]
        bytes: Option<u64>,
    },
    /// Keep blobs from being removed to make room
    Pin {
        /// The blobs
        #[arg(required = true)]
        blobs: Vec<String>,
    },
    /// Let them be removed again
    Unpin {
        /// The blobs
        #[arg(required = true)]
        blobs: Vec<String>,
    },
    /// Remove blobs that nobody uses
    Rm {
        /// The blobs
        #[arg(required = true)]
        blobs: Vec<String>,
    },
}

/// Write the digest tables by which images are verified while they are fetched
///
/// The table of IMAGE is IMAGE.digests; of an image at a URL, a file of its name with .digests in this
/// directory, to be put beside it. The pin, which is printed, stands for all of the image: give
/// it to `ferrofs mount --pin`. Behind the table lies a compressed copy of the image's metadata, which
/// mounts take instead of the metadata itself.
///
/// A URL is read once from its first to its last byte, and the table tells what its server has sent. It
/// does not tell that this was right: make tables where images are made, or compare by --check with a
/// pin that you have from there.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs digests image.erofs
  ferrofs digests --check blake3:HEX image.erofs
  ferrofs digests --check blake3:HEX https://example.org/image.erofs")]
pub(crate) struct DigestsArgs {
    /// Images, or blobs of images: files, or http://, https://, s3://, file:// and oci:// URLs
    #[arg(required = true, value_name = "FILE|URL")]
    pub(crate) files: Vec<PathBuf>,

    /// The digests' algorithm
    #[arg(long, value_name = "NAME", default_value = "blake3")]
    pub(crate) algorithm: AlgorithmArg,

    /// Write nothing; fail if a file's pin is another
    #[arg(long, value_name = "PIN", conflicts_with = "algorithm")]
    pub(crate) check: Option<Pin>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Names of algorithms.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AlgorithmArg {
    Blake3,
    Sha256,
}
