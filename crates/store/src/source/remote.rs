// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what a user names to the blobs of an image: where the image is, its data blobs, its digest
//! tables, and what is known of them before a byte of them was read.

mod trace;

use super::file::FileSource;
use super::http::{HttpOptions, HttpSource};
use super::s3::{self, S3Options};
use super::{RangeSource, oci};
use crate::{FetchError, FetchErrorKind};
use ferrofs_oci::http::{Client, ClientOptions, address};
use ferrofs_oci::layout::Layout;
use ferrofs_oci::manifest::{annotation, media};
use ferrofs_oci::{
    Credentials, Descriptor, Digest, Fetched, Platform, Reference, Registry, RegistryOptions,
    Secret,
};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use url::Url;

/// What follows the name of a blob in the name of its digest table.
pub const TABLE_SUFFIX: &str = ".digests";

/// What a user names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Location {
    /// `http://`, `https://`: the URL without user and password, and these.
    Http(Url, Option<(String, Secret)>),
    /// `oci://[host[:port]/]repository[:tag][@digest]`.
    Oci(Reference),
    /// `s3://bucket/key`.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
    /// `file:///path`: an image; or a folder with an OCI image layout, with `:name` behind it where it has
    /// several images.
    File(PathBuf),
}

fn wrong(what: impl Into<String>) -> FetchError {
    FetchError::new(FetchErrorKind::Protocol, what)
}

impl Location {
    /// Whether a string names something remote, and not a path.
    pub fn is_location(text: &str) -> bool {
        ["http://", "https://", "oci://", "s3://", "file://"]
            .iter()
            .any(|scheme| text.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
    }

    /// Whether an image there has a manifest, to which artifacts can belong.
    pub fn has_manifest(&self) -> bool {
        match self {
            Self::Oci(_) => true,
            Self::File(path) => Layout::locate(path).is_some(),
            Self::Http(..) | Self::S3 { .. } => false,
        }
    }

    /// Reads a URL of one of the schemes.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("no URL of the schemes http, https, oci, s3, file"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                let (url, login) = address::parse(text)?;
                Ok(Self::Http(url, login))
            }
            "oci" => Ok(Self::Oci(rest.parse()?)),
            "s3" => match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                    Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
                }
                _ => Err(wrong("an object is s3://bucket/key")),
            },
            "file" => {
                let path = address::percent_decode(rest)?;
                if !path.starts_with('/') || path.contains('\0') {
                    return Err(wrong("a file is file:///path"));
                }
                Ok(Self::File(path.into()))
            }
            _ => Err(wrong("no URL of the schemes http, https, oci, s3, file")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url, _) => f.write_str(&address::show(url)),
            Self::Oci(reference) => write!(f, "oci://{reference}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// How remote places are talked to.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..RemoteOptions::default()`")]
pub struct RemoteOptions {
    /// HTTP client: timeouts, proxy, certificates.
    pub client: ClientOptions,
    /// Headers and login of HTTP sources.
    pub http: HttpOptions,
    /// Plain HTTP to registries.
    pub insecure: bool,
    /// Credentials of registries.
    pub credentials: Credentials,
    /// S3.
    pub s3: S3Options,
    /// Platform of an OCI image; this machine's if not given.
    pub platform: Option<Platform>,
    /// Which layer of an OCI image: its digest, or the index among its EROFS layers. The first one
    /// that is not a data blob, if not given.
    pub layer: Option<String>,
    /// `resolve` is to have ended by then.
    pub deadline: Option<Instant>,
}

/// One blob, before anything of it was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RemoteBlob {
    /// Its bytes.
    pub source: Arc<dyn RangeSource>,
    /// Its size, if that is known; else the source's identity tells.
    pub size: Option<u64>,
    /// Its content's digest, from a verified manifest.
    pub content: Option<Digest>,
    /// Its digest table: where it would be, or surely is if it has a pin.
    pub table: Option<RemoteTable>,
}

/// A digest table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RemoteTable {
    /// Its bytes.
    pub source: Arc<dyn RangeSource>,
    /// Its size, if that is known.
    pub size: Option<u64>,
    /// `blake3:HEX`: its root, as a verified manifest tells. What a user says comes first.
    pub pin: Option<String>,
}

/// An image somewhere else.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The image itself.
    pub primary: RemoteBlob,
    /// Digest of the manifest that was verified, if there is one.
    pub manifest: Option<Digest>,
    place: Place,
}

/// Where the data blobs of an image are.
#[derive(Clone, Debug)]
enum Place {
    Http(Client, Url, HttpOptions),
    S3(Client, String, String, S3Options),
    File(PathBuf),
    Registry(Registry, Vec<Descriptor>),
    Layout(Layout, Vec<Descriptor>),
}

