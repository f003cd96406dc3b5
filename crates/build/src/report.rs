// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a build says about itself: while it runs, and afterwards. Numbers only; showing them is the
//! caller's.

use core::time::Duration;

/// Hears how a build goes on. Called from the thread that called the build.
pub trait Progress {
    /// A phase begins.
    fn phase(&mut self, _phase: Phase) {}

    /// So much file data is done, of so much.
    fn advance(&mut self, _done: Done) {}

    /// Whether the build is to end with [`Error::Cancelled`](crate::Error::Cancelled). Asked again and
    /// again while data is written.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Says nothing to anyone.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "nothing to configure")]
pub struct Silent;

impl Progress for Silent {}

/// What a build is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Decides on the order.
    Plan,
    /// Reads, compresses and writes file data.
    Data,
    /// Writes inodes and directories.
    Metadata,
    /// Flushes and names the image.
    Finish,
}

/// How far the data phase is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers")]
pub struct Done {
    /// Bytes of file data done.
    pub bytes: u64,
    /// Bytes of file data in all.
    pub bytes_total: u64,
    /// Regular files done.
    pub files: u64,
    /// Regular files in all.
    pub files_total: u64,
}

/// What was built.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BuildReport {
    /// Inodes of any kind.
    pub inodes: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Device nodes, FIFOs and sockets.
    pub special: u64,
    /// Entries that name an inode which another entry names already.
    pub hard_links: u64,
    /// Paths that were to come first and do not exist.
    pub first_missing: u64,
    /// Inodes of 32 bytes.
    pub compact_inodes: u64,
    /// Bytes of all regular files.
    pub input_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the blob; 0 without one.
    pub blob_bytes: u64,
    /// Bytes of file data in the image or blob, in whole blocks.
    pub data_bytes: u64,
    /// Bytes of inodes, xattrs, indexes, tails and directories.
    pub metadata_bytes: u64,
    /// Bytes of ends of files that lie beside their inodes; part of the metadata.
    pub inline_bytes: u64,
    /// Regular files stored compressed.
    pub compressed_files: u64,
    /// Their bytes before.
    pub compressed_input: u64,
    /// Their bytes after, in whole blocks.
    pub compressed_output: u64,
    /// Regular files stored as chunks.
    pub chunk_files: u64,
    /// Bytes that need no space because they are zeros in chunks.
    pub hole_bytes: u64,
    /// Bytes that need no space because an equal chunk was there.
    pub deduplicated_bytes: u64,
    /// Extended attributes stored once for several inodes.
    pub shared_xattrs: u64,
    /// The image's UUID.
    pub uuid: [u8; 16],
    /// Time from the start to the first byte of data.
    pub plan_time: Duration,
    /// Time of the data phase.
    pub data_time: Duration,
    /// Time of the metadata phase.
    pub metadata_time: Duration,
    /// Time of the end.
    pub finish_time: Duration,
}
