// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `cached`.

use super::network::NetworkArgs;
use crate::size;
use clap::Args;
use std::path::PathBuf;

/// Serve blobs to a cache, on demand
///
/// A mount reads an image whose blobs are not on this machine yet; the cache behind it asks for each
/// piece when it is first read, and this daemon gets it. The cache is the kernel's (Linux 5.19 to
/// 7.1 with CACHEFILES_ONDEMAND, mounts with -o fsid=NAME) or one that listens at a socket.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ferrofs cached --dir /var/cache/fscache --blobs /srv/blobs
  mount -t erofs none -o fsid=image /mnt
  ferrofs cached --dir /var/cache/fscache --blobs /srv/blobs --foreground --supervise
  ferrofs cached --socket /run/ferrofs/cache.sock --blobs /srv/blobs
  ferrofs cached --dir /var/cache/fscache --from /etc/ferrofs/blobs \\
      --blob app=oci://registry.example.org/team/app:1 \\
      --blob base=https://example.org/base.erofs,pin=blake3:HEX

A blob is asked for by its name: that of `fsid=` for the image, those of `device=` or of the image's
device table for the blobs it refers to. A name with a slash, or that begins with a dot, is refused.
A blob that cannot be had fails the mount or the read with an error, never with zeros.

After the URL of --blob may follow, each behind a comma: pin=blake3:HEX, digests=URL, mirror=URL
(repeat it), pin-device=TAG=blake3:HEX (the pin of a data blob of the image, by its tag; repeat it),
domain=NAME (only mounts with this domain_id know it), insecure. What an image refers to
and is not named itself is looked for beside the image, or in its manifest.")]
pub(crate) struct CachedArgs {
    /// Where blobs come from: a directory with a file a blob
    #[arg(long, value_name = "DIR", required_unless_present_any = ["blob", "from"])]
    pub(crate) blobs: Option<PathBuf>,

    /// An image by the name that mounts ask for, and where it is: http://, https://, oci://, s3://
    /// or file://; repeat it
    #[arg(long, value_name = "NAME=URL[,...]")]
    pub(crate) blob: Vec<String>,

    /// A file with a line for each image, as --blob has them; # begins a comment
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,

    /// Where what was fetched for --blob and --from is kept, verified
    /// [default: /var/cache/ferrofs, or ferrofs in the user's cache]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Most bytes on disk that it may take
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) cache_dir_max: Option<u64>,

    /// Believe what has no digest table, and registries without encryption, for all images
    #[arg(long)]
    pub(crate) insecure: bool,

    /// Most bytes a second that are fetched
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bandwidth: Option<u64>,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,

    /// The kernel's cache
    #[arg(long, value_name = "PATH", default_value = "/dev/cachefiles", conflicts_with = "socket")]
    pub(crate) device: PathBuf,

    /// Where the kernel's cache keeps its files: on ext4 or xfs, say
    #[arg(long, value_name = "DIR", required_unless_present = "socket", conflicts_with = "socket")]
    pub(crate) dir: Option<PathBuf>,

    /// What the kernel's cache is called
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) tag: Option<String>,

    /// A cache that listens at this socket, instead of the kernel's
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// A limit of free space in percent; brun, bcull, bstop for blocks, frun, fcull, fstop for files
    #[arg(long, value_name = "NAME=PERCENT", value_parser = limit)]
    pub(crate) limit: Vec<(String, u8)>,

    /// How long a blob's origin may fail before a reader gets an error; 0: for ever
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(crate) patience: u64,

    /// Requests that are served at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,

    /// Keep the cache alive over the death of the daemon: a small process holds it open and starts
    /// the daemon again
    #[arg(long)]
    pub(crate) supervise: bool,

    /// Stay with the terminal
    #[arg(short, long)]
    pub(crate) foreground: bool,

    /// The device is at the standard input
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
}

fn limit(text: &str) -> Result<(String, u8), String> {
    let names = ["brun", "bcull", "bstop", "frun", "fcull", "fstop"];
    let (name, percent) = text.split_once('=').ok_or("expected NAME=PERCENT, like brun=10")?;
    if !names.contains(&name) {
        return Err(format!("`{name}` is none of {}", names.join(", ")));
    }
    let percent = percent.strip_suffix('%').unwrap_or(percent).parse().ok();
    let percent = percent.filter(|percent| *percent < 100);
    Ok((name.to_owned(), percent.ok_or("not a percentage from 0 to 99")?))
}
