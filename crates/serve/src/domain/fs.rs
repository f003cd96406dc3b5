// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file system of a domain: a folder with the root of each image, by its number.
//!
//! Refuses to know how images come and go. Invariant: a node is the same file for as long as the kernel
//! knows it, also when the image that it was first met in has left.

use super::member::Member;
use super::nodes::FileId;
use super::shared::SharedFile;
use super::sharing::{Placed, Sharing};
use crate::siblings::ahead::{AheadStats, FilesAhead, Shelf};
use ferrofs_format::inode::FileType;
use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, FileKind, Notifier, ROOT_NODE, ReadOnlyFs, ReadRequest, StatFs,
    Whence,
};
use ferrofs_image::{Inode, Nid};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

/// The folder in the topmost one by which the server itself finds files, by [`DomainFs::name_of`]. It
/// is not listed there.
pub(crate) const FILES: &str = "files";
/// Its node. No image has the number that this would be of.
const FILES_NODE: u64 = 2;

/// All images of a domain.
#[derive(Debug)]
pub(crate) struct DomainFs {
    members: RwLock<BTreeMap<u16, Arc<Member>>>,
    pub(crate) sharing: Sharing,
    /// Held by who looks what images have in common.
    pub(crate) survey: Mutex<()>,
    files_ahead: OnceLock<Arc<FilesAhead>>,
}

impl Drop for DomainFs {
    fn drop(&mut self) {
        if let Some(ahead) = self.files_ahead.get() {
            ahead.close();
        }
    }
}

/// Files that are looked up at once for a listing.
const LISTED: usize = 64;
/// Files up to this size are compared with others when they are listed, up to so many bytes for one
/// request: what is known then needs no lookup.
const COMPARED_MAX: u64 = 128 << 10;
const COMPARED_BYTES: u64 = 1 << 20;

/// What is not here is not read because it may be wanted.
fn is_read_ahead(member: &Member) -> bool {
    member.blobs.is_empty() && member.fs.engine().config().readmore
}

/// Where [`FilesAhead`] finds files of a domain.
struct DomainShelf {
    fs: Weak<DomainFs>,
}

impl Shelf for DomainShelf {
    type File = (Arc<DomainFs>, u64);

    fn find(&self, node: u64) -> Option<(Self::File, u64)> {
        let fs = self.fs.upgrade()?;
        let (member, nid, shared) = match fs.place(node).ok()? {
            Place::Own(member, nid) => (member, nid, None),
            Place::Shared(file) => {
                let provider = file.provider()?;
                (provider.member, provider.nid, Some(file))
            }
        };
        if !is_read_ahead(&member) {
            return None;
        }
        if let Some(file) = shared {
            // Another image's readers may have had it.
            return (!file.was_read()).then_some(((fs, node), file.content.size));
        }
        let inode = DomainFs::inode(&member, nid).ok()?;
        if fs.sharing.given(member.id(nid)) == Some(node) {
            return Some(((fs, node), inode.size));
        }
        // The kernel will look it up: then it is known what it is.
        if inode.size <= COMPARED_MAX {
            let _ = fs.sharing.find(&member, &inode);
        }
        None
    }

    fn read(&self, (fs, node): &Self::File, len: usize, buffer: &mut [u8]) -> bool {
        fs.read_quietly(&ReadRequest::new(*node, 0, len), buffer) == Ok(len)
    }
}

/// What a node is.
enum Place {
    Own(Arc<Member>, Nid),
    Shared(Arc<SharedFile>),
}

impl DomainFs {
    /// With `by_content` files of other attributes are one node, too: nobody looks at them here.
    pub(crate) fn new(trust: bool, by_content: bool) -> Self {
        Self {
            members: RwLock::default(),
            sharing: Sharing::new(trust, by_content),
            survey: Mutex::default(),
            files_ahead: OnceLock::new(),
        }
    }

