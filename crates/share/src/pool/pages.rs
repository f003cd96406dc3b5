// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unique pages in one memory file, and files mapped from them.
//!
//! New pages go behind all others in the order in which they are met, so a file that is new is one
//! piece, and one that differs in places is few. Numbers of pages are never used twice; memory of a
//! page goes back when the last file that has it goes. Zeros take no page at all. Invariant: a page
//! that a file is made of does not change and is not given back while that file exists.

use super::{Domain, DomainStats};
use crate::{Error, Result};
use ferrofs_engine::{Engine, OpenFile};
use ferrofs_image::Source;
use ferrofs_linux::pieces::{MemoryFile, PAGE, Pieces};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of a file in memory while it is composed.
const WINDOW: usize = 1 << 20;
/// Pieces of one file; what needs more gets pages of its own.
const PIECES_MAX: usize = 8192;
/// Pieces of all files of a domain, below the kernel's 65,530 mappings of a process.
const PIECES_ALL: u64 = 50_000;

type Hash = [u8; 32];

/// A page that files have.
#[derive(Debug)]
struct Page {
    hash: Hash,
    uses: u64,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<Hash, u64>,
    pages: HashMap<u64, Page>,
    /// The next new page.
    next: u64,
    files: u64,
    bytes: u64,
    pieces: u64,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pages {
    memory: MemoryFile,
    table: Mutex<Table>,
}

impl Pages {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { memory: MemoryFile::new()?, table: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_to(&self, stats: &mut DomainStats) {
        let table = self.lock();
        stats.composed_files = table.files;
        stats.composed_bytes = table.bytes;
        stats.composed_pieces = table.pieces;
        stats.pages = table.pages.len() as u64;
        drop(table);
        stats.page_memory = self.memory.memory().unwrap_or(0);
    }
}

/// Pages of a file that follow each other in the pool, too.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first page of the file.
    at: u64,
    /// The first page of the pool.
    page: u64,
    count: u64,
}

/// What a file holds of the pool; given back when dropped.
#[derive(Debug)]
struct Held {
    domain: Domain,
    runs: Vec<Run>,
    /// The pages are in the table; else they are this file's alone.
    shared: bool,
    /// Counted in the statistics.
    counted: Option<u64>,
}

impl Held {
    fn new(domain: &Domain, shared: bool) -> Self {
        Self { domain: domain.clone(), runs: vec![], shared, counted: None }
    }

    fn push(&mut self, at: u64, page: u64) {
        match self.runs.last_mut() {
            Some(run) if run.at + run.count == at && run.page + run.count == page => run.count += 1,
            _ => self.runs.push(Run { at, page, count: 1 }),
        }
    }

    /// Takes the pages of a window of a file, which begins at page `at`.
    fn window(&mut self, at: u64, window: &[u8]) -> Result<()> {
        let hashes: Vec<_> = window.chunks(PAGE).map(hash).collect();
        let domain = self.domain.clone();
        let pool = &domain.inner.pages;
        let mut table = pool.lock();
        let (first, mut fresh) = (table.next, vec![]);
        for (index, (bytes, hash)) in window.chunks(PAGE).zip(hashes).enumerate() {
            let Some(hash) = hash else { continue };
            let known = table.by_hash.get(&hash).copied();
            let number = known.unwrap_or_else(|| {
                let number = table.next;
                table.next += 1;
                table.by_hash.insert(hash, number);
                fresh.extend_from_slice(bytes);
                fresh.resize(fresh.len().next_multiple_of(PAGE), 0);
                number
            });
            table.pages.entry(number).or_insert(Page { hash, uses: 0 }).uses += 1;
            self.push(at + index as u64, number);
        }
        // Under the lock: nobody finds a page before its bytes are there. If they cannot be written,
        // this file gives all of them back before the lock is free again for others.
        if let Err(error) = pool.memory.write_at(&fresh, first * PAGE as u64) {
            self.release(&mut table);
            return Err(Error::Memory(error));
        }
        Ok(())
    }

