// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arena of inodes, and the one way to fill it.
//!
//! About 90 bytes an inode and 12 an entry, and the bytes of the names: a million files take some
//! 120 MB.

use core::fmt;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::xattr::{Xattr, XattrSetId, XattrStore};
use crate::{Error, Result};

/// Longest name in bytes.
const NAME_LEN_MAX: usize = 255;

/// Number of an inode in its tree; the root has 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// As an index into per-inode tables: inodes are numbered from 0 without gaps.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "POSIX has these seven")]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "as struct timespec")]
pub struct Timestamp {
    /// Seconds since 1970, possibly negative.
    pub seconds: i64,
    /// Nanoseconds behind the second, below 10^9.
    pub nanoseconds: u32,
}

/// What every inode has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what an image can store about an inode")]
pub struct Metadata {
    /// Permission, setuid, setgid and sticky bits (12 bits).
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: XattrSetId,
}

/// What an inode holds, as seen from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Content<'a> {
    /// Sorted entries.
    Directory(&'a [Entry]),
    /// Bytes that its [`Source`](crate::Source) gives.
    File {
        /// Number under which the source knows it.
        origin: u32,
        /// Size in bytes.
        size: u64,
        /// The source says that parts of it may be holes.
        sparse: bool,
    },
    /// Target, 1 to 4095 bytes without NUL.
    Symlink(&'a [u8]),
    /// Character or block device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

/// Content of an inode to be added; a directory gets its entries later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NewContent<'a> {
    /// No entries yet.
    Directory,
    /// See [`Content::File`].
    File {
        /// Number under which the source knows it.
        origin: u32,
        /// Size in bytes.
        size: u64,
        /// Parts of it may be holes.
        sparse: bool,
    },
    /// Target.
    Symlink(&'a [u8]),
    /// Character or block device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

/// A piece of the arena of names and symlink targets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Text {
    start: u32,
    len: u16,
}

#[derive(Clone, Copy, Debug)]
enum Stored {
    Directory { first: u32, count: u32 },
    File { origin: u32, size: u64, sparse: bool },
    Symlink(Text),
    Device { block: bool, major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// One inode.
#[derive(Clone, Debug)]
pub struct Inode {
    metadata: Metadata,
    content: Stored,
    nlink: u32,
    /// Directory and name of the first entry that names this inode.
    parent: InodeId,
    name: Text,
}

/// A directory's entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    name: Text,
    inode: InodeId,
}

impl Entry {
    /// The inode it names.
    #[must_use]
    pub const fn inode(&self) -> InodeId {
        self.inode
    }
}

impl Inode {
    /// Permissions, owners, time, xattrs.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Hard links: entries that name it; for a directory 2 and one for each subdirectory.
    #[must_use]
    pub const fn nlink(&self) -> u32 {
        self.nlink
    }

    /// What it is.
    #[must_use]
    pub const fn file_type(&self) -> FileType {
        match self.content {
            Stored::Directory { .. } => FileType::Directory,
            Stored::File { .. } => FileType::Regular,
            Stored::Symlink(_) => FileType::Symlink,
            Stored::Device { block: true, .. } => FileType::BlockDevice,
            Stored::Device { block: false, .. } => FileType::CharDevice,
            Stored::Fifo => FileType::Fifo,
            Stored::Socket => FileType::Socket,
        }
    }

    /// The directory that holds its first entry; the root for the root itself.
    #[must_use]
    pub const fn parent(&self) -> InodeId {
        self.parent
    }
}

/// Names, metadata, and where content comes from.
#[derive(Debug, Default)]
pub struct Tree {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    text: Vec<u8>,
    xattrs: XattrStore,
}

impl Tree {
    /// Inodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never true for a finished tree: there is a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// All inode numbers, ascending.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = InodeId> + use<> {
        (0..self.inodes.len() as u32).map(InodeId)
    }

    /// An inode of this tree.
    #[must_use]
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// What an inode holds.
    #[must_use]
    pub fn content(&self, id: InodeId) -> Content<'_> {
        match self.inode(id).content {
            Stored::Directory { first, count } => {
                Content::Directory(&self.entries[first as usize..first as usize + count as usize])
            }
            Stored::File { origin, size, sparse } => Content::File { origin, size, sparse },
            Stored::Symlink(target) => Content::Symlink(self.bytes(target)),
            Stored::Device { block, major, minor } => Content::Device { block, major, minor },
            Stored::Fifo => Content::Fifo,
            Stored::Socket => Content::Socket,
        }
    }

    /// Sorted entries of a directory; none for anything else.
    #[must_use]
    pub fn entries(&self, id: InodeId) -> &[Entry] {
        match self.content(id) {
            Content::Directory(entries) => entries,
            _ => &[],
        }
    }

    /// The name of an entry.
    #[must_use]
    pub fn entry_name(&self, entry: &Entry) -> &[u8] {
        self.bytes(entry.name)
    }

    /// The name an inode was first met under; empty for the root.
    #[must_use]
    pub fn name(&self, id: InodeId) -> &[u8] {
        self.bytes(self.inode(id).name)
    }

    /// Xattrs of a set, sorted by name.
    pub fn xattrs(&self, id: XattrSetId) -> impl Iterator<Item = &Xattr> {
        self.xattrs.set(id)
    }

    /// Number of different sets of xattrs, the empty one included.
    #[must_use]
    pub fn xattr_sets(&self) -> usize {
        self.xattrs.sets()
    }

    /// Path from the root, without a slash in front; empty for the root.
    #[must_use]
    pub fn path(&self, id: InodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != InodeId::ROOT {
            names.push(self.name(at));
            at = self.inode(at).parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn bytes(&self, text: Text) -> &[u8] {
        &self.text[text.start as usize..text.start as usize + usize::from(text.len)]
    }
}

/// Fills a [`Tree`]. Inodes first, then the entries of each directory, once.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: Tree,
}

impl TreeBuilder {
    /// Starts with the root directory.
    #[must_use]
    pub fn new(root: Metadata) -> Self {
        let mut tree = Tree::default();
        tree.inodes.push(Inode {
            metadata: root,
            content: Stored::Directory { first: 0, count: 0 },
            nlink: 2,
            parent: InodeId::ROOT,
            name: Text::default(),
        });
        Self { tree }
    }

    /// The number of this set of xattrs.
    pub fn intern_xattrs(&mut self, xattrs: Vec<Xattr>) -> XattrSetId {
        self.tree.xattrs.intern(xattrs)
    }

    /// Sets the xattrs of an inode that is there already.
    pub fn set_xattrs(&mut self, inode: InodeId, xattrs: XattrSetId) {
        self.tree.inodes[inode.index()].metadata.xattrs = xattrs;
    }

    /// Adds an inode that no entry names yet.
    pub fn add(&mut self, metadata: Metadata, content: NewContent<'_>) -> Result<InodeId> {
        let content = match content {
            NewContent::Directory => Stored::Directory { first: 0, count: 0 },
            NewContent::File { origin, size, sparse } => Stored::File { origin, size, sparse },
            NewContent::Symlink(target) => Stored::Symlink(self.store(target)?),
            NewContent::Device { block, major, minor } => Stored::Device { block, major, minor },
            NewContent::Fifo => Stored::Fifo,
            NewContent::Socket => Stored::Socket,
        };
        let id = u32::try_from(self.tree.inodes.len())
            .map_err(|_| Error::TooMany { what: "inodes" })
            .map(InodeId)?;
        self.tree.inodes.push(Inode {
            metadata,
            content,
            nlink: 0,
            parent: InodeId::ROOT,
            name: Text::default(),
        });
        Ok(id)
    }

    /// Gives a directory its entries, in any order.
    pub fn set_entries(
        &mut self,
        directory: InodeId,
        mut entries: Vec<(&[u8], InodeId)>,
    ) -> Result<()> {
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let bad = |name: &[u8]| {
            name.is_empty()
                || name.len() > NAME_LEN_MAX
                || name == b"."
                || name == b".."
                || name.iter().any(|&byte| byte == b'/' || byte == 0)
        };
        if let Some((name, _)) = entries.iter().find(|(name, _)| bad(name)) {
            return Err(Error::Name { path: self.child_path(directory, name) });
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::Duplicate { path: self.child_path(directory, pair[0].0) });
        }
        let first = u32::try_from(self.tree.entries.len())
            .ok()
            .filter(|first| first.checked_add(entries.len() as u32).is_some())
            .ok_or(Error::TooMany { what: "directory entries" })?;
        for &(name, inode) in &entries {
            let name = self.store(name)?;
            self.link(directory, name, inode)?;
            self.tree.entries.push(Entry { name, inode });
        }
        match &mut self.tree.inodes[directory.index()].content {
            content @ Stored::Directory { count: 0, .. } => {
                *content = Stored::Directory { first, count: entries.len() as u32 };
                Ok(())
            }
            _ => Err(self.shape(directory)),
        }
    }

    fn link(&mut self, directory: InodeId, name: Text, inode: InodeId) -> Result<()> {
        let target = &mut self.tree.inodes[inode.index()];
        let is_directory = matches!(target.content, Stored::Directory { .. });
        if target.nlink == 0 {
            (target.parent, target.name) = (directory, name);
            target.nlink = if is_directory { 2 } else { 1 };
        } else if is_directory {
            return Err(self.shape(inode));
        } else {
            target.nlink = target.nlink.saturating_add(1);
        }
        if is_directory {
            let parent = &mut self.tree.inodes[directory.index()];
            parent.nlink = parent.nlink.saturating_add(1);
        }
        Ok(())
    }

    /// Hands out the tree, after checking that every inode has a place in it.
    pub fn finish(self) -> Result<Tree> {
        if let Some(id) = self.tree.ids().find(|&id| self.tree.inode(id).nlink == 0) {
            return Err(self.shape(id));
        }
        Ok(self.tree)
    }

    /// The tree so far, for paths in messages.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    fn shape(&self, id: InodeId) -> Error {
        Error::Shape { path: PathBuf::from(OsStr::from_bytes(&self.tree.path(id))) }
    }

    fn child_path(&self, directory: InodeId, name: &[u8]) -> PathBuf {
        let parent = self.tree.path(directory);
        PathBuf::from(OsStr::from_bytes(&parent)).join(OsStr::from_bytes(name))
    }

    fn store(&mut self, bytes: &[u8]) -> Result<Text> {
        let start = self.tree.text.len();
        match (u32::try_from(start + bytes.len()), u16::try_from(bytes.len())) {
            (Ok(_), Ok(len)) => {
                self.tree.text.extend_from_slice(bytes);
                Ok(Text { start: start as u32, len })
            }
            _ => Err(Error::TooMany { what: "bytes of names" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(builder: &mut TreeBuilder) -> InodeId {
        let content = NewContent::File { origin: 0, size: 0, sparse: false };
        builder.add(Metadata::default(), content).unwrap()
    }

    #[test]
    fn hard_links_count_and_entries_are_sorted() {
        let mut builder = TreeBuilder::new(Metadata::default());
        let one = file(&mut builder);
        let sub = builder.add(Metadata::default(), NewContent::Directory).unwrap();
        builder.set_entries(InodeId::ROOT, vec![(b"z", one), (b"\xff", one), (b"d", sub)]).unwrap();
        builder.set_entries(sub, vec![(b"again", one)]).unwrap();
        let tree = builder.finish().unwrap();
        assert_eq!(tree.inode(one).nlink(), 3);
        assert_eq!(tree.inode(InodeId::ROOT).nlink(), 3);
        assert_eq!(tree.inode(sub).nlink(), 2);
        let names: Vec<_> =
            tree.entries(InodeId::ROOT).iter().map(|e| tree.entry_name(e)).collect();
        assert_eq!(names, [&b"d"[..], b"z", b"\xff"]);
        assert_eq!(tree.path(one), b"z");
        assert_eq!(tree.path(InodeId::ROOT), b"");
    }

    #[test]
    fn impossible_trees_are_errors() {
        let long = [b'n'; 256];
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &long] {
            let mut builder = TreeBuilder::new(Metadata::default());
            let one = file(&mut builder);
            let result = builder.set_entries(InodeId::ROOT, vec![(name, one)]);
            assert!(matches!(result, Err(Error::Name { .. })), "{name:?}");
        }
        let mut builder = TreeBuilder::new(Metadata::default());
        let one = file(&mut builder);
        let twice = vec![(&b"a"[..], one), (b"a", one)];
        let result = builder.set_entries(InodeId::ROOT, twice);
        assert!(matches!(result, Err(Error::Duplicate { .. })));
        assert!(matches!(builder.finish(), Err(Error::Shape { .. })), "orphan");
        let mut builder = TreeBuilder::new(Metadata::default());
        let sub = builder.add(Metadata::default(), NewContent::Directory).unwrap();
        let twice = vec![(&b"a"[..], sub), (b"b", sub)];
        assert!(matches!(builder.set_entries(InodeId::ROOT, twice), Err(Error::Shape { .. })));
    }

    #[test]
    fn an_inode_stays_small() {
        assert!(size_of::<Inode>() <= 96, "{}", size_of::<Inode>());
        assert_eq!(size_of::<Entry>(), 12);
    }
}