    /// Reads the next files of a directory into the kernel's page cache from now on, as
    /// [`ErofsFs::read_files_ahead`](crate::ErofsFs::read_files_ahead) does. Once.
    pub(crate) fn read_files_ahead(self: &Arc<Self>, notifier: Notifier) -> io::Result<()> {
        let ahead = Arc::<FilesAhead>::default();
        if self.files_ahead.set(Arc::clone(&ahead)).is_ok() {
            ahead.start(notifier, DomainShelf { fs: Arc::downgrade(self) })?;
        }
        Ok(())
    }

    /// What was read ahead so far.
    pub(crate) fn ahead_stats(&self) -> AheadStats {
        self.files_ahead.get().map(|ahead| ahead.stats()).unwrap_or_default()
    }

    /// Who reads files of this image ahead: of one that is here, unless that is turned off.
    fn ahead_of(&self, member: &Member) -> Option<&FilesAhead> {
        let ahead = self.files_ahead.get()?;
        is_read_ahead(member).then_some(ahead)
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().cloned().collect()
    }

    pub(crate) fn add(&self, member: Arc<Member>) {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        members.insert(member.slot, member);
    }

    /// Forgets an image; it must not be in use.
    pub(crate) fn remove(&self, slot: u16) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        self.sharing.remove(slot);
    }

    fn member(&self, slot: u16) -> Result<Arc<Member>, Errno> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.get(&slot).cloned().ok_or(Errno::STALE)
    }

    fn place(&self, node: u64) -> Result<Place, Errno> {
        if let Some(file) = self.sharing.file(node) {
            return Ok(Place::Shared(file));
        }
        let id = FileId::of(node).ok_or(Errno::ISDIR)?;
        Ok(Place::Own(self.member(id.slot)?, id.nid))
    }

    /// A file by which to look at a node, for what is equal in all that share it.
    fn any(&self, node: u64) -> Result<(Arc<Member>, Nid), Errno> {
        match self.place(node)? {
            Place::Own(member, nid) => Ok((member, nid)),
            Place::Shared(file) => {
                file.provider().map(|one| (one.member, one.nid)).ok_or(Errno::STALE)
            }
        }
    }

    /// Reads all of a file that was decoded a moment ago.
    fn read_stash(&self, read: &ReadRequest, buf: &mut [u8]) -> Option<usize> {
        let content = self.sharing.stash.take(FileId::of(read.node)?)?;
        let whole = buf.get_mut(..content.len().min(read.len))?;
        whole.copy_from_slice(content.get(..whole.len())?);
        if let Some(file) = self.sharing.file(read.node) {
            file.note_read();
        }
        Some(whole.len())
    }

    /// Reads, of which [`FilesAhead`] is not told.
    fn read_quietly(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        if read.offset == 0
            && let Some(count) = self.read_stash(read, buf)
        {
            return Ok(count);
        }
        let (member, nid) = match self.place(read.node)? {
            Place::Shared(file) => return file.read(read, buf),
            Place::Own(member, nid) => (member, nid),
        };
        self.read_own(read, buf, |buf| member.fs.read(&read.of_node(member.inner(nid)), buf))
    }

    /// Reads what was an image's own.
    fn read_own(
        &self,
        read: &ReadRequest,
        buf: &mut [u8],
        own: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let count = own(buf)?;
        // What was read before others got this node is what was hashed for them, or the image would have
        // changed; what was read later may not be.
        match self.sharing.file(read.node) {
            Some(file) => file.read(read, buf),
            None => Ok(count),
        }
    }

    fn inode(member: &Member, nid: Nid) -> Result<Inode, Errno> {
        member.image().inode(nid).map_err(|error| Errno::new(error.errno()))
    }

    /// Gives the root of an image to the kernel.
    fn refer(member: &Member) {
        member.root_references.fetch_add(1, Ordering::Relaxed);
    }

    /// The name in [`FILES`] by which the server itself finds a file.
    pub(crate) fn name_of(node: u64) -> String {
        format!("node-{node:016x}")
    }

    fn lookup_node(&self, name: &[u8]) -> Option<Entry> {
        let hex = str::from_utf8(name.strip_prefix(b"node-")?).ok()?;
        let node = u64::from_str_radix(hex, 16).ok()?;
        if Self::name_of(node).as_bytes() != name || node == ROOT_NODE {
            return None;
        }
        let attr = self.getattr(node).ok()?;
        let regular = FileKind::from_mode(attr.mode) == FileKind::Regular;
        regular.then_some(Entry { node, attr })
    }

    /// Lists the files of all images by their places, those before `cookie` left out.
    fn list_files(&self, cookie: u64, sink: &mut dyn FnMut(&DirEntry<'_>) -> bool) {
        let mut from = cookie;
        loop {
            let found = self.sharing.placed(from, LISTED);
            let Some(last) = found.last() else { return };
            from = last.place + 1;
            for Placed { place, id } in found {
                let Some(node) = self.sharing.node_now(id) else { continue };
                let name = Self::name_of(node);
                let (name, kind) = (name.as_bytes(), FileKind::Regular);
                if !sink(&DirEntry { node, ino: node, cookie: place + 1, kind, name }) {
                    return;
                }
            }
        }
    }

    /// The node of what may be a regular file, for a listing: 0 if it takes a lookup to tell. `left`: bytes
    /// of files that may still be compared.
    fn listed(
        &self,
        member: &Arc<Member>,
        nid: Nid,
        own: u64,
        left: &mut u64,
    ) -> Result<u64, Errno> {
        let inode = Self::inode(member, nid)?;
        if inode.file_type != FileType::Regular || inode.size == 0 {
            return Ok(own);
        }
        let node = match self.sharing.peek(member, &inode)? {
            Some(node) => node,
            None if inode.size <= COMPARED_MAX.min(*left) => {
                *left -= inode.size;
                self.sharing.find(member, &inode)?
            }
            None => return Ok(0),
        };
        self.sharing.tally(member, node);
        Ok(node)
    }

    fn lookup_image(&self, name: &[u8]) -> Result<Entry, Errno> {
        if name == FILES.as_bytes() {
            return Ok(Entry { node: FILES_NODE, attr: self.getattr(FILES_NODE)? });
        }
        let slot: Option<u16> = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let member = slot.and_then(|slot| self.member(slot).ok()).ok_or(Errno::NOENT)?;
        // One name only: no plus sign, no zeros in front.
        if member.slot.to_string().as_bytes() != name {
            return Err(Errno::NOENT);
        }
        let root = member.image().root();
        let node = member.id(root).node().ok_or(Errno::NOTSUP)?;
        let attr = member.attr(root, node)?;
        Self::refer(&member);
        Ok(Entry { node, attr })
    }
}

