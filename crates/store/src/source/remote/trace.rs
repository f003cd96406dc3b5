// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trace that is kept with an image: beside it, or as an artifact that belongs to it.
//!
//! It refuses to know what is done with it. Invariant: no more is read than a trace can have, and
//! what is no trace is an error.

use super::{Location, Place, RemoteImage, RemoteOptions, resolve, s3, sibling, wrong};
use crate::source::file::FileSource;
use crate::source::http::HttpSource;
use crate::{
    FetchContext, FetchError, FetchErrorKind, Priority, RangeSource, Sink, SinkStop, TRACE_SUFFIX,
    Trace,
};
use ferrofs_oci::manifest::{MANIFEST_LEN_MAX, annotation, media};
use ferrofs_oci::{Artifact, Descriptor, Digest, Fetched, Manifest};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

impl RemoteImage {
    /// The trace that is kept with the image: `IMAGE.trace` beside it; in a registry or image layout
    /// the newest artifact of that type. `None`: there is none.
    pub fn trace(&self, deadline: Option<Instant>) -> Result<Option<Trace>, FetchError> {
        match (&self.place, &self.manifest) {
            (Place::Registry(registry, _), Some(image)) => {
                let found = registry.referrers(image, Some(media::TRACE), deadline)?;
                let Some(digest) = newest(&found)? else { return Ok(None) };
                let manifest = registry.manifest(&digest.to_string(), deadline)?.manifest;
                let layer = layer(&manifest)?;
                let bytes = registry.blob_bytes(layer, Trace::TEXT_MAX, deadline)?;
                return parse(&bytes, &format!("the trace {}", layer.digest_text)).map(Some);
            }
            (Place::Layout(layout, _), Some(image)) => {
                let found = layout.referrers(image, media::TRACE)?;
                let Some(digest) = newest(&found)? else { return Ok(None) };
                let manifest = layout.manifest(&digest)?;
                let layer = layer(&manifest)?;
                let bytes = layout.blob_bytes(&layer.digest()?, Trace::TEXT_MAX)?;
                return parse(&bytes, &format!("the trace {}", layer.digest_text)).map(Some);
            }
            _ => {}
        }
        let Some(source) = self.place.trace_source()? else { return Ok(None) };
        match read(&*source, deadline) {
            Ok(trace) => Ok(Some(trace)),
            Err(error) if error.kind == FetchErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a trace beside the image, in its registry or layout; gives the digest of the artifact.
    pub fn attach_trace(
        &self,
        trace: &Trace,
        created: &str,
        deadline: Option<Instant>,
    ) -> Result<String, FetchError> {
        let text = trace.emit();
        let about = [(annotation::CREATED, created), (annotation::TITLE, "trace")];
        let artifact = Artifact {
            media_type: media::TRACE,
            bytes: text.as_bytes(),
            annotations: about.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let digest = match (&self.place, &self.manifest) {
            (Place::Registry(registry, _), Some(image)) => {
                let image = registry.manifest(&image.to_string(), deadline)?;
                registry.attach(&image, &artifact, deadline)?
            }
            (Place::Layout(layout, _), Some(image)) => {
                let bytes = layout.blob_bytes(image, MANIFEST_LEN_MAX)?;
                let manifest = layout.manifest(image)?;
                let image = Fetched { digest: image.clone(), bytes, manifest };
                layout.attach(&image, &artifact)?
            }
            _ => return Err(wrong("only an image in a registry or layout has artifacts")),
        };
        Ok(digest.to_string())
    }
}

/// Of artifacts the one that was made last.
fn newest(found: &[Descriptor]) -> Result<Option<Digest>, FetchError> {
    let made = |entry: &Descriptor| entry.annotations.get(annotation::CREATED).cloned();
    // Times of RFC 3339 in UTC are in the order of their text; the last one if there are none.
    Ok(found.iter().max_by_key(|entry| made(entry)).map(Descriptor::digest).transpose()?)
}

/// Where the trace of an artifact is.
fn layer(manifest: &Manifest) -> Result<&Descriptor, FetchError> {
    let is_trace = |layer: &&Descriptor| layer.media_type == media::TRACE;
    manifest
        .layers
        .iter()
        .find(is_trace)
        .ok_or_else(|| wrong("an artifact that should be a trace has none in it"))
}

impl Place {
    fn trace_source(&self) -> Result<Option<Arc<dyn RangeSource>>, FetchError> {
        Ok(match self {
            Self::Http(client, url, options) => {
                let url = sibling(url, None, TRACE_SUFFIX)?;
                let source = HttpSource::new(client.clone(), url.as_str(), options.clone())?;
                Some(Arc::new(source))
            }
            Self::S3(client, bucket, key, options) => {
                let key = format!("{key}{TRACE_SUFFIX}");
                Some(Arc::new(s3::open(client.clone(), bucket, &key, options, true)?))
            }
            Self::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(TRACE_SUFFIX);
                let path = PathBuf::from(name);
                if !path.exists() {
                    return Ok(None);
                }
                Some(Arc::new(FileSource::open(&path)?))
            }
            Self::Registry(..) | Self::Layout(..) => None,
        })
    }
}

impl Trace {
    /// The trace at a location: the file that it names, or the trace of the image in a registry or
    /// layout that it names.
    pub fn fetch(location: &Location, options: &RemoteOptions) -> Result<Self, FetchError> {
        let remote = resolve(location, options)?;
        if let Place::Registry(..) | Place::Layout(..) = remote.place {
            let found = remote.trace(options.deadline)?;
            return found.ok_or_else(|| {
                let what = format!("{location}: no trace belongs to it");
                FetchError::new(FetchErrorKind::NotFound, what)
            });
        }
        read(&*remote.primary.source, options.deadline)
    }
}

fn parse(bytes: &[u8], place: &str) -> Result<Trace, FetchError> {
    let text = str::from_utf8(bytes).map_err(|_| wrong(format!("{place}: not a trace")))?;
    Trace::parse(text).map_err(|error| wrong(format!("{place}: {error}")))
}

fn read(source: &dyn RangeSource, deadline: Option<Instant>) -> Result<Trace, FetchError> {
    let context =
        FetchContext { deadline, priority: Priority::Prefetch, ..FetchContext::default() };
    let size = source.identity(&context)?.size;
    if size > Trace::TEXT_MAX as u64 {
        let (place, max) = (source.describe(), Trace::TEXT_MAX);
        return Err(wrong(format!("{place}: {size} bytes, and a trace has at most {max}")));
    }
    let mut text = Text { size: size as usize, ..Text::default() };
    if size > 0 {
        source.fetch(0..size, &mut text, &context)?;
    }
    parse(&text.bytes, &source.describe())
}

/// Keeps what comes, up to a size.
#[derive(Default)]
struct Text {
    size: usize,
    bytes: Vec<u8>,
    piece: Vec<u8>,
}

impl Sink for Text {
    fn begin(&mut self, _: u64, _: Option<u64>) -> Result<(), SinkStop> {
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        self.piece.resize(16 << 10, 0);
        &mut self.piece
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        let left = self.size - self.bytes.len();
        self.bytes.extend_from_slice(&self.piece[..count.min(left)]);
        if count <= left { Ok(()) } else { Err(SinkStop) }
    }
}
