// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures and numbers of the FUSE protocol, as the kernel's public header declares them.
//!
//! All integers are in the machine's own byte order: the protocol never leaves the machine. Knows
//! nothing of meaning. Invariant: every structure has the size the kernel expects (tested).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const KERNEL_MAJOR: u32 = 7;
/// The newest minor version whose structures are declared here.
pub(crate) const KERNEL_MINOR_MAX: u32 = 45;
/// The oldest minor version served (Linux 5.4).
pub(crate) const KERNEL_MINOR_MIN: u32 = 31;

pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Capabilities exchanged by INIT; bits above 31 travel in `flags2`.
pub(crate) mod init {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// Files can be opened as other files.
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
    pub(crate) const OVER_IO_URING: u64 = 1 << 41;
}

/// Commands on a ring.
pub(crate) mod ring {
    pub(crate) const REGISTER: u32 = 1;
    pub(crate) const COMMIT_AND_FETCH: u32 = 2;
}

/// Messages to the kernel that answer nothing.
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
    pub(crate) const RETRIEVE: i32 = 5;
    pub(crate) const RESEND: i32 = 7;
}

pub(crate) const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;
pub(crate) const FOPEN_PASSTHROUGH: u32 = 1 << 7;

pub(crate) const SEEK_DATA: u32 = 3;
pub(crate) const SEEK_HOLE: u32 = 4;

macro_rules! wire {
    ($($(#[$doc:meta])* struct $name:ident, $size:literal { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
            #[repr(C)]
            pub(crate) struct $name {
                $(pub(crate) $field: $type,)*
            }
            const _: () = assert!(size_of::<$name>() == $size);
        )*
    };
}

wire! {
    struct InHeader, 40 {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }

    struct OutHeader, 16 {
        len: u32,
        error: i32,
        unique: u64,
    }

    struct InitIn, 16 {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    }

    struct InitOut, 64 {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }

    struct WireAttr, 88 {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }

    struct EntryOut, 128 {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: WireAttr,
    }

    struct AttrOut, 104 {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: WireAttr,
    }

    struct ForgetIn, 8 {
        nlookup: u64,
    }

    struct BatchForgetIn, 8 {
        count: u32,
        dummy: u32,
    }

    struct ForgetOne, 16 {
        nodeid: u64,
        nlookup: u64,
    }

    struct OpenOut, 16 {
        fh: u64,
        open_flags: u32,
        backing_id: i32,
    }

    struct ReadIn, 40 {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    struct GetxattrIn, 8 {
        size: u32,
        padding: u32,
    }

    struct GetxattrOut, 8 {
        size: u32,
        padding: u32,
    }

    struct StatfsOut, 80 {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    struct LseekIn, 24 {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }

    struct LseekOut, 8 {
        offset: u64,
    }

    /// What goes with a request on a ring, both ways.
    struct RingEntry, 32 {
        flags: u64,
        commit_id: u64,
        payload_len: u32,
        padding: u32,
        reserved: u64,
    }

    /// The header area of a request on a ring: first the InHeader (in) or OutHeader (out).
    struct RingHeaders, 288 {
        in_out: [u64; 16],
        operation: [u64; 16],
        entry: RingEntry,
    }

    /// The argument of a command on a ring.
    struct RingCommand, 24 {
        flags: u64,
        commit_id: u64,
        queue: u16,
        padding: [u8; 6],
    }

    struct NotifyStoreOut, 24 {
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }

    struct NotifyInvalInodeOut, 24 {
        nodeid: u64,
        offset: i64,
        len: i64,
    }

    struct NotifyInvalEntryOut, 16 {
        parent: u64,
        namelen: u32,
        flags: u32,
    }

    struct NotifyRetrieveOut, 32 {
        unique: u64,
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }

    /// Followed by the name, padded with zeros to a multiple of eight bytes.
    struct Dirent, 24 {
        ino: u64,
        off: u64,
        namelen: u32,
        kind: u32,
    }
}