/// Finds the image. Asks a registry for its manifest; of other places nothing is asked.
pub fn resolve(location: &Location, options: &RemoteOptions) -> Result<RemoteImage, FetchError> {
    resolve_with(&Client::new(options.client.clone())?, location, options)
}

/// As [`resolve`], with a client that others use as well, instead of the options'.
pub fn resolve_with(
    client: &Client,
    location: &Location,
    options: &RemoteOptions,
) -> Result<RemoteImage, FetchError> {
    let client = client.clone();
    let place = match location {
        Location::Http(url, login) => {
            let mut http = options.http.clone();
            http.login = login.clone().or(http.login);
            let place = Place::Http(client, url.clone(), http);
            return place.beside(None, options.http.validate);
        }
        Location::S3 { bucket, key } => {
            Place::S3(client, bucket.clone(), key.clone(), options.s3.clone())
        }
        Location::File(path) => match Layout::locate(path) {
            Some((folder, name)) => {
                let layout = Layout::open(&folder)?;
                let platform = options.platform.clone().unwrap_or_else(Platform::host);
                let fetched = layout.image(name.as_deref(), &platform)?;
                let layers = fetched.manifest.layers.clone();
                return of_manifest(Place::Layout(layout, layers), fetched, location, options);
            }
            None => Place::File(path.clone()),
        },
        Location::Oci(reference) => {
            let registry = RegistryOptions {
                insecure: options.insecure,
                credentials: options.credentials.clone(),
                ..RegistryOptions::default()
            };
            let registry = Registry::new(client, reference, &registry)?;
            let platform = options.platform.clone().unwrap_or_else(Platform::host);
            let fetched = registry.image(&platform, options.deadline)?;
            let layers = fetched.manifest.layers.clone();
            return of_manifest(Place::Registry(registry, layers), fetched, location, options);
        }
    };
    place.beside(None, options.http.validate)
}

fn of_manifest(
    place: Place,
    fetched: Fetched,
    location: &Location,
    options: &RemoteOptions,
) -> Result<RemoteImage, FetchError> {
    let layer = choose_layer(&fetched.manifest.layers, options.layer.as_deref(), location)?;
    let primary = place.blob(layer)?;
    Ok(RemoteImage { primary, manifest: Some(fetched.digest), place })
}

fn choose_layer<'a>(
    layers: &'a [Descriptor],
    wanted: Option<&str>,
    location: &Location,
) -> Result<&'a Descriptor, FetchError> {
    let erofs: Vec<&Descriptor> =
        layers.iter().filter(|layer| media::is_erofs(&layer.media_type)).collect();
    let is_data = |layer: &&&Descriptor| layer.annotations.contains_key(annotation::BLOB_TAG);
    let found = match wanted.map(|wanted| (wanted, wanted.parse::<usize>())) {
        Some((_, Ok(index))) => erofs.get(index).copied(),
        Some((wanted, Err(_))) => layers.iter().find(|layer| layer.digest_text == wanted),
        None => erofs.iter().find(|layer| !is_data(layer)).or(erofs.first()).copied(),
    };
    found.ok_or_else(|| {
        let what = format!(
            "{location}: no such EROFS layer ({} of its {} layers are EROFS); convert the image first",
            erofs.len(),
            layers.len()
        );
        FetchError::new(FetchErrorKind::NotFound, what)
    })
}

/// A name without a path in it.
fn check_tag(tag: &str) -> Result<(), FetchError> {
    let fine = !tag.is_empty()
        && tag.len() <= 255
        && !matches!(tag, "." | "..")
        && !tag.chars().any(|char| char == '/' || char == '\\' || char.is_control());
    if fine { Ok(()) } else { Err(wrong("an image names a data blob that is no plain name")) }
}

/// `url` with another last part of its path; `None`: the same, followed by `suffix`.
fn sibling(url: &Url, name: Option<&str>, suffix: &str) -> Result<Url, FetchError> {
    let mut url = url.clone();
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let name = match name {
        Some(name) => format!("{name}{suffix}"),
        None => format!("{}{suffix}", address::percent_decode(last)?),
    };
    let refused = || wrong("a URL without a path has no neighbours");
    url.path_segments_mut().map_err(|()| refused())?.pop().push(&name);
    Ok(url)
}

impl Place {
    /// The blob that the place itself names, or one beside it; with where its table would be.
    fn beside(self, tag: Option<&str>, validate: bool) -> Result<RemoteImage, FetchError> {
        let primary = self.neighbour(tag, validate)?;
        Ok(RemoteImage { primary, manifest: None, place: self })
    }

