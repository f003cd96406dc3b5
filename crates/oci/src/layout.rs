// SPDX-License-Identifier: MIT OR Apache-2.0
//! Image layouts: a folder with `oci-layout`, `index.json` and `blobs/`.

mod artifact;

use crate::error::printable;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::{Descriptor, Digest, Error, ErrorKind, Fetched, Manifest, Platform};
use serde::Deserialize;
use std::collections::HashSet;
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
    /// The folder of a layout, and the name of an image in it, if a path is one of `FOLDER` and
    /// `FOLDER:NAME`. A folder whose own name is the whole path comes first.
    pub fn locate(path: &Path) -> Option<(PathBuf, Option<String>)> {
        let is_layout = |path: &Path| path.join("oci-layout").is_file();
        if is_layout(path) {
            return Some((path.to_owned(), None));
        }
        // Names may have colons and slashes of their own (`host:5000/app:v1`).
        let text = path.to_str()?;
        text.match_indices(':').find_map(|(at, _)| {
            let (folder, name) = (Path::new(&text[..at]), &text[at + 1..]);
            (!name.is_empty() && is_layout(folder))
                .then(|| (folder.to_owned(), Some(name.to_owned())))
        })
    }

    /// Opens a layout of version 1.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let marker: Marker = serde_json::from_slice(&read(&path.join("oci-layout"), 4096)?)
            .map_err(|_| Error::invalid(format!("{}: no image layout", path.display())))?;
        if !marker.version.starts_with("1.") {
            let version = printable(&marker.version);
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

    /// The manifest of the image with a name or digest (or of the only one), for a platform.
    pub fn image(&self, name: Option<&str>, platform: &Platform) -> Result<Fetched, Error> {
        let index = self.index()?;
        let named = |entry: &&Descriptor| {
            name.map_or(!artifact::is_artifact(entry), |name| {
                entry.annotations.get(REF_NAME).is_some_and(|known| known == name)
                    || entry.digest_text == name
            })
        };
        let missing = || {
            let names = index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME));
            let names: Vec<String> = names.take(10).map(|name| printable(name)).collect();
            let (path, names) = (self.path.display(), names.join(", "));
            let what = match name {
                Some(name) => format!("{path}: no image `{}`; it has: {names}", printable(name)),
                None => format!("{path}: not one image alone: say FOLDER:NAME; it has: {names}"),
            };
            Error::new(ErrorKind::NotFound, what)
        };
        let mut fitting: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
        // One image may have several names.
        let mut seen = HashSet::new();
        fitting.retain(|entry| seen.insert(&entry.digest_text));
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
        // Named twice it is one image still; beside another one it has to be named.
        let other = Digest::of(b"another");
        let entry = |digest: &Digest, name: &str| {
            format!(
                r#"{{"mediaType":"m","digest":"{digest}","size":31,
                "annotations":{{"{REF_NAME}":"{name}"}}}}"#
            )
        };
        let write = |entries: &[String]| {
            let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            std::fs::write(path.join("index.json"), index).unwrap();
        };
        let twice = [entry(&digest, "v1"), entry(&digest, "host:5000/app:v2")];
        write(&twice);
        assert_eq!(layout.image(None, &platform).unwrap().digest, digest);
        write(&[&twice[..], &[entry(&other, "v3")]].concat());
        let error = layout.image(None, &platform).unwrap_err().to_string();
        assert!(
            error.contains("FOLDER:NAME") && error.contains("v1, host:5000/app:v2, v3"),
            "{error}"
        );
        assert_eq!(layout.image(Some("host:5000/app:v2"), &platform).unwrap().digest, digest);
        std::fs::write(layout.blob_path(&digest), b"{}").unwrap();
        assert_eq!(layout.image(Some("v1"), &platform).unwrap_err().kind, ErrorKind::Digest);
    }

    #[test]
    fn a_path_names_a_folder_and_an_image() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a:b");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("oci-layout"), "{}").unwrap();
        let locate = |rest: &str| {
            let path = PathBuf::from(format!("{}{rest}", folder.display()));
            Layout::locate(&path).map(|(found, name)| {
                assert_eq!(found, folder);
                name
            })
        };
        assert_eq!(locate(""), Some(None));
        assert_eq!(locate(":v1"), Some(Some("v1".into())));
        assert_eq!(locate(":host:5000/app:v1"), Some(Some("host:5000/app:v1".into())));
        assert_eq!(locate(":"), None);
        assert_eq!(locate("/oci-layout"), None, "a file of it");
        assert_eq!(Layout::locate(Path::new("relative")), None);
    }
}
