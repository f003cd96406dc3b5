// SPDX-License-Identifier: MIT OR Apache-2.0
//! The golden images, unpacked once for all tests. See `tests/golden/README.md`.

use crate::manifest::{Manifest, Row};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The set of images, unpacked. All tests read the same files; who wants to change one copies it.
#[derive(Debug)]
pub struct Golden {
    folder: PathBuf,
    default: Manifest,
}

impl Golden {
    /// Unpacks the archive beside what cargo builds, if no test has done so before: each test of
    /// nextest is a process of its own, and the set has 250 MB.
    ///
    /// # Panics
    /// If the archive in the repository cannot be read.
    #[must_use]
    pub fn unpack() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let archive = here.join("golden/images-a.tar.zst");
        let archive = std::fs::read(archive).expect("golden archive");
        let shared = here.join("../target/tmp");
        let digest = Sha256::digest(&archive);
        let name = digest.first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
        let folder = shared.join(format!("golden-{name:016x}"));
        if !folder.exists() {
            std::fs::create_dir_all(&shared).expect("cargo's folder");
            let fresh = tempfile::tempdir_in(&shared).expect("a temporary folder");
            let stream = zstd::Decoder::new(archive.as_slice()).expect("golden archive is zstd");
            tar::Archive::new(stream).unpack(fresh.path()).expect("golden archive unpacks");
            // It gets its name when it is whole. If another test was faster, ours goes.
            let renamed = std::fs::rename(fresh.path(), &folder);
            assert!(renamed.is_ok() || folder.exists(), "golden folder: {renamed:?}");
        }
        let manifest = File::open(here.join("golden/tree.jsonl.zst")).expect("golden manifest");
        let text = zstd::decode_all(manifest).expect("golden manifest is zstd");
        Self { default: parse(&text), folder }
    }

    /// Names of the images, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.folder)
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
        self.folder.join(format!("{name}.erofs"))
    }

    /// Paths of its extra devices.
    #[must_use]
    pub fn devices(&self, name: &str) -> Vec<PathBuf> {
        let blob = self.folder.join(format!("{name}.blob"));
        if blob.exists() { vec![blob] } else { vec![] }
    }

    /// What the image must hold.
    #[must_use]
    pub fn manifest(&self, name: &str) -> Manifest {
        std::fs::read(self.folder.join(format!("{name}.jsonl")))
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
