// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of the commands that look into images.

use crate::size;
use clap::Args;
use std::path::PathBuf;

/// An image and where its parts lie.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// The image: a file or block device
    pub(crate) image: PathBuf,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Where the parts of an image lie.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlaceArgs {
    /// The image begins this many bytes into its file
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    pub(crate) offset: u64,

    /// An extra device of the image; repeat it in the order of the image's device table. Of an image at
    /// a URL it is a URL, too, and needed only for those that are not found by their tags
    #[arg(long, value_name = "FILE")]
    pub(crate) device: Vec<PathBuf>,

    /// Open the image even if the checksum of its superblock is wrong
    #[arg(long)]
    pub(crate) ignore_checksum: bool,
}

/// Check that all of an image is as it should be
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs check image.erofs
  ferrofs check --json image.erofs | jq '.findings[].code'

Exit codes, as of fsck(8): 0 no errors; 4 errors were found (images are never changed);
8 the check could not be done; 16 the command line is wrong.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// Check the structure only; do not decode the content of files
    #[arg(long)]
    pub(crate) no_data: bool,

    /// Compare content with the digests that the image stores, if it does
    #[arg(long)]
    pub(crate) digests: bool,

    /// Threads [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) workers: usize,

    /// No progress bar, and nothing if all is well
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Unpack an image, or a part of it
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs extract image.erofs -C DIR
  ferrofs extract image.erofs -C DIR --path /usr/share --workers 2

Owners are restored if root extracts. A file that cannot be read completely is removed and reported,
and the rest is done; the exit code is 1 then.")]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The directory to unpack into; made if it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,

    /// Unpack only this path of the image, and what is below it
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,

    /// With --path: make its parent directories, too
    #[arg(long, requires = "path")]
    pub(crate) full_path: bool,

    /// Replace files that exist
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Restore owners even if that needs rights which are not there
    #[arg(long, conflicts_with = "no_owners")]
    pub(crate) owners: bool,

    /// Do not restore owners
    #[arg(long)]
    pub(crate) no_owners: bool,

    /// Do not restore permissions
    #[arg(long)]
    pub(crate) no_permissions: bool,

    /// Do not restore extended attributes
    #[arg(long)]
    pub(crate) no_xattrs: bool,

    /// Do not restore modification times
    #[arg(long)]
    pub(crate) no_times: bool,

    /// End at the first error
    #[arg(long)]
    pub(crate) stop_on_error: bool,

    /// Keep files that cannot be read completely
    #[arg(long)]
    pub(crate) keep_broken: bool,

    /// Refuse to write more than this
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size_max: Option<u64>,

    /// Threads [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) workers: usize,

    /// Memory for decoded data
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64M")]
    pub(crate) memory: u64,

    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print what was done as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List a directory of an image
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs ls image.erofs /etc
  ferrofs ls -lR image.erofs")]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The directory or file
    #[arg(default_value = "/")]
    pub(crate) path: PathBuf,

    /// Show types, permissions, links, owners, sizes and times
    #[arg(short, long)]
    pub(crate) long: bool,

    /// Show all that is below, by full paths
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,

    /// Print JSON: an array with an object for each entry
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print the content of files of an image
#[derive(Args, Debug)]
#[command(after_help = "Example:
  ferrofs cat image.erofs /etc/os-release")]
pub(crate) struct CatArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The files
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
}

/// Show all that an image says about files
#[derive(Args, Debug)]
#[command(after_help = "Example:
  ferrofs stat image.erofs /bin /etc/passwd")]
pub(crate) struct StatArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The files
    #[arg(default_value = "/")]
    pub(crate) paths: Vec<PathBuf>,

    /// Print JSON: an array with an object for each file
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the superblock, statistics, or where files lie
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs dump image.erofs
  ferrofs dump --statistics image.erofs
  ferrofs dump --extents /usr/bin/bash image.erofs

Without any of the three options the superblock is shown.")]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// Show the superblock, the compression records and the device table
    #[arg(short, long)]
    pub(crate) superblock: bool,

    /// Count files by type, layout and size
    #[arg(short = 'S', long)]
    pub(crate) statistics: bool,

    /// Show the extents of this file; may be repeated
    #[arg(short, long, value_name = "PATH")]
    pub(crate) extents: Vec<PathBuf>,

    /// Threads for statistics [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) workers: usize,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show where the bytes of an image went
///
/// What the entries of the root, the kinds of names and the largest files take, and what lies where
/// on the devices. A cluster that several files use is counted with the first of them. What is there
/// of an image that is read on demand: `ferrofs cache map`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs inspect image.erofs
  ferrofs inspect image.erofs --html image.html
  ferrofs inspect --html both.html old.erofs new.erofs")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// Further images or directories: the page shows in addition what all of them would save by sharing
    /// memory, as `ferrofs share estimate` does
    #[arg(value_name = "OTHER", requires = "html")]
    pub(crate) others: Vec<PathBuf>,

    /// Write one self-contained page; `-` is the standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub(crate) html: Option<PathBuf>,

    /// Cells that each device is cut into for its map, at most
    #[arg(long, value_name = "N", default_value_t = 3072,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) cells: u64,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compare two images, or an image and a directory
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs diff old.erofs new.erofs
  ferrofs diff image.erofs /source

Exit codes, as of diff(1): 0 equal; 1 different; 2 trouble.")]
pub(crate) struct DiffArgs {
    /// An image or a directory
    pub(crate) left: PathBuf,

    /// An image or a directory
    pub(crate) right: PathBuf,

    /// Do not compare modification times
    #[arg(long)]
    pub(crate) no_times: bool,

    /// Do not compare owners
    #[arg(long)]
    pub(crate) no_owners: bool,

    /// Do not compare extended attributes
    #[arg(long)]
    pub(crate) no_xattrs: bool,

    /// Extra devices of the left image
    #[arg(long, value_name = "FILE")]
    pub(crate) device: Vec<PathBuf>,

    /// Extra devices of the right image
    #[arg(long, value_name = "FILE")]
    pub(crate) right_device: Vec<PathBuf>,

    /// The left image begins this many bytes into its file
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    pub(crate) offset: u64,

    /// The right image begins this many bytes into its file
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    pub(crate) right_offset: u64,

    /// Threads [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) workers: usize,

    /// Print nothing; the exit code tells
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print the differences as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
