// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that reads files ahead of those who ask for them.
//!
//! Invariants: what is read ahead is lost at most, never wrong: an error here is nobody's, and comes
//! again to whoever asks; one row of files waits at most, and a newer one replaces it.

use super::{Row, Siblings};
use crate::nid_of;
use ferrofs_engine::{Engine, Hint, OpenFile, Request};
use ferrofs_fuse::{Notifier, SPARE_LEN};
use ferrofs_image::Nid;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Longest file that is read ahead. The kernel reads longer ones ahead itself.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a row.
const ROW_BYTES_MAX: u64 = 4 << 20;
/// Files that the kernel turned out not to have, after which the rest of a row is left alone.
const UNKNOWN_MAX: u32 = 4;

/// Decides what is read ahead and has it done.
#[derive(Debug, Default)]
pub(crate) struct FilesAhead {
    state: Mutex<State>,
    changed: Condvar,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// What was put into the kernel's page cache before it was asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct AheadStats {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    siblings: Siblings,
    row: Option<Row>,
    closed: bool,
}

/// Where the thread finds files, by nodes of the session.
pub(crate) trait Shelf: Send {
    /// A file found.
    type File;

    /// The file and its length, if it is to be read ahead.
    fn find(&self, node: u64) -> Option<(Self::File, u64)>;

    /// Reads all of it to the begin of `buffer`, which has [`SPARE_LEN`] bytes more; whether that worked.
    fn read(&self, file: &Self::File, len: usize, buffer: &mut [u8]) -> bool;
}

/// The files of one image.
pub(crate) struct ImageShelf {
    pub(crate) engine: Arc<Engine>,
    /// The root's node is none of a nid.
    pub(crate) root: Nid,
}

impl FilesAhead {
    /// Starts the thread, which ends after [`FilesAhead::close`].
    pub(crate) fn start(
        self: &Arc<Self>,
        notifier: Notifier,
        shelf: impl Shelf + 'static,
    ) -> io::Result<()> {
        let ahead = Arc::clone(self);
        let thread = std::thread::Builder::new().name(String::from("ferrofs-ahead"));
        thread.spawn(move || ahead.run(&notifier, &shelf)).map(drop)
    }

    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells [`Siblings`] something, and has read what it answers.
    pub(crate) fn note(&self, tell: impl FnOnce(&mut Siblings) -> Option<Row>) {
        let mut state = self.state();
        if let Some(row) = tell(&mut state.siblings) {
            state.row = Some(row);
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(crate) fn stats(&self) -> AheadStats {
        AheadStats {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Asks [`Siblings`] something.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&Siblings) -> T) -> T {
        ask(&self.state().siblings)
    }

    fn run(&self, notifier: &Notifier, shelf: &impl Shelf) {
        notifier.companions().join();
        let mut buffer = Vec::new();
        let mut state = self.state();
        while !state.closed {
            let Some(row) = state.row.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            self.read(notifier, shelf, &row, &mut buffer);
            state = self.state();
        }
    }

    fn read(&self, notifier: &Notifier, shelf: &impl Shelf, row: &Row, buffer: &mut Vec<u8>) {
        let (mut bytes, mut unknown) = (0_u64, 0);
        for &(index, node) in &row.files {
            let state = self.state();
            let newer = state.row.as_ref().is_some_and(|newer| newer.listing != row.listing);
            if state.closed || newer {
                break;
            }
            if !state.siblings.is_ahead(row.listing, index) {
                continue;
            }
            drop(state);
            let Some((file, size)) = shelf.find(node) else { continue };
            if size == 0 || size > FILE_MAX {
                continue;
            }
            bytes = bytes.saturating_add(size);
            if bytes > ROW_BYTES_MAX || unknown >= UNKNOWN_MAX {
                break;
            }
            let Ok(len) = usize::try_from(size) else { continue };
            if buffer.len() < len + SPARE_LEN {
                buffer.resize(len + SPARE_LEN, 0);
            }
            if !shelf.read(&file, len, buffer) {
                continue;
            }
            match notifier.store(node, 0, &buffer[..len]) {
                Ok(stored) => {
                    self.files.fetch_add(1, Ordering::Relaxed);
                    self.bytes.fetch_add(stored as u64, Ordering::Relaxed);
                }
                Err(_) => unknown += 1,
            }
        }
    }
}

impl Shelf for ImageShelf {
    type File = OpenFile;

    fn find(&self, node: u64) -> Option<(OpenFile, u64)> {
        let inode = self.engine.image().inode(nid_of(node, self.root)).ok()?;
        if inode.size > FILE_MAX {
            return None;
        }
        let file = self.engine.open(&inode).ok()?;
        Some((file, inode.size))
    }

    fn read(&self, file: &OpenFile, len: usize, buffer: &mut [u8]) -> bool {
        let request = Request { len, hint: Hint::Readahead, ..Request::default() };
        let report = self.engine.read(file, &request, &mut [IoSliceMut::new(buffer)]);
        report.into_result().is_ok_and(|count| count == len)
    }
}
