// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images whose bytes are somewhere else: fetched when they are read, verified, and cached.
//!
//! Knows how an image's devices are found and read through the store; refuses to know how bytes
//! travel. Invariants: a device gives the blob's bytes or an error; nothing is read without a digest
//! table unless the user has said so.

mod complete;
mod pins;
mod ranges;
mod tails;

use crate::domain::METADATA_CACHE;
use crate::prefetch::{self, PrefetchWhat, TraceFrom};
use crate::{Error, Patience, Result};
pub(crate) use complete::complete;
pub use complete::metadata_ranges;
use ferrofs_image::{Image, OpenOptions, ReadAt};
use ferrofs_store::source::remote::{Location, RemoteOptions};
use ferrofs_store::{
    Blob, BlobStats, Cache, CacheConfig, Cancel, Deadline, Demand, FoundBlob, FoundImage,
    ImagePlace, LimitConfig, Limits, Network, Opener, Pin, Policy, StoreError,
};
pub use pins::PINS_XATTR;
pub(crate) use ranges::{Ranges, without};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
pub use tails::metadata_tails;

/// Bytes at the start of an image that are fetched before it is looked at: superblock, device table,
/// and metadata where it comes first, in one request.
const HEAD_LEN: u64 = 128 << 10;
/// The same beside other images: where data comes first, it may be data that another has.
const HEAD_LEN_BESIDE: u64 = 8 << 10;
/// How long an image may take to be found and opened.
const OPEN_TIME: Duration = Duration::from_secs(60);
/// What is left of it for the image's head at least, so that an error can tell why.
const OPEN_TIME_MIN: Duration = Duration::from_secs(5);

/// An image that is read on demand.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "made with `..LazySpec::default()`")]
pub struct LazySpec {
    /// Where it is: `http://`, `https://`, `oci://`, `s3://` or `file://`.
    pub location: String,
    /// The folder of the cache; `None`: see [`LazySpec::cache_folder`].
    pub cache: Option<OsString>,
    /// Bytes on disk that the cache may take.
    pub cache_bytes: Option<u64>,
    /// The pin of the image's digest table, `blake3:HEX`.
    pub pin: Option<String>,
    /// Where its data blobs are, in the order of its device table; those that are not here are found
    /// by their tags.
    pub devices: Vec<String>,
    /// Pins of its data blobs' tables, by the tags in the image's device table, or their numbers there;
    /// instead of those that the image or its manifest tells.
    pub device_pins: BTreeMap<String, String>,
    /// Where the image's table is, if not beside it.
    pub digests: Option<String>,
    /// Read what has no digest table, and talk to registries without encryption.
    pub insecure: bool,
    /// Other places of the image, asked first.
    pub mirrors: Vec<String>,
    /// Proxy and certificates.
    pub network: Network,
    /// Bytes a second that may be fetched.
    pub bandwidth: Option<u64>,
    /// What is fetched though nobody asks for it.
    pub prefetch: PrefetchWhat,
    /// A file with paths in the image, one a line, that are fetched at once (an absolute path).
    pub prefetch_list: Option<OsString>,
    /// Bytes a second of what nobody waits for.
    pub prefetch_bandwidth: Option<u64>,
    /// The trace that is replayed.
    pub trace: TraceFrom,
    /// The file into which is recorded what is read (an absolute path).
    pub record: Option<OsString>,
}

/// An opened image that is read on demand.
#[derive(Debug)]
pub(crate) struct LazyImage {
    pub(crate) image: Image,
    /// Its devices, the primary one first.
    pub(crate) blobs: Vec<Blob>,
    /// How they are read.
    pub(crate) devices: Vec<LazyDevice>,
    /// Where it comes from, if not from files.
    pub(crate) whence: Option<Whence>,
    /// Ends waits of its readers.
    pub(crate) cancel: Cancel,
    /// Fetches all of its metadata, for a kernel that asks for none.
    pub(crate) metadata: Option<JoinHandle<()>>,
}

/// Where an image comes from.
#[derive(Debug)]
pub(crate) struct Whence {
    pub(crate) found: FoundImage,
    pub(crate) limits: Arc<Limits>,
}

/// A blob as a device of an image.
#[derive(Clone, Debug)]
pub(crate) struct LazyDevice {
    blob: Blob,
    demand: Demand,
}

impl LazyDevice {
    /// Fetches what is missing of a range; whether it is all there now.
    pub(crate) fn fetch(&self, range: Range<u64>) -> bool {
        self.blob.ensure(range, &self.demand).map_err(|error| refuse(&error)).is_ok()
    }

    pub(crate) const fn new(blob: Blob, demand: Demand) -> Self {
        Self { blob, demand }
    }

