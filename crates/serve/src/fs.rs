// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image as a file system for the FUSE server.
//!
//! Knows how EROFS things look through FUSE; refuses to know how requests arrive and where the image
//! lies. Holds no table of what the kernel knows: nodes and nids are computed from each other
//! (`node`), so that an idle mount is small however many files were looked at. What it does keep are
//! the layouts of files read last, at most [`OPEN_FILES_MAX`], and what image and engine cache.

use crate::access::Access;
use crate::node::{nid_of, node_of};
use crate::siblings::ahead::{AheadStats, FilesAhead, ImageShelf};
use ferrofs_engine::{Engine, EngineConfig, Hint, OpenFile, Request, Surplus};
use ferrofs_format::inode::FileType;
use ferrofs_format::xattr::split_name;
use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, FileKind, ReadOnlyFs, ReadRequest, StatFs, Timestamp, Whence,
};
use ferrofs_image::{Error, Image, Inode, Nid, Source};
use quick_cache::sync::Cache;
use std::fmt;
use std::io;
use std::io::IoSliceMut;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Layouts of files kept, each some hundred bytes.
const OPEN_FILES_MAX: usize = 1024;

/// Longest name of a directory entry in bytes.
const NAME_MAX: usize = 255;

/// An image, served.
pub struct ErofsFs {
    engine: Arc<Engine>,
    files: Cache<u64, Arc<Opened>>,
    page_cache: OnceLock<ferrofs_fuse::Surplus>,
    files_ahead: OnceLock<Arc<FilesAhead>>,
}

impl Drop for ErofsFs {
    fn drop(&mut self) {
        if let Some(ahead) = self.files_ahead.get() {
            ahead.close();
        }
    }
}

/// A file that was read.
#[derive(Debug)]
struct Opened {
    file: OpenFile,
    access: Access,
}

/// What was decoded besides, on its way to the kernel's page cache. When all of it is there, the engine
/// need not keep it as well.
struct Given {
    surplus: Surplus,
    engine: Weak<Engine>,
    /// A part of it was not taken.
    refused: AtomicBool,
}

impl Drop for Given {
    fn drop(&mut self) {
        if !self.refused.load(Ordering::Relaxed)
            && let Some(engine) = self.engine.upgrade()
        {
            engine.delivered(&self.surplus);
        }
    }
}