    fn neighbour(&self, tag: Option<&str>, validate: bool) -> Result<RemoteBlob, FetchError> {
        let (source, table): (Arc<dyn RangeSource>, Option<Arc<dyn RangeSource>>) = match self {
            Self::Http(client, url, options) => {
                let open = |suffix: &str| {
                    let same = tag.is_none() && suffix.is_empty();
                    let url = if same { url.clone() } else { sibling(url, tag, suffix)? };
                    let options = HttpOptions { validate, ..options.clone() };
                    HttpSource::new(client.clone(), url.as_str(), options)
                };
                (Arc::new(open("")?), Some(Arc::new(open(TABLE_SUFFIX)?)))
            }
            Self::S3(client, bucket, key, options) => {
                let key = match tag {
                    Some(tag) => {
                        let folder = key.rfind('/').map_or("", |at| &key[..=at]);
                        format!("{folder}{tag}")
                    }
                    None => key.clone(),
                };
                let open = |key: &str| s3::open(client.clone(), bucket, key, options, validate);
                let table = open(&format!("{key}{TABLE_SUFFIX}"))?;
                (Arc::new(open(&key)?), Some(Arc::new(table)))
            }
            Self::File(path) => {
                let path = match tag {
                    Some(tag) => path.with_file_name(tag),
                    None => path.clone(),
                };
                let mut table = path.clone().into_os_string();
                table.push(TABLE_SUFFIX);
                let table = Path::new(&table);
                let table: Option<Arc<dyn RangeSource>> =
                    if table.exists() { Some(Arc::new(FileSource::open(table)?)) } else { None };
                (Arc::new(FileSource::open(&path)?), table)
            }
            Self::Registry(_, layers) | Self::Layout(_, layers) => {
                let wanted = tag.unwrap_or_default();
                let named = |layer: &&Descriptor| {
                    let says = |name: &str| {
                        layer.annotations.get(name).is_some_and(|value| value == wanted)
                    };
                    let hex = layer.digest_text.split_once(':').map_or("", |(_, hex)| hex);
                    says(annotation::BLOB_TAG) || says(annotation::TITLE) || hex == wanted
                };
                let Some(layer) = layers.iter().find(named) else {
                    let what = "the manifest has no layer for a data blob that the image names";
                    return Err(FetchError::new(FetchErrorKind::NotFound, what));
                };
                return self.blob(layer);
            }
        };
        let table = table.map(|source| RemoteTable { source, size: None, pin: None });
        Ok(RemoteBlob { source, size: None, content: None, table })
    }

    /// The blob of a layer of a verified manifest.
    fn blob(&self, layer: &Descriptor) -> Result<RemoteBlob, FetchError> {
        let content = layer.digest()?;
        let open = |descriptor: &Descriptor| -> Result<Arc<dyn RangeSource>, FetchError> {
            match self {
                Self::Registry(registry, _) => Ok(Arc::new(oci::open(registry, descriptor)?)),
                Self::Layout(layout, _) => {
                    let path = layout.blob_path(&descriptor.digest()?);
                    Ok(Arc::new(FileSource::open(&path)?))
                }
                _ => Err(wrong("no manifest here")),
            }
        };
        let source = open(layer)?;
        let told = |name: &str| layer.annotations.get(name);
        let table = match (told(annotation::DIGEST_TABLE), told(annotation::DIGEST_PIN)) {
            (Some(digest), pin) => {
                let digest: Digest = digest.parse()?;
                let known = match self {
                    Self::Registry(_, layers) | Self::Layout(_, layers) => {
                        layers.iter().find(|layer| layer.digest_text == digest.to_string())
                    }
                    _ => None,
                };
                let size = known.map(|known| known.size);
                let source = match (known, self) {
                    (Some(known), _) => open(known)?,
                    (None, Self::Registry(registry, _)) => {
                        let resource = registry.blob(&digest)?;
                        let shown = format!("the digest table {digest}");
                        Arc::new(HttpSource::over(resource, Some(shown), false, None))
                    }
                    (None, Self::Layout(layout, _)) => {
                        Arc::new(FileSource::open(&layout.blob_path(&digest))?)
                    }
                    _ => return Err(wrong("no manifest here")),
                };
                Some(RemoteTable { source, size, pin: pin.cloned() })
            }
            (None, _) => None,
        };
        Ok(RemoteBlob { source, size: Some(layer.size), content: Some(content), table })
    }
}

impl RemoteImage {
    /// A data blob by the tag that the image's device table gives it: the file of that name beside
    /// the image, or the layer of that name. `validate`: see [`HttpOptions::validate`].
    pub fn blob(&self, tag: &str, validate: bool) -> Result<RemoteBlob, FetchError> {
        check_tag(tag)?;
        self.place.neighbour(Some(tag), validate)
    }
}

#[cfg(test)]
mod tests;
