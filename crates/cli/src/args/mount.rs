// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments of `mount` and `umount`.

use super::look::ImageArgs;
use super::network::{DevicePinArgs, NetworkArgs};
use super::trace::AheadArgs;
use crate::size;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
  ferrofs mount --fuse -o cache_strategy=split,cache=256M,psi --metrics 9100 image.erofs /mnt
  ferrofs mount --pin blake3:HEX https://example.org/image.erofs /mnt
  ferrofs mount --pin blake3:HEX --ca our-ca.pem --proxy proxy:3128 https://host/image.erofs /mnt
  ferrofs mount --share web image.erofs /mnt
  ferrofs mount -o remount,cache_strategy=disabled /mnt

Mount options of any mount: device=FILE, fsoffset=BYTES, nosuid, nodev, noexec, noatime and
the others of mount(8); remount changes the mount that is there.

Of mounts by the kernel: user_xattr, acl, dax, directio, fsid, domain_id, inode_share and
  cache_strategy=disabled|readahead|readaround

Of mounts by FUSE; those with a star can change while it is mounted, by remount or `ferrofs ctl`:
  cache_strategy=disabled|readahead|readaround|split
                     * compressed data kept in memory: none; what the kernel's EROFS keeps by these
                       names; or (split, the default) what saves more, out of one budget
  cache_rule=current|original
                     * what the kernel's names mean: as since Linux 6.6, or as from 2019 on
  cache=SIZE         * memory for compressed and decoded data
  sync_decompress=auto|always|never
                     * whether readers decode themselves: if their request is small, always alone, or
                       always with the help of workers
  sync_bytes=SIZE    * what is small [12K]
  readmore, noreadmore
                     * decode what is read ahead to the end of its last compressed piece, and keep it;
                       read the next files of a directory ahead (FUSE, not with --keeper)
  merge=SIZE         * largest read of the image file or device [1M]
  workers=N            threads that help with decoding [as many as processors]
  psi[=PERCENT]        give up cached data while somebody waits for memory for more than this part of
                       the time [10]; it grows back slowly
  hard, soft=SECONDS   survive the death of the server (as --keeper): readers wait for the next one for
                       ever, or so long, and then get errors
  allow_other, clone_fd, max_threads=N, max_read=BYTES, fsname=TEXT, subtype=TEXT
                       as in libfuse

