// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data phase: workers in parallel, one writer in order.
//!
//! The thread that calls hands out jobs in the order of the files, as far as memory allows, takes
//! the results as they come, and writes them in the order of the jobs. So addresses depend on the
//! files alone.

use std::collections::{BTreeMap, HashMap};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ferrofs_format::xattr::InodeDigest;
use ferrofs_format::{BlockBits, FormatError};
use ferrofs_tree::{Content, InodeId, Source, Tree};

use crate::digest::Digests;
use crate::index::IndexRules;
use crate::job::{ChunkPiece, Job, Jobs, Kind, Next, Outcome, Piece as FilePiece};
use crate::output::Output;
use crate::plan::Plan;
use crate::report::{BuildReport, Done, Progress};
use crate::segment::Extent;
use crate::sparse::SparsePlan;
use crate::spool::{Piece, Spool};
use crate::worker::{Worker, chunk_blocks};
use crate::{BuildOptions, Error, Result};

/// So many errors of the source are reported; the build fails with the first anyway.
const ERRORS_MAX: usize = 20;
/// A hole in a list of chunks.
pub(crate) const HOLE: u32 = u32::MAX;

/// Where the data of a regular file went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Body {
    /// Not a regular file, or not yet written.
    #[default]
    None,
    /// Whole blocks from `start` on, and a tail beside the inode.
    Flat { start: Option<u32>, tail: Piece },
    /// Header and indexes.
    Compressed { blocks: u32, index: Piece },
    /// Blocks of chunks, 32 bits each.
    Chunks { bits: u8, blocks: Piece },
}

/// Data that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// By inode.
    pub(crate) bodies: Vec<Body>,
    pub(crate) spool: Spool,
    /// First block behind the data.
    pub(crate) end: u32,
    /// Blocks of the blob.
    pub(crate) blob_blocks: u32,
    /// Checksum over all data, if a UUID is derived from it.
    pub(crate) digest: u32,
    /// Of files that have content, if asked for.
    pub(crate) digests: HashMap<InodeId, InodeDigest>,
}

/// What the data phase works on.
pub(crate) struct Data<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) source: &'a dyn Source,
    pub(crate) options: &'a BuildOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) image: &'a Output,
    pub(crate) blob: Option<&'a Output>,
    /// First block of the data.
    pub(crate) start: u32,
}

