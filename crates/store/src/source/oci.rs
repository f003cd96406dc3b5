// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs of a registry.

use super::http::HttpSource;
use crate::FetchError;
use ferrofs_oci::{Descriptor, Registry};

/// A source for a blob of a repository. Its size is that of the descriptor, which the caller has from
/// a verified manifest; its content is known by its digest, so that no validator is needed.
pub fn open(registry: &Registry, descriptor: &Descriptor) -> Result<HttpSource, FetchError> {
    let digest = descriptor.digest()?;
    let reference = registry.reference();
    let shown = format!("oci://{}/{}@{digest}", reference.registry, reference.repository);
    let resource = registry.blob(&digest)?;
    Ok(HttpSource::over(resource, Some(shown), false, Some(descriptor.size)))
}

#[cfg(test)]
mod tests;
