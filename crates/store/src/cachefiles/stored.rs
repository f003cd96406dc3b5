// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs of images elsewhere for a daemon: fetched, verified, and kept in a store's cache.
//!
//! Keys come from images, which nobody trusts: a key finds what the user has named, or a data blob
//! beside it. Invariants: no key leads anywhere else; a blob without a digest table is refused
//! unless its image may be read so; at most so many blobs of the cache are open as was said,
//! however many the daemon serves.

use super::provider::plain_name;
use super::{BlobProvider, ProvidedBlob, ProviderError};
use crate::source::remote::Location;
use crate::{
    Blob, Deadline, Demand, FetchErrorKind, FoundBlob, FoundImage, ImagePlace, Opener, Policy,
    StoreError,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a blob may take to be found and opened.
const OPEN_TIME: Duration = Duration::from_secs(60);
/// What EROFS calls the volume of a file system or domain, before its name.
const VOLUME_PREFIX: &[u8] = b"erofs,";
/// How many places of one key, or images of one domain, there may be.
const PLACES_MAX: usize = 4096;

/// An image by the key that mounts name it by.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "key and place, and for whom")]
pub struct KeyedImage {
    /// What `fsid=` or `device=` says, or a device's tag in an image.
    pub key: String,
    /// The `domain_id=` in which it is known; without one it is known everywhere.
    pub domain: Option<String>,
    /// Where it is.
    pub place: ImagePlace,
}

/// Images by key, and the data blobs beside them by their tags.
#[derive(Debug)]
pub struct StoredBlobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    opener: Opener,
    images: Vec<Image>,
    /// Numbers in `images`.
    by_key: HashMap<String, Vec<u32>>,
    by_domain: HashMap<String, Vec<u32>>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug)]
struct Image {
    domain: Option<String>,
    place: ImagePlace,
    /// A registry's answer is kept: asking costs round trips, and its tokens are renewed by itself.
    found: Mutex<Option<FoundImage>>,
}

/// An image, or the blob of a tag beside it.
type Which = (u32, Option<Arc<str>>);

/// The open blobs, which cost descriptors and memory: those used last.
#[derive(Debug)]
struct Shelf {
    max: usize,
    used: u64,
    by_use: BTreeMap<u64, Which>,
    open: HashMap<Which, (u64, Blob)>,
}

