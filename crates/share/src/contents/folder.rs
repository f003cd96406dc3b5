// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder of a domain: its lock, what is in it, and removing what nobody uses.
//!
//! A store is named by the contents it has, so a store that was removed and made again is the same,
//! also to a mount that is still there. An image is named by what tells that it is the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ferrofs_image::{Image, InodeDigest, Nid};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::{ContentStore, Error, Input, Result, StoreOptions, guard};

const SUFFIX: &str = "erofs";
/// Of files that are not complete.
const WORKING: &str = "new";
/// Attribute of an image's root that lists its stores; mounts do not show it.
pub(super) const STORES: &[u8] = b"ferrofs.stores";
/// Attribute of a file that says where its content is, as overlayfs wants it.
pub(super) const REDIRECT: &[u8] = b"trusted.overlay.redirect";
/// Bytes of an id.
const ID_LEN: usize = 16;

/// Names an image that was added.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ImageId([u8; ID_LEN]);

/// Names a store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StoreId([u8; ID_LEN]);

/// What went with an image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Removed {
    /// Stores that no other image uses.
    pub stores: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// Where a content is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) store: StoreId,
}

/// Contents of a domain by digest.
pub(super) type Contents = BTreeMap<[u8; 32], Stored>;

/// The domain's lock, held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

macro_rules! id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl $name {
            /// Parses what it shows.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let bytes = text.as_bytes();
                let digit = |byte: u8| match byte {
                    b'0'..=b'9' => Some(byte - b'0'),
                    b'a'..=b'f' => Some(byte - b'a' + 10),
                    _ => None,
                };
                let mut id = [0; ID_LEN];
                if bytes.len() != ID_LEN * 2 {
                    return None;
                }
                for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
                    *byte = digit(pair[0])? << 4 | digit(pair[1])?;
                }
                Some(Self(id))
            }

            fn of(hash: Sha256) -> Self {
                let digest: [u8; 32] = hash.finalize().into();
                let mut id = [0; ID_LEN];
                id.copy_from_slice(&digest[..ID_LEN]);
                Self(id)
            }
        }
    };
}

id!(ImageId);
id!(StoreId);

impl ImageId {
    /// Of the files as they are now: device, inode, size, times, and the first superblock.
    pub(super) fn of_input(input: &Input) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(input.offset.to_le_bytes());
        for (number, path) in std::iter::once(&input.image).chain(&input.devices).enumerate() {
            let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
            let meta = file.metadata().map_err(|error| Error::io("stat", path, error))?;
            for value in [meta.dev(), meta.ino(), meta.size()] {
                hash.update(value.to_le_bytes());
            }
            for value in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
                hash.update(value.to_le_bytes());
            }
            let mut superblock = [0; 128];
            if number == 0 {
                let at = input.offset.saturating_add(1024);
                file.read_exact_at(&mut superblock, at)
                    .map_err(|error| Error::io("read", path, error))?;
            }
            hash.update(superblock);
        }
        Ok(Self::of(hash))
    }
}

impl StoreId {
    /// Of a store with these contents.
    pub(super) fn of_contents<'a>(digests: impl Iterator<Item = &'a [u8; 32]>) -> Self {
        let mut hash = Sha256::new();
        digests.for_each(|digest| hash.update(digest));
        Self::of(hash)
    }
}

