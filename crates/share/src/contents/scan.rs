// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in an image, as input of a build: its tree without contents, and its files as a source.
//!
//! Invariant: each directory is read once, and the number of entries is limited, whatever the image
//! says; an impossible tree is an error of the tree builder.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::ops::{ControlFlow, Range};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use ferrofs_engine::{Engine, OpenFile};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode, Nid};
use ferrofs_tree::{
    Content, FileData, InodeId, Metadata, NewContent, Source, Timestamp, Tree, TreeBuilder, Xattr,
};

use super::{Error, Result};

/// Most directory entries of an image.
const ENTRIES_MAX: u64 = 1 << 24;
/// Attributes that overlayfs takes for its own.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// What it shows under the names above.
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";

/// A file with content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) inode: Inode,
    /// In the tree.
    pub(super) id: InodeId,
}

/// A tree that is not finished: files with content lack the attributes that lead to it.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) builder: TreeBuilder,
    pub(super) files: Vec<Found>,
    /// Attributes of each of the files.
    pub(super) xattrs: Vec<Vec<Xattr>>,
    pub(super) root_xattrs: Vec<Xattr>,
}

struct Scan<'a> {
    image: &'a Image,
    path: &'a Path,
    scanned: Scanned,
    known: HashMap<Nid, InodeId>,
    pending: VecDeque<(Inode, InodeId)>,
    entries: u64,
}

/// Reads all metadata of an image.
pub(super) fn scan(image: &Image, path: &Path) -> Result<Scanned> {
    let fail = |error| Error::Image { path: path.to_owned(), error };
    let root = image.inode(image.root()).map_err(fail)?;
    let builder = TreeBuilder::new(metadata(&root));
    let root_xattrs = xattrs(image, &root).map_err(fail)?;
    let scanned = Scanned { builder, files: Vec::new(), xattrs: Vec::new(), root_xattrs };
    let known = HashMap::from([(root.nid, InodeId::ROOT)]);
    let pending = VecDeque::from([(root, InodeId::ROOT)]);
    let mut scan = Scan { image, path, scanned, known, pending, entries: 0 };
    while let Some((inode, id)) = scan.pending.pop_front() {
        scan.directory(&inode, id)?;
    }
    Ok(scan.scanned)
}

impl Scan<'_> {
    fn fail(&self, error: ferrofs_image::Error) -> Error {
        Error::Image { path: self.path.to_owned(), error }
    }

    fn directory(&mut self, inode: &Inode, id: InodeId) -> Result<()> {
        let mut names: Vec<(Vec<u8>, Nid)> = Vec::new();
        let left = ENTRIES_MAX - self.entries;
        let mut full = false;
        let directory = self.image.directory(inode).map_err(|error| self.fail(error))?;
        let walked = directory.walk(0, |entry, _| {
            if !matches!(entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.nid));
            }
            full = names.len() as u64 > left;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        walked.map_err(|error| self.fail(error))?;
        self.entries += names.len() as u64;
        if full {
            return Err(Error::TooLarge { what: "directory entries", value: self.entries });
        }
        let mut entries = Vec::with_capacity(names.len());
        for (name, nid) in &names {
            let child = match self.known.get(nid) {
                Some(&child) => child,
                None => self.inode(*nid, id, name)?,
            };
            entries.push((&name[..], child));
        }
        Ok(self.scanned.builder.set_entries(id, entries)?)
    }

    fn inode(&mut self, nid: Nid, parent: InodeId, name: &[u8]) -> Result<InodeId> {
        let inode = self.image.inode(nid).map_err(|error| self.fail(error))?;
        let target;
        let (major, minor) = inode.rdev();
        let content = match inode.file_type {
            FileType::Directory => NewContent::Directory,
            FileType::Regular => {
                let origin = self.scanned.files.len() as u32;
                NewContent::File { origin, size: inode.size, sparse: true }
            }
            FileType::Symlink => {
                target = self.image.readlink(&inode).map_err(|error| self.fail(error))?;
                NewContent::Symlink(&target)
            }
            FileType::CharDevice if (major, minor) == (0, 0) => {
                let tree = self.scanned.builder.tree();
                let path = PathBuf::from(OsString::from_vec(tree.path(parent)));
                return Err(Error::Whiteout { path: path.join(OsString::from_vec(name.to_vec())) });
            }
            FileType::CharDevice => NewContent::Device { block: false, major, minor },
            FileType::BlockDevice => NewContent::Device { block: true, major, minor },
            FileType::Fifo => NewContent::Fifo,
            FileType::Socket => NewContent::Socket,
        };
        let id = self.scanned.builder.add(metadata(&inode), content)?;
        self.known.insert(nid, id);
        let xattrs = xattrs(self.image, &inode).map_err(|error| self.fail(error))?;
        if inode.file_type == FileType::Regular && inode.size > 0 {
            self.scanned.files.push(Found { inode, id });
            self.scanned.xattrs.push(xattrs);
        } else {
            let set = self.scanned.builder.intern_xattrs(xattrs);
            self.scanned.builder.set_xattrs(id, set);
        }
        if inode.file_type == FileType::Directory {
            self.pending.push_back((inode, id));
        }
        Ok(id)
    }
}

