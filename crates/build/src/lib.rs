// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds an EROFS image out of a tree.
//!
//! [`build`] goes through three phases:
//!
//! 1. *Plan*: the order of inodes, the epoch, the xattrs that are shared. Nothing is read.
//! 2. *Data*: workers read and compress files, cut every 16 MiB; one thread puts the results behind
//!    each other in the order of the plan.
//! 3. *Metadata*: inodes, directories and everything with them get their places behind the data,
//!    now that all sizes are known, and are written in one run; the superblock comes last.
//!
//! How regular files are stored, in the order of preference:
//!
//! * as chunks, if they have holes worth it (`sparse` says when), or chunks were asked for;
//! * compressed, if that was asked for and makes the image smaller;
//! * as whole blocks, with the rest beside the inode.
//!
//! This crate refuses to know how input was obtained and how progress is shown. The invariants it
//! keeps:
//!
//! * Same tree, same content, same options: same bytes, for any number of workers, on any machine.
//!   (A random UUID is the one exception, and only where it was asked for.)
//! * File data in memory is bounded by [`BuildOptions::memory`], whatever the size of the tree.
//! * The target's name belongs to what was there before, or to a complete image, never to anything
//!   else.
#![forbid(unsafe_code)]

mod blob;
mod chunk;
mod digest;
mod error;
mod header;
mod index;
mod job;
mod layout;
mod metadata;
mod options;
mod output;
mod pipeline;
mod plan;
mod report;
mod segment;
mod sparse;
mod spool;
#[cfg(test)]
mod tests;
mod worker;
mod xattr;

use std::path::Path;
use std::time::Instant;

pub use ferrofs_codec::Method;
pub use ferrofs_format::BlockBits;
use ferrofs_format::device::TAG_LEN;
use ferrofs_format::inode::Layout;
use ferrofs_tree::{Source, Tree};

pub use blob::{BlobSeal, BlobTarget};
pub use error::{Error, OptionProblem, Result};
pub use options::{
    BuildOptions, ChunkEntries, Chunks, Compression, InodeForm, PclusterHint, Uuid, XattrOptions,
};
pub use regex::bytes::Regex;
pub use report::{BuildReport, Done, Phase, Progress, Silent};

use blob::SealEntry;
use header::Header;
use metadata::Metadata;
use output::Output;
use pipeline::Data;
use plan::Plan;
use spool::Spool;
use xattr::XattrPlan;

/// Where a build goes.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "image and blob are all a build makes")]
pub struct Target<'a> {
    /// The image. A file of this name is replaced when the new one is complete; a block device is
    /// written in place.
    pub image: &'a Path,
    /// Takes the data of chunks.
    pub blob: Option<BlobTarget<'a>>,
}

/// Builds an image of `tree`, whose content `source` gives.
pub fn build(
    tree: &Tree,
    source: &dyn Source,
    options: &BuildOptions,
    target: Target<'_>,
    progress: &mut dyn Progress,
) -> Result<BuildReport> {
    options.check()?;
    if target.blob.is_some() && options.chunks.is_none() {
        return Err(Error::Options(OptionProblem::BlobWithoutChunks));
    }
    if target.blob.is_some_and(|blob| blob.tag.len() > TAG_LEN || blob.tag.contains(&0)) {
        return Err(Error::Options(OptionProblem::BlobTag));
    }
    let started = Instant::now();
    let mut report = BuildReport::default();
    progress.phase(Phase::Plan);
    let seal = target.blob.and_then(|blob| blob.seal);
    let xattrs = XattrPlan::new(tree, options, seal.map(SealEntry::new))?;
    report.shared_xattrs = xattrs.shared;
    let plan = Plan::new(tree, options, xattrs, &mut report);
    let header = Header::new(options, &plan, target.blob.is_some())?;
    let image = Output::create(target.image)?;
    let blob = target.blob.map(|blob| Output::create(blob.path)).transpose()?;
    report.plan_time = started.elapsed();

    progress.phase(Phase::Data);
    let started = Instant::now();
    let bits = options.block_bits;
    let (root_at, front_end) = metadata::root_place(tree, options, &plan, header.end);
    let data_start = bits.blocks_for(front_end) as u32;
    // A quarter of the memory for what waits for the metadata phase.
    let spool = Spool::new(image.directory(), (options.memory / 4) as usize);
    let data = Data {
        tree,
        source,
        options,
        plan: &plan,
        image: &image,
        blob: blob.as_ref(),
        start: data_start,
    };
    let written = data.run(spool, &mut report, progress)?;
    if progress.is_cancelled() {
        return Err(Error::Cancelled);
    }
    report.blob_bytes = u64::from(written.blob_blocks) << bits.bits();
    let mut sealed = None;
    if let Some(blob) = &blob {
        blob.set_len(report.blob_bytes)?;
        sealed =
            seal.map(|seal| blob.look(|file| seal.value(file, report.blob_bytes))).transpose()?;
    }
    report.data_time = started.elapsed();

    progress.phase(Phase::Metadata);
    let started = Instant::now();
    let rules = options.compression.as_ref().map(|compression| compression.rules(options));
    let metadata = Metadata {
        tree,
        options,
        plan: &plan,
        written: &written,
        sealed: sealed.as_deref(),
        image: &image,
        compact_layout: match rules {
            Some(rules) if rules.full => Layout::CompressedFull,
            _ => Layout::CompressedCompact,
        },
        root_at,
    };
    // Without data the metadata shares the superblock's block.
    let start =
        if written.end == data_start { front_end } else { u64::from(written.end) << bits.bits() };
    let zone = metadata.run(start, &mut report)?;
    report.image_bytes = u64::from(zone.blocks) << bits.bits();
    image.set_len(report.image_bytes)?;
    report.uuid = match options.uuid {
        Uuid::Given(uuid) => uuid,
        Uuid::Clear => [0; 16],
        _ if plan.derived_uuid => {
            header::derived_uuid(options, &plan, &zone, &header, written.digest)?
        }
        _ => uuid::Uuid::new_v4().into_bytes(),
    };
    let tag = target.blob.map_or(&b""[..], |blob| blob.tag);
    let slot = header::slot(tag, written.blob_blocks, &zone);
    header.write(options, &plan, &zone, slot, report.uuid, &image)?;
    report.metadata_time = started.elapsed();

    progress.phase(Phase::Finish);
    let started = Instant::now();
    if options.sync {
        blob.as_ref().map_or(Ok(()), Output::sync)?;
        image.sync()?;
    }
    // An image without its blob is useless, a blob without an image harmless.
    blob.map_or(Ok(()), Output::publish)?;
    image.publish()?;
    report.finish_time = started.elapsed();
    Ok(report)
}