impl Data<'_> {
    /// Runs the phase.
    pub(crate) fn run(
        &self,
        spool: Spool,
        report: &mut BuildReport,
        progress: &mut dyn Progress,
    ) -> Result<Written> {
        let mut writer = Writer::new(self, spool, report);
        let (job_sender, jobs) = unbounded();
        let (results, result_receiver) = unbounded();
        let (spare, spare_receiver) = bounded(self.options.workers.get() * 2);
        let digests = Digests::default();
        let mut workers = Vec::new();
        for _ in 0..self.options.workers.get() {
            workers.push(Worker::new(self, &digests)?);
        }
        std::thread::scope(|scope| {
            for mut worker in workers {
                let (jobs, results, spare) =
                    (jobs.clone(), results.clone(), spare_receiver.clone());
                scope.spawn(move || worker.run(&jobs, &results, &spare));
            }
            drop((jobs, results, spare_receiver));
            let ends = Ends { jobs: job_sender, results: result_receiver, spare };
            let result = self.coordinate(&ends, &mut writer, progress);
            digests.stop();
            result
        })?;
        Ok(Written { digests: digests.take(), ..writer.finish() })
    }

    /// Jobs under way at a time, besides the limit of memory.
    fn jobs_max(&self) -> usize {
        let workers = self.options.workers.get();
        // Compressing takes some jobs far longer than others: those behind them go on. Copying does
        // not, and is faster with few buffers, used again and again.
        if self.options.compression.is_some() { usize::MAX } else { workers * 3 }
    }

    fn coordinate(
        &self,
        ends: &Ends,
        writer: &mut Writer<'_>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut jobs = Jobs::new(self.tree, self.source, self.options, &self.plan.files);
        let mut flight = Flight::default();
        let mut errors = Vec::new();
        let mut waiting: BTreeMap<u64, Outcome> = BTreeMap::new();
        loop {
            if progress.is_cancelled() {
                // The ends are dropped then: workers stop after the job they are at.
                return Err(Error::Cancelled);
            }
            if errors.is_empty()
                && let Err(error) = self.hand_out(&mut jobs, &mut flight, ends, writer)
            {
                errors.push(error);
            }
            if flight.jobs == 0 {
                return first_of(errors);
            }
            let outcome = ends.results.recv().map_err(|_| Error::Worker)?;
            waiting.insert(outcome.number, outcome);
            while let Some(outcome) = waiting.remove(&flight.next) {
                flight.next += 1;
                flight.jobs -= 1;
                flight.cost -= outcome.cost;
                match outcome.result {
                    Ok(output) if errors.is_empty() => {
                        writer.take(&output)?;
                        // If there are enough of them, it is freed.
                        let _ = ends.spare.try_send(output.data);
                        progress.advance(writer.done);
                    }
                    Ok(_) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
    }

    /// Hands out jobs as long as there are some and memory for them.
    fn hand_out(
        &self,
        jobs: &mut Jobs<'_>,
        flight: &mut Flight,
        ends: &Ends,
        writer: &mut Writer<'_>,
    ) -> Result<()> {
        loop {
            let job = match flight.held.take() {
                Some(job) => job,
                None => match jobs.next()? {
                    None => return Ok(()),
                    Some(Next::Job(job)) => job,
                    Some(Next::Sparse(file, plan)) => {
                        writer.expect_sparse(file, plan)?;
                        continue;
                    }
                },
            };
            // One job runs whatever it costs.
            let full =
                flight.jobs >= self.jobs_max() || flight.cost + job.cost > self.options.memory;
            if flight.jobs > 0 && full {
                flight.held = Some(job);
                return Ok(());
            }
            flight.jobs += 1;
            flight.cost += job.cost;
            ends.jobs.send(job).map_err(|_| Error::Worker)?;
        }
    }
}

/// The coordinator's ends of the channels.
struct Ends {
    jobs: Sender<Job>,
    results: Receiver<Outcome>,
    spare: Sender<Vec<u8>>,
}

/// Jobs between being handed out and being written.
#[derive(Default)]
struct Flight {
    jobs: usize,
    cost: u64,
    /// The next to be written.
    next: u64,
    /// Cut, but there is no memory for it yet.
    held: Option<Job>,
}

/// All errors of the source, or the first of another kind.
fn first_of(errors: Vec<Error>) -> Result<()> {
    let mut sources = Vec::new();
    let mut more = 0;
    for error in errors {
        match error {
            Error::Source(error) if sources.len() < ERRORS_MAX => sources.push(error),
            Error::Source(_) => more += 1,
            other => return Err(other),
        }
    }
    match sources.len() {
        0 => Ok(()),
        1 => Err(Error::Source(sources.remove(0))),
        _ => Err(Error::Source(ferrofs_tree::Error::Several { errors: sources, more })),
    }
}

/// Puts results in their place.
struct Writer<'a> {
    data: &'a Data<'a>,
    bits: BlockBits,
    rules: Option<IndexRules>,
    report: &'a mut BuildReport,
    bodies: Vec<Body>,
    spool: Spool,
    next: u32,
    blob_next: u32,
    digest: Option<u32>,
    /// Files with holes whose data is under way.
    sparse: HashMap<InodeId, SparsePlan>,
    /// Blocks of chunks that are there, by content and length.
    known: HashMap<([u8; 32], u32), u32>,
    current: Option<Assembly>,
    done: Done,
}

/// A file of several pieces.
#[derive(Debug, Default)]
struct Assembly {
    first_block: u32,
    blocks: u32,
    extents: Vec<Extent>,
    chunks: Vec<u32>,
    chunked: bool,
}

impl<'a> Writer<'a> {
    fn new(data: &'a Data<'a>, spool: Spool, report: &'a mut BuildReport) -> Self {
        let done =
            Done { bytes_total: report.input_bytes, files_total: report.files, ..Done::default() };
        let derived = data.plan.derived_uuid;
        Self {
            data,
            bits: data.options.block_bits,
            rules: data.options.compression.as_ref().map(|c| c.rules(data.options)),
            report,
            bodies: vec![Body::None; data.tree.len()],
            spool,
            next: data.start,
            blob_next: 0,
            digest: derived.then_some(0),
            sparse: HashMap::new(),
            known: HashMap::new(),
            current: None,
            done,
        }
    }

    fn finish(self) -> Written {
        debug_assert!(self.sparse.is_empty() && self.current.is_none());
        Written {
            bodies: self.bodies,
            spool: self.spool,
            end: self.next,
            blob_blocks: self.blob_next,
            digest: self.digest.unwrap_or(0),
            digests: HashMap::new(),
        }
    }

    fn size(&self, file: InodeId) -> u64 {
        match self.data.tree.content(file) {
            Content::File { size, .. } => size,
            _ => 0,
        }
    }

    fn expect_sparse(&mut self, file: InodeId, plan: SparsePlan) -> Result<()> {
        if plan.runs.is_empty() {
            self.sparse_body(file, &plan, 0)?;
            self.file_done(file);
        } else {
            self.sparse.insert(file, plan);
        }
        Ok(())
    }

    fn file_done(&mut self, file: InodeId) {
        self.done.files += 1;
        self.done.bytes += self.size(file);
    }

    fn take(&mut self, output: &crate::job::Output) -> Result<()> {
        let (mut at, mut tail_at) = (0, 0);
        // Chunks go where deduplication sends them; all else goes as one piece.
        let chunked = self.data.options.chunks.is_some();
        if !chunked {
            self.write_image(&output.data)?;
        }
        let mut block = self.next;
        for piece in &output.pieces {
            let bytes = &output.data[at..at + ((piece.blocks as usize) << self.bits.bits())];
            at += bytes.len();
            let tail_len = match piece.kind {
                Kind::Plain { tail } => tail as usize,
                _ => 0,
            };
            let tail = &output.tails[tail_at..tail_at + tail_len];
            tail_at += tail_len;
            let first = if chunked { self.chunk_end() } else { block };
            if chunked && matches!(piece.kind, Kind::Plain { .. }) {
                // A file with holes; it keeps its own kind of chunks.
                self.write_chunks(bytes)?;
            }
            self.piece(piece, first, bytes, tail)?;
            block += piece.blocks;
        }
        if !chunked {
            self.next = block;
        }
        Ok(())
    }

    fn write_image(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = u64::from(self.next) + self.bits.blocks_for(bytes.len() as u64);
        // Address 2^32 - 1 means "none".
        if end >= u64::from(u32::MAX) {
            let what = "image without 48-bit addresses (blocks)";
            return Err(FormatError::DoesNotFit { what, value: end }.into());
        }
        self.data.image.write_at(bytes, u64::from(self.next) << self.bits.bits())?;
        if let Some(digest) = &mut self.digest {
            *digest = crc32c::crc32c_append(*digest, bytes);
        }
        self.report.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn piece(&mut self, piece: &FilePiece, block: u32, bytes: &[u8], tail: &[u8]) -> Result<()> {
        let mut assembly = self.current.take().unwrap_or_default();
        if assembly.blocks == 0 {
            assembly.first_block = block;
        }
        assembly.blocks += piece.blocks;
        match &piece.kind {
            Kind::Plain { .. } => {}
            Kind::Extents(extents) => assembly.extents.extend_from_slice(extents),
            Kind::Chunks(chunks) => {
                assembly.chunked = true;
                self.chunks(chunks, bytes, &mut assembly.chunks)?;
            }
        }
        if piece.last {
            self.file(piece.file, &assembly, tail)?;
            self.file_done(piece.file);
        } else {
            self.current = Some(assembly);
        }
        Ok(())
    }

    /// A file is complete.
    fn file(&mut self, file: InodeId, assembly: &Assembly, tail: &[u8]) -> Result<()> {
        if let Some(plan) = self.sparse.remove(&file) {
            return self.sparse_body(file, &plan, assembly.first_block);
        }
        if assembly.chunked {
            return self.chunk_body(file, &assembly.chunks);
        }
        let body = match self.rules {
            Some(rules) if assembly.extents.iter().any(|extent| !extent.plain) => {
                let size = self.size(file);
                self.report.compressed_files += 1;
                self.report.compressed_input += size;
                self.report.compressed_output += u64::from(assembly.blocks) << self.bits.bits();
                let body_end = self.data.plan.body_end(self.data.tree, file);
                let first = assembly.first_block;
                let index = rules.emit(body_end, size, &assembly.extents, first)?;
                Body::Compressed { blocks: assembly.blocks, index: self.spool.push(&index)? }
            }
            // Nothing compressed: the pclusters are the file as it is.
            _ => {
                self.report.inline_bytes += tail.len() as u64;
                let start = (assembly.blocks > 0).then_some(assembly.first_block);
                Body::Flat { start, tail: self.spool.push(tail)? }
            }
        };
        self.bodies[file.index()] = body;
        Ok(())
    }

    /// Finds or makes the blocks of chunks.
    fn chunks(&mut self, chunks: &[ChunkPiece], bytes: &[u8], list: &mut Vec<u32>) -> Result<()> {
        let mut at = 0;
        // New neighbours are written at once.
        let mut fresh = 0..0;
        for chunk in chunks {
            let Some(digest) = chunk.digest else {
                self.report.hole_bytes += u64::from(chunk.len);
                list.push(HOLE);
                continue;
            };
            let blocks = chunk_blocks(self.bits, chunk.len);
            let len = (blocks as usize) << self.bits.bits();
            if let Some(&block) = self.known.get(&(digest, chunk.len)) {
                self.report.deduplicated_bytes += u64::from(chunk.len);
                list.push(block);
            } else {
                if fresh.end != at {
                    self.write_chunks(&bytes[fresh])?;
                    fresh = at..at;
                }
                fresh.end = at + len;
                let pending = ((fresh.end - fresh.start - len) >> self.bits.bits()) as u32;
                let block = self.chunk_end() + pending;
                self.known.insert((digest, chunk.len), block);
                list.push(block);
            }
            at += len;
        }
        self.write_chunks(&bytes[fresh])
    }

    fn chunk_end(&self) -> u32 {
        if self.data.blob.is_some() { self.blob_next } else { self.next }
    }

    fn write_chunks(&mut self, bytes: &[u8]) -> Result<()> {
        let blocks = (bytes.len() >> self.bits.bits()) as u32;
        let Some(blob) = self.data.blob else {
            self.write_image(bytes)?;
            self.next += blocks;
            return Ok(());
        };
        let end = u64::from(self.blob_next) + u64::from(blocks);
        if end >= u64::from(u32::MAX) {
            let what = "blob without 48-bit addresses (blocks)";
            return Err(FormatError::DoesNotFit { what, value: end }.into());
        }
        blob.write_at(bytes, u64::from(self.blob_next) << self.bits.bits())?;
        if let Some(digest) = &mut self.digest {
            *digest = crc32c::crc32c_append(*digest, bytes);
        }
        self.report.data_bytes += bytes.len() as u64;
        self.blob_next += blocks;
        Ok(())
    }

    fn chunk_body(&mut self, file: InodeId, chunks: &[u32]) -> Result<()> {
        let size = self.data.options.chunks.map_or(self.bits.size(), |chunks| chunks.size);
        let bits = (size.trailing_zeros() as u8).saturating_sub(self.bits.bits());
        let merged = crate::chunk::merge(chunks, bits);
        self.push_chunks(file, merged.bits, &merged.blocks)
    }

    fn sparse_body(&mut self, file: InodeId, plan: &SparsePlan, first_block: u32) -> Result<()> {
        let mut blocks = vec![HOLE; plan.chunks as usize];
        let step = 1u64 << plan.chunk_bits;
        let mut block = u64::from(first_block);
        for run in &plan.runs {
            for chunk in run.first..run.first + run.count {
                blocks[chunk as usize] = block as u32;
                block += step;
            }
        }
        let data: u64 = plan.runs.iter().map(|run| run.count * plan.chunk_size).sum();
        self.report.hole_bytes += self.size(file).saturating_sub(data);
        self.push_chunks(file, plan.chunk_bits, &blocks)
    }

    fn push_chunks(&mut self, file: InodeId, bits: u8, blocks: &[u32]) -> Result<()> {
        self.report.chunk_files += 1;
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
        self.bodies[file.index()] = Body::Chunks { bits, blocks: self.spool.push(&bytes)? };
        Ok(())
    }
}
