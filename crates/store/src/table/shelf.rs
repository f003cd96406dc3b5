// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a cache keeps the parts of tables that came.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of one table, kept for the next time. Nothing that it gives is trusted: what does not
/// verify counts as absent, so it needs no order of writes and no record of what it has.
pub trait Shelf: Send + Sync + fmt::Debug {
    /// Fills `bytes` from `offset` of the table; whether there was as much.
    fn load(&self, offset: u64, bytes: &mut [u8]) -> bool;

    /// Keeps verified bytes. Failing to is no error: they come again.
    fn save(&self, offset: u64, bytes: &[u8]);
}

/// A sparse file with the bytes of the table where they are in the table.
#[derive(Debug)]
pub struct FileShelf(File);

impl FileShelf {
    /// Over a file that was opened for reading and writing.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self(file)
    }
}

impl Shelf for FileShelf {
    fn load(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.0.read_exact_at(bytes, offset).is_ok()
    }

    fn save(&self, offset: u64, bytes: &[u8]) {
        // A page that was written in part does not verify, and one that was not does not either.
        self.0.write_all_at(bytes, offset).unwrap_or(());
    }
}