    pub(crate) const fn blob(&self) -> &Blob {
        &self.blob
    }
}

impl ReadAt for LazyDevice {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.blob.read_exact_at(buf, offset, &self.demand).map_err(|error| refuse(&error))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.blob.size())
    }
}

/// An error of the reader, its reason in the log.
fn refuse(error: &StoreError) -> io::Error {
    tracing::warn!(%error, "a read failed");
    // EIO whatever it was: other numbers would speak of the mount, and it is the source's.
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl LazySpec {
    /// The folder of the cache: what was said, else root's own, else that of the user.
    #[must_use]
    pub fn cache_folder(&self) -> PathBuf {
        if let Some(folder) = &self.cache {
            return PathBuf::from(folder);
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/cache/ferrofs");
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/tmp"))
            .join("ferrofs")
    }

    /// Finds the image and opens it; no more of it is fetched than that takes, and what of its
    /// metadata comes first.
    pub(crate) fn open(&self, patience: Patience, policy: Policy) -> Result<LazyImage> {
        let mut opened = self.open_image(patience, policy, false)?;
        if policy.for_kernel {
            let blobs = opened.blobs.clone();
            // Without the thread who needs all of it fetches it.
            let thread = std::thread::Builder::new().name(String::from("read-ahead"));
            opened.metadata = thread.spawn(move || prefetch::all_metadata(&blobs, None)).ok();
        } else if self.prefetch != PrefetchWhat::None {
            prefetch::metadata(&opened.blobs);
        }
        Ok(opened)
    }

    /// As [`LazySpec::open`], beside images that are likely to have content in common with it: nothing
    /// is fetched ahead, and all of its primary device left out of guesses.
    pub(crate) fn open_beside(&self, patience: Patience, policy: Policy) -> Result<LazyImage> {
        self.open_image(patience, policy, true)
    }

    fn open_image(&self, patience: Patience, policy: Policy, beside: bool) -> Result<LazyImage> {
        let folder = self.cache_folder();
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| Error::Open { path: parent.to_owned(), error })?;
        }
        let config = CacheConfig { bytes_max: self.cache_bytes, ..CacheConfig::new(folder) };
        let limits = Arc::new(Limits::new(LimitConfig {
            bytes_per_second: self.bandwidth,
            prefetch_bytes_per_second: self.prefetch_bandwidth,
            ..LimitConfig::default()
        }));
        let opener = Opener::new(Cache::open(config)?, Arc::clone(&limits), &self.network)?;
        let found = opener.find(&self.place()?, OPEN_TIME)?;
        let deadline = match patience {
            Patience::Hard => Deadline::Hard,
            Patience::Soft(time) => Deadline::Soft(time),
        };
        let cancel = Cancel::new();
        let demand = Demand { deadline, cancel: Some(cancel.clone()), ..Demand::default() };
        let head_len = if beside { HEAD_LEN_BESIDE } else { HEAD_LEN };
        let opening = Opening { spec: self, opener, found, demand, policy, head_len, beside };
        let image = opening.image()?;
        Ok(LazyImage { whence: Some(Whence { found: opening.found, limits }), cancel, ..image })
    }

    /// How others than the image's own bytes are fetched.
    pub(crate) fn remote(&self) -> RemoteOptions {
        RemoteOptions {
            client: self.network.client_options(),
            insecure: self.insecure,
            ..RemoteOptions::default()
        }
    }

    fn place(&self) -> Result<ImagePlace> {
        let parse =
            |text: &String| text.parse::<Pin>().map_err(|_| Error::Pin { text: text.to_owned() });
        let mirrors = self.mirrors.iter().map(|text| Location::parse(text));
        // Seen now, used when the image tells what the names are.
        let device_pins = self.device_pins.values().map(|pin| parse(pin).map(|_| ()));
        device_pins.collect::<Result<()>>()?;
        Ok(ImagePlace {
            pin: self.pin.as_ref().map(parse).transpose()?,
            digests: self.digests.as_deref().map(Location::parse).transpose()?,
            mirrors: mirrors.collect::<std::result::Result<_, _>>()?,
            insecure: self.insecure,
            ..ImagePlace::new(Location::parse(&self.location)?)
        })
    }
}

/// An image whose blobs are opened one after the other.
struct Opening<'a> {
    spec: &'a LazySpec,
    opener: Opener,
    found: FoundImage,
    demand: Demand,
    policy: Policy,
    head_len: u64,
    beside: bool,
}