    fn release(&mut self, table: &mut Table) {
        let memory = &self.domain.inner.pages.memory;
        let punch = |pages: Range<u64>| {
            let (offset, len) =
                (pages.start * PAGE as u64, (pages.end - pages.start) * PAGE as u64);
            // What cannot be given back stays, unused.
            let _ = memory.punch(offset, len);
        };
        if let Some(size) = self.counted.take() {
            table.files -= 1;
            table.bytes -= size;
            table.pieces -= self.runs.len() as u64;
        }
        for run in self.runs.drain(..) {
            let pages = run.page..run.page + run.count;
            if !self.shared {
                punch(pages);
                continue;
            }
            let mut gone = 0..0;
            for number in pages {
                let Some(page) = table.pages.get_mut(&number) else { continue };
                page.uses -= 1;
                if page.uses > 0 {
                    continue;
                }
                let hash = page.hash;
                table.pages.remove(&number);
                table.by_hash.remove(&hash);
                if gone.end != number {
                    if !gone.is_empty() {
                        punch(gone);
                    }
                    gone = number..number;
                }
                gone.end = number + 1;
            }
            if !gone.is_empty() {
                punch(gone);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let domain = self.domain.clone();
        self.release(&mut domain.inner.pages.lock());
    }
}

/// What a page is known by; zeros are nothing.
fn hash(page: &[u8]) -> Option<Hash> {
    if page.iter().all(|&byte| byte == 0) {
        return None;
    }
    if page.len() == PAGE {
        return Some(*blake3::hash(page).as_bytes());
    }
    let mut whole = [0; PAGE];
    whole[..page.len()].copy_from_slice(page);
    Some(*blake3::hash(&whole).as_bytes())
}

/// Calls `take` with the windows of a file that hold data.
fn windows(
    engine: &Engine,
    file: &OpenFile,
    mut take: impl FnMut(u64, &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut cursor = file.map().cursor(engine.image());
    let mut buf = vec![0; file.size().min(WINDOW as u64) as usize];
    let mut offset = 0;
    while offset < file.size() {
        let extent = cursor.extent_at(offset)?;
        if extent.source == Source::Hole {
            let end = extent.end().min(file.size());
            let whole = if end == file.size() { end } else { end / PAGE as u64 * PAGE as u64 };
            if whole > offset {
                offset = whole;
                continue;
            }
        }
        let len = (file.size() - offset).min(WINDOW as u64) as usize;
        engine.read_into(file, offset, &mut buf[..len])?;
        if !take(offset / PAGE as u64, &buf[..len])? {
            break;
        }
        offset += len as u64;
    }
    Ok(())
}

/// A file in memory, made of pages that other files may have, too. Behind its end are zeros up to the
/// next page.
#[derive(Debug)]
pub struct Composed {
    // Dropped first: then nobody sees that pages are given back.
    pieces: Pieces,
    held: Held,
    size: u64,
}

impl Composed {
    pub(super) fn new(domain: &Domain, engine: &Engine, file: &OpenFile) -> Result<Self> {
        let size = file.size();
        let len =
            usize::try_from(size).map_err(|_| Error::Memory(io::ErrorKind::OutOfMemory.into()))?;
        let mut pieces = Pieces::reserve(len).map_err(Error::Memory)?;
        let room = PIECES_ALL.saturating_sub(domain.inner.pages.lock().pieces);
        let most = PIECES_MAX.min(room as usize);
        let mut held = Held::new(domain, true);
        windows(engine, file, |at, window| {
            held.window(at, window)?;
            Ok(held.runs.len() <= most)
        })?;
        if held.runs.len() > most {
            held = private(domain, engine, file)?;
        }
        let pool = &domain.inner.pages;
        for run in &held.runs {
            let (at, len) = (run.at as usize * PAGE, run.count as usize * PAGE);
            pieces.place(at, &pool.memory, run.page * PAGE as u64, len).map_err(Error::Memory)?;
        }
        let mut table = pool.lock();
        held.counted = Some(pieces.len() as u64);
        table.files += 1;
        table.bytes += pieces.len() as u64;
        table.pieces += held.runs.len() as u64;
        drop(table);
        Ok(Self { pieces, held, size })
    }

    /// Bytes of content.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Pieces that it is mapped in.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.held.runs.len()
    }

    /// Where it lies: [`size`](Self::size) bytes, readable as long as this lives.
    #[must_use]
    pub const fn address(&self) -> *const u8 {
        self.pieces.address()
    }

    /// Copies content from `offset` on; returns how many bytes.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        if len == 0 { 0 } else { self.pieces.read(offset as usize, &mut buf[..len]) }
    }
}

/// A file in pages of its own, in one piece: for what would be too many pieces.
fn private(domain: &Domain, engine: &Engine, file: &OpenFile) -> Result<Held> {
    let pool = &domain.inner.pages;
    let count = file.size().div_ceil(PAGE as u64);
    let mut held = Held::new(domain, false);
    let page = {
        let mut table = pool.lock();
        let page = table.next;
        table.next += count;
        page
    };
    held.runs.push(Run { at: 0, page, count });
    // Only what is there can be mapped, and the file may end in a hole. Data comes later, over it.
    pool.memory.write_at(&[0], (page + count) * PAGE as u64 - 1).map_err(Error::Memory)?;
    windows(engine, file, |at, window| {
        let offset = (page + at) * PAGE as u64;
        pool.memory.write_at(window, offset).map_err(Error::Memory)?;
        Ok(true)
    })?;
    Ok(held)
}
