// SPDX-License-Identifier: MIT OR Apache-2.0
//! Artifacts that belong to an image of a layout: entries of `index.json` whose manifests name it.
//!
//! Invariant: the index names what is there; it is replaced in one step, with all that it said before.

use super::{Layout, REF_NAME, read};
use crate::manifest::{ENTRIES_MAX, MANIFEST_LEN_MAX};
use crate::push::NOTHING;
use crate::{Artifact, Descriptor, Digest, Error, ErrorKind, Fetched};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind as IoKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Artifacts of one type that are looked at.
const LOOKED_AT_MAX: usize = 1024;

/// Whether an entry of an index is no image, but belongs to one; or is the list of those that do.
pub(super) fn is_artifact(entry: &Descriptor) -> bool {
    let is_list = entry.annotations.get(REF_NAME).is_some_and(|name| {
        let hex = name.strip_prefix("sha256-").unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    entry.artifact_type.is_some() || is_list
}

impl Layout {
    /// Artifacts of a type that belong to a manifest: those that the index names, and those of the
    /// list under the tag that other programs keep for it.
    pub fn referrers(
        &self,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>, Error> {
        let index = self.index()?;
        let tag = subject.referrers_tag();
        let mut entries = index.manifests.clone();
        for entry in &index.manifests {
            if entry.annotations.get(REF_NAME) == Some(&tag) {
                entries.extend(self.manifest(&entry.digest()?)?.manifests);
            }
        }
        entries.retain(|entry| entry.artifact_type.as_deref() == Some(artifact_type));
        // The newest are at the end.
        entries.drain(..entries.len().saturating_sub(LOOKED_AT_MAX));
        let mut found = Vec::new();
        for entry in entries {
            let manifest = self.manifest(&entry.digest()?)?;
            if manifest.subject.is_some_and(|named| named.digest_text == subject.to_string()) {
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// Puts an artifact beside an image of the layout; gives the digest of its manifest. Two who do so
    /// at the same moment may lose one of the two.
    pub fn attach(&self, image: &Fetched, artifact: &Artifact<'_>) -> Result<Digest, Error> {
        let path = self.path.join("index.json");
        let (bytes, entry) = artifact.manifest(image)?;
        let index = with_entry(&read(&path, MANIFEST_LEN_MAX)?, &entry)
            .ok_or_else(|| Error::invalid(format!("{}: cannot be added to", path.display())))?;
        for blob in [NOTHING, artifact.bytes, &bytes] {
            self.put_blob(blob)?;
        }
        replace(&path, &index)?;
        entry.digest()
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<(), Error> {
        let digest = Digest::of(bytes);
        if self.blob_bytes(&digest, bytes.len()).is_ok() {
            return Ok(());
        }
        let path = self.blob_path(&digest);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        replace(&path, bytes)
    }
}

/// An index with one entry more; what we do not know of it stays.
fn with_entry(index: &[u8], entry: &Descriptor) -> Option<Vec<u8>> {
    let mut index: Value = serde_json::from_slice(index).ok()?;
    let fields = index.as_object_mut()?;
    let manifests = fields.entry("manifests").or_insert_with(|| Value::Array(Vec::new()));
    let manifests = manifests.as_array_mut()?;
    manifests
        .retain(|known| known.get("digest").and_then(Value::as_str) != Some(&entry.digest_text));
    manifests.push(serde_json::to_value(entry).ok()?);
    if manifests.len() > ENTRIES_MAX {
        return None;
    }
    serde_json::to_vec(&index).ok().filter(|bytes| bytes.len() <= MANIFEST_LEN_MAX)
}

/// Writes a file under its name when it is complete.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.{number}~", std::process::id()));
    let unfinished = Path::new(&unfinished);
    let write = || {
        let mut file = File::create_new(unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(unfinished, path)
    };
    write().map_err(|error| {
        if error.kind() != IoKind::AlreadyExists {
            // What counts is why it could not be written.
            let _ = std::fs::remove_file(unfinished);
        }
        failed(path, &error)
    })
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Manifest, Platform};
    use std::collections::BTreeMap;

    fn layout(folder: &Path) -> (Layout, Fetched) {
        let bytes = br#"{"schemaVersion":2,"layers":[]}"#.to_vec();
        let digest = Digest::of(&bytes);
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = format!(
            r#"{{"schemaVersion":2,"more":[7],"manifests":[{{"mediaType":"m","digest":"{digest}",
            "size":31,"other":{{}},"annotations":{{"{REF_NAME}":"v1"}}}}]}}"#
        );
        std::fs::write(folder.join("index.json"), index).unwrap();
        let layout = Layout::open(folder).unwrap();
        std::fs::write(layout.blob_path(&digest), &bytes).unwrap();
        let manifest = Manifest::parse(&bytes, "x").unwrap();
        (layout, Fetched { digest, bytes, manifest })
    }

    #[test]
    fn an_artifact_is_kept_with_its_image_and_hides_it_not() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, image) = layout(folder.path());
        assert!(layout.referrers(&image.digest, "t").unwrap().is_empty());
        let artifact = |text| Artifact {
            media_type: "t",
            bytes: text,
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        let one = layout.attach(&image, &artifact(b"one")).unwrap();
        let two = layout.attach(&image, &artifact(b"two")).unwrap();
        assert_eq!(layout.attach(&image, &artifact(b"two")).unwrap(), two);
        let found = layout.referrers(&image.digest, "t").unwrap();
        let digests: Vec<_> = found.iter().map(|entry| entry.digest().unwrap()).collect();
        assert_eq!(digests, [one, two.clone()]);
        assert!(layout.referrers(&image.digest, "u").unwrap().is_empty());
        assert!(layout.referrers(&two, "t").unwrap().is_empty(), "of another manifest");
        // What was there is there still.
        assert_eq!(layout.image(None, &Platform::host()).unwrap().digest, image.digest);
        let text = std::fs::read_to_string(folder.path().join("index.json")).unwrap();
        assert!(text.contains(r#""more":[7]"#) && text.contains(r#""other":{}"#), "{text}");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "nothing unfinished");
        // As other programs keep them: in a list of their own.
        std::fs::write(folder.path().join("index.json"), "{\"schemaVersion\":2}").unwrap();
        let list = serde_json::json!({ "schemaVersion": 2, "manifests": found }).to_string();
        layout.put_blob(list.as_bytes()).unwrap();
        let tag = image.digest.referrers_tag();
        let entry = |digest: &Digest, name: &str| {
            serde_json::json!({ "mediaType": "m", "digest": digest.to_string(), "size": 1,
                                "annotations": { REF_NAME: name } })
        };
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
            entry(&image.digest, "v1"), entry(&Digest::of(list.as_bytes()), &tag)] });
        std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        assert_eq!(layout.referrers(&image.digest, "t").unwrap(), found);
        assert_eq!(layout.image(None, &Platform::host()).unwrap().digest, image.digest);
    }

    #[test]
    fn damaged_layouts_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, image) = layout(folder.path());
        let artifact = Artifact { media_type: "t", bytes: b"x", annotations: BTreeMap::new() };
        let digest = layout.attach(&image, &artifact).unwrap();
        std::fs::write(layout.blob_path(&digest), "{}").unwrap();
        assert_eq!(layout.referrers(&image.digest, "t").unwrap_err().kind, ErrorKind::Digest);
        for bad in ["[]", "{\"manifests\":{}}", "", "{"] {
            std::fs::write(folder.path().join("index.json"), bad).unwrap();
            assert!(layout.attach(&image, &artifact).is_err(), "{bad}");
            assert_eq!(std::fs::read_to_string(folder.path().join("index.json")).unwrap(), bad);
        }
    }
}
