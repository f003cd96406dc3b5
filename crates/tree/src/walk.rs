// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks a directory into a [`Tree`], and reads its files later.
//!
//! One directory is open at a time and nothing recurses, so depth costs no descriptors and no
//! stack; directories are reached relative to the root's descriptor, in pieces if the path is
//! longer than the system takes, and never through a symlink.
//!
//! Names are sorted before anything is numbered: the same directory gives the same tree, in
//! whatever order the file system lists it.

mod dirfd;
mod exclude;
mod file;
mod options;
#[cfg(test)]
mod tests;
mod xattrs;

use core::ffi::CStr;
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType as RawType, Statx, StatxFlags, readlinkat, statx};

pub use exclude::{Exclude, PatternError};
pub use file::DirectorySource;
use file::Origin;
pub use options::{Ownership, Times, WalkOptions};
use xattrs::XattrReader;

use crate::{
    Error, InodeId, Metadata, NewContent, Result, Timestamp, Tree, TreeBuilder, XattrSetId,
};

/// So many errors are reported one by one; more are counted.
const ERRORS_MAX: usize = 50;

/// What a walk made.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "the three results of a walk")]
pub struct Walked {
    /// Names and metadata.
    pub tree: Tree,
    /// Where the content is read.
    pub source: DirectorySource,
    /// What was left out.
    pub report: WalkReport,
}

/// What a walk left out, and what it met.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WalkReport {
    /// Entries that an exclude pattern matched; what lies below them is not counted.
    pub excluded: u64,
    /// Paths (from the root) of the files of [`WalkOptions::avoid`] that lie in the source.
    pub avoided: Vec<PathBuf>,
    /// Directories left empty because they are on another file system.
    pub other_file_systems: Vec<PathBuf>,
}

/// A walk of one directory.
#[derive(Debug)]
pub struct Walk<'a> {
    options: &'a WalkOptions,
    root: OwnedFd,
    root_path: PathBuf,
    root_device: u64,
    avoid: HashSet<(u64, u64)>,
    builder: TreeBuilder,
    origins: Vec<Origin>,
    /// Inodes with several links, by device and number.
    links: HashMap<(u64, u64), InodeId>,
    /// Directories that are still to be read.
    pending: Vec<InodeId>,
    xattrs: XattrReader,
    report: WalkReport,
    errors: Vec<Error>,
    errors_more: u64,
}

/// One entry as found, before it becomes an inode.
struct Found {
    name: CString,
    path: Vec<u8>,
    stat: Statx,
}

impl<'a> Walk<'a> {
    /// Walks `root` to the end. Whatever cannot be read is an error that names it, and the walk
    /// goes on to find the others.
    pub fn run(root: &Path, options: &'a WalkOptions) -> Result<Walked> {
        let fd = dirfd::open_root(root)?;
        let stat = stat_at(&fd, c"").map_err(|error| Error::io("stat", root, error))?;
        let mut xattrs = XattrReader::new(root, options.xattrs);
        let mut metadata = metadata(&stat, options);
        let found =
            xattrs.read(&fd, c".", b"").map_err(|e| Error::io("read xattrs of", root, e))?;
        let mut builder = TreeBuilder::new(metadata);
        metadata.xattrs = builder.intern_xattrs(found);
        builder.set_xattrs(InodeId::ROOT, metadata.xattrs);
        let mut walk = Self {
            options,
            root: fd,
            root_path: root.to_owned(),
            root_device: device(&stat),
            avoid: identities(&options.avoid)?,
            builder,
            origins: Vec::new(),
            links: HashMap::new(),
            pending: vec![InodeId::ROOT],
            xattrs,
            report: WalkReport::default(),
            errors: Vec::new(),
            errors_more: 0,
        };
        while let Some(directory) = walk.pending.pop() {
            walk.directory(directory)?;
        }
        walk.finish()
    }

    fn finish(self) -> Result<Walked> {
        let mut errors = self.errors;
        match errors.len() {
            0 => {}
            1 => return Err(errors.remove(0)),
            _ => return Err(Error::Several { errors, more: self.errors_more }),
        }
        let tree = self.builder.finish()?;
        let source = DirectorySource::new(self.root, self.root_path, self.origins);
        Ok(Walked { tree, source, report: self.report })
    }

    /// Notes an error about one file; the walk fails at its end.
    fn note(&mut self, action: &'static str, path: &[u8], error: rustix::io::Errno) {
        if self.errors.len() < ERRORS_MAX {
            let path = self.root_path.join(OsStr::from_bytes(path));
            self.errors.push(Error::io(action, &path, error));
        } else {
            self.errors_more += 1;
        }
    }