impl StoredBlobs {
    /// Blobs of these images, opened so. `open_max`: how many of them may be open in the cache at once;
    /// each takes about five descriptors.
    pub fn new(
        opener: Opener,
        images: Vec<KeyedImage>,
        open_max: usize,
    ) -> Result<Self, ProviderError> {
        let mut by_key: HashMap<String, Vec<u32>> = HashMap::new();
        let mut by_domain: HashMap<String, Vec<u32>> = HashMap::new();
        for (number, image) in images.iter().enumerate() {
            let number = number as u32;
            let key = plain_name(image.key.as_bytes())?;
            let places = by_key.entry(key.to_owned()).or_default();
            let domain = &image.domain;
            if places.iter().any(|other| images[*other as usize].domain == *domain) {
                let what = format!("the blob `{key}` is named twice");
                return Err(ProviderError::new(Errno::EXIST, what));
            }
            places.push(number);
            let volume = by_domain.entry(domain.as_ref().unwrap_or(&image.key).clone());
            let volume = volume.or_default();
            volume.push(number);
            if places.len().max(volume.len()) > PLACES_MAX {
                let what = format!("more than {PLACES_MAX} images of one key or domain");
                return Err(ProviderError::new(Errno::TOOBIG, what));
            }
        }
        let images = images.into_iter().map(|image| Image {
            domain: image.domain,
            place: image.place,
            found: Mutex::default(),
        });
        let inner = Inner {
            opener,
            images: images.collect(),
            by_key,
            by_domain,
            shelf: Mutex::new(Shelf {
                max: open_max.max(1),
                used: 0,
                by_use: BTreeMap::new(),
                open: HashMap::new(),
            }),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How many blobs are open in the cache.
    pub fn open_count(&self) -> usize {
        lock(&self.inner.shelf).open.len()
    }
}

impl BlobProvider for StoredBlobs {
    fn blob(&self, volume: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        let key = plain_name(cookie)?;
        let volume = volume.strip_prefix(VOLUME_PREFIX).unwrap_or(volume);
        let volume = std::str::from_utf8(volume).ok();
        let inner = &self.inner;
        let demand = Demand::soft(OPEN_TIME);
        if let Some(number) = inner.named(key, volume) {
            return inner.provide((number, None), &demand);
        }
        // A data blob of an image of this file system or domain.
        let mut last = None;
        for number in volume.and_then(|volume| inner.by_domain.get(volume)).into_iter().flatten() {
            match inner.provide((*number, Some(key.into())), &demand) {
                Err(error) if error.errno == Errno::NOENT => last = Some(error),
                other => return other,
            }
        }
        let unknown = || ProviderError::new(Errno::NOENT, "no image of this name was given");
        Err(last.unwrap_or_else(unknown))
    }
}

impl Inner {
    /// The image of a key: that of the domain before one that is known everywhere.
    fn named(&self, key: &str, volume: Option<&str>) -> Option<u32> {
        let places = self.by_key.get(key)?;
        let of = |wanted: Option<&str>| {
            let fits = |number: &&u32| self.images[**number as usize].domain.as_deref() == wanted;
            places.iter().find(fits).copied()
        };
        volume.and_then(|volume| of(Some(volume))).or_else(|| of(None))
    }

    fn provide(
        self: &Arc<Self>,
        which: Which,
        demand: &Demand,
    ) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        let size = self.open(&which, None, demand)?.size();
        Ok(Arc::new(StoredBlob { inner: Arc::clone(self), which, size }))
    }

    /// The open blob; opens it again if it was put away, and then it must have this size.
    fn open(
        &self,
        which: &Which,
        size: Option<u64>,
        demand: &Demand,
    ) -> Result<Blob, ProviderError> {
        if let Some(blob) = lock(&self.shelf).take(which) {
            return Ok(blob);
        }
        let found = self.find(which)?;
        // What was written into the other cache is not evicted with ranges of ours.
        let blob = self.opener.open(&found, Policy::default(), demand)?;
        if let Some(expected) = size.filter(|expected| *expected != blob.size()) {
            let (blob, found) = (blob.id().clone(), blob.size());
            return Err(StoreError::OtherSize { blob, expected, found }.into());
        }
        // Closed outside the lock: that may sync.
        let put_away = lock(&self.shelf).put(which.clone(), blob.clone());
        drop(put_away);
        Ok(blob)
    }

    fn find(&self, which: &Which) -> Result<FoundBlob, ProviderError> {
        let image = &self.images[which.0 as usize];
        let blob = |found: &FoundImage| match &which.1 {
            None => found.primary(),
            Some(tag) => found.blob(tag, None),
        };
        if !matches!(image.place.location, Location::Oci(_)) {
            return Ok(blob(&self.opener.find(&image.place, OPEN_TIME)?)?);
        }
        let mut found = lock(&image.found);
        let found = match &mut *found {
            Some(found) => found,
            none => none.insert(self.opener.find(&image.place, OPEN_TIME)?),
        };
        Ok(blob(found)?)
    }
}

impl Shelf {
    fn take(&mut self, which: &Which) -> Option<Blob> {
        let (used, blob) = self.open.get_mut(which)?;
        self.by_use.remove(used);
        self.used += 1;
        *used = self.used;
        self.by_use.insert(self.used, which.clone());
        Some(blob.clone())
    }

    /// What is put away for it.
    fn put(&mut self, which: Which, blob: Blob) -> Vec<Blob> {
        self.used += 1;
        self.by_use.insert(self.used, which.clone());
        let mut away = Vec::new();
        if let Some((used, blob)) = self.open.insert(which, (self.used, blob)) {
            self.by_use.remove(&used);
            away.push(blob);
        }
        while self.open.len() > self.max
            && let Some((_, which)) = self.by_use.pop_first()
        {
            away.extend(self.open.remove(&which).map(|(_, blob)| blob));
        }
        away
    }
}

/// What the daemon holds of a blob that it has opened: little, for there may be thousands.
#[derive(Debug)]
struct StoredBlob {
    inner: Arc<Inner>,
    which: Which,
    size: u64,
}

impl ProvidedBlob for StoredBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        demand: &Demand,
    ) -> Result<(), ProviderError> {
        // Opening it again waits no longer than reading it may.
        let opening = match demand.deadline {
            Deadline::Hard => Demand { deadline: Deadline::Soft(OPEN_TIME), ..demand.clone() },
            Deadline::Soft(_) => demand.clone(),
        };
        let blob = self.inner.open(&self.which, Some(self.size), &opening)?;
        Ok(blob.read_exact_at(buf, offset, demand)?)
    }
}

impl From<StoreError> for ProviderError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Fetch { error, .. } => Some(error.kind),
            _ => None,
        };
        let errno = match kind {
            Some(FetchErrorKind::NotFound) => Errno::NOENT,
            Some(FetchErrorKind::Denied) => Errno::ACCESS,
            _ => Errno::from_raw_os_error(error.errno()),
        };
        Self { errno, what: error.to_string() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
