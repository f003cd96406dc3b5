// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that reads files ahead of those who ask for them.
//!
//! Invariants: what is read ahead is lost at most, never wrong: an error here is nobody's, and comes
//! again to whoever asks; one row of files waits at most, and a newer one replaces it.

use super::{Row, Siblings};
use ferrofs_engine::{Engine, Hint, OpenFile, Request};
use ferrofs_fuse::Notifier;
use ferrofs_image::Nid;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Longest file that is read ahead. The kernel reads longer ones ahead itself.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a row.
const ROW_BYTES_MAX: u64 = 4 << 20;
/// Room behind a file, for decoding in place.
const ROOM: usize = 12 << 10;
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

/// What the thread reads with.
pub(crate) struct Reader {
    pub(crate) engine: Arc<Engine>,
    pub(crate) notifier: Notifier,
    /// From nodes to nids.
    pub(crate) nid_of: Box<dyn Fn(u64) -> Nid + Send>,
}

impl FilesAhead {
    /// Starts the thread, which ends after [`FilesAhead::close`].
    pub(crate) fn start(self: &Arc<Self>, reader: Reader) -> io::Result<()> {
        let ahead = Arc::clone(self);
        let thread = std::thread::Builder::new().name(String::from("ferrofs-ahead"));
        thread.spawn(move || ahead.run(&reader)).map(drop)
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

    fn run(&self, reader: &Reader) {
        reader.notifier.companions().join();
        let mut buffer = Vec::new();
        let mut state = self.state();
        while !state.closed {
            let Some(row) = state.row.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            self.read(reader, &row, &mut buffer);
            state = self.state();
        }
    }

    fn read(&self, reader: &Reader, row: &Row, buffer: &mut Vec<u8>) {
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
            let Some(file) = reader.open(node) else { continue };
            bytes = bytes.saturating_add(file.size());
            if bytes > ROW_BYTES_MAX || unknown >= UNKNOWN_MAX {
                break;
            }
            let Some(data) = reader.content(&file, buffer) else { continue };
            match reader.notifier.store(node, 0, data) {
                Ok(stored) => {
                    self.files.fetch_add(1, Ordering::Relaxed);
                    self.bytes.fetch_add(stored as u64, Ordering::Relaxed);
                }
                Err(_) => unknown += 1,
            }
        }
    }
}

impl Reader {
    /// The file, if it is worth it.
    fn open(&self, node: u64) -> Option<OpenFile> {
        let inode = self.engine.image().inode((self.nid_of)(node)).ok()?;
        if inode.size == 0 || inode.size > FILE_MAX {
            return None;
        }
        self.engine.open(&inode).ok()
    }

    fn content<'b>(&self, file: &OpenFile, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        let len = usize::try_from(file.size()).ok()?;
        if buffer.len() < len + ROOM {
            buffer.resize(len + ROOM, 0);
        }
        let request = Request { len, hint: Hint::Readahead, ..Request::default() };
        let report = self.engine.read(file, &request, &mut [IoSliceMut::new(buffer)]);
        (report.into_result().ok()? == len).then(|| &buffer[..len])
    }
}