    fn directory(&mut self, id: InodeId) -> Result<()> {
        let path = self.builder.tree().path(id);
        let fd = match dirfd::open_directory(&self.root, &path) {
            Ok(fd) => fd,
            Err(error) => {
                self.note("open", &path, error);
                return Ok(());
            }
        };
        let names = match names(&fd) {
            Ok(names) => names,
            Err(error) => {
                self.note("list", &path, error);
                return Ok(());
            }
        };
        let mut entries = Vec::with_capacity(names.len());
        let first_pending = self.pending.len();
        for name in names {
            if let Some(inode) = self.entry(&fd, &path, &name)? {
                entries.push((name, inode));
            }
        }
        // The first directory is read next.
        self.pending[first_pending..].reverse();
        let entries = entries.iter().map(|(name, inode)| (name.to_bytes(), *inode)).collect();
        self.builder.set_entries(id, entries)
    }

    /// Turns one name into an inode: a new one, or the one a hard link names; `None` if it is left
    /// out.
    fn entry(&mut self, fd: &OwnedFd, parent: &[u8], name: &CStr) -> Result<Option<InodeId>> {
        let mut path = Vec::with_capacity(parent.len() + 1 + name.count_bytes());
        path.extend_from_slice(parent);
        if !parent.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        if self.options.exclude.matches(&path) {
            self.report.excluded += 1;
            return Ok(None);
        }
        let stat = match stat_at(fd, name) {
            Ok(stat) => stat,
            Err(error) => {
                self.note("stat", &path, error);
                return Ok(None);
            }
        };
        let identity = (device(&stat), stat.stx_ino);
        if self.avoid.contains(&identity) {
            self.report.avoided.push(PathBuf::from(OsStr::from_bytes(&path)));
            return Ok(None);
        }
        let kind = RawType::from_raw_mode(u32::from(stat.stx_mode));
        let linked =
            stat.stx_nlink > 1 && kind != RawType::Directory && !self.options.hard_dereference;
        if linked && let Some(&inode) = self.links.get(&identity) {
            return Ok(Some(inode));
        }
        let Some(inode) = self.add(fd, Found { name: name.to_owned(), path, stat }, kind)? else {
            return Ok(None);
        };
        if linked {
            self.links.insert(identity, inode);
        }
        Ok(Some(inode))
    }

    fn add(&mut self, fd: &OwnedFd, found: Found, kind: RawType) -> Result<Option<InodeId>> {
        let Found { name, path, stat } = found;
        let mut metadata = metadata(&stat, self.options);
        match self.xattrs.read(fd, &name, &path) {
            Ok(xattrs) if xattrs.is_empty() => {}
            Ok(xattrs) => metadata.xattrs = self.builder.intern_xattrs(xattrs),
            Err(error) => {
                self.note("read xattrs of", &path, error);
                return Ok(None);
            }
        }
        let inode = match kind {
            RawType::Directory => {
                let inode = self.builder.add(metadata, NewContent::Directory)?;
                if self.options.one_file_system && device(&stat) != self.root_device {
                    let path = PathBuf::from(OsStr::from_bytes(&path));
                    self.report.other_file_systems.push(path);
                } else {
                    self.pending.push(inode);
                }
                inode
            }
            RawType::RegularFile => {
                let origin = self.origins.len() as u32;
                self.origins.push(Origin::new(&stat));
                let sparse = stat.stx_blocks.saturating_mul(512) < stat.stx_size;
                let content = NewContent::File { origin, size: stat.stx_size, sparse };
                self.builder.add(metadata, content)?
            }
            RawType::Symlink => match readlinkat(fd, &*name, Vec::new()) {
                Ok(target) => self.builder.add(metadata, NewContent::Symlink(target.to_bytes()))?,
                Err(error) => {
                    self.note("read the link", &path, error);
                    return Ok(None);
                }
            },
            RawType::CharacterDevice | RawType::BlockDevice => {
                let content = NewContent::Device {
                    block: kind == RawType::BlockDevice,
                    major: stat.stx_rdev_major,
                    minor: stat.stx_rdev_minor,
                };
                self.builder.add(metadata, content)?
            }
            RawType::Fifo => self.builder.add(metadata, NewContent::Fifo)?,
            RawType::Socket => self.builder.add(metadata, NewContent::Socket)?,
            RawType::Unknown => {
                self.note("tell the type of", &path, rustix::io::Errno::INVAL);
                return Ok(None);
            }
        };
        Ok(Some(inode))
    }
}

fn metadata(stat: &Statx, options: &WalkOptions) -> Metadata {
    let (uid, gid) = options.ownership.apply(stat.stx_uid, stat.stx_gid);
    let mtime = Timestamp { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec };
    Metadata {
        permissions: stat.stx_mode & 0o7777,
        uid,
        gid,
        mtime: options.times.apply(mtime),
        xattrs: XattrSetId::NONE,
    }
}

fn stat_at(fd: impl AsFd, name: &CStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    statx(fd, name, flags, StatxFlags::BASIC_STATS)
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// Names of a directory, sorted, without the two dots.
fn names(fd: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Device and inode number of those files that exist.
fn identities(paths: &[PathBuf]) -> Result<HashSet<(u64, u64)>> {
    let mut set = HashSet::new();
    for path in paths {
        match statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS) {
            Ok(stat) => {
                set.insert((device(&stat), stat.stx_ino));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::io("stat", path, error)),
        }
    }
    Ok(set)
}
