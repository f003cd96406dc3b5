// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two kinds of trees behind one face: names in order, attributes, content.

use super::{Attribute, Change, DiffOptions, Side};
use crate::listing::type_name;
use crate::{Error, RawPath, Result};
use ferrofs_engine::{Engine, OpenFile};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{DirCursor, Image, Inode, Source};
use std::collections::BTreeMap;

#[cfg(target_os = "linux")]
use crate::dirs::{Descriptors, Dir};
#[cfg(target_os = "linux")]
use std::sync::Arc;

/// Handles stay with the side that gave them.
const STRANGE: &str = "a handle of the other side";

/// An opened tree.
#[derive(Debug)]
pub(super) enum Open<'a> {
    Image(&'a Engine),
    #[cfg(target_os = "linux")]
    Directory {
        top: Arc<Dir>,
        descriptors: Descriptors,
    },
}

/// One entry of a tree.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    Inode(Box<Inode>),
    /// An inode that cannot be read, and why.
    Broken(String),
    /// A name in a directory; the empty one is the directory itself.
    #[cfg(target_os = "linux")]
    Name(Arc<Dir>, Box<[u8]>),
}

/// Attributes of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    pub(super) kind: &'static str,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u64,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) rdev: (u32, u32),
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What tells inodes of one tree apart.
    pub(super) id: (u64, u64),
}

impl Meta {
    pub(super) fn changes(&self, other: &Self, options: &DiffOptions) -> Vec<Change> {
        let mut changes = vec![];
        let mut note = |attribute, a: String, b: String| {
            if a != b {
                changes.push(Change { attribute, a, b });
            }
        };
        note(Attribute::Type, self.kind.to_owned(), other.kind.to_owned());
        let is_link = self.kind == "symlink" && other.kind == "symlink";
        if options.mode && !is_link {
            note(Attribute::Mode, format!("{:04o}", self.mode), format!("{:04o}", other.mode));
        }
        if options.owner {
            note(Attribute::Uid, self.uid.to_string(), other.uid.to_string());
            note(Attribute::Gid, self.gid.to_string(), other.gid.to_string());
        }
        if options.mtime {
            let time = |meta: &Self| {
                let (seconds, nanoseconds) = meta.mtime;
                if options.nanoseconds {
                    format!("{seconds}.{nanoseconds:09}")
                } else {
                    seconds.to_string()
                }
            };
            note(Attribute::Mtime, time(self), time(other));
        }
        if self.kind == other.kind {
            match self.kind {
                "file" => note(Attribute::Size, self.size.to_string(), other.size.to_string()),
                "symlink" => {
                    let text = |meta: &Self| RawPath::from(&meta.target[..]).to_string();
                    note(Attribute::Target, text(self), text(other));
                }
                "chr" | "blk" => {
                    let text = |meta: &Self| format!("{}:{}", meta.rdev.0, meta.rdev.1);
                    note(Attribute::Rdev, text(self), text(other));
                }
                _ => {}
            }
        }
        if options.xattrs {
            for name in self
                .xattrs
                .keys()
                .chain(other.xattrs.keys().filter(|name| !self.xattrs.contains_key(*name)))
            {
                let text = |meta: &Self| match meta.xattrs.get(name) {
                    Some(value) => {
                        format!("{}={}", RawPath::from(&name[..]), RawPath::from(&value[..]))
                    }
                    None => "none".to_owned(),
                };
                note(Attribute::Xattr, text(self), text(other));
            }
        }
        changes
    }
}

impl<'a> Open<'a> {
    pub(super) fn new(side: Side<'a>) -> Result<Self> {
        match side {
            Side::Image(engine) => Ok(Self::Image(engine)),
            #[cfg(target_os = "linux")]
            Side::Directory(path) => local::open(path),
        }
    }

    pub(super) fn top(&self) -> Result<Handle> {
        match self {
            Self::Image(engine) => {
                let image = engine.image();
                Ok(Handle::Inode(Box::new(image.inode(image.root())?)))
            }
            #[cfg(target_os = "linux")]
            Self::Directory { top, .. } => Ok(Handle::Name(Arc::clone(top), Box::default())),
        }
    }