/// A part of it.
struct Gift {
    given: Arc<Given>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Gift {
    fn as_ref(&self) -> &[u8] {
        self.given.surplus.bytes().get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for ErofsFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsFs").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl ErofsFs {
    /// Serves `image`.
    #[must_use]
    pub fn new(image: Arc<Image>, config: EngineConfig) -> Self {
        Self {
            engine: Arc::new(Engine::new(image, config)),
            files: Cache::new(OPEN_FILES_MAX),
            page_cache: OnceLock::new(),
            files_ahead: OnceLock::new(),
        }
    }

    /// The engine that reads file data.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Gives what is decoded beyond what was read to the kernel's page cache from now on, as long as
    /// the engine's `readmore` is on. Once.
    pub fn set_page_cache(&self, page_cache: ferrofs_fuse::Surplus) {
        // A second one would be the same session's.
        let _ = self.page_cache.set(page_cache);
    }

    /// Reads the next files of a directory into the kernel's page cache from now on, for readers who
    /// take them in order, as long as the engine's `readmore` is on. For images whose bytes are here:
    /// what is read ahead may be in vain. Once.
    pub fn read_files_ahead(&self, notifier: ferrofs_fuse::Notifier) -> io::Result<()> {
        let ahead = Arc::<FilesAhead>::default();
        let shelf = ImageShelf { engine: Arc::clone(&self.engine), root: self.image().root() };
        if self.files_ahead.set(Arc::clone(&ahead)).is_ok() {
            ahead.start(notifier, shelf)?;
        }
        Ok(())
    }

    /// What was read ahead so far.
    pub(crate) fn ahead_stats(&self) -> AheadStats {
        self.files_ahead.get().map(|ahead| ahead.stats()).unwrap_or_default()
    }

    fn files_ahead(&self) -> Option<&FilesAhead> {
        self.files_ahead.get().filter(|_| self.engine.config().readmore).map(|ahead| &**ahead)
    }

    fn image(&self) -> &Image {
        self.engine.image()
    }

    fn node(&self, nid: Nid) -> u64 {
        node_of(nid, self.image().root())
    }

    fn inode(&self, node: u64) -> Result<Inode, Errno> {
        let nid = nid_of(node, self.image().root());
        self.image().inode(nid).map_err(|error| refuse(nid, &error))
    }

    fn opened(&self, node: u64) -> Result<Arc<Opened>, Errno> {
        if let Some(file) = self.files.get(&node) {
            return Ok(file);
        }
        let inode = self.inode(node)?;
        let file = self.engine.open(&inode).map_err(|error| refuse(inode.nid, &error))?;
        let opened = Arc::new(Opened { file, access: Access::default() });
        self.files.insert(node, Arc::clone(&opened));
        Ok(opened)
    }

    /// Offers the kernel what was decoded on both sides of `wanted`.
    fn give(
        &self,
        page_cache: &ferrofs_fuse::Surplus,
        node: u64,
        file: &OpenFile,
        surplus: Surplus,
        wanted: &Range<u64>,
    ) {
        // A pcluster may hold more than this file has of it; only the extent is the file's.
        let mut cursor = file.map().cursor(self.image());
        let Ok(extent) = cursor.extent_at(surplus.offset()) else { return };
        if extent.start != surplus.offset() {
            return;
        }
        let end = extent.end().min(surplus.offset().saturating_add(surplus.bytes().len() as u64));
        let start = surplus.offset();
        let engine = Arc::downgrade(&self.engine);
        let given = Arc::new(Given { surplus, engine, refused: AtomicBool::new(false) });
        for part in [start..wanted.start.min(end), wanted.end.max(start)..end] {
            if part.is_empty() {
                continue;
            }
            let within = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            let range = within(part.start)..within(part.end);
            // If too much waits it is not taken: then the next read finds it in the engine.
            if !page_cache.offer(node, part.start, Gift { given: Arc::clone(&given), range }) {
                given.refused.store(true, Ordering::Relaxed);
            }
        }
    }

    fn attr(&self, inode: &Inode) -> Attr {
        // EROFS stores one time; the kernel shows it as all three.
        let nanoseconds = inode.mtime_nsec.min(999_999_999);
        let time = Timestamp { seconds: inode.mtime, nanoseconds };
        Attr {
            ino: inode.stat_ino(),
            size: inode.size,
            blocks: inode.blocks_512(self.image()),
            atime: time,
            mtime: time,
            ctime: time,
            mode: inode.mode.into(),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: device_word(inode.rdev()),
            blksize: self.image().superblock().block_bits.size(),
        }
    }
}

impl ReadOnlyFs for ErofsFs {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let directory = self.inode(parent)?;
        let fail = |error| refuse(directory.nid, &error);
        let found = self.image().directory(&directory).map_err(fail)?.lookup(name).map_err(fail)?;
        let found = found.ok_or(Errno::NOENT)?;
        let inode = self.image().inode(found.nid).map_err(|error| refuse(found.nid, &error))?;
        Ok(Entry { node: self.node(found.nid), attr: self.attr(&inode) })
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        Ok(self.attr(&self.inode(node)?))
    }

    fn readlink(&self, node: u64, target: &mut Vec<u8>) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        let found = self.image().readlink(&inode).map_err(|error| refuse(inode.nid, &error))?;
        target.extend_from_slice(&found);
        Ok(())
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        if read.offset == 0
            && let Some(ahead) = self.files_ahead()
        {
            ahead.note(|siblings| siblings.read(read.node));
        }
        let opened = self.opened(read.node)?;
        let Opened { file, access } = &*opened;
        let config = self.engine.config();
        let hint = access.note(read.offset, read.len, file.size(), config.cache_bytes);
        // Who reads past the page cache wants nothing put there; and readahead asks for what comes
        // next by itself, before it could be put there.
        let surplus = config.readmore && hint == Hint::None && !read.direct;
        let page_cache = self.page_cache.get().filter(|_| surplus);
        // The room behind what is wanted goes along: encoded bytes may lie there while they are
        // decoded in place.
        let request =
            Request { offset: read.offset, len: read.len, hint, surplus: page_cache.is_some() };
        let mut report = self.engine.read(file, &request, &mut [IoSliceMut::new(buf)]);
        if let Some(page_cache) = page_cache {
            let wanted = read.offset..read.offset.saturating_add(report.len as u64);
            for surplus in std::mem::take(&mut report.surplus) {
                self.give(page_cache, read.node, file, surplus, &wanted);
            }
        }
        // A part that failed makes all of it fail: the kernel takes a short read for the end of the
        // file. It asks for single pages then, and gets those that are well.
        report.into_result().map_err(|error| refuse(nid_of(read.node, self.image().root()), &error))
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        let fail = |error| refuse(inode.nid, &error);
        let directory = self.image().directory(&inode).map_err(fail)?;
        let (mut files, mut behind, mut all) = (Vec::new(), cookie, true);
        let ahead = self.files_ahead();
        let walked = directory.walk(cookie, |entry, next| {
            let entry = DirEntry {
                node: self.node(entry.nid),
                ino: entry.nid.stat_ino(),
                cookie: next,
                kind: entry.file_type.map_or(FileKind::Unknown, kind),
                name: entry.name,
            };
            if !sink(&entry) {
                all = false;
                return ControlFlow::Break(());
            }
            behind = next;
            if ahead.is_some() && entry.kind == FileKind::Regular {
                files.push(entry.node);
            }
            ControlFlow::Continue(())
        });
        if let Some(ahead) = ahead.filter(|_| walked.is_ok()) {
            ahead.note(|siblings| siblings.listed(node, cookie, &files, (!all).then_some(behind)));
        }
        walked.map_err(fail)
    }

