// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `build`.

use crate::size;
use clap::{Args, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Build an image of a directory
///
/// The image appears under its name only when it is complete; what was there before stays until then.
/// The same input and options give the same image, for any number of workers, if a timestamp or
/// UUID is given.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs build DIR -o image.erofs
  ferrofs build DIR -o image.erofs --compress lz4hc,9 --pcluster-size 64K --workers 2
  ferrofs build DIR -o image.erofs --chunk-size 1M --blob data.blob
  SOURCE_DATE_EPOCH=0 ferrofs build DIR -o image.erofs --all-root --exclude-regex '\\.o$'

SOURCE_DATE_EPOCH in the environment sets the build time; later modification times become it.")]
pub(crate) struct BuildArgs {
    /// The directory
    pub(crate) source: PathBuf,

    /// The image to make
    #[arg(short, long, value_name = "IMAGE")]
    pub(crate) output: PathBuf,

    /// Compress files: lz4, lz4hc[,LEVEL], zstd[,LEVEL], deflate[,LEVEL], lzma[,LEVEL] or none
    #[arg(short = 'z', long, value_name = "METHOD", default_value = "none", help_heading = "Data")]
    pub(crate) compress: String,

    /// Size of a compressed unit, up to 1M: larger compresses better, smaller reads faster at random
    #[arg(
        short = 'C',
        long,
        value_name = "SIZE",
        value_parser = size::parse_u32,
        help_heading = "Data"
    )]
    pub(crate) pcluster_size: Option<u32>,

    /// Read sizes of compressed units for files by pattern from this file
    ///
    /// Its lines are SIZE PATTERN: a size as for --pcluster-size, or 0 for files that are not to be
    /// compressed, and a regular expression; the first that matches in a path counts.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) hints: Option<PathBuf>,

    /// Lay out the files named in this file first, in its order, so that what is read first lies
    /// together
    ///
    /// One path a line, from the root of SOURCE. Paths that do not exist are counted and passed over.
    /// Or a trace (see `ferrofs trace`), together with --order-image.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) order: Option<PathBuf>,

    /// The image on which the trace of --order was recorded, by which its files are found
    #[arg(long, value_name = "IMAGE", requires = "order", help_heading = "Data")]
    pub(crate) order_image: Option<PathBuf>,

    /// An extra device of that image; repeat it
    #[arg(long, value_name = "FILE", requires = "order_image", help_heading = "Data")]
    pub(crate) order_device: Vec<PathBuf>,

    /// Write the indexes of kernels before 5.3
    #[arg(long, help_heading = "Data")]
    pub(crate) legacy_indexes: bool,

    /// Store files as chunks of this size (a power of two), equal chunks once; not compressed
    #[arg(long, value_name = "SIZE", value_parser = size::parse_u32, help_heading = "Data")]
    pub(crate) chunk_size: Option<u32>,

    /// How addresses of chunks are stored
    #[arg(long, value_name = "KIND", default_value = "auto", help_heading = "Data")]
    pub(crate) chunk_entries: ChunkEntriesArg,

    /// Put the data of chunks into this file; mounting then needs it as --device
    #[arg(long, value_name = "FILE", requires = "chunk_size", help_heading = "Data")]
    pub(crate) blob: Option<PathBuf>,

    /// Write IMAGE.digests, too, by which the image is verified while it is fetched, and show its
    /// pin. With --blob, FILE.digests, too, whose pin the image holds, so that one pin stands for
    /// both. See `ferrofs digests`
    #[arg(long, help_heading = "Data")]
    pub(crate) digests: bool,

    /// Keep the ends of files in blocks of their own rather than beside their inodes
    ///
    /// For images that are mounted on demand beside others of a domain, and have no digest table: what
    /// lies beside inodes comes with these then, new or not.
    #[arg(long, help_heading = "Data")]
    pub(crate) no_inline_tails: bool,

    /// Block size; kernels mount those up to their page size
    #[arg(
        short,
        long,
        value_name = "SIZE",
        value_parser = size::parse_u32,
        default_value = "4K",
        help_heading = "Image"
    )]
    pub(crate) block_size: u32,

    /// Volume name, at most 15 bytes
    #[arg(short = 'L', long, value_name = "NAME", default_value = "", help_heading = "Image")]
    pub(crate) label: String,

    /// UUID: one in the usual form, `random`, `content` (derived from the content) or `clear`
    ///
    /// Without it: `content` if a build time is given, else `random`.
    #[arg(short = 'U', long, value_name = "UUID", help_heading = "Image")]
    pub(crate) uuid: Option<String>,

    /// Size of inodes; compact ones have no modification time of their own
    #[arg(long, value_name = "FORM", default_value = "auto", help_heading = "Image")]
    pub(crate) inodes: InodesArg,

    /// Leave the checksum of the superblock out
    #[arg(long, help_heading = "Image")]
    pub(crate) no_checksum: bool,

    /// Time of the build and of all files, in seconds since 1970
    #[arg(short = 'T', long, value_name = "SECONDS", help_heading = "Files")]
    pub(crate) timestamp: Option<i64>,

    /// Let files lose their modification times where that makes inodes smaller
    #[arg(long, help_heading = "Files")]
    pub(crate) ignore_mtime: bool,

    /// Leave out this path (from the source) and all below it; may be repeated
    #[arg(long, value_name = "PATH", help_heading = "Files")]
    pub(crate) exclude: Vec<PathBuf>,

    /// Leave out paths in which this regular expression matches; may be repeated
    #[arg(long, value_name = "REGEX", help_heading = "Files")]
    pub(crate) exclude_regex: Vec<String>,

    /// Leave directories on other file systems empty
    #[arg(short = 'x', long, help_heading = "Files")]
    pub(crate) one_file_system: bool,

    /// Make each hard link a file of its own
    #[arg(long, help_heading = "Files")]
    pub(crate) hard_dereference: bool,

    /// Everything belongs to root
    #[arg(long, conflicts_with_all = ["force_uid", "force_gid"], help_heading = "Owners")]
    pub(crate) all_root: bool,

    /// Everything belongs to this user
    #[arg(long, value_name = "UID", help_heading = "Owners")]
    pub(crate) force_uid: Option<u32>,

    /// Everything belongs to this group
    #[arg(long, value_name = "GID", help_heading = "Owners")]
    pub(crate) force_gid: Option<u32>,

    /// Add to every user id
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true,
        help_heading = "Owners"
    )]
    pub(crate) uid_offset: i64,

    /// Add to every group id
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true,
        help_heading = "Owners"
    )]
    pub(crate) gid_offset: i64,

    /// Leave extended attributes out
    #[arg(long, help_heading = "Extended attributes")]
    pub(crate) no_xattrs: bool,

    /// Store an attribute once if more than this many inodes have it
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Extended attributes")]
    pub(crate) xattr_share_above: u64,

    /// Store this beginning of attribute names once (needs Linux 6.4); may be repeated
    #[arg(long, value_name = "PREFIX", help_heading = "Extended attributes")]
    pub(crate) xattr_prefix: Vec<String>,

    /// Store the SHA-256 of each file in an attribute [default name: erofs.fingerprint.v1, which mounts
    /// hide], by which Linux 7.0 and later keeps equal files in memory once (needs Linux 6.4)
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "erofs.fingerprint.v1",
        help_heading = "Extended attributes"
    )]
    pub(crate) inode_digest: Option<String>,

    /// Leave out the filters that spare kernels the search for attributes
    #[arg(long, help_heading = "Extended attributes")]
    pub(crate) no_xattr_filter: bool,

    /// Threads that read and compress [default: one for each CPU]
    #[arg(short = 'j', long, value_name = "N", help_heading = "Running")]
    pub(crate) workers: Option<NonZeroUsize>,

    /// Memory for file data
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size::parse,
        default_value = "256M",
        help_heading = "Running"
    )]
    pub(crate) memory: u64,

    /// Flush the image to the disk before it gets its name
    #[arg(long, help_heading = "Running")]
    pub(crate) sync: bool,

    /// No progress bar and no summary
    #[arg(short, long, help_heading = "Running")]
    pub(crate) quiet: bool,

    /// Print what was built as JSON
    #[arg(long, help_heading = "Running")]
    pub(crate) json: bool,
}

/// How addresses of chunks are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ChunkEntriesArg {
    /// 4 bytes each if the data is in the image, else 8
    Auto,
    /// 4 bytes each
    Map,
    /// 8 bytes each
    Indexes,
}

/// Size of inodes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum InodesArg {
    /// 32 bytes where nothing is lost, else 64
    Auto,
    /// 32 bytes
    Compact,
    /// 64 bytes
    Extended,
}
