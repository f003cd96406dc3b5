// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of images that are somewhere else.
//!
//! An image is read once, from its first byte to its last one, and is kept nowhere; its metadata is then
//! fetched by the new table, so what goes behind that was verified.

use crate::args::NetworkArgs;
use crate::errors::Advice;
use crate::progress::Bar;
use anyhow::Context as _;
use ferrofs_serve::LazySpec;
use ferrofs_store::source::WholeRead;
use ferrofs_store::source::remote::{Location, RemoteOptions, resolve};
use ferrofs_store::{
    Algorithm, BuiltTable, Geometry, Limits, Network, Origin, OriginConfig, Pin, SystemClock,
    TableBuilder,
};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image at a URL.
pub(super) struct Image {
    url: String,
    location: Location,
    network: Network,
}

/// Without user and password.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

impl Image {
    pub(super) fn new(url: &str, network: &NetworkArgs) -> anyhow::Result<Self> {
        let location = Location::parse(url)?;
        Ok(Self { url: url.to_owned(), location, network: network.network()? })
    }

    /// The table of what is there now.
    pub(super) fn table(&self, algorithm: Algorithm, quiet: bool) -> anyhow::Result<BuiltTable> {
        let client = self.network.client_options();
        let options = RemoteOptions { client, ..RemoteOptions::default() };
        let source = resolve(&self.location, &options)?.primary.source;
        let (config, limits) = (OriginConfig::default(), Arc::new(Limits::default()));
        let origin = Origin::with(vec![], source, config, limits, Arc::new(SystemClock));
        let no_digests = || format!("no digests of {self}");
        let whole = WholeRead::begin(origin).with_context(no_digests)?;
        let bar = Bar::new(quiet, "reading");
        let size = whole.size();
        let table = TableBuilder::new(Geometry::new(algorithm))?;
        table.build(bar.reading(whole, size)).with_context(no_digests)
    }

    /// The name that the image would have in this directory.
    pub(super) fn file_name(&self) -> anyhow::Result<PathBuf> {
        let shown = self.location.to_string();
        let name = shown.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || name == "." || name == ".." {
            return Err(Advice::error(
                format!("{self} has no name that a file could have"),
                "the table is written to this directory, under the image's name with .digests",
            ));
        }
        Ok(PathBuf::from(name))
    }

    /// Its metadata, compressed; nothing for what is no image. `table` is its table's file.
    pub(super) fn copy(&self, table: &Path, pin: Pin) -> io::Result<Vec<u8>> {
        let table = std::path::absolute(table)?;
        let mut cache = table.clone().into_os_string();
        cache.push(".cache");
        let cache = Removed(cache.into());
        let digests = format!("file://{}", table.display().to_string().replace('%', "%25"));
        let spec = LazySpec {
            location: self.url.clone(),
            cache: Some(cache.0.clone().into()),
            pin: Some(pin.to_string()),
            digests: Some(digests),
            network: self.network.clone(),
            ..LazySpec::default()
        };
        Ok(spec.metadata_copy().unwrap_or_else(|error| {
            tracing::debug!(image = %self, %error, "no copy of metadata");
            Vec::new()
        }))
    }
}

/// A folder that is removed in the end, with what is in it.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // What is left is told by its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
