// SPDX-License-Identifier: MIT OR Apache-2.0
//! The golden images, unpacked once a test process. See `tests/golden/README.md`.

use crate::manifest::{Manifest, Row};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An unpacked set of images; removed when dropped.
#[derive(Debug)]
pub struct Golden {
    folder: tempfile::TempDir,
    default: Manifest,
}

impl Golden {
    /// Unpacks the archive into a folder of its own.
    ///
    /// # Panics
    /// If the archive in the repository cannot be read.
    #[must_use]
    pub fn unpack() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = File::open(here.join("images-a.tar.zst")).expect("golden archive");
        let stream = zstd::Decoder::new(archive).expect("golden archive is zstd");
        tar::Archive::new(stream).unpack(folder.path()).expect("golden archive unpacks");
        let manifest = File::open(here.join("tree.jsonl.zst")).expect("golden manifest");
        let text = zstd::decode_all(manifest).expect("golden manifest is zstd");
        Self { default: parse(&text), folder }
    }

    /// Names of the images, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .expect("unpacked folder")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".erofs").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// Path of an image.
    #[must_use]
    pub fn image(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.erofs"))
    }

    /// Paths of its extra devices.
    #[must_use]
    pub fn devices(&self, name: &str) -> Vec<PathBuf> {
        let blob = self.folder.path().join(format!("{name}.blob"));
        if blob.exists() { vec![blob] } else { vec![] }
    }

    /// What the image must hold.
    #[must_use]
    pub fn manifest(&self, name: &str) -> Manifest {
        std::fs::read(self.folder.path().join(format!("{name}.jsonl")))
            .map_or_else(|_| self.default.clone(), |text| parse(&text))
    }
}

fn parse(text: &[u8]) -> Manifest {
    let rows = serde_json::Deserializer::from_slice(text)
        .into_iter::<Row>()
        .map(|row| row.expect("a manifest row"))
        .map(|row| (row.path(), row));
    Manifest { rows: rows.collect::<BTreeMap<_, _>>() }
}
