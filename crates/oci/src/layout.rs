// SPDX-License-Identifier: MIT OR Apache-2.0
//! Image layouts: a folder with `oci-layout`, `index.json` and `blobs/`.

mod artifact;

use crate::manifest::MANIFEST_LEN_MAX;
use crate::{Descriptor, Digest, Error, ErrorKind, Fetched, Manifest, Platform};
use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Annotation of an entry of `index.json` that names it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image layout.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

fn read(path: &Path, len_max: usize) -> Result<Vec<u8>, Error> {
    let shown = path.display();
    let io = |error: std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("{shown}: {error}"))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(len_max as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > len_max {
        let what = format!("{shown}: larger than {len_max} bytes");
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    Ok(bytes)
}

impl Layout {
    /// Whether a folder says that it is one.
    pub fn is_layout(path: &Path) -> bool {
        path.join("oci-layout").is_file()
    }

    /// Opens a layout of version 1.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let marker: Marker = serde_json::from_slice(&read(&path.join("oci-layout"), 4096)?)
            .map_err(|_| Error::invalid(format!("{}: no image layout", path.display())))?;
        if !marker.version.starts_with("1.") {
            let version = crate::error::printable(&marker.version);
            let what = format!("{}: layout version {version}, not 1", path.display());
            return Err(Error::invalid(what));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// `index.json`.
    pub fn index(&self) -> Result<Manifest, Error> {
        let path = self.path.join("index.json");
        Manifest::parse(&read(&path, MANIFEST_LEN_MAX)?, &path.display().to_string())
    }

    /// The file of a blob. Not checked to be there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// A whole small blob, verified.
    pub fn blob_bytes(&self, digest: &Digest, len_max: usize) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let bytes = read(&path, len_max)?;
        digest.verify(&bytes, &path.display().to_string())?;
        Ok(bytes)
    }

    /// A manifest or index by its digest, verified.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        let bytes = self.blob_bytes(digest, MANIFEST_LEN_MAX)?;
        Manifest::parse(&bytes, &self.blob_path(digest).display().to_string())
    }

    /// The manifest of the image with a name (or the only one), for a platform.
    pub fn image(&self, name: Option<&str>, platform: &Platform) -> Result<Fetched, Error> {
        let index = self.index()?;
        let named = |entry: &&Descriptor| {
            name.map_or(!artifact::is_artifact(entry), |name| {
                entry.annotations.get(REF_NAME).is_some_and(|known| known == name)
                    || entry.digest_text == name
            })
        };
        let missing = || {
            let what = format!("{}: no such image, or several", self.path.display());
            Error::new(ErrorKind::NotFound, what)
        };
        let fitting: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
        let mut entry = if let [only] = fitting[..] {
            only.clone()
        } else {
            let manifests = fitting.into_iter().cloned().collect();
            let some = Manifest { manifests, ..Manifest::default() };
            some.choose(platform).cloned().ok_or_else(missing)?
        };
        for _ in 0..3 {
            let digest = entry.digest()?;
            let bytes = self.blob_bytes(&digest, MANIFEST_LEN_MAX)?;
            let manifest = Manifest::parse(&bytes, &self.blob_path(&digest).display().to_string())?;
            if !manifest.is_index() {
                return Ok(Fetched { digest, bytes, manifest });
            }
            entry = manifest.choose(platform).cloned().ok_or_else(missing)?;
        }
        Err(Error::protocol(format!("{}: indexes of indexes", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_and_verified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let manifest = br#"{"schemaVersion":2,"layers":[]}"#;
        let digest = Digest::of(manifest);
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{digest}","size":31,
            "annotations":{{"{REF_NAME}":"v1"}}}}]}}"#
        );
        std::fs::write(path.join("index.json"), index).unwrap();
        let layout = Layout::open(path).unwrap();
        std::fs::write(layout.blob_path(&digest), manifest).unwrap();
        let platform = Platform::host();
        assert_eq!(layout.image(Some("v1"), &platform).unwrap().digest, digest);
        assert_eq!(layout.image(None, &platform).unwrap().bytes, manifest);
        assert_eq!(layout.image(Some("v2"), &platform).unwrap_err().kind, ErrorKind::NotFound);
        std::fs::write(layout.blob_path(&digest), b"{}").unwrap();
        assert_eq!(layout.image(None, &platform).unwrap_err().kind, ErrorKind::Digest);
    }
}
