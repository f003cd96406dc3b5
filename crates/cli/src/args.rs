// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: names, values and help texts. No logic.

mod build;
mod cache;
mod cached;
mod ctl;
mod look;
mod mount;
mod network;
mod share;
mod trace;

pub(crate) use build::{BuildArgs, ChunkEntriesArg, InodesArg};
pub(crate) use cache::{AlgorithmArg, CacheArgs, CacheCommand, DigestsArgs};
pub(crate) use cached::CachedArgs;
pub(crate) use ctl::{CtlArgs, CtlCommand, TopArgs};
pub(crate) use look::{
    CatArgs, CheckArgs, DiffArgs, DumpArgs, ExtractArgs, ImageArgs, InspectArgs, LsArgs, PlaceArgs,
    StatArgs,
};
pub(crate) use mount::{Method, MountArgs, ShareBy, UmountArgs};
pub(crate) use network::{DevicePinArgs, NetworkArgs};
pub(crate) use share::{EstimateArgs, ShareArgs, ShareCommand};
pub(crate) use trace::{AheadArgs, PrefetchArg, SourceArgs, TraceArgs, TraceCommand};

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Builds, checks, reads and mounts EROFS images.
///
/// Called by one of the names mkfs.erofs, fsck.erofs, dump.erofs, erofsfuse or mount.erofs (through a
/// symbolic link, say) it takes the options of that program.
#[derive(Debug, Parser)]
#[command(
    name = "ferrofs",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Examples:
  ferrofs build /usr/share/doc -o doc.erofs --compress zstd,9 --pcluster-size 64K
  ferrofs check doc.erofs
  ferrofs mount doc.erofs /mnt
  ferrofs umount /mnt

Exit codes: 0 all went well; 1 it did not, or the command line is wrong. `check` has the codes of
fsck(8), `diff` those of diff(1); see their help."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(Box<BuildArgs>),
    Check(CheckArgs),
    Extract(ExtractArgs),
    Ls(LsArgs),
    Cat(CatArgs),
    Stat(StatArgs),
    Dump(DumpArgs),
    Inspect(InspectArgs),
    Diff(DiffArgs),
    Share(ShareArgs),
    Mount(Box<MountArgs>),
    Umount(UmountArgs),
    Cache(CacheArgs),
    Digests(DigestsArgs),
    Trace(TraceArgs),
    Cached(Box<CachedArgs>),
    Ctl(CtlArgs),
    Top(TopArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  ferrofs completions bash > /etc/bash_completion.d/ferrofs")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    #[command(after_help = "Example:
  ferrofs man /usr/local/share/man/man1")]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

impl Command {
    /// The exit code when it could not be done.
    pub(crate) const fn failure_code(&self) -> u8 {
        match self {
            Self::Check(_) => 8,
            Self::Diff(_) => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
