// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what a user names to an open blob: place, mirrors, digest table, cache and limits together.
//!
//! It refuses to know what is in blobs. Invariant: nothing is opened without a digest table unless
//! the place says that this is allowed.

use crate::source::remote::{Location, RemoteBlob, RemoteImage, RemoteOptions, resolve_with};
use crate::{
    Blob, BlobSpec, Cache, Demand, FetchError, FetchErrorKind, Limits, Network, Origin,
    OriginConfig, Pin, Policy, RangeSource, StoreError, SystemClock, TableSpec, Trace,
};
use ferrofs_oci::http::Client;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where an image is, and how it is believed.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..ImagePlace::new(location)`")]
pub struct ImagePlace {
    /// The image.
    pub location: Location,
    /// The pin of its digest table, if the user has one.
    pub pin: Option<Pin>,
    /// Pins of the digest tables of its data blobs, by the tags that the image's device table gives
    /// them.
    pub device_pins: BTreeMap<String, Pin>,
    /// Where the image's table is, if not beside it.
    pub digests: Option<Location>,
    /// Other places of the image, asked first.
    pub mirrors: Vec<Location>,
    /// Blobs without a digest table are read all the same; registries without encryption, too.
    pub insecure: bool,
}

impl ImagePlace {
    /// An image that is verified by what its manifest says.
    pub const fn new(location: Location) -> Self {
        Self {
            location,
            pin: None,
            device_pins: BTreeMap::new(),
            digests: None,
            mirrors: Vec::new(),
            insecure: false,
        }
    }
}

/// An image that was found: nothing of it was read yet.
#[derive(Clone, Debug)]
pub struct FoundImage {
    image: RemoteImage,
    mirrors: Vec<RemoteImage>,
    pin: Option<Pin>,
    device_pins: BTreeMap<String, Pin>,
    table: Option<Arc<dyn RangeSource>>,
    insecure: bool,
}

/// A blob of an image that was found: nothing of it was read yet.
#[derive(Clone, Debug)]
pub struct FoundBlob {
    remote: RemoteBlob,
    mirrors: Vec<Arc<dyn RangeSource>>,
    pin: Option<Pin>,
    table: Option<Arc<dyn RangeSource>>,
    insecure: bool,
}

/// Opens blobs of images into one cache, within common limits. Used by many threads at once.
#[derive(Debug)]
pub struct Opener {
    cache: Cache,
    limits: Arc<Limits>,
    client: Client,
}

impl Opener {
    /// Fails if the proxy or the certificates make no sense.
    pub fn new(cache: Cache, limits: Arc<Limits>, network: &Network) -> Result<Self, FetchError> {
        Ok(Self { cache, limits, client: network.client()? })
    }

    /// The cache.
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Finds an image within `patience`. Registries are asked for its manifest; of other places
    /// nothing is asked.
    pub fn find(&self, place: &ImagePlace, patience: Duration) -> Result<FoundImage, FetchError> {
        let mut options = RemoteOptions {
            insecure: place.insecure,
            deadline: Instant::now().checked_add(patience),
            ..RemoteOptions::default()
        };
        // What is verified needs no other proof of being the same: an object that is put there again,
        // or servers that do not agree about its ETag, give the same bytes.
        options.http.validate = place.pin.is_none();
        let find = |location: &Location| resolve_with(&self.client, location, &options);
        Ok(FoundImage {
            image: find(&place.location)?,
            mirrors: place.mirrors.iter().map(find).collect::<Result<_, _>>()?,
            pin: place.pin,
            device_pins: place.device_pins.clone(),
            table: match &place.digests {
                Some(location) => Some(find(location)?.primary.source),
                None => None,
            },
            insecure: place.insecure,
        })
    }

    /// Opens a blob in the cache. Asks the origin for its size, or fetches the head of its table,
    /// only if nothing else tells.
    pub fn open(
        &self,
        found: &FoundBlob,
        policy: Policy,
        demand: &Demand,
    ) -> Result<Blob, StoreError> {
        self.open_with_head(found, policy, 0, false, demand)
    }

    /// As [`Opener::open`]; of a blob that is new to the cache so many bytes at its start are fetched
    /// at the same time. `sparing`: nothing of its table that may be for nothing.
    pub fn open_with_head(
        &self,
        found: &FoundBlob,
        policy: Policy,
        head_len: u64,
        sparing: bool,
        demand: &Demand,
    ) -> Result<Blob, StoreError> {
        let source = Arc::clone(&found.remote.source);
        let (config, limits) = (OriginConfig::default(), Arc::clone(&self.limits));
        let origin = |mirrors: Vec<Arc<dyn RangeSource>>, source| {
            Origin::with(mirrors, source, config, Arc::clone(&limits), Arc::new(SystemClock))
        };
        let table = match (found.pin, &found.table) {
            // What fails is tried again, as for the blob itself.
            (Some(pin), Some(source)) => {
                TableSpec::Pinned { pin, source: Arc::new(origin(vec![], Arc::clone(source))) }
            }
            _ if found.insecure => TableSpec::Insecure,
            _ => TableSpec::Missing,
        };
        let size = found.remote.size;
        self.cache.blob_within(
            BlobSpec {
                size,
                table,
                policy,
                head_len,
                sparing,
                ..BlobSpec::new(origin(found.mirrors.clone(), source))
            },
            demand,
        )
    }
}

impl FoundImage {
    /// The image itself.
    pub fn primary(&self) -> Result<FoundBlob, FetchError> {
        let mirrors = self.mirrors.iter().map(|mirror| Arc::clone(&mirror.primary.source));
        let remote = self.image.primary.clone();
        self.found(remote, mirrors.collect(), self.pin, self.table.clone())
    }

    /// A data blob, by the tag that the image's device table gives it. Its pin is this one, else that
    /// of the image's place, else that of the manifest, if there is one.
    pub fn blob(&self, tag: &str, pin: Option<Pin>) -> Result<FoundBlob, FetchError> {
        let pin = pin.or_else(|| self.device_pins.get(tag).copied());
        let validate = pin.is_none();
        let remote = self.image.blob(tag, validate)?;
        // A mirror may have the image alone.
        let mirrors = self.mirrors.iter().filter_map(|mirror| mirror.blob(tag, validate).ok());
        self.found(remote, mirrors.map(|other| other.source).collect(), pin, None)
    }

    /// The trace that is kept with the image, if there is one.
    pub fn trace(&self, patience: Duration) -> Result<Option<Trace>, FetchError> {
        self.image.trace(Instant::now().checked_add(patience))
    }

    fn found(
        &self,
        remote: RemoteBlob,
        mirrors: Vec<Arc<dyn RangeSource>>,
        pin: Option<Pin>,
        table: Option<Arc<dyn RangeSource>>,
    ) -> Result<FoundBlob, FetchError> {
        let told = remote.table.as_ref();
        let pin = match (pin, told.and_then(|table| table.pin.as_deref())) {
            (None, Some(text)) => Some(text.parse().map_err(|_| {
                let what = format!("the manifest says `{text}` for the pin of a digest table");
                FetchError::new(FetchErrorKind::Protocol, what)
            })?),
            (pin, _) => pin,
        };
        let table = table.or_else(|| told.map(|table| Arc::clone(&table.source)));
        Ok(FoundBlob { remote, mirrors, pin, table, insecure: self.insecure })
    }
}