    /// Names of a directory, in order.
    pub(super) fn names(&self, handle: &Handle) -> Result<Names<'_>> {
        match (self, handle) {
            (Self::Image(engine), Handle::Inode(inode)) => {
                let image = engine.image();
                Ok(Names::Image { image, cursor: image.directory(inode)?.cursor() })
            }
            #[cfg(target_os = "linux")]
            (Self::Directory { descriptors, .. }, Handle::Name(dir, name)) => {
                local::names(descriptors, dir, name)
            }
            _ => Err(Error::Image(ferrofs_image::Error::NotFound)),
        }
    }

    pub(super) fn meta(&self, handle: &Handle) -> std::result::Result<Meta, String> {
        match (self, handle) {
            (Self::Image(engine), Handle::Inode(inode)) => {
                image_meta(engine.image(), inode).map_err(|error| error.to_string())
            }
            #[cfg(target_os = "linux")]
            (Self::Directory { descriptors, .. }, Handle::Name(dir, name)) => {
                local::meta(descriptors, dir, name).map_err(|error| error.to_string())
            }
            (_, Handle::Broken(text)) => Err(text.clone()),
            #[cfg(target_os = "linux")]
            _ => Err(STRANGE.to_owned()),
        }
    }

    pub(super) fn reader(&self, handle: &Handle) -> std::result::Result<Reader<'_>, String> {
        match (self, handle) {
            (Self::Image(engine), Handle::Inode(inode)) => {
                let file = engine.open(inode).map_err(|error| error.to_string())?;
                Ok(Reader::Image(engine, Box::new(file)))
            }
            #[cfg(target_os = "linux")]
            (Self::Directory { descriptors, .. }, Handle::Name(dir, name)) => {
                local::file(descriptors, dir, name)
                    .map(Reader::File)
                    .map_err(|error| error.to_string())
            }
            (_, Handle::Broken(text)) => Err(text.clone()),
            #[cfg(target_os = "linux")]
            _ => Err(STRANGE.to_owned()),
        }
    }
}

fn image_meta(image: &Image, inode: &Inode) -> ferrofs_image::Result<Meta> {
    let xattrs = image.xattrs(inode)?.into_iter().filter(|found| found.visible);
    Ok(Meta {
        kind: type_name(inode.file_type),
        mode: u32::from(inode.mode) & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        nlink: u64::from(inode.nlink),
        size: inode.size,
        mtime: (inode.mtime, inode.mtime_nsec),
        rdev: inode.rdev(),
        target: match inode.file_type {
            FileType::Symlink => image.readlink(inode)?,
            _ => vec![],
        },
        xattrs: xattrs.map(|found| (found.name, found.value)).collect(),
        id: (0, inode.nid.0),
    })
}

/// Names of a directory with their handles; an error ends them.
#[derive(Debug)]
pub(super) enum Names<'a> {
    Image {
        image: &'a Image,
        cursor: DirCursor<'a>,
    },
    #[cfg(target_os = "linux")]
    Directory {
        dir: Arc<Dir>,
        names: std::vec::IntoIter<Box<[u8]>>,
    },
}

impl Iterator for Names<'_> {
    type Item = std::result::Result<(Vec<u8>, Handle), String>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Image { image, cursor } => {
                let entry = loop {
                    match cursor.next()? {
                        Ok(entry) if entry.is_dot() => {}
                        Ok(entry) => break entry,
                        Err(error) => return Some(Err(error.to_string())),
                    }
                };
                let handle = match image.inode(entry.nid) {
                    Ok(inode) => Handle::Inode(Box::new(inode)),
                    Err(error) => Handle::Broken(error.to_string()),
                };
                Some(Ok((entry.name, handle)))
            }
            #[cfg(target_os = "linux")]
            Self::Directory { dir, names } => {
                let name = names.next()?;
                Some(Ok((name.to_vec(), Handle::Name(Arc::clone(dir), name))))
            }
        }
    }
}

/// Content of one file.
#[derive(Debug)]
pub(super) enum Reader<'a> {
    Image(&'a Engine, Box<OpenFile>),
    #[cfg(target_os = "linux")]
    File(std::fs::File),
}

impl Reader<'_> {
    /// Reads from `offset` on; less than `buf` holds only at the end.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<usize, String> {
        match self {
            Self::Image(engine, file) => {
                engine.read_into(file, offset, buf).map_err(|error| error.to_string())
            }
            #[cfg(target_os = "linux")]
            Self::File(file) => local::read(file, offset, buf).map_err(|error| error.to_string()),
        }
    }

    /// First offset from `offset` on that is not known to be a hole.
    pub(super) fn next_data(&self, offset: u64) -> std::result::Result<u64, String> {
        match self {
            Self::Image(engine, file) => {
                let mut cursor = file.map().cursor(engine.image());
                let mut at = offset;
                while at < file.size() {
                    let extent = cursor.extent_at(at).map_err(|error| error.to_string())?;
                    if extent.source != Source::Hole {
                        break;
                    }
                    at = extent.end();
                }
                Ok(at)
            }
            #[cfg(target_os = "linux")]
            Self::File(file) => Ok(local::next_data(file, offset)),
        }
    }
}

