// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a served file system is: [`ReadOnlyFs`] and the values it returns.
//!
//! Refuses to know the wire format. Invariant: nothing here depends on how requests arrive.

use std::fmt;
use std::io;

/// The node id of the root directory; every other id is the file system's own choice.
pub const ROOT_NODE: u64 = 1;

/// An error number of Linux, always between 1 and 511 (what FUSE can carry).
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Errno(i32);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file or directory.
    pub const NOENT: Self = Self(2);
    /// Interrupted.
    pub const INTR: Self = Self(4);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// No such device or address; `lseek` beyond the last data or the end.
    pub const NXIO: Self = Self(6);
    /// The list is too long.
    pub const TOO_BIG: Self = Self(7);
    /// Try again.
    pub const AGAIN: Self = Self(11);
    /// Out of memory.
    pub const NOMEM: Self = Self(12);
    /// Permission denied.
    pub const ACCES: Self = Self(13);
    /// Not a directory.
    pub const NOTDIR: Self = Self(20);
    /// Is a directory.
    pub const ISDIR: Self = Self(21);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// Read-only file system.
    pub const ROFS: Self = Self(30);
    /// Result too large for the caller's buffer.
    pub const RANGE: Self = Self(34);
    /// Name too long.
    pub const NAMETOOLONG: Self = Self(36);
    /// Function not implemented. The kernel remembers this answer for the life of the mount for
    /// most operations and does not ask again.
    pub const NOSYS: Self = Self(38);
    /// No such attribute.
    pub const NODATA: Self = Self(61);
    /// Protocol error.
    pub const PROTO: Self = Self(71);
    /// Operation not supported.
    pub const NOTSUP: Self = Self(95);
    /// Timed out.
    pub const TIMEDOUT: Self = Self(110);
    /// Stale file handle.
    pub const STALE: Self = Self(116);
    /// The structure needs cleaning: corrupt data on the medium.
    pub const UCLEAN: Self = Self(117);

    /// An error of this number. Numbers outside 1..=511 cannot be sent and become [`Errno::IO`].
    pub const fn new(raw: i32) -> Self {
        if raw >= 1 && raw <= 511 { Self(raw) } else { Self::IO }
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::IO, Self::new)
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

/// A point in time, seconds since the epoch and nanoseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What `stat` shows of an inode.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attr {
    /// Inode number shown to users (need not be the node id).
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Time of last access.
    pub atime: Timestamp,
    /// Time of last change of the content.
    pub mtime: Timestamp,
    /// Time of last change of the inode.
    pub ctime: Timestamp,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes in the kernel's 32-bit encoding (`new_encode_dev`).
    pub rdev: u32,
    /// Preferred size of input and output, in bytes.
    pub blksize: u32,
}

/// The answer to a lookup: a node and its attributes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Node id, by which later requests name the inode. Never 0; 1 is the root.
    pub node: u64,
    /// Its attributes.
    pub attr: Attr,
}

/// The type of an inode as directory entries show it; the numbers are those of `d_type`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "the types of POSIX are all there will be")]
pub enum FileKind {
    /// Not told.
    Unknown = 0,
    /// Named pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileKind {
    /// The kind that a mode's type bits name.
    pub const fn from_mode(mode: u32) -> Self {
        match (mode >> 12) & 0xf {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirEntry<'a> {
    /// Node id of what the entry names. Not used for "." and "..".
    pub node: u64,
    /// Inode number shown to users.
    pub ino: u64,
    /// Where to go on after this entry: the cookie of the next `readdir`. Never 0.
    pub cookie: u64,
    /// Type.
    pub kind: FileKind,
    /// Name: 1 to 255 bytes, no slash, no NUL.
    pub name: &'a [u8],
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StatFs {
    /// Size of the file system in units of `frsize`.
    pub blocks: u64,
    /// Free units (0 for an image).
    pub blocks_free: u64,
    /// Units free for unprivileged users.
    pub blocks_available: u64,
    /// Number of inodes.
    pub files: u64,
    /// Number of free inodes.
    pub files_free: u64,
    /// Block size in bytes.
    pub block_size: u32,
    /// Longest name in bytes.
    pub name_max: u32,
    /// Unit of the counts above, in bytes.
    pub fragment_size: u32,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "SEEK_DATA and SEEK_HOLE are all there is")]
pub enum Whence {
    /// The next offset that holds data.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// Bytes of room that [`ReadOnlyFs::read`] gets behind what is wanted: enough to decode 1 MiB in
/// place (a page, a 256th of the length, and 32 bytes), in whole pages.
pub const SPARE_LEN: usize = 12 << 10;

/// File data that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ReadRequest {
    /// The file.
    pub node: u64,
    /// Where the data starts in the file, in bytes. May lie behind its end.
    pub offset: u64,
    /// Bytes wanted; at most what was agreed on with the kernel.
    pub len: usize,
    /// The file was opened with `O_DIRECT`: the kernel will not keep the data, and asks again for
    /// every read.
    pub direct: bool,
}

impl ReadRequest {
    /// A request for `len` bytes at `offset` of `node`, for those who call a file system without
    /// a kernel between.
    pub const fn new(node: u64, offset: u64, len: usize) -> Self {
        Self { node, offset, len, direct: false }
    }

    /// The same request for another node: for file systems that are made of others.
    #[must_use]
    pub const fn of_node(self, node: u64) -> Self {
        Self { node, ..self }
    }

    /// The same request for another range.
    #[must_use]
    pub const fn of_range(self, offset: u64, len: usize) -> Self {
        Self { offset, len, ..self }
    }
}

/// What an opened file reads from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenAs {
    /// The file system: [`ReadOnlyFs::read`].
    #[default]
    Itself,
    /// Another file, that of [`Backings::open`](crate::Backings::open): reading and mapping go there,
    /// to its page cache. All who have a node open at a time must have the same.
    Backing(i32),
}

/// A file system that never changes while it is served.
///
/// Methods are called from several threads at once. Every method may block; the session starts
/// further threads when all are blocked. A panic in a method is caught and answered with `EIO`.
///
/// Node ids: [`ROOT_NODE`] is the root; others are chosen by the file system and must name the
/// same inode for as long as the kernel knows them (see [`ReadOnlyFs::forget`]).
pub trait ReadOnlyFs: Send + Sync {
    /// The entry `name` of the directory `parent`. [`Errno::NOENT`] is remembered by the kernel.
    ///
    /// Each answer, and each entry that `readdir` delivers with attributes, counts as one
    /// reference of the kernel to the node.
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, Errno>;

