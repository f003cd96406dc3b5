// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a daemon's blobs come from: images by key, named on the command line or in a file, and a
//! folder of files.
//!
//! Paths are made absolute here, because daemons have another working directory.

use crate::args::CachedArgs;
use crate::errors::Advice;
use anyhow::Context;
use ferrofs_serve::LazySpec;
use ferrofs_store::cachefiles::{
    BlobProvider, DirectoryBlobs, KeyedImage, ProvidedBlob, ProviderError, StoredBlobs,
};
use ferrofs_store::source::remote::Location;
use ferrofs_store::{Cache, CacheConfig, ImagePlace, LimitConfig, Limits, Opener};
use rustix::io::Errno;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Names of what follows a blob's URL.
const NAMES: [&str; 6] = ["pin", "pin-device", "digests", "mirror", "domain", "insecure"];
/// The longest file of blobs.
const FILE_MAX: u64 = 64 << 20;
/// The most blobs that are open in our own cache, however many descriptors there may be.
const OPEN_MAX: u64 = 512;
/// Descriptors that a blob takes which is open there, and its connections.
const DESCRIPTORS_EACH: u64 = 8;

/// What `--blobs`, `--blob` and `--from` say.
#[derive(Debug)]
pub(super) struct Sources {
    folder: Option<PathBuf>,
    /// As they were given.
    texts: Vec<String>,
    from: Option<PathBuf>,
    insecure: bool,
    cache: LazySpec,
    /// For a worker.
    network_words: Vec<OsString>,
}

/// Blobs of images, and of a folder where there is no such image.
#[derive(Debug)]
struct Both {
    images: StoredBlobs,
    folder: DirectoryBlobs,
}

impl BlobProvider for Both {
    fn blob(&self, volume: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        match self.images.blob(volume, cookie) {
            Err(error) if error.errno == Errno::NOENT => self.folder.blob(volume, cookie),
            other => other,
        }
    }
}

impl Sources {
    /// Reads nothing yet.
    pub(super) fn new(args: &CachedArgs) -> anyhow::Result<Self> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let cache = LazySpec {
            cache: absolute(&args.cache_dir)?.map(PathBuf::into_os_string),
            cache_bytes: args.cache_dir_max,
            bandwidth: args.bandwidth,
            network: args.network.network()?,
            ..LazySpec::default()
        };
        Ok(Self {
            folder: absolute(&args.blobs)?,
            texts: args.blob.clone(),
            from: absolute(&args.from)?,
            insecure: args.insecure,
            cache,
            network_words: args.network.words()?,
        })
    }

    /// The arguments that say the same to a worker.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| words.extend([name.into(), value]);
        if let Some(folder) = &self.folder {
            add("--blobs", folder.into());
        }
        for text in &self.texts {
            add("--blob", text.into());
        }
        if let Some(from) = &self.from {
            add("--from", from.into());
        }
        if let Some(folder) = &self.cache.cache {
            add("--cache-dir", folder.clone());
        }
        let numbers =
            [("--cache-dir-max", self.cache.cache_bytes), ("--bandwidth", self.cache.bandwidth)];
        for (name, number) in numbers {
            if let Some(number) = number {
                add(name, number.to_string().into());
            }
        }
        if self.insecure {
            words.push("--insecure".into());
        }
        words.extend(self.network_words.iter().cloned());
        words
    }

    /// Checks what can be checked without a network and without a cache.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.images()?;
        self.open_folder().map(|_| ())
    }

    fn open_folder(&self) -> anyhow::Result<Option<DirectoryBlobs>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let opened = DirectoryBlobs::new(folder);
        opened.with_context(|| format!("cannot use {} as --blobs", folder.display())).map(Some)
    }

    /// What serves them, in a process that may have so many descriptors.
    pub(super) fn open(&self, descriptors: u64) -> anyhow::Result<Arc<dyn BlobProvider>> {
        let folder = self.open_folder()?;
        let images = self.images()?;
        if images.is_empty() {
            // The arguments make sure that there is one of both.
            return Ok(Arc::new(folder.context("nothing to serve")?));
        }
        let path = self.cache.cache_folder();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let config = CacheConfig { bytes_max: self.cache.cache_bytes, ..CacheConfig::new(path) };
        let limits =
            LimitConfig { bytes_per_second: self.cache.bandwidth, ..LimitConfig::default() };
        // A quarter is for our own cache, the rest for what the other one gives us.
        let open_max = (descriptors / 4 / DESCRIPTORS_EACH).clamp(4, OPEN_MAX);
        let limits = Arc::new(Limits::new(limits));
        let opener = Opener::new(Cache::open(config)?, limits, &self.cache.network)?;
        let images = StoredBlobs::new(opener, images, open_max as usize)?;
        Ok(match folder {
            Some(folder) => Arc::new(Both { images, folder }),
            None => Arc::new(images),
        })
    }

    fn images(&self) -> anyhow::Result<Vec<KeyedImage>> {
        let mut images = Vec::new();
        for text in &self.texts {
            images.push(parse(text, self.insecure)?);
        }
        let Some(path) = &self.from else { return Ok(images) };
        let context = || format!("cannot read {}", path.display());
        let len = std::fs::metadata(path).with_context(context)?.len();
        anyhow::ensure!(len <= FILE_MAX, "{}: {len} bytes are too many", path.display());
        let lines = std::fs::read_to_string(path).with_context(context)?;
        for (number, line) in lines.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let image = parse(line, self.insecure);
            images.push(image.with_context(|| format!("{}, line {}", path.display(), number + 1))?);
        }
        Ok(images)
    }
}

