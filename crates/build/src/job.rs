// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces of work for the workers, and what comes back.

use core::ops::Range;
use std::collections::VecDeque;

use ferrofs_tree::{Content, FileData, InodeId, Source, Tree};

use crate::segment::Extent;
use crate::sparse::{self, SparsePlan};
use crate::{BuildOptions, Error, Result};

/// Small files are put together up to this many bytes, so that handing over costs little.
const BATCH_BYTES: u64 = 1 << 20;
/// And up to this number.
const BATCH_FILES: usize = 256;
/// What a file costs in memory besides its bytes.
const FILE_COST: u64 = 512;

/// Work for one worker.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) number: u64,
    pub(crate) work: Work,
    /// Bytes of memory it may take.
    pub(crate) cost: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Whole files.
    Files(Vec<InodeId>),
    /// Part of one file.
    Part { file: InodeId, number: u32, offset: u64, len: usize, how: How, last: bool },
    /// A file that is one hole, to be hashed.
    Hole(InodeId),
}

/// What to do with bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    Plain,
    Compressed,
    Chunks,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) cost: u64,
    pub(crate) result: Result<Output>,
}

/// Blocks for the image, and what they are.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Whole blocks, one piece behind the other.
    pub(crate) data: Vec<u8>,
    /// Ends of files that are to lie beside their inodes, one behind the other.
    pub(crate) tails: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
}

/// One file's share of the output.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) file: InodeId,
    /// Blocks of `data`.
    pub(crate) blocks: u32,
    pub(crate) kind: Kind,
    /// No more pieces of this file follow.
    pub(crate) last: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// Bytes as they are, and so many of `tails`.
    Plain { tail: u32 },
    /// pclusters.
    Extents(Vec<Extent>),
    /// Chunks; zeros have no blocks.
    Chunks(Vec<ChunkPiece>),
}

#[derive(Debug)]
pub(crate) struct ChunkPiece {
    pub(crate) len: u32,
    /// `None`: all zeros, nothing in `data`.
    pub(crate) digest: Option<[u8; 32]>,
}

/// Cuts the files into jobs, in order. Lazy: sparse files are looked at when their turn comes.
pub(crate) struct Jobs<'a> {
    tree: &'a Tree,
    source: &'a dyn Source,
    options: &'a BuildOptions,
    files: std::slice::Iter<'a, InodeId>,
    ready: VecDeque<Work>,
    number: u64,
}

/// A job, or a file that needs none.
pub(crate) enum Next {
    Job(Job),
    /// A file with holes: how it is stored. Its jobs follow.
    Sparse(InodeId, SparsePlan),
}

impl<'a> Jobs<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        source: &'a dyn Source,
        options: &'a BuildOptions,
        files: &'a [InodeId],
    ) -> Self {
        let files = files.iter();
        Self { tree, source, options, files, ready: VecDeque::new(), number: 0 }
    }

    /// The next job; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Next>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        loop {
            if let Some(work) = self.ready.pop_front() {
                // Only filled while no batch is open.
                return Ok(Some(self.job(work)));
            }
            let Some(&file) = self.files.as_slice().first() else {
                return Ok((!batch.is_empty()).then(|| self.job(Work::Files(batch))));
            };
            let Content::File { size, sparse, .. } = self.tree.content(file) else {
                self.files.next();
                continue;
            };
            let small = size <= self.options.segment_size() && !self.may_be_sparse(size, sparse);
            let full = bytes + size > BATCH_BYTES || batch.len() >= BATCH_FILES;
            if !batch.is_empty() && (full || !small) {
                return Ok(Some(self.job(Work::Files(batch))));
            }
            self.files.next();
            if small {
                bytes += size;
                batch.push(file);
            } else if let Some(plan) = self.large(file, size, sparse)? {
                return Ok(Some(Next::Sparse(file, plan)));
            }
        }
    }

    fn may_be_sparse(&self, size: u64, sparse: bool) -> bool {
        sparse && size > 0 && size >= self.options.holes_from
    }

    /// Prepares the jobs of a file that is cut, or has holes.
    fn large(&mut self, file: InodeId, size: u64, sparse: bool) -> Result<Option<SparsePlan>> {
        if self.may_be_sparse(size, sparse) {
            let mut data = self.source.open(self.tree, file)?;
            let compressed = self.options.pcluster_size(self.tree, file) > 0;
            let ranges = ranges(&mut *data)?;
            let plan = sparse::plan(size, &ranges, self.options.block_bits, compressed);
            if let Some(plan) = plan {
                if plan.runs.is_empty() && self.options.inode_digest.is_some() {
                    self.ready.push_back(Work::Hole(file));
                }
                let mut number = 0;
                for (index, run) in plan.runs.iter().enumerate() {
                    let last = index + 1 == plan.runs.len();
                    let end = plan.end_of(run, size);
                    let range = run.first * plan.chunk_size..end;
                    number = self.cut(file, number, range, How::Plain, last);
                }
                return Ok(Some(plan));
            }
            if size <= self.options.segment_size() {
                self.ready.push_back(Work::Files(vec![file]));
                return Ok(None);
            }
        }
        let how = if self.options.chunks.is_some() {
            How::Chunks
        } else if self.options.pcluster_size(self.tree, file) > 0 {
            How::Compressed
        } else {
            How::Plain
        };
        self.cut(file, 0, 0..size, how, true);
        Ok(None)
    }

    /// Parts are numbered from `number` on; gives the number of the next.
    fn cut(
        &mut self,
        file: InodeId,
        mut number: u32,
        range: Range<u64>,
        how: How,
        last: bool,
    ) -> u32 {
        let segment = self.options.segment_size();
        let mut offset = range.start;
        while offset < range.end {
            let len = segment.min(range.end - offset);
            let last = last && offset + len == range.end;
            let len = len as usize;
            self.ready.push_back(Work::Part { file, number, offset, len, how, last });
            offset += len as u64;
            number += 1;
        }
        number
    }

    fn job(&mut self, work: Work) -> Next {
        let size = |file: InodeId| match self.tree.content(file) {
            Content::File { size, .. } => size,
            _ => 0,
        };
        let bytes = match &work {
            Work::Files(files) => files.iter().map(|&file| size(file) + FILE_COST).sum(),
            Work::Part { len, .. } => *len as u64,
            Work::Hole(_) => 0,
        };
        let number = self.number;
        self.number += 1;
        // The bytes, and what becomes of them.
        Next::Job(Job { number, work, cost: bytes * 2 })
    }
}

fn ranges(data: &mut dyn FileData) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(range) = data.next_data(at).map_err(Error::Source)? {
        at = range.end;
        ranges.push(range);
    }
    data.verify()?;
    Ok(ranges)
}