impl ContentStore {
    /// Opens the folder of a domain in `place`, and makes it if there is none.
    pub fn open(place: &Path, domain: &str, options: StoreOptions) -> Result<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let short = (1..=64).contains(&domain.len()) && !domain.starts_with('.');
        if !short || !domain.bytes().all(good) {
            return Err(Error::Domain { name: domain.to_owned() });
        }
        let folder = place.join(domain);
        for folder in [&folder, &folder.join("stores"), &folder.join("images")] {
            make(folder)?;
        }
        let folder = folder.canonicalize().map_err(|error| Error::io("resolve", &folder, error))?;
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let run = format!("/run/ferrofs/share/{domain}-{}", hex(&digest[..8]));
        Ok(Self { folder, run: PathBuf::from(run), options })
    }

    /// Takes the lock, waiting for others, and removes what a crash left.
    pub(super) fn lock(&self) -> Result<Lock> {
        let path = self.folder.join("lock");
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| Error::io("open", &path, error))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| Error::io("lock", &path, error))?;
        for folder in ["stores", "images"] {
            for path in list(&self.folder.join(folder))? {
                if path.extension() == Some(OsStr::new(WORKING)) {
                    remove_file(&path)?;
                }
            }
        }
        Ok(Lock { _file: file })
    }

    pub(super) fn store_path(&self, id: StoreId) -> PathBuf {
        self.folder.join("stores").join(format!("{id}.{SUFFIX}"))
    }

    pub(super) fn image_path(&self, id: ImageId) -> PathBuf {
        self.folder.join("images").join(format!("{id}.{SUFFIX}"))
    }

    /// Images that were added.
    pub fn images(&self) -> Result<Vec<ImageId>> {
        self.names("images", ImageId::parse)
    }

    /// Stores.
    pub fn stores(&self) -> Result<Vec<StoreId>> {
        self.names("stores", StoreId::parse)
    }

    fn names<T: Ord>(&self, folder: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let paths = list(&self.folder.join(folder))?;
        let complete = paths.iter().filter(|path| path.extension() == Some(OsStr::new(SUFFIX)));
        let mut ids: Vec<T> =
            complete.filter_map(|path| parse(path.file_stem()?.to_str()?)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Stores that an image uses.
    pub fn stores_of(&self, id: ImageId) -> Result<Vec<StoreId>> {
        let path = self.image_path(id);
        if !path.exists() {
            return Err(Error::Unknown { id: id.to_string() });
        }
        let image = open(&path)?;
        let fail = |error| Error::Image { path: path.clone(), error };
        let root = image.inode(image.root()).map_err(fail)?;
        let value = image.xattr(&root, STORES).map_err(fail)?.unwrap_or_default();
        let bad = || Error::Damaged { path: path.clone(), what: "its list of stores is none" };
        let text = std::str::from_utf8(&value).map_err(|_| bad())?;
        text.split_terminator(',').map(|id| StoreId::parse(id).ok_or_else(bad)).collect()
    }

    /// Contents of all stores that images use; the other stores are removed. With the lock.
    pub(super) fn contents(&self, _: &Lock) -> Result<Contents> {
        self.remove_unused()?;
        let mut contents = Contents::new();
        for id in self.stores()? {
            let path = self.store_path(id);
            let image = open(&path)?;
            let read = read_store(&image).map_err(|error| Error::Image { path, error })?;
            contents.extend(
                read.into_iter().map(|(digest, size)| (digest, Stored { size, store: id })),
            );
        }
        Ok(contents)
    }

    /// Removes an image, and the stores that no other image uses. Mounts of it stay.
    pub fn remove(&self, id: ImageId) -> Result<Removed> {
        let _lock = self.lock()?;
        let path = self.image_path(id);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            return Err(Error::Unknown { id: id.to_string() });
        };
        remove_file(&path)?;
        sync(&self.folder.join("images"))?;
        let removed = self.remove_unused()?;
        Ok(Removed { bytes: removed.bytes + meta.blocks() * 512, ..removed })
    }

    fn remove_unused(&self) -> Result<Removed> {
        let mut used = BTreeSet::new();
        for id in self.images()? {
            used.extend(self.stores_of(id)?);
        }
        let mut removed = Removed::default();
        for id in self.stores()?.into_iter().filter(|id| !used.contains(id)) {
            let path = self.store_path(id);
            removed.bytes += fs::symlink_metadata(&path).map_or(0, |meta| meta.blocks() * 512);
            removed.stores += 1;
            remove_file(&path)?;
        }
        Ok(removed)
    }
}

/// Digests and sizes of what is in a store.
pub(super) fn read_store(image: &Image) -> ferrofs_image::Result<Vec<([u8; 32], u64)>> {
    let top = image.resolve(b"ab")?;
    let mut found: Vec<(Vec<u8>, Nid)> = Vec::new();
    image.directory(&top)?.walk(0, |entry, _| {
        found.push((entry.name.to_vec(), entry.nid));
        std::ops::ControlFlow::Continue(())
    })?;
    let mut contents = Vec::with_capacity(found.len());
    for (name, nid) in found.iter().filter(|(name, _)| name.len() == 62) {
        let inode = image.inode(*nid)?;
        // The builder hashed what it wrote.
        if let Some(InodeDigest::Sha256(digest)) = image.inode_digest(&inode)?
            && name_of(&digest) == **name
        {
            contents.push((digest, inode.size));
        }
    }
    Ok(contents)
}

/// Name of a content in its store: the folder is the same for all.
pub(super) fn name_of(digest: &[u8; 32]) -> Vec<u8> {
    hex(digest).into_bytes().split_off(2)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Opens a file of the folder, and sees that it is as long as it says.
pub(super) fn open(path: &Path) -> Result<Image> {
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let len = file.metadata().map_err(|error| Error::io("stat", path, error))?.len();
    let fail = |error| Error::Image { path: path.to_owned(), error };
    let image = Image::open(file).map_err(fail)?;
    let superblock = image.superblock();
    if superblock.block_bits.byte_of(superblock.blocks) != Some(len) {
        return Err(Error::Damaged { path: path.to_owned(), what: "its length has changed" });
    }
    Ok(image)
}

/// A folder that only its owner may enter.
pub(super) fn make(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Error::io("make", folder, error))
}

/// Gives a file that was made under its working name the final one, for good.
pub(super) fn publish(working: &Path, path: &Path) -> Result<()> {
    fs::rename(working, path).map_err(|error| Error::io("rename", working, error))?;
    sync(path.parent().unwrap_or(path))
}

pub(super) fn working(path: &Path) -> PathBuf {
    path.with_extension(WORKING)
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io("flush", folder, error))
}

fn remove_file(path: &Path) -> Result<()> {
    guard::release(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    read.map_err(|error| Error::io("list", folder, error))
}
