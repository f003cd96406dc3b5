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
use ferrofs_oci::manifest::{annotation, media};
use ferrofs_oci::{Artifact, Descriptor, Registry};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Artifacts of an image that are looked at; registries list the ones we want only by their type.
const ARTIFACTS_MAX: usize = 64;

impl RemoteImage {
    /// The trace that is kept with the image: `IMAGE.trace` beside it; in a registry the newest
    /// artifact of that type. `None`: there is none.
    pub fn trace(&self, deadline: Option<Instant>) -> Result<Option<Trace>, FetchError> {
        if let Place::Registry(registry, _) = &self.place {
            return self.artifact(registry, deadline);
        }
        let Some(source) = self.place.trace_source()? else { return Ok(None) };
        match read(&*source, deadline) {
            Ok(trace) => Ok(Some(trace)),
            Err(error) if error.kind == FetchErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn artifact(
        &self,
        registry: &Registry,
        deadline: Option<Instant>,
    ) -> Result<Option<Trace>, FetchError> {
        let Some(image) = &self.manifest else { return Ok(None) };
        let mut found = registry.referrers(image, Some(media::TRACE), deadline)?;
        found.truncate(ARTIFACTS_MAX);
        let made = |entry: &Descriptor| entry.annotations.get(annotation::CREATED).cloned();
        // Times of RFC 3339 in UTC are in the order of their text; the last one if there are none.
        let Some(newest) = found.iter().max_by_key(|entry| made(entry)) else { return Ok(None) };
        let manifest = registry.manifest(&newest.digest()?.to_string(), deadline)?.manifest;
        let is_trace = |layer: &&Descriptor| layer.media_type == media::TRACE;
        let Some(layer) = manifest.layers.iter().find(is_trace) else {
            return Err(wrong("an artifact that should be a trace has none in it"));
        };
        let bytes = registry.blob_bytes(layer, Trace::TEXT_MAX, deadline)?;
        parse(&bytes, &format!("the trace {}", layer.digest_text)).map(Some)
    }

    /// Puts a trace beside the image, in its registry; gives the digest of the artifact.
    pub fn attach_trace(
        &self,
        trace: &Trace,
        created: &str,
        deadline: Option<Instant>,
    ) -> Result<String, FetchError> {
        let (Place::Registry(registry, _), Some(image)) = (&self.place, &self.manifest) else {
            return Err(wrong("only an image in a registry (oci://) has artifacts"));
        };
        let image = registry.manifest(&image.to_string(), deadline)?;
        let text = trace.emit();
        let about = [(annotation::CREATED, created), (annotation::TITLE, "trace")];
        let artifact = Artifact {
            media_type: media::TRACE,
            bytes: text.as_bytes(),
            annotations: about.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        Ok(registry.attach(&image, &artifact, deadline)?.to_string())
    }
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
    /// The trace at a location: the file that it names, or the trace of the image in a registry that
    /// it names.
    pub fn fetch(location: &Location, options: &RemoteOptions) -> Result<Self, FetchError> {
        let remote = resolve(location, options)?;
        if let Place::Registry(..) = remote.place {
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
