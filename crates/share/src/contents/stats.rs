// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a domain's content stores hold, and what the images mounted out of them share.
//!
//! Reads the folder and the list of mounts, and changes neither. Invariant: what is counted as saved
//! is of images that are mounted; what is stored counts whether they are or not.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ferrofs_format::inode::FileType;
use ferrofs_image::{Image, Nid};
use ferrofs_linux::mountinfo::{self, MountEntry};
use serde::Serialize;

use super::folder::{self, REDIRECT, list};
use super::mount::SOURCE;
use super::{ContentStore, Error, ImageId, Result, StoreId, StoreOptions};

/// An image of a domain.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct StoredImage {
    /// Its name in the domain.
    pub id: String,
    /// Where it is mounted, as far as this process sees.
    pub targets: Vec<PathBuf>,
    /// Files with content.
    pub files: u64,
    /// Contents of it that several files of mounted images have.
    pub shared_contents: u64,
    /// Of its files, those whose content several files of mounted images have.
    pub shared_files: u64,
    /// Bytes of these, in pages.
    pub mapped_bytes: u64,
    /// Bytes of memory that they take less than alone, if all is in memory.
    pub saved_bytes: u64,
}

/// What a domain stores and shares.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct StoreStats {
    /// Its name.
    pub domain: String,
    /// How it shares: `overlay`.
    pub mechanism: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Contents in stores.
    pub stored_contents: u64,
    /// Bytes of these.
    pub content_bytes: u64,
    /// Bytes that stores and metadata take on the disk.
    pub stored_bytes: u64,
    /// Stores.
    pub stores: u64,
    /// Stores that the kernel has mounted, with what is in memory of them.
    pub mounted_stores: u64,
    /// Contents that several files of mounted images have.
    pub contents: u64,
    /// Files that have them.
    pub files: u64,
    /// Bytes of those files, in pages.
    pub mapped_bytes: u64,
    /// Bytes of memory that they take less than alone, if all is in memory.
    pub saved_bytes: u64,
    /// Bytes of stored contents that the page cache holds now, each once; if asked for.
    pub memory_bytes: Option<u64>,
    /// Its images.
    pub images: Vec<StoredImage>,
}

/// A mount that [`ContentStore::mount`] made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The domain.
    pub store: ContentStore,
    /// The image.
    pub image: ImageId,
}

/// Files of an image: the names of their contents, and sizes. Each inode once.
type Files = Vec<(Vec<u8>, u64)>;

