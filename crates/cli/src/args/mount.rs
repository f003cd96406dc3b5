// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `mount` and `umount`.

use super::look::ImageArgs;
use crate::size;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Mount an image
///
/// The kernel mounts it if it can; else a FUSE server of ours does, which goes to the background. What
/// was chosen, and why, is said on the standard error.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs mount image.erofs /mnt
  ferrofs mount --fuse --foreground --cache 256M image.erofs /mnt
  ferrofs mount --device data.blob image.erofs /mnt
  ferrofs mount -o nosuid,nodev,cache_strategy=readahead image.erofs /mnt

A FUSE server unmounts when it gets SIGINT, SIGTERM or SIGHUP.")]
pub(crate) struct MountArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The directory to mount on
    pub(crate) target: PathBuf,

    /// By the kernel or not at all
    #[arg(long, conflicts_with = "fuse")]
    pub(crate) kernel: bool,

    /// By FUSE, even if the kernel could
    #[arg(long)]
    pub(crate) fuse: bool,

    /// Serve FUSE in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,

    /// Mount options, separated by commas: those of mount(8) and of the kernel's EROFS
    #[arg(short, long = "options", value_name = "OPTIONS")]
    pub(crate) options: Vec<OsString>,

    /// Memory of the FUSE server for decoded data [default: 1/16 of the machine's, 64M to 1G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) cache: Option<u64>,

    /// Most threads of the FUSE server
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Let other users use a FUSE mount [default: if root mounts]
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// Do not say what was chosen
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Unmount an image
///
/// FUSE mounts can be unmounted by whoever mounted them.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  ferrofs umount /mnt")]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    #[arg(required = true)]
    pub(crate) targets: Vec<PathBuf>,

    /// Detach it even if it is in use; it ends with its last user
    #[arg(short, long)]
    pub(crate) lazy: bool,
}