impl Opening<'_> {
    fn blob(&self, found: &FoundBlob, head_len: u64, patience: Duration) -> Result<Blob> {
        let patience = Demand::soft(patience);
        Ok(self.opener.open_with_head(found, self.policy, head_len, self.beside, &patience)?)
    }

    fn device(&self, blob: &Blob) -> LazyDevice {
        LazyDevice { blob: blob.clone(), demand: self.demand.clone() }
    }

    fn image(&self) -> Result<LazyImage> {
        let begin = Instant::now();
        let primary = self.blob(&self.found.primary()?, self.head_len, OPEN_TIME)?;
        if self.beside {
            // Not even by the reads that open it, until it is known what others have.
            primary.leave_out(std::slice::from_ref(&(0..primary.size())));
        }
        let fail = |error| Error::Image { path: PathBuf::from(&self.spec.location), error };
        // What has passed was waited for the same server.
        let patience = Demand::soft(OPEN_TIME.saturating_sub(begin.elapsed()).max(OPEN_TIME_MIN));
        match primary.ensure(0..self.head_len.min(primary.size()), &patience) {
            // It is read without being kept.
            Err(StoreError::NoSpace { .. }) => {}
            other => other?,
        }
        let new_options = || {
            let options = OpenOptions::new();
            if self.beside { options.metadata_cache(METADATA_CACHE) } else { options }
        };
        let image = new_options().open(self.device(&primary)).map_err(fail)?;
        let mut blobs = vec![primary];
        let slots = if crate::files::is_flat(&image) { &[] } else { image.device_slots() };
        let tags = slots.iter().map(|slot| String::from_utf8_lossy(slot.label()).into_owned());
        let tags: Vec<String> = tags.collect();
        let pins = pins::of_devices(&image, &tags, &self.spec.device_pins)?;
        if self.spec.devices.len() > tags.len() {
            let (given, count) = (self.spec.devices.len(), tags.len());
            return Err(Error::DeviceCount { given, count });
        }
        if tags.is_empty() {
            return Ok(self.opened(image, blobs));
        }
        let mut options = new_options();
        for (number, (tag, pin)) in tags.into_iter().zip(pins).enumerate() {
            let found = match self.spec.devices.get(number) {
                Some(url) => {
                    let insecure = self.spec.insecure;
                    let place =
                        ImagePlace { pin, insecure, ..ImagePlace::new(Location::parse(url)?) };
                    self.opener.find(&place, OPEN_TIME)?.primary()?
                }
                None if tag.is_empty() => {
                    return Err(Error::DeviceUnnamed { number: number + 1 });
                }
                None => self.found.blob(&tag, pin)?,
            };
            let blob = match self.blob(&found, 0, OPEN_TIME) {
                Err(Error::Store(StoreError::Unverified { source })) => {
                    let name = if tag.is_empty() { (number + 1).to_string() } else { tag };
                    return Err(Error::DeviceUnverified { source, name });
                }
                other => other?,
            };
            options = options.device(self.device(&blob));
            blobs.push(blob);
        }
        let image = options.open(self.device(&blobs[0])).map_err(fail)?;
        Ok(self.opened(image, blobs))
    }

    fn opened(&self, image: Image, blobs: Vec<Blob>) -> LazyImage {
        let devices = blobs.iter().map(|blob| self.device(blob)).collect();
        LazyImage { image, blobs, devices, whence: None, cancel: Cancel::new(), metadata: None }
    }
}

/// The counters of all blobs together.
pub(crate) fn stats(blobs: &[Blob]) -> BlobStats {
    let mut sum = BlobStats::default();
    for blob in blobs {
        sum.add(&blob.stats());
    }
    sum
}

/// Counters by name, for those who show them.
pub(crate) fn counters(stats: &BlobStats, blobs: &[Blob]) -> Vec<(&'static str, u64)> {
    let wait = |percent| {
        stats.wait_percentile(percent).map_or(0, |time| time.as_nanos().min(u64::MAX.into()) as u64)
    };
    let origins = blobs.iter().map(|blob| blob.origin().stats());
    let retries = origins.map(|origin| origin.retries).sum();
    vec![
        ("fetched_bytes", stats.fetched_bytes),
        ("wanted_bytes", stats.wanted_bytes),
        ("wasted_bytes", stats.wasted_bytes),
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("joins", stats.joins),
        ("fetches", stats.fetches),
        ("in_flight", stats.in_flight),
        ("failures", stats.failures),
        ("retries", retries),
        ("verification_failures", stats.verification_failures),
        ("uncached_bytes", stats.uncached_bytes),
        ("evicted_bytes", stats.evicted_bytes),
        ("present_bytes", stats.present_bytes),
        ("size_bytes", blobs.iter().map(Blob::size).fold(0, u64::saturating_add)),
        ("wait_p50_ns", wait(50.0)),
        ("wait_p90_ns", wait(90.0)),
        ("wait_p99_ns", wait(99.0)),
    ]
}
