// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `share`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Look at mounts that share memory
///
/// Images that are mounted with `ferrofs mount --share DOMAIN` hold equal files in memory once. Images
/// of one domain trust each other not to spy; none can make another's users read wrong bytes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs mount --share web nginx-1.erofs /srv/one
  ferrofs mount --share web nginx-2.erofs /srv/two
  ferrofs share stat web
  ferrofs share estimate nginx-1.erofs nginx-2.erofs")]
pub(crate) struct ShareArgs {
    #[command(subcommand)]
    pub(crate) command: ShareCommand,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ShareCommand {
    Estimate(EstimateArgs),
    /// List domains and their images
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Where contents are stored [default: /var/lib/ferrofs/share]
        #[arg(long, value_name = "FOLDER")]
        share_dir: Option<PathBuf>,
    },
    /// Show what the images of a domain share
    Stat {
        /// The domain
        domain: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Where contents are stored [default: /var/lib/ferrofs/share]
        #[arg(long, value_name = "FOLDER")]
        share_dir: Option<PathBuf>,
    },
    /// Unmount content stores (--share-by overlay) that no mounted image uses; their caches go
    Prune {
        /// The domain
        domain: String,
        /// Where contents are stored [default: /var/lib/ferrofs/share]
        #[arg(long, value_name = "FOLDER")]
        share_dir: Option<PathBuf>,
    },
    /// Remove an image from a content store (--share-by overlay), with what no other image uses
    Rm {
        /// The domain
        domain: String,
        /// The image, as it was mounted
        image: PathBuf,
        /// Where contents are stored [default: /var/lib/ferrofs/share]
        #[arg(long, value_name = "FOLDER")]
        share_dir: Option<PathBuf>,
    },
    /// End a domain of which nothing is mounted; its caches go. If its server was killed, remove what it
    /// has left: mounts that give errors only, and its folder
    Stop {
        /// The domain
        domain: String,
    },
}

/// Predict what sharing would save, without mounting
///
/// Reads all files of the images, one image after the other, and counts what of each is new: in whole
/// files, in pages of 4 KiB, in chunks of 64 KiB, and in content-defined chunks of 4, 16 and 64 KiB
/// on average.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs share estimate old.erofs new.erofs
  ferrofs share estimate old.erofs new.erofs --html sharing.html
  ferrofs share estimate --json v1.erofs v2.erofs /a/directory | jq '.methods[].saved_percent'")]
pub(crate) struct EstimateArgs {
    /// Images or directories, in the order in which they come
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,

    /// Believe inode digests: a file with size and digest of one that was read is not read
    #[arg(long)]
    pub(crate) trust_digests: bool,

    /// Threads [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) workers: usize,

    /// Write one self-contained page with a chart; `-` is the standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub(crate) html: Option<PathBuf>,

    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