    /// The attributes of a node.
    fn getattr(&self, node: u64) -> Result<Attr, Errno>;

    /// Appends a symbolic link's target to `target`.
    fn readlink(&self, node: u64, target: &mut Vec<u8>) -> Result<(), Errno>;

    /// Reads file data into the start of `buf`, the reply buffer itself. Returns the number of
    /// bytes read, which is less than `read.len` only at the end of the file: the kernel takes a
    /// short read for the end.
    ///
    /// `buf` is at least [`SPARE_LEN`] bytes longer than `read.len`. What lies behind `read.len` is
    /// never sent; the file system may use it as it likes, for example to decode in place.
    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno>;

    /// Delivers the entries of a directory after `cookie` (0: from the start, "." and ".."
    /// included) to `sink`, until `sink` returns false: that entry was not taken. The sink may
    /// call `getattr`, so no lock that `getattr` needs may be held.
    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno>;

    /// Whether the entries of a directory from `cookie` on go to the kernel with their attributes, if it
    /// takes them. It saves a lookup for each, and costs an inode in the kernel's memory.
    fn wants_attributes(&self, node: u64, cookie: u64) -> bool {
        let _ = (node, cookie);
        true
    }

    /// Appends the value of an extended attribute (full name, as `user.x`) to `value`.
    /// [`Errno::NODATA`] if there is none of that name. The kernel itself asks for
    /// `system.posix_acl_access` and `system.posix_acl_default` to check permissions, and wants
    /// them in the form in which `getxattr` shows them (version 2).
    fn getxattr(&self, node: u64, name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        let _ = (node, name, value);
        Err(Errno::NOSYS)
    }

    /// Appends the full names of all extended attributes to `names`, each ended by a NUL.
    fn listxattr(&self, node: u64, names: &mut Vec<u8>) -> Result<(), Errno> {
        let _ = (node, names);
        Err(Errno::NOSYS)
    }

    /// Sizes and counts of the whole file system.
    fn statfs(&self) -> Result<StatFs, Errno>;

    /// The next data or hole at or after `offset`; [`Errno::NXIO`] if there is none.
    /// The default lets the kernel treat every file as all data.
    fn lseek(&self, node: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let _ = (node, offset, whence);
        Err(Errno::NOSYS)
    }

    /// The kernel drops `count` of its references to a node. File systems whose node ids are
    /// valid for ever need not care.
    fn forget(&self, node: u64, count: u64) {
        let _ = (node, count);
    }

    /// A file is opened. Only called when [`SessionConfig::zero_message_open`] is off or
    /// [`SessionConfig::passthrough`] on, for otherwise the kernel opens without asking.
    ///
    /// [`SessionConfig::zero_message_open`]: crate::SessionConfig::zero_message_open
    /// [`SessionConfig::passthrough`]: crate::SessionConfig::passthrough
    fn open(&self, node: u64) -> Result<OpenAs, Errno> {
        let _ = node;
        Ok(OpenAs::Itself)
    }

    /// A file that [`ReadOnlyFs::open`] was asked for is closed; once for each time.
    fn release(&self, node: u64) {
        let _ = node;
    }
}