A FUSE server unmounts when it gets SIGINT, SIGTERM or SIGHUP.")]
pub(crate) struct MountArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,

    /// The directory to mount on. `-o remount` and `-o fsid=NAME` need it alone
    #[arg(required_unless_present = "options")]
    pub(crate) target: Option<PathBuf>,

    /// By the kernel or not at all
    #[arg(long, conflicts_with = "fuse")]
    pub(crate) kernel: bool,

    /// By FUSE, even if the kernel could
    #[arg(long)]
    pub(crate) fuse: bool,

    /// The way to mount. Of images on this machine: `kernel` (as --kernel) or `fuse` (as --fuse). Of
    /// images that are read on demand: `fuse` shows the tree; `fuse-file` shows the kernel the image's
    /// bytes, and the kernel mounts that; `fanotify` lets the kernel read the cache's own files, and
    /// ask before (all metadata is fetched first; nobody else can use the image's blob meanwhile).
    /// `auto` takes kernel or fuse-file where that works, else fuse, and says what it took
    #[arg(long, value_name = "METHOD", default_value = "auto", conflicts_with_all = ["kernel", "fuse"])]
    pub(crate) method: Method,

    /// Serve FUSE in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,

    /// Mount by FUSE and survive the death of the process that serves: a second one, which keeps the
    /// mount, starts the next, and readers wait (see hard and soft below)
    #[arg(long, conflicts_with = "kernel")]
    pub(crate) keeper: bool,

    /// Fetch the image's bytes when they are read. It is named by http://, https://, oci://, s3:// or
    /// file:// (a URL is mounted so with or without this)
    #[arg(long, conflicts_with = "kernel")]
    pub(crate) lazy: bool,

    /// Where what was fetched is kept [default: /var/cache/ferrofs, or ferrofs in the user's cache]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Most bytes on disk that it may take
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) cache_dir_max: Option<u64>,

    /// The pin of the image's digest table, by which all its bytes are verified
    #[arg(long, value_name = "blake3:HEX")]
    pub(crate) pin: Option<String>,

    #[command(flatten)]
    pub(crate) device_pins: DevicePinArgs,

    /// Where the image's table is [default: beside the image, its name with .digests]
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

    /// Share memory with the other images of this domain: content that several of them have is in
    /// memory once, whatever their codecs and layouts (see `ferrofs share`). Needs root
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["kernel", "fuse", "keeper", "foreground"])]
    pub(crate) share: Option<String>,

    /// How. `passthrough` (Linux 6.9): each image is a file system of its own, whose files are opened as
    /// those of one that holds contents, decoded when they are read; modes, owners and times may differ.
    /// `superblock` (any kernel): one file system for all images; files are shared whose attributes are
    /// equal, too. `overlay` (Linux 6.8): the kernel serves everything, from content stores on disk that
    /// hold each content once, compressed, put together by overlayfs. `kernel` (Linux 7.0, images built with --inode-digest, --trust-digests): the
    /// kernel's own. `auto`: kernel if digests are trusted, else passthrough, else superblock
    #[arg(long, value_name = "MECHANISM", default_value = "auto", requires = "share")]
    pub(crate) share_by: ShareBy,

    /// Believe the digests that the images of the domain carry, instead of hashing content before it is
    /// shared. Only if nobody who can make you mount an image would lie
    #[arg(long, requires = "share")]
    pub(crate) trust_digests: bool,

    /// How long what is in memory of an image is kept when it is not mounted any more [default: 600].
    /// With --share-by overlay it is kept until `ferrofs share prune`, and this is refused
    #[arg(long, value_name = "SECONDS", requires = "share")]
    pub(crate) share_keep: Option<u64>,

    /// Where the contents of --share-by overlay are stored [default: /var/lib/ferrofs/share]
    #[arg(long, value_name = "FOLDER", requires = "share")]
    pub(crate) share_dir: Option<PathBuf>,

    /// Mount options, separated by commas; see below
    #[arg(short, long = "options", value_name = "OPTIONS")]
    pub(crate) options: Vec<OsString>,

    /// Memory of the FUSE server for cached data [default: 1/16 of the machine's, 64M to 1G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) cache: Option<u64>,

    /// Most threads of the FUSE server
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Let other users use a FUSE mount [default: if root mounts]
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// Serve the FUSE server's counters for Prometheus, over HTTP; a port alone is this machine's
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = address)]
    pub(crate) metrics: Option<SocketAddr>,

    /// Write the FUSE server's counters to a file again and again, for node_exporter's textfile
    /// collector (whose files end in .prom)
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,

    /// How often
    #[arg(long, value_name = "SECONDS", default_value = "15", requires = "metrics_file",
          value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) metrics_interval: u32,

    /// Append what goes wrong while a server of ours is in the background to this file: why a read
    /// failed, that a worker was replaced
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    pub(crate) log: Option<PathBuf>,

    /// Do not say what was chosen
    #[arg(short, long)]
    pub(crate) quiet: bool,

    // Last, for what follows would be under their headings.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,

    #[command(flatten)]
    pub(crate) ahead: AheadArgs,
}

impl MountArgs {
    /// An option, if one was given, that is for images read on demand alone.
    pub(crate) fn of_lazy(&self) -> Option<&'static str> {
        let given = [
            ("--pin", self.pin.is_some()),
            ("--pin-device", !self.device_pins.pin_device.is_empty()),
            ("--digests", self.digests.is_some()),
            ("--insecure", self.insecure),
            ("--mirror", !self.mirror.is_empty()),
            ("--bandwidth", self.bandwidth.is_some()),
            ("--cache-dir", self.cache_dir.is_some()),
            ("--cache-dir-max", self.cache_dir_max.is_some()),
        ];
        let given = given.iter().find(|(_, given)| *given).map(|(name, _)| *name);
        given.or(self.ahead.given()).or(self.network.given())
    }
}

/// Ways to mount.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Method {
    Auto,
    Kernel,
    Fuse,
    FuseFile,
    Fanotify,
}

/// Ways to share memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ShareBy {
    Auto,
    Passthrough,
    Superblock,
    Overlay,
    Kernel,
}

/// `9100`, `127.0.0.1:9100`, `[::]:9100`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| format!("`{text}` is neither a port nor ADDRESS:PORT"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_this_machines() {
        assert_eq!(address("9100").unwrap().to_string(), "127.0.0.1:9100");
        assert_eq!(address("[::]:0").unwrap().to_string(), "[::]:0");
        for bad in ["", "x", "localhost:1", "1.2.3.4", "65536"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
