// SPDX-License-Identifier: MIT OR Apache-2.0
//! Manifests and indexes, as far as we read them. Unknown fields are left out; the bytes that were
//! verified are kept beside.

use crate::{Digest, Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest manifest or index, in bytes; what registries accept.
pub const MANIFEST_LEN_MAX: usize = 4 << 20;
/// Most entries of an index or layers of a manifest.
pub(crate) const ENTRIES_MAX: usize = 10_000;

/// Media types.
pub mod media {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A layer that is an EROFS image.
    pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";
    /// A digest table of ferrofs.
    pub const DIGEST_TABLE: &str = "application/vnd.ferrofs.digest-table.v1";

    /// A trace of ferrofs: what of an image is read first.
    pub const TRACE: &str = "application/vnd.ferrofs.trace.v1";
    /// Nothing, as a configuration.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

    /// All that is asked for where a manifest or index may be.
    pub(crate) const ACCEPT: &str = concat!(
        "application/vnd.oci.image.manifest.v1+json, ",
        "application/vnd.oci.image.index.v1+json, ",
        "application/vnd.docker.distribution.manifest.v2+json, ",
        "application/vnd.docker.distribution.manifest.list.v2+json"
    );

    /// Whether a layer of this type is an EROFS image as it is, not compressed as a whole.
    pub fn is_erofs(media_type: &str) -> bool {
        let plain = media_type.split(';').next().unwrap_or("").trim();
        plain == EROFS_LAYER
            || (plain == "application/vnd.erofs"
                || plain.starts_with("application/vnd.erofs.")
                || plain == "application/vnd.oci.image.layer.v1.erofs")
                && !plain.contains('+')
    }
}

/// Annotations of a layer descriptor.
pub mod annotation {
    /// Digest of the blob, in the same repository, that is the layer's digest table.
    pub const DIGEST_TABLE: &str = "dev.ferrofs.digest-table";
    /// `blake3:HEX`: root of the digest table.
    pub const DIGEST_PIN: &str = "dev.ferrofs.digest-pin";
    /// A name for a layer that is a data blob (device) of another layer.
    pub const BLOB_TAG: &str = "dev.ferrofs.blob-tag";
    /// When something was made.
    pub const CREATED: &str = "org.opencontainers.image.created";
    /// The usual name of a file.
    pub const TITLE: &str = "org.opencontainers.image.title";
}

/// What an index says of a manifest.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
#[expect(clippy::exhaustive_structs, reason = "the specification's fields")]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`...
    pub architecture: String,
    /// `v7`, `v8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For instance `erofs`.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_features: Vec::new(),
        }
    }

    /// `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(Error::invalid("a platform is os/architecture[/variant]")),
        };
        let (os, architecture) = (os.to_owned(), architecture.to_owned());
        Ok(Self { os, architecture, variant, os_features: Vec::new() })
    }
}

/// What points to a blob or manifest.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::exhaustive_structs, reason = "the specification's fields")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest, to be read by [`Descriptor::digest`].
    #[serde(rename = "digest")]
    pub digest_text: String,
    /// Its bytes.
    pub size: u64,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// The digest, if it is one.
    pub fn digest(&self) -> Result<Digest, Error> {
        self.digest_text.parse()
    }
}

/// A manifest or an index: whichever it is, its lists are there.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::exhaustive_structs, reason = "the specification's fields")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// What it says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of an artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Entries of an index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
    /// Configuration of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    /// Layers of an image or artifact.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    /// What an artifact belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest or index; `place` is for messages.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self, Error> {
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(Error::protocol(format!("{place}: a manifest of {} bytes", bytes.len())));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::protocol(format!("{place}: no manifest (line {line}, column {column})"))
        })?;
        if manifest.schema_version != 2 {
            let version = manifest.schema_version;
            return Err(Error::protocol(format!("{place}: a manifest of schema {version}, not 2")));
        }
        if manifest.manifests.len() > ENTRIES_MAX || manifest.layers.len() > ENTRIES_MAX {
            return Err(Error::protocol(format!("{place}: more than {ENTRIES_MAX} entries")));
        }
        if manifest.is_index() && !manifest.layers.is_empty() {
            // What one reader takes for an index and another for an image could be two images.
            return Err(Error::protocol(format!("{place}: both an index and a manifest")));
        }
        Ok(manifest)
    }

    /// Whether it lists manifests.
    pub fn is_index(&self) -> bool {
        !self.manifests.is_empty()
            || matches!(self.media_type.as_deref(), Some(media::OCI_INDEX | media::DOCKER_LIST))
    }

    /// The entry for a platform: one with the feature `erofs` first.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|known| {
                known.os == platform.os
                    && known.architecture == platform.architecture
                    && (platform.variant.is_none() || known.variant == platform.variant)
            })
        };
        let erofs = |entry: &&Descriptor| {
            let features = entry.platform.as_ref().map(|known| known.os_features.as_slice());
            features.unwrap_or_default().iter().any(|feature| feature == "erofs")
        };
        let entries = || self.manifests.iter();
        entries().filter(fits).find(erofs).or_else(|| entries().find(fits)).or_else(|| {
            entries().find(|entry| entry.platform.is_none() && self.manifests.len() == 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_by_platform_and_feature() {
        let text = r#"{"schemaVersion":2,"manifests":[
            {"mediaType":"m","digest":"d1","size":1,"platform":{"os":"linux","architecture":"arm64"}},
            {"mediaType":"m","digest":"d2","size":1,"platform":{"os":"linux","architecture":"amd64"}},
            {"mediaType":"m","digest":"d3","size":1,"platform":
                {"os":"linux","architecture":"amd64","os.features":["erofs"]}}]}"#;
        let index = Manifest::parse(text.as_bytes(), "x").unwrap();
        let chosen = |text| {
            let chosen = index.choose(&Platform::parse(text).unwrap());
            chosen.map(|chosen| chosen.digest_text.clone())
        };
        assert!(index.is_index());
        assert_eq!(chosen("linux/amd64").as_deref(), Some("d3"));
        assert_eq!(chosen("linux/arm64").as_deref(), Some("d1"));
        assert_eq!(chosen("linux/riscv64"), None);
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let deep =
            format!("{{\"schemaVersion\":2,\"x\":{}1{}}}", "[".repeat(9999), "]".repeat(9999));
        let both = r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"d","size":1}],
            "layers":[{"mediaType":"m","digest":"d","size":1}]}"#;
        let negative = r#"{"schemaVersion":2,"layers":[{"mediaType":"m","digest":"d","size":-1}]}"#;
        // What nobody reads is passed over without recursion, however deep it is.
        assert!(Manifest::parse(deep.as_bytes(), "x").is_ok());
        let typed = deep.replace("\"x\"", "\"annotations\"");
        for text in [&typed, both, negative, "{}", "[]", "", r#"{"schemaVersion":1}"#] {
            assert!(Manifest::parse(text.as_bytes(), "x").is_err());
        }
    }

    #[test]
    fn erofs_layers_are_known() {
        for (name, known) in [
            ("application/vnd.erofs.layer.v1", true),
            ("application/vnd.erofs", true),
            ("application/vnd.erofs.layer.v1+zstd", false),
            ("application/vnd.oci.image.layer.v1.tar+gzip", false),
            ("application/vnd.erofsx", false),
        ] {
            assert_eq!(media::is_erofs(name), known, "{name}");
        }
    }
}