/// `KEY=URL[,NAME=VALUE...]`.
fn parse(text: &str, insecure: bool) -> anyhow::Result<KeyedImage> {
    let wrong = |what: String| {
        let help = "KEY=URL[,pin=blake3:HEX][,pin-device=TAG=blake3:HEX][,digests=URL][,mirror=URL]\
                    [,domain=NAME][,insecure]";
        Advice::error(format!("`{text}`: {what}"), help)
    };
    let (key, rest) = text.split_once('=').ok_or_else(|| wrong("no URL for it".to_owned()))?;
    let location = |text: &str| Location::parse(text).map_err(|error| wrong(error.to_string()));
    let mut parts: Vec<String> = Vec::new();
    for part in rest.split(',') {
        let known = NAMES.contains(&part.split('=').next().unwrap_or_default());
        match parts.last_mut() {
            // URLs have commas, too.
            Some(last) if !known => {
                last.push(',');
                last.push_str(part);
            }
            _ => parts.push(part.to_owned()),
        }
    }
    let mut parts = parts.iter();
    let url = parts.next().map_or("", String::as_str);
    let mut place = ImagePlace { insecure, ..ImagePlace::new(location(url)?) };
    let mut domain = None;
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("pin", pin) => {
                let error = |_| wrong(format!("`{pin}` is no pin of a digest table"));
                place.pin = Some(pin.parse().map_err(error)?);
            }
            ("pin-device", named) => {
                let wrong = || wrong(format!("`{named}` is not TAG=blake3:HEX"));
                let (tag, pin) = named.rsplit_once('=').ok_or_else(wrong)?;
                let pin = pin.parse().map_err(|_| wrong())?;
                place.device_pins.insert(tag.to_owned(), pin);
            }
            ("digests", url) => place.digests = Some(location(url)?),
            ("mirror", url) => place.mirrors.push(location(url)?),
            ("domain", name) if !name.is_empty() => domain = Some(name.to_owned()),
            ("insecure", "") => place.insecure = true,
            _ => return Err(wrong(format!("`{part}` makes no sense"))),
        }
    }
    Ok(KeyedImage { key: key.to_owned(), domain, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_with_all_that_belongs_to_them() {
        let pin = format!("blake3:{}", "0a".repeat(32));
        let text = format!(
            "image=https://h/a,b=c.erofs?x=1,2,pin={pin},mirror=http://m/a,mirror=file:///a,domain=d"
        );
        let image = parse(&text, false).unwrap();
        assert_eq!((image.key.as_str(), image.domain.as_deref()), ("image", Some("d")));
        assert_eq!(image.place.location.to_string(), "https://h/a,b=c.erofs");
        assert_eq!(image.place.pin.unwrap().to_string(), pin);
        assert_eq!(image.place.mirrors.len(), 2);
        assert!(!image.place.insecure && image.place.digests.is_none());
        assert!(parse("a=file:///a,insecure", false).unwrap().place.insecure);
        assert!(parse("a=file:///a", true).unwrap().place.insecure);
        for bad in
            ["a", "a=", "a=b", "a=file:///a,pin=x", "a=file:///a,domain=", "a=s3://b,insecure"]
        {
            let error = parse(bad, false).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
