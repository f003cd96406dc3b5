// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a table from a blob's bytes.

use super::layout::DIGEST_LEN;
use super::{Digest, Geometry, Layout, PAGE_LEN, Pin, TableError};
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Makes tables. The result depends on bytes and geometry only, not on threads or on how the reader
/// cuts its bytes.
#[derive(Clone, Copy, Debug)]
pub struct TableBuilder {
    geometry: Geometry,
    threads: usize,
}

impl TableBuilder {
    /// With as many threads as there are processors, at most eight: the reader is the limit then.
    pub fn new(geometry: Geometry) -> Result<Self, TableError> {
        Layout::new(geometry, 0)?;
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(8);
        Ok(Self { geometry, threads })
    }

    /// With so many threads, at least one.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// Reads a blob to its end. Keeps its digests in memory: 8.5 MiB per GiB.
    pub fn build(self, mut blob: impl Read) -> io::Result<BuiltTable> {
        let refused = |error: TableError| io::Error::new(io::ErrorKind::FileTooLarge, error);
        let mut size = 0;
        let mut parts = thread::scope(|scope| {
            let (done, parts) = channel();
            let (free, buffers) = channel();
            let mut jobs = vec![];
            for _ in 0..self.threads {
                let (give, take) = sync_channel(1);
                jobs.push(give);
                let (done, free) = (done.clone(), free.clone());
                scope.spawn(move || self.work(&take, &done, &free));
            }
            drop((done, free));
            size = self.read(&mut blob, &jobs, &buffers)?;
            drop(jobs);
            Ok::<_, io::Error>(parts.into_iter().collect::<Vec<Part>>())
        })?;
        parts.sort_unstable_by_key(|part| part.index);
        let layout = Layout::new(self.geometry, size).map_err(refused)?;
        let mut body = vec![];
        for digest in parts.iter().flat_map(|part| &part.coarse) {
            body.extend_from_slice(digest);
        }
        body.resize(body.len().next_multiple_of(PAGE_LEN), 0);
        for digest in parts.iter().flat_map(|part| &part.fine) {
            body.extend_from_slice(digest);
        }
        body.resize(body.len().next_multiple_of(PAGE_LEN), 0);
        let mut head = layout.emit().to_vec();
        for page in body.chunks_exact(PAGE_LEN) {
            head.extend_from_slice(&self.geometry.algorithm.digest(page));
        }
        assert_eq!(head.len() as u64, layout.head_len(), "as many pages as the layout tells");
        assert_eq!((head.len() + body.len()) as u64, layout.len());
        let digest = self.geometry.algorithm.digest(&head);
        let pin = Pin { algorithm: self.geometry.algorithm, digest };
        Ok(BuiltTable { pin, layout, head, body })
    }

    /// Gives the blob in pieces to the workers in turn; returns its size.
    fn read(
        &self,
        blob: &mut impl Read,
        jobs: &[SyncSender<Job>],
        free: &Receiver<Vec<u8>>,
    ) -> io::Result<u64> {
        let piece_len = self.geometry.group_len().max(1 << 20);
        let mut size: u64 = 0;
        for index in 0.. {
            let mut bytes = free.try_recv().unwrap_or_default();
            bytes.clear();
            blob.by_ref().take(piece_len).read_to_end(&mut bytes)?;
            size += bytes.len() as u64;
            // A blob without end fails here, not when memory does.
            Layout::new(self.geometry, size)
                .map_err(|error| io::Error::new(io::ErrorKind::FileTooLarge, error))?;
            let last = (bytes.len() as u64) < piece_len;
            if !bytes.is_empty() {
                let job = &jobs[index % jobs.len()];
                job.send(Job { index, bytes }).expect("workers end after their jobs");
            }
            if last {
                break;
            }
        }
        Ok(size)
    }

    fn work(&self, jobs: &Receiver<Job>, done: &Sender<Part>, free: &Sender<Vec<u8>>) {
        let algorithm = self.geometry.algorithm;
        for Job { index, bytes } in jobs {
            let of = |len: u64| -> Vec<Digest> {
                bytes.chunks(len as usize).map(|piece| algorithm.digest(piece)).collect()
            };
            let coarse = of(self.geometry.group_len());
            let has_fine = self.geometry.grain_bits < self.geometry.group_bits;
            let fine = if has_fine { of(self.geometry.grain_len()) } else { vec![] };
            // Nobody listens after an error of the reader.
            if done.send(Part { index, coarse, fine }).is_err() || free.send(bytes).is_err() {
                break;
            }
        }
    }
}

struct Job {
    index: usize,
    bytes: Vec<u8>,
}

struct Part {
    index: usize,
    coarse: Vec<Digest>,
    fine: Vec<Digest>,
}

/// A whole table in memory.
#[derive(Clone, Debug)]
pub struct BuiltTable {
    pin: Pin,
    layout: Layout,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl BuiltTable {
    /// Reads and verifies a whole table.
    pub fn parse(pin: &Pin, bytes: &[u8]) -> Result<Self, TableError> {
        let layout = Layout::parse(bytes)?;
        let (expected, found) = (layout.len(), bytes.len() as u64);
        if expected != found {
            return Err(TableError::Length { expected, found });
        }
        let (head, body) = bytes.split_at(layout.head_len() as usize);
        let parsed = super::Head::parse(pin, head)?;
        for (page, bytes) in body.chunks_exact(PAGE_LEN).enumerate() {
            parsed.verify_page(page as u64, bytes)?;
        }
        Ok(Self { pin: *pin, layout, head: head.to_vec(), body: body.to_vec() })
    }

    /// What stands for it.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// Its shape.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes it.
    pub fn emit(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        out.write_all(&self.body)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.body].concat()
    }

    /// Whether `bytes` at `offset` of the blob, whole grains, are those of the blob.
    pub fn verify(&self, offset: u64, bytes: &[u8]) -> Result<(), TableError> {
        verify(&self.layout, offset, bytes, |page, byte| {
            let start = usize::try_from(page).ok()?.checked_mul(PAGE_LEN)?.checked_add(byte)?;
            self.body.get(start..)?.first_chunk().copied()
        })
    }
}

/// Compares whole grains with the digests that `digest_at` tells by page and byte.
pub(super) fn verify(
    layout: &Layout,
    offset: u64,
    bytes: &[u8],
    digest_at: impl Fn(u64, usize) -> Option<Digest>,
) -> Result<(), TableError> {
    const { assert!(DIGEST_LEN == size_of::<Digest>() as u64) };
    let len = bytes.len() as u64;
    let misuse = TableError::Range { offset, len };
    let Some(end) = offset.checked_add(len) else { return Err(misuse) };
    let Some(pieces) = layout.pieces(offset..end) else { return Err(misuse) };
    let mut rest = bytes;
    for (piece, page, byte) in pieces {
        let piece_len = piece.end - piece.start;
        let (bytes, after) = rest.split_at(piece_len as usize);
        rest = after;
        let Some(expected) = digest_at(page, byte) else { return Err(misuse) };
        if layout.geometry().algorithm.digest(bytes) != expected {
            return Err(TableError::Blob { offset: piece.start, len: piece_len });
        }
    }
    Ok(())
}
