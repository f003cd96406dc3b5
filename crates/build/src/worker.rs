// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker does with a job: read, check, compress or hash.
//!
//! A worker keeps its encoder and its buffers, and no memory of earlier jobs that could show in its
//! results.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender};
use ferrofs_format::BlockBits;
use ferrofs_tree::{Content, InodeId, Source, Tree};

use crate::digest::{Digests, Span};
use crate::index::IndexRules;
use crate::job::{ChunkPiece, How, Job, Kind, Outcome, Output, Piece, Work};
use crate::layout::Shape;
use crate::pipeline::Data;
use crate::plan::Plan;
use crate::segment::Compressor;
use crate::{BuildOptions, Error, Result};

/// One worker.
pub(crate) struct Worker<'a> {
    tree: &'a Tree,
    source: &'a dyn Source,
    options: &'a BuildOptions,
    plan: &'a Plan,
    compressor: Option<Compressor>,
    rules: Option<IndexRules>,
    digests: Option<&'a Digests>,
    /// Input of the compressor.
    input: Vec<u8>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(data: &Data<'a>, digests: &'a Digests) -> Result<Self> {
        let (tree, source, options, plan) = (data.tree, data.source, data.options, data.plan);
        let compressor = match &options.compression {
            None => None,
            Some(compression) => {
                let size = options.pcluster_size_max(compression);
                let method = compression.method.resolve(size as usize);
                Some(Compressor::new(method.encoder()?, options.block_bits, size))
            }
        };
        let rules = options.compression.as_ref().map(|compression| compression.rules(options));
        let digests = options.inode_digest.is_some().then_some(digests);
        Ok(Self { tree, source, options, plan, compressor, rules, digests, input: Vec::new() })
    }

    /// Works until there are no more jobs. `spare` gives used buffers back.
    pub(crate) fn run(
        &mut self,
        jobs: &Receiver<Job>,
        results: &Sender<Outcome>,
        spare: &Receiver<Vec<u8>>,
    ) {
        for job in jobs {
            let mut output =
                Output { data: spare.try_recv().unwrap_or_default(), ..<_>::default() };
            output.data.clear();
            // A panic must not leave the build waiting for this job.
            let work = AssertUnwindSafe(|| self.work(job.work, &mut output));
            let result = match catch_unwind(work) {
                Ok(result) => result.map(|()| output),
                Err(_) => Err(Error::Worker),
            };
            let outcome = Outcome { number: job.number, cost: job.cost, result };
            if results.send(outcome).is_err() {
                // The build has failed elsewhere.
                return;
            }
        }
    }

    fn work(&mut self, work: Work, output: &mut Output) -> Result<()> {
        match work {
            Work::Files(files) => files.iter().try_for_each(|&file| self.whole(file, output)),
            Work::Hole(file) => {
                let size = self.size(file);
                self.hash(Span { file, size, number: 0, offset: size, last: true }, &[]);
                Ok(())
            }
            Work::Part { file, number, offset, len, how, last } => {
                let size = self.size(file);
                self.part(Span { file, size, number, offset, last }, len, how, output)?;
                if let Some(piece) = output.pieces.last_mut() {
                    piece.last = last;
                }
                Ok(())
            }
        }
    }

    fn whole(&mut self, file: InodeId, output: &mut Output) -> Result<()> {
        let Content::File { size, .. } = self.tree.content(file) else { return Ok(()) };
        if size == 0 {
            let kind = Kind::Plain { tail: 0 };
            output.pieces.push(Piece { file, blocks: 0, kind, last: true });
            return Ok(());
        }
        let len = size as usize;
        let span = Span { file, size, number: 0, offset: 0, last: true };
        if self.options.chunks.is_some() {
            return self.part(span, len, How::Chunks, output);
        }
        let pcluster_size = self.options.pcluster_size(self.tree, file);
        if pcluster_size > 0 && size > self.options.block_bits.size_u64() {
            self.compressed_whole(span, len, pcluster_size, output)
        } else {
            let at = output.data.len();
            output.data.resize(at + len, 0);
            self.read(file, 0, &mut output.data[at..])?;
            self.hash(span, &output.data[at..]);
            self.finish_plain(file, at, output);
            Ok(())
        }
    }

    /// Compresses a file, and keeps that only if the image becomes smaller.
    fn compressed_whole(
        &mut self,
        span: Span,
        len: usize,
        pcluster_size: u32,
        output: &mut Output,
    ) -> Result<()> {
        let (file, at) = (span.file, output.data.len());
        self.fill_input(file, 0, len)?;
        self.hash(span, &self.input[..len]);
        let (Some(compressor), Some(rules)) = (&mut self.compressor, self.rules) else {
            return Ok(());
        };
        let mut extents = Vec::new();
        let input = &self.input[..len];
        compressor.compress(input, pcluster_size, &mut output.data, &mut extents)?;
        let bits = self.options.block_bits;
        let taken = (output.data.len() - at) as u64;
        // With an inode of the usual size.
        let index = rules.area_len(64, len as u64);
        let plain = if self.options.inline_tails {
            len as u64
        } else {
            bits.blocks_for(len as u64) << bits.bits()
        };
        if taken + index < plain {
            let blocks = (taken >> bits.bits()) as u32;
            let kind = Kind::Extents(extents);
            output.pieces.push(Piece { file, blocks, kind, last: true });
        } else {
            output.data.truncate(at);
            output.data.extend_from_slice(&self.input[..len]);
            self.finish_plain(file, at, output);
        }
        Ok(())
    }

    /// Makes whole blocks and a tail of the bytes of a file that begin at `at`.
    fn finish_plain(&self, file: InodeId, at: usize, output: &mut Output) {
        let len = output.data.len() - at;
        let tail = self.tail_len(file, len as u64) as usize;
        let end = output.data.len() - tail;
        output.tails.extend_from_slice(&output.data[end..]);
        output.data.truncate(end);
        let blocks = self.pad(at, output);
        let kind = Kind::Plain { tail: tail as u32 };
        output.pieces.push(Piece { file, blocks, kind, last: true });
    }

    /// Bytes of a file that go beside its inode.
    fn tail_len(&self, file: InodeId, len: u64) -> u64 {
        let bits = self.options.block_bits;
        let tail = bits.offset_in_block(len);
        let head = self.plan.body_len(self.tree, file, len);
        let fits = Shape { head, tail, together: false }.fits(bits);
        if self.options.inline_tails && fits { tail } else { 0 }
    }

    /// Fills the last block since `at` with zeros; says how many blocks there are.
    fn pad(&self, at: usize, output: &mut Output) -> u32 {
        let bits = self.options.block_bits;
        let blocks = bits.blocks_for((output.data.len() - at) as u64);
        output.data.resize(at + ((blocks as usize) << bits.bits()), 0);
        blocks as u32
    }

    fn part(&mut self, span: Span, len: usize, how: How, output: &mut Output) -> Result<()> {
        let Span { file, offset, .. } = span;
        let at = output.data.len();
        let kind = match how {
            How::Plain => {
                output.data.resize(at + len, 0);
                self.read(file, offset, &mut output.data[at..])?;
                self.hash(span, &output.data[at..]);
                Kind::Plain { tail: 0 }
            }
            How::Compressed => {
                self.fill_input(file, offset, len)?;
                let mut extents = Vec::new();
                if let Some(compressor) = &mut self.compressor {
                    let size = self.options.pcluster_size(self.tree, file);
                    let input = &self.input[..len];
                    compressor.compress(input, size, &mut output.data, &mut extents)?;
                }
                self.hash(span, &self.input[..len]);
                Kind::Extents(extents)
            }
            How::Chunks => {
                self.fill_input(file, offset, len)?;
                let chunks = self.chunks(len, output);
                self.hash(span, &self.input[..len]);
                Kind::Chunks(chunks)
            }
        };
        let blocks = self.pad(at, output);
        output.pieces.push(Piece { file, blocks, kind, last: true });
        Ok(())
    }

    fn chunks(&self, len: usize, output: &mut Output) -> Vec<ChunkPiece> {
        let bits = self.options.block_bits;
        let size = self.options.chunks.map_or(len, |chunks| chunks.size as usize);
        let mut pieces = Vec::with_capacity(len.div_ceil(size));
        for chunk in self.input[..len].chunks(size) {
            let digest = (!is_zero(chunk)).then(|| *blake3::hash(chunk).as_bytes());
            if digest.is_some() {
                let at = output.data.len();
                output.data.extend_from_slice(chunk);
                let blocks = bits.blocks_for(chunk.len() as u64) as usize;
                output.data.resize(at + (blocks << bits.bits()), 0);
            }
            pieces.push(ChunkPiece { len: chunk.len() as u32, digest });
        }
        pieces
    }

    fn size(&self, file: InodeId) -> u64 {
        match self.tree.content(file) {
            Content::File { size, .. } => size,
            _ => 0,
        }
    }

    fn hash(&self, span: Span, bytes: &[u8]) {
        if let Some(digests) = self.digests {
            digests.piece(span, bytes);
        }
    }

    fn fill_input(&mut self, file: InodeId, offset: u64, len: usize) -> Result<()> {
        let mut input = core::mem::take(&mut self.input);
        if input.len() < len {
            input.resize(len, 0);
        }
        let result = self.read(file, offset, &mut input[..len]);
        self.input = input;
        result
    }

    /// Reads, and makes sure that the file is still what was walked.
    fn read(&self, file: InodeId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut data = self.source.open(self.tree, file)?;
        data.read_at(offset, buf)?;
        data.verify()?;
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|part| part.iter().fold(0, |all, &byte| all | byte) == 0)
}

/// Blocks of a stored chunk.
pub(crate) fn chunk_blocks(bits: BlockBits, len: u32) -> u32 {
    bits.blocks_for(u64::from(len)) as u32
}