    fn wants_attributes(&self, node: u64, cookie: u64) -> bool {
        self.files_ahead()
            .is_none_or(|ahead| ahead.ask(|siblings| siblings.wants_attributes(node, cookie)))
    }

    fn getxattr(&self, node: u64, name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        if !is_visible(name) {
            return Err(Errno::NODATA);
        }
        let inode = self.inode(node)?;
        let found = self.image().xattr(&inode, name).map_err(|error| refuse(inode.nid, &error))?;
        value.extend_from_slice(&found.ok_or(Errno::NODATA)?);
        Ok(())
    }

    fn listxattr(&self, node: u64, names: &mut Vec<u8>) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        let found = self.image().xattrs(&inode).map_err(|error| refuse(inode.nid, &error))?;
        for xattr in found.iter().filter(|xattr| xattr.visible) {
            names.extend_from_slice(&xattr.name);
            names.push(0);
        }
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let image = self.image();
        let superblock = image.superblock();
        let extra = image.device_slots().iter().map(|slot| slot.blocks);
        let size = superblock.block_bits.size();
        Ok(StatFs {
            blocks: extra.fold(superblock.blocks, u64::saturating_add),
            files: superblock.inodes,
            block_size: size,
            fragment_size: size,
            name_max: NAME_MAX as u32,
            ..StatFs::default()
        })
    }

    fn lseek(&self, node: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let opened = self.opened(node)?;
        let file = &opened.file;
        let size = file.size();
        if offset >= size {
            return Err(Errno::NXIO);
        }
        let mut cursor = file.map().cursor(self.image());
        let mut at = offset;
        while at < size {
            let nid = file.map().nid();
            let extent = cursor.extent_at(at).map_err(|error| refuse(nid, &error))?;
            let hole = matches!(extent.source, Source::Hole);
            if hole == (whence == Whence::Hole) {
                return Ok(at);
            }
            // Extents cover the file without gaps and none is empty: this ends.
            at = extent.end();
        }
        match whence {
            // The end of the file counts as a hole.
            Whence::Hole => Ok(size),
            Whence::Data => Err(Errno::NXIO),
        }
    }
}

/// The error number for the kernel. What is wrong with an image is also worth telling its owner.
fn refuse(nid: Nid, error: &Error) -> Errno {
    let errno = Errno::new(error.errno());
    if !matches!(error, Error::NotFound | Error::NotDirectory { .. } | Error::WrongType { .. }) {
        tracing::warn!(nid = nid.0, %error, "read failed");
    }
    errno
}

/// Whether Linux shows attributes of this name. format.md §6.
fn is_visible(name: &[u8]) -> bool {
    matches!(split_name(name).0, 1 | 2 | 3 | 4 | 6)
}

/// The kernel's 32-bit encoding of a device number.
const fn device_word((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

const fn kind(file_type: FileType) -> FileKind {
    match file_type {
        FileType::Regular => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::CharDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Symlink => FileKind::Symlink,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_does() {
        for ((major, minor), word) in [
            ((1, 3), 0x103),
            ((7, 123), 0x77b),
            ((4095, 0xf_ffff), u32::MAX),
            ((8, 256), 0x10_0800),
        ] {
            assert_eq!(device_word((major, minor)), word, "{major}:{minor}");
        }
    }

    #[test]
    fn hidden_names() {
        assert!(is_visible(b"user.x") && is_visible(b"security.selinux"));
        assert!(is_visible(b"system.posix_acl_access"));
        assert!(!is_visible(b"erofs.digest") && !is_visible(b"system.other"));
    }
}