#[cfg(target_os = "linux")]
mod local {
    //! A directory of this machine, relative to descriptors and never through links.

    use super::{Arc, Descriptors, Dir, Meta, Names, Open};
    use crate::{Error, RawPath, Result};
    use ferrofs_linux::at::{self, Mode, OFlags};
    use ferrofs_linux::xattr;
    use rustix::fs::{AtFlags, FileType, SeekFrom};
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    pub(super) fn open<'a>(path: &Path) -> Result<Open<'a>> {
        let failed = |source| Error::Io {
            doing: "open directory",
            path: RawPath::from(path.as_os_str().as_bytes()),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        let top = Dir::top(OwnedFd::from(file), None);
        Ok(Open::Directory { top, descriptors: Descriptors::default() })
    }

    pub(super) fn names<'a>(
        descriptors: &Descriptors,
        dir: &Arc<Dir>,
        name: &[u8],
    ) -> Result<Names<'a>> {
        let dir = if name.is_empty() { Arc::clone(dir) } else { Dir::plain(dir, name) };
        let read = || -> io::Result<Vec<Box<[u8]>>> {
            let fd = descriptors.get(&dir)?;
            let mut names = vec![];
            for entry in rustix::fs::Dir::read_from(&*fd)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    names.push(name.into());
                }
            }
            Ok(names)
        };
        let mut names = read().map_err(|source| Error::Io {
            doing: "read directory",
            path: dir.path(),
            source,
        })?;
        names.sort_unstable();
        Ok(Names::Directory { dir, names: names.into_iter() })
    }

    pub(super) fn meta(descriptors: &Descriptors, dir: &Arc<Dir>, name: &[u8]) -> io::Result<Meta> {
        let fd = descriptors.get(dir)?;
        let name = OsStr::from_bytes(name);
        let stat = if name.is_empty() {
            rustix::fs::fstat(&*fd)?
        } else {
            rustix::fs::statat(&*fd, name, AtFlags::SYMLINK_NOFOLLOW)?
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "dir",
            FileType::Symlink => "symlink",
            FileType::CharacterDevice => "chr",
            FileType::BlockDevice => "blk",
            FileType::Fifo => "fifo",
            _ => "sock",
        };
        let target = match kind {
            "symlink" => rustix::fs::readlinkat(&*fd, name, vec![])?.into_bytes(),
            _ => vec![],
        };
        let mut meta = Meta {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: link_count(&stat),
            size: stat.st_size.unsigned_abs(),
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            rdev: (0, 0),
            target,
            xattrs: std::collections::BTreeMap::new(),
            id: (stat.st_dev, stat.st_ino),
        };
        if matches!(kind, "chr" | "blk") {
            meta.rdev = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        let mut list = vec![];
        if name.is_empty() {
            xattr::list(&*fd, &mut list)?;
        } else {
            xattr::list_at(&*fd, name, &mut list)?;
        }
        for key in xattr::names(&list) {
            let mut value = vec![];
            let found = if name.is_empty() {
                xattr::get(&*fd, key, &mut value)?
            } else {
                xattr::get_at(&*fd, name, key, &mut value)?
            };
            if found {
                meta.xattrs.insert(key.to_vec(), value);
            }
        }
        Ok(meta)
    }

    pub(super) fn file(descriptors: &Descriptors, dir: &Arc<Dir>, name: &[u8]) -> io::Result<File> {
        let fd = descriptors.get(dir)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let name = Path::new(OsStr::from_bytes(name));
        at::open_beneath(fd.as_fd(), name, flags, Mode::empty()).map(File::from)
    }

    pub(super) fn read(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[allow(clippy::useless_conversion, reason = "narrower on some machines")]
    fn link_count(stat: &rustix::fs::Stat) -> u64 {
        u64::from(stat.st_nlink)
    }

    /// Where the file system cannot tell, everything is data.
    pub(super) fn next_data(file: &File, offset: u64) -> u64 {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // No more data: the rest is a hole, up to an end that the caller knows.
            Err(rustix::io::Errno::NXIO) => u64::MAX,
            Err(_) => offset,
        }
    }
}
