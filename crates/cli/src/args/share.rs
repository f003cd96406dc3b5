// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `share`.

use clap::{Args, Subcommand};

/// Look at mounts that share memory
///
/// Images that are mounted with `ferrofs mount --share DOMAIN` hold equal files in memory once. Images
/// of one domain trust each other not to spy; none can make another's users read wrong bytes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs mount --share web nginx-1.erofs /srv/one
  ferrofs mount --share web nginx-2.erofs /srv/two
  ferrofs share stat web")]
pub(crate) struct ShareArgs {
    #[command(subcommand)]
    pub(crate) command: ShareCommand,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ShareCommand {
    /// List domains and their images
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what the images of a domain share
    Stat {
        /// The domain
        domain: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a domain of which nothing is mounted; its caches go
    Stop {
        /// The domain
        domain: String,
    },
}
