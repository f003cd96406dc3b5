// SPDX-License-Identifier: MIT OR Apache-2.0
//! The regular files of an image or of a directory, behind one face.
//!
//! Invariant: each inode is listed once, whatever names it has, and memory follows the number of names.

use super::{EstimateOptions, Input, check_cancel};
use crate::{Error, Result};
use ferrofs_engine::{Engine, OpenFile};
use ferrofs_format::features::CompatFeatures;
use ferrofs_format::inode::FileType;
use ferrofs_format::xattr::base_prefix;
use ferrofs_image::{Inode, Nid, Source};
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What an inode says that its content's SHA-256 is.
pub(super) type Claim = [u8; 32];

/// The files of a tree.
#[derive(Debug)]
pub(super) enum Tree<'a> {
    Image { engine: &'a Engine, digests: Option<Vec<u8>>, folders: Vec<Folder>, files: Vec<Named> },
    Directory { files: Vec<PathBuf> },
}

/// A directory: which one it is in, and its name there.
#[derive(Debug)]
pub(super) struct Folder {
    above: usize,
    name: Box<[u8]>,
}

/// A file of an image.
#[derive(Debug)]
pub(super) struct Named {
    folder: usize,
    name: Box<[u8]>,
    nid: Nid,
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) size: u64,
    pub(super) claim: Option<Claim>,
    from: From<'a>,
}

#[derive(Debug)]
enum From<'a> {
    Image(&'a Engine, Box<OpenFile>, PathBytes<'a>),
    File(File, &'a Path),
}

/// Enough to tell a path when it is asked for.
#[derive(Clone, Copy, Debug)]
struct PathBytes<'a> {
    folders: &'a [Folder],
    folder: usize,
    name: &'a [u8],
}

impl PathBytes<'_> {
    fn get(self) -> Vec<u8> {
        let mut names = vec![self.name];
        let mut folder = self.folder;
        // Folder 0 is the root. A folder's number is larger than that of the one above it.
        while let Some(at) = self.folders.get(folder).filter(|_| folder > 0) {
            names.push(&at.name);
            folder = at.above;
        }
        names.reverse();
        [b"/", names.join(&b'/').as_slice()].concat()
    }
}

impl<'a> Tree<'a> {
    pub(super) fn list(input: Input<'a>, options: EstimateOptions<'_>) -> Result<Self> {
        match input {
            Input::Image(engine) => image(engine, options),
            Input::Directory(path) => directory(path, options),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Image { files, .. } => files.len(),
            Self::Directory { files } => files.len(),
        }
    }

    pub(super) fn open(&self, index: usize) -> Result<Content<'_>> {
        match self {
            Self::Image { engine, digests, folders, files } => {
                let Named { folder, name, nid } = &files[index];
                let path = PathBytes { folders, folder: *folder, name };
                let failed = |error| Error::image_path(&path.get(), error);
                let inode = engine.image().inode(*nid).map_err(failed)?;
                let claim = match digests {
                    Some(name) => claim(engine, &inode, name).map_err(failed)?,
                    None => None,
                };
                let file = engine.open(&inode).map_err(failed)?;
                let size = file.size();
                Ok(Content { size, claim, from: From::Image(engine, Box::new(file), path) })
            }
            Self::Directory { files } => {
                let path = &files[index];
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let open = || {
                    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
                    let size = file.metadata()?.len();
                    Ok((file, size))
                };
                let (file, size) = open().map_err(|error| Error::io(path, error))?;
                Ok(Content { size, claim: None, from: From::File(file, path) })
            }
        }
    }
}

/// The digest of an inode, if it has one that is understood. format.md §6.5.
fn claim(engine: &Engine, inode: &Inode, name: &[u8]) -> ferrofs_image::Result<Option<Claim>> {
    let value = engine.image().xattr(inode, name)?;
    Ok(value.and_then(|value| value.strip_prefix(b"sha256:")?.try_into().ok()))
}

fn image<'a>(engine: &'a Engine, options: EstimateOptions<'_>) -> Result<Tree<'a>> {
    let image = engine.image();
    let superblock = image.superblock();
    let digests = (options.trust_digests && superblock.compat.has(CompatFeatures::ISHARE_XATTRS))
        .then(|| image.long_prefixes().get(usize::from(superblock.ishare_prefix_id)))
        .flatten()
        .map(|prefix| [base_prefix(prefix.base_index).unwrap_or_default(), &prefix.infix].concat());
    let mut folders = vec![Folder { above: 0, name: Box::default() }];
    let mut files = vec![];
    let mut seen = HashSet::from([image.root().0]);
    let mut pending = vec![(image.root(), 0)];
    while let Some((nid, folder)) = pending.pop() {
        check_cancel(options)?;
        let here = PathBytes { folders: &folders, folder, name: b"" };
        let path = here.get();
        let failed = |error| Error::image_path(&path, error);
        let directory = image.inode(nid).map_err(failed)?;
        for entry in image.directory(&directory).map_err(failed)?.cursor() {
            let entry = entry.map_err(failed)?;
            if entry.is_dot() || !seen.insert(entry.nid.0) {
                continue;
            }
            let named = |error| Error::image_path(&[&path, entry.name.as_slice()].concat(), error);
            let inode = image.inode(entry.nid).map_err(named)?;
            let name = entry.name.as_slice().into();
            match inode.file_type {
                FileType::Directory => {
                    pending.push((entry.nid, folders.len()));
                    folders.push(Folder { above: folder, name });
                }
                FileType::Regular if inode.size > 0 => {
                    files.push(Named { folder, name, nid: entry.nid });
                }
                _ => {}
            }
        }
    }
    Ok(Tree::Image { engine, digests, folders, files })
}

fn directory<'a>(top: &Path, options: EstimateOptions<'_>) -> Result<Tree<'a>> {
    let mut files = vec![];
    let mut seen = HashSet::new();
    let mut pending = vec![top.to_owned()];
    while let Some(folder) = pending.pop() {
        check_cancel(options)?;
        let failed = |error| Error::io(&folder, error);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let found = path.symlink_metadata().map_err(|error| Error::io(&path, error))?;
            if found.is_dir() {
                pending.push(path);
            } else if found.is_file() && found.len() > 0 && seen.insert((found.dev(), found.ino()))
            {
                files.push(path);
            }
        }
    }
    // The order of a directory is chance.
    files.sort_unstable();
    Ok(Tree::Directory { files })
}

impl Content<'_> {
    /// Fills `buf` from `offset` on.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.from {
            From::Image(engine, file, path) => {
                let failed = |error| Error::image_path(&path.get(), error);
                let count = engine.read_into(file, offset, buf).map_err(failed)?;
                debug_assert_eq!(count, buf.len(), "the caller knows the size");
                Ok(())
            }
            From::File(file, path) => {
                file.read_exact_at(buf, offset).map_err(|error| Error::io(path, error))
            }
        }
    }

    /// First offset from `offset` on that is not known to be a hole.
    pub(super) fn next_data(&self, offset: u64) -> Result<u64> {
        match &self.from {
            From::Image(engine, file, path) => {
                let mut cursor = file.map().cursor(engine.image());
                let mut at = offset;
                while at < self.size {
                    let failed = |error| Error::image_path(&path.get(), error);
                    let extent = cursor.extent_at(at).map_err(failed)?;
                    if extent.source != Source::Hole {
                        break;
                    }
                    at = extent.end();
                }
                Ok(at)
            }
            From::File(file, _) => Ok(match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(at) => at,
                Err(rustix::io::Errno::NXIO) => self.size,
                // A file system that does not tell has no holes.
                Err(_) => offset,
            }),
        }
    }
}
