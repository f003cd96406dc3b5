// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that are read on demand, without being mounted: to fill the cache, and to look inside.

use super::{TraceFrom, plan};
use crate::lazy::{LazyImage, LazySpec, complete, metadata_ranges, metadata_tails};
use crate::{Error, Patience, Result};
use ferrofs_image::Image;
use ferrofs_store::source::remote::RemoteOptions;
use ferrofs_store::{
    Blob, Fill, Order, Policy, PrefetchConfig, Prefetcher, Progress, Trace, make_copy,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often it is told how far a replay is.
const TELL_TIME: Duration = Duration::from_millis(100);
/// How long is waited for bytes that do not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// An image that is read on demand, opened in the cache but not mounted.
#[derive(Debug)]
pub struct LazyLook {
    opened: LazyImage,
    remote: RemoteOptions,
}

impl LazySpec {
    /// Finds the image and opens it without mounting it.
    pub fn look(&self) -> Result<LazyLook> {
        let opened = self.open(Patience::Soft(PATIENCE), Policy::default())?;
        Ok(LazyLook { opened, remote: self.remote() })
    }

    /// Fetches an image's metadata: the compressed copy of it that goes behind its digest table.
    pub fn metadata_copy(&self) -> Result<Vec<u8>> {
        let policy = Policy { range_eviction: false, ..Policy::default() };
        let opened = self.open(Patience::Soft(PATIENCE), policy)?;
        let path = PathBuf::from(&self.location);
        let primary = opened.devices.first().ok_or(Error::Answer)?;
        complete(&opened.image, primary, &path)?;
        let blob = primary.blob();
        let found = metadata_ranges(&opened.image, blob.size())
            .and_then(|ranges| Ok((ranges, metadata_tails(&opened.image)?)));
        let (ranges, tails) = found.map_err(|error| Error::Image { path, error })?;
        make_copy(blob.data_file(), &ranges, &tails)
            .map_err(|error| Error::Io { doing: "copy metadata", error })
    }
}

impl LazyLook {
    /// The image; what is read of it is fetched.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.opened.image
    }

    /// The names of its devices' blobs, the primary one first.
    #[must_use]
    pub fn blob_names(&self) -> Vec<String> {
        self.opened.blobs.iter().map(|blob| blob.id().to_string()).collect()
    }

    /// Reads a trace for it.
    pub fn trace(&self, from: &TraceFrom) -> Result<Option<Trace>> {
        let kept = || match &self.opened.whence {
            Some(whence) => {
                let found = whence.found.trace(super::FIND_TIME);
                found.map_err(|error| error.to_string())
            }
            None => Ok(None),
        };
        from.read(&self.remote, kept).map_err(|message| Error::Refused { message })
    }

    /// Fetches what a trace tells and the cache lacks; `tell` hears how far it is. What it came to:
    /// the caller looks for failures there. `None`: the trace is of another image.
    pub fn replay(
        &self,
        trace: &Trace,
        tell: &mut dyn FnMut(&Progress),
    ) -> Result<Option<Progress>> {
        let (replay, blobs) = plan(trace, &self.opened.blobs);
        if blobs.iter().all(Option::is_none) {
            return Ok(None);
        }
        self.fetch(Order::replay(replay, &blobs), tell).map(Some)
    }

    /// Fetches all that the cache lacks.
    pub fn fetch_all(&self, tell: &mut dyn FnMut(&Progress)) -> Result<Vec<Progress>> {
        let blobs = self.opened.blobs.iter();
        let orders =
            blobs.map(|blob| Order::complete(Arc::new(Blob::clone(blob)) as Arc<dyn Fill>));
        orders.map(|order| self.fetch(order, tell)).collect()
    }

    fn fetch(&self, order: Order, tell: &mut dyn FnMut(&Progress)) -> Result<Progress> {
        let limits = self.opened.whence.as_ref().map(|whence| Arc::clone(&whence.limits));
        let pool = Prefetcher::new(PrefetchConfig { limits, ..PrefetchConfig::default() })
            .map_err(|error| Error::Io { doing: "start threads", error })?;
        let job = pool.submit(order);
        loop {
            let progress = job.progress();
            tell(&progress);
            if progress.is_over {
                break;
            }
            std::thread::sleep(TELL_TIME);
        }
        for blob in &self.opened.blobs {
            blob.flush()?;
        }
        Ok(job.progress())
    }
}