fn metadata(inode: &Inode) -> Metadata {
    Metadata {
        permissions: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Timestamp { seconds: inode.mtime, nanoseconds: inode.mtime_nsec.min(999_999_999) },
        ..Metadata::default()
    }
}

/// Attributes that a mount shows, with those of overlayfs under the names that let it show them.
fn xattrs(image: &Image, inode: &Inode) -> ferrofs_image::Result<Vec<Xattr>> {
    let xattrs = image.xattrs(inode)?.into_iter().filter(|xattr| xattr.visible);
    Ok(xattrs
        .map(|xattr| {
            let name = match xattr.name.strip_prefix(OVERLAY) {
                Some(rest) => [ESCAPED, rest].concat(),
                None => xattr.name,
            };
            Xattr { name, value: xattr.value }
        })
        .collect())
}

/// Files of an image, numbered.
pub(super) struct ImageSource<'a> {
    pub(super) engine: &'a Engine,
    pub(super) files: Vec<Inode>,
    /// For messages.
    pub(super) path: &'a Path,
}

impl ImageSource<'_> {
    fn error(&self, error: ferrofs_image::Error) -> ferrofs_tree::Error {
        let error = std::io::Error::other(error);
        ferrofs_tree::Error::Io { action: "read", path: self.path.to_owned(), error }
    }
}

impl Source for ImageSource<'_> {
    fn open<'a>(
        &'a self,
        tree: &'a Tree,
        file: InodeId,
    ) -> ferrofs_tree::Result<Box<dyn FileData + 'a>> {
        let inode = match tree.content(file) {
            Content::File { origin, .. } => self.files.get(origin as usize),
            _ => None,
        };
        let inode = inode.ok_or_else(|| self.error(ferrofs_image::Error::NotFound))?;
        let file = self.engine.open(inode).map_err(|error| self.error(error))?;
        Ok(Box::new(ImageFile { source: self, file }))
    }
}

struct ImageFile<'a> {
    source: &'a ImageSource<'a>,
    file: OpenFile,
}

impl FileData for ImageFile<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> ferrofs_tree::Result<()> {
        let read = self.source.engine.read_into(&self.file, offset, buf);
        match read.map_err(|error| self.source.error(error))? {
            count if count == buf.len() => Ok(()),
            _ => Err(self.source.error(ferrofs_image::Error::NotFound)),
        }
    }

    fn next_data(&mut self, offset: u64) -> ferrofs_tree::Result<Option<Range<u64>>> {
        Ok((offset < self.file.size()).then(|| offset..self.file.size()))
    }

    fn verify(&mut self) -> ferrofs_tree::Result<()> {
        Ok(())
    }
}

/// Files without data: their bytes are in stores.
pub(super) struct Holes;

impl Source for Holes {
    fn open<'a>(&'a self, _: &'a Tree, _: InodeId) -> ferrofs_tree::Result<Box<dyn FileData + 'a>> {
        Ok(Box::new(Self))
    }
}

impl FileData for Holes {
    fn read_at(&mut self, _: u64, buf: &mut [u8]) -> ferrofs_tree::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn next_data(&mut self, _: u64) -> ferrofs_tree::Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn verify(&mut self) -> ferrofs_tree::Result<()> {
        Ok(())
    }
}