impl ContentStore {
    /// Names of the domains in a folder.
    pub fn domains(place: &Path) -> Result<Vec<String>> {
        if !place.is_dir() {
            return Ok(Vec::new());
        }
        let is_domain =
            |path: &PathBuf| path.join("stores").is_dir() && path.join("images").is_dir();
        let paths = list(place)?.into_iter().filter(is_domain);
        let names = paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Opens the folder of a domain, if there is one.
    pub fn existing(place: &Path, domain: &str) -> Result<Option<Self>> {
        let known = Self::domains(place)?.iter().any(|name| name == domain);
        known.then(|| Self::open(place, domain, StoreOptions::default())).transpose()
    }

    /// The domain and the image of the overlay that `path` is in, if it is one of ours.
    pub fn find(path: &Path) -> Result<Option<Found>> {
        let path = path.canonicalize().map_err(|error| Error::io("resolve", path, error))?;
        let mounts = mounts()?;
        let above = mounts.iter().filter(|entry| path.starts_with(&entry.target));
        // The deepest; of those on one place, the last.
        let Some(entry) = above.max_by_key(|entry| entry.target.components().count()) else {
            return Ok(None);
        };
        let ours = entry.fs_type == "overlay" && entry.source == Path::new(SOURCE);
        let Some(image) = metadata_of(entry).filter(|_| ours) else { return Ok(None) };
        let id = image.file_name().and_then(OsStr::to_str).and_then(ImageId::parse);
        let run = image.parent().and_then(Path::parent);
        let (Some(id), Some(run)) = (id, run) else { return Ok(None) };
        // The folder is where its stores lie.
        let stores = run.join("stores");
        let store = mounts.iter().find(|entry| entry.target.parent() == Some(&stores));
        let folder = store.map(backing).and_then(|file| Some(file.parent()?.parent()?.to_owned()));
        let Some((place, name)) = folder
            .as_ref()
            .and_then(|folder| Some((folder.parent()?, folder.file_name()?.to_str()?)))
        else {
            return Ok(None);
        };
        let found = Self::existing(place, name)?.filter(|store| store.run == run);
        Ok(found.map(|store| Found { store, image: id }))
    }

    /// What it stores, and what is shared of it; with `memory`, what the page cache has is counted.
    pub fn stats(&self, memory: bool) -> Result<StoreStats> {
        // Nobody adds or removes meanwhile.
        let _lock = self.lock()?;
        let mounts = mounts()?;
        let mut stats = StoreStats {
            domain: self.name(),
            mechanism: String::from("overlay"),
            folder: self.folder.clone(),
            memory_bytes: memory.then_some(0),
            ..StoreStats::default()
        };
        for id in self.stores()? {
            self.count_store(id, &mounts, &mut stats)?;
        }
        self.count_images(&mounts, &mut stats)?;
        Ok(stats)
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn count_store(
        &self,
        id: StoreId,
        mounts: &[MountEntry],
        stats: &mut StoreStats,
    ) -> Result<()> {
        let path = self.store_path(id);
        let image = folder::open(&path)?;
        stats.stores += 1;
        stats.stored_bytes += blocks(&path);
        let read = folder::read_store(&image).map_err(|error| Error::Image { path, error })?;
        for (_, size) in read {
            stats.stored_contents += 1;
            stats.content_bytes = stats.content_bytes.saturating_add(size);
        }
        let place = self.run.join("stores").join(id.to_string());
        if !mounts.iter().any(|entry| entry.target == place) {
            return Ok(());
        }
        stats.mounted_stores += 1;
        if let Some(bytes) = &mut stats.memory_bytes {
            for file in list(&place.join("ab"))? {
                let cached = File::open(&file)
                    .and_then(|file| ferrofs_linux::pagecache::cached_bytes(&file))
                    .map_err(|error| Error::io("look at", &file, error))?;
                *bytes = bytes.saturating_add(cached);
            }
        }
        Ok(())
    }

    fn count_images(&self, mounts: &[MountEntry], stats: &mut StoreStats) -> Result<()> {
        // By content: files of mounted images that have it.
        let mut users: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut mounted: Vec<(usize, Files)> = Vec::new();
        for id in self.images()? {
            let path = self.image_path(id);
            let image = folder::open(&path)?;
            stats.stored_bytes += blocks(&path);
            let files = files(&image).map_err(|error| Error::Image { path, error })?;
            let targets = self.targets(id, mounts);
            let number = files.len() as u64;
            if !targets.is_empty() {
                for (name, _) in &files {
                    *users.entry(name.clone()).or_default() += 1;
                }
                mounted.push((stats.images.len(), files));
            }
            let id = id.to_string();
            stats.images.push(StoredImage { id, targets, files: number, ..StoredImage::default() });
        }
        // The first that has a content pays for it.
        let mut met: HashSet<Vec<u8>> = HashSet::new();
        for (number, files) in mounted {
            let Some(image) = stats.images.get_mut(number) else { continue };
            let mut own: HashSet<Vec<u8>> = HashSet::new();
            for (name, size) in files {
                if users.get(&name).is_none_or(|users| *users < 2) {
                    continue;
                }
                let bytes = size.checked_next_multiple_of(4096).unwrap_or(size);
                image.shared_contents += u64::from(own.insert(name.clone()));
                image.shared_files += 1;
                image.mapped_bytes = image.mapped_bytes.saturating_add(bytes);
                if met.insert(name) {
                    stats.contents += 1;
                } else {
                    image.saved_bytes = image.saved_bytes.saturating_add(bytes);
                }
            }
            stats.files += image.shared_files;
            stats.mapped_bytes = stats.mapped_bytes.saturating_add(image.mapped_bytes);
            stats.saved_bytes = stats.saved_bytes.saturating_add(image.saved_bytes);
        }
        Ok(())
    }

    /// Where an image is mounted.
    fn targets(&self, id: ImageId, mounts: &[MountEntry]) -> Vec<PathBuf> {
        let metadata = self.run.join("images").join(id.to_string());
        let file = self.image_path(id);
        let of_image = |entry: &&MountEntry| {
            metadata_of(entry).is_some_and(|place| place == metadata)
                // One without content is no overlay.
                || entry.fs_type == "erofs"
                    && entry.target != metadata
                    && backing(entry) == file
        };
        mounts.iter().filter(of_image).map(|entry| entry.target.clone()).collect()
    }
}

/// The layer of an overlay that has the names.
fn metadata_of(entry: &MountEntry) -> Option<PathBuf> {
    let mut options = entry.super_options.split(',').filter(|_| entry.fs_type == "overlay");
    options.find_map(|option| option.strip_prefix("lowerdir+=")).map(PathBuf::from)
}

/// The file that is mounted: the source, or what a loop device has.
fn backing(entry: &MountEntry) -> PathBuf {
    let name = entry.source.strip_prefix("/dev").ok().and_then(Path::to_str);
    let Some(name) = name.filter(|name| name.starts_with("loop")) else {
        return entry.source.clone();
    };
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    file.map_or_else(|_| entry.source.clone(), |file| PathBuf::from(file.trim_end()))
}

fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512))
}

fn mounts() -> Result<Vec<MountEntry>> {
    let path = Path::new("/proc/self/mountinfo");
    mountinfo::read().map_err(|error| Error::io("read", path, error))
}

/// Files whose content is in a store.
fn files(image: &Image) -> ferrofs_image::Result<Files> {
    let mut found = Vec::new();
    let mut pending = vec![image.root()];
    let mut seen: HashSet<Nid> = HashSet::from([image.root()]);
    while let Some(nid) = pending.pop() {
        let mut below = Vec::new();
        image.directory(&image.inode(nid)?)?.walk(0, |entry, _| {
            if !matches!(entry.name, b"." | b"..") && seen.insert(entry.nid) {
                below.push(entry.nid);
            }
            ControlFlow::Continue(())
        })?;
        for nid in below {
            let inode = image.inode(nid)?;
            match inode.file_type {
                FileType::Directory => pending.push(nid),
                FileType::Regular => {
                    if let Some(name) = image.xattr(&inode, REDIRECT)? {
                        found.push((name, inode.size));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}