impl ReadOnlyFs for DomainFs {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        if parent == ROOT_NODE {
            return self.lookup_image(name);
        }
        if parent == FILES_NODE {
            return self.lookup_node(name).ok_or(Errno::NOENT);
        }
        let (member, nid) = self.any(parent)?;
        let found = member.fs.lookup(member.inner(nid), name)?;
        let nid = member.nid(found.node);
        let mut node = member.id(nid).node().ok_or(Errno::NOTSUP)?;
        if FileKind::from_mode(found.attr.mode) == FileKind::Regular && found.attr.size > 0 {
            let own = node;
            node = self.sharing.resolve(&member, &Self::inode(&member, nid)?)?;
            if node != own
                && let Some(ahead) = self.ahead_of(&member)
            {
                ahead.note(|siblings| {
                    siblings.rename(own, node);
                    None
                });
            }
        }
        // Only a crafted image names its root below it.
        if nid == member.image().root() {
            Self::refer(&member);
        }
        Ok(Entry { node, attr: Attr { ino: node, ..found.attr } })
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        if matches!(node, ROOT_NODE | FILES_NODE) {
            return Ok(Attr {
                ino: node,
                mode: 0o40555,
                nlink: 2,
                blksize: 4096,
                ..Attr::default()
            });
        }
        match self.place(node)? {
            Place::Shared(file) => Ok(file.attr),
            Place::Own(member, nid) => member.attr(nid, node),
        }
    }

    fn readlink(&self, node: u64, target: &mut Vec<u8>) -> Result<(), Errno> {
        let (member, nid) = self.any(node)?;
        member.fs.readlink(member.inner(nid), target)
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        if read.offset == 0
            && let Some(ahead) = self.files_ahead.get()
        {
            ahead.note(|siblings| siblings.read(read.node));
        }
        self.read_quietly(read, buf)
    }

    fn wants_attributes(&self, node: u64, cookie: u64) -> bool {
        let ahead = self.files_ahead.get();
        ahead.is_none_or(|ahead| ahead.ask(|siblings| siblings.wants_attributes(node, cookie)))
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        if node == ROOT_NODE {
            let names = [".", ".."].map(String::from).into_iter();
            let members = self.members();
            let names = names.chain(members.iter().map(|member| member.slot.to_string()));
            let first = usize::try_from(cookie).unwrap_or(usize::MAX);
            for (index, name) in names.enumerate().skip(first) {
                let cookie = index as u64 + 1;
                let name = name.as_bytes();
                // Without attributes: only a lookup is counted.
                let kind = FileKind::Directory;
                if !sink(&DirEntry { node: 0, ino: ROOT_NODE, cookie, kind, name }) {
                    break;
                }
            }
            return Ok(());
        }
        if node == FILES_NODE {
            self.list_files(cookie, sink);
            return Ok(());
        }
        let (member, nid) = self.any(node)?;
        let root = member.image().root();
        let ahead = self.ahead_of(&member);
        let (mut files, mut behind, mut all) = (Vec::new(), cookie, true);
        let mut compared = if member.blobs.is_empty() { COMPARED_BYTES } else { 0 };
        member.fs.readdir(member.inner(nid), cookie, &mut |entry| {
            let nid = member.nid(entry.node);
            let own = member.id(nid).node().unwrap_or(0);
            let node = if nid == root {
                0
            } else if matches!(entry.kind, FileKind::Regular | FileKind::Unknown) {
                self.listed(&member, nid, own, &mut compared).unwrap_or(0)
            } else {
                own
            };
            let ino = if node == 0 { own } else { node };
            if !sink(&DirEntry { node, ino, ..*entry }) {
                all = false;
                return false;
            }
            behind = entry.cookie;
            if ahead.is_some() && entry.kind == FileKind::Regular {
                files.push(ino);
            }
            true
        })?;
        if let Some(ahead) = ahead {
            ahead.note(|siblings| siblings.listed(node, cookie, &files, (!all).then_some(behind)));
        }
        Ok(())
    }

    fn getxattr(&self, node: u64, name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        if matches!(node, ROOT_NODE | FILES_NODE) {
            return Err(Errno::NODATA);
        }
        let (member, nid) = self.any(node)?;
        member.fs.getxattr(member.inner(nid), name, value)
    }

    fn listxattr(&self, node: u64, names: &mut Vec<u8>) -> Result<(), Errno> {
        if matches!(node, ROOT_NODE | FILES_NODE) {
            return Ok(());
        }
        let (member, nid) = self.any(node)?;
        member.fs.listxattr(member.inner(nid), names)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let mut sum =
            StatFs { block_size: 4096, fragment_size: 4096, name_max: 255, ..StatFs::default() };
        for member in self.members() {
            let one = member.fs.statfs()?;
            let bytes = one.blocks.saturating_mul(one.block_size.into());
            sum.blocks = sum.blocks.saturating_add(bytes.div_ceil(4096));
            sum.files = sum.files.saturating_add(one.files);
        }
        Ok(sum)
    }

    fn lseek(&self, node: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        // Where holes are is each image's own affair; of what is shared, all is data.
        if let Some(file) = self.sharing.file(node) {
            return match whence {
                _ if offset >= file.content.size => Err(Errno::NXIO),
                Whence::Data => Ok(offset),
                Whence::Hole => Ok(file.content.size),
            };
        }
        let (member, nid) = self.any(node)?;
        member.fs.lseek(member.inner(nid), offset, whence)
    }

    fn forget(&self, node: u64, count: u64) {
        let Some(id) = FileId::of(node) else { return };
        let Ok(member) = self.member(id.slot) else { return };
        if id.nid == member.image().root() {
            let less = |now: u64| Some(now.saturating_sub(count));
            // The closure never refuses.
            let _ = member.root_references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests;
