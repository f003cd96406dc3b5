// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unpacking an image, or a part of it, into a directory.
//!
//! Directories are walked in batches of entries, depth first, by several threads; the content of
//! large files is shared between them in ranges. All files are made relative to the descriptor of
//! their directory, which this module made or checked, by one name, and no symbolic link is
//! followed: names and links of a hostile image lead nowhere.
//!
//! Invariants: a file is complete and correct, or it is removed (unless broken ones are to be kept)
//! and reported; what a file takes on disk is bounded by what is stored, since holes are skipped;
//! attributes of a directory are set when all in it is done. Memory does not grow with file sizes,
//! and with the number of entries only by a bit or so for each.

mod attributes;
mod content;
mod files;
mod links;
mod problem;
mod special;
mod target;
mod walk;

use crate::{Context, Error, RawPath, Result};
use ferrofs_engine::Engine;
use serde::Serialize;
use std::path::Path;

/// What to unpack and how.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// Path in the image to begin from; `None` is everything.
    pub subtree: Option<Vec<u8>>,
    /// With a subtree: put what is in it directly into the target, rather than under its full path.
    pub strip: bool,
    /// Owners: restored, or not; `None` restores them if run by root.
    pub owners: Option<bool>,
    /// Restore permissions. If not, the process's umask decides.
    pub permissions: bool,
    /// Restore extended attributes.
    pub xattrs: bool,
    /// Restore modification times.
    pub times: bool,
    /// Replace what exists. If not, a target that is not empty is refused.
    pub overwrite: bool,
    /// Go on after errors. If not, the first one ends the job.
    pub continue_on_error: bool,
    /// Leave files whose content cannot be read completely.
    pub keep_broken: bool,
    /// Blocks of zeros in large files become holes, even if they are stored.
    pub sparse: bool,
    /// End with an error when more bytes of content than this would be written.
    pub bytes_max: Option<u64>,
    /// Bytes of compressed metadata that may be decoded, each time anew; `None` derives it from the
    /// image's real size, with a wide margin.
    pub metadata_max: Option<u64>,
    /// Problems kept in the report; all are counted.
    pub problems_max: usize,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            subtree: None,
            strip: true,
            owners: None,
            permissions: true,
            xattrs: true,
            times: true,
            overwrite: false,
            continue_on_error: true,
            keep_broken: false,
            sparse: true,
            bytes_max: None,
            metadata_max: None,
            problems_max: 10_000,
        }
    }
}

/// What kind of problem.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The image is corrupt there, or uses something unknown.
    Image,
    /// The image's device could not be read.
    Read,
    /// The target could not be written.
    Write,
    /// Something with the name exists.
    Exists,
    /// An attribute could not be set; the content is there.
    Attribute,
    /// A limit was reached.
    Limit,
}

/// One thing that went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Where, as a path of the image.
    pub path: RawPath,
    /// Inode.
    pub nid: u64,
    /// Which kind.
    pub kind: ProblemKind,
    /// What happened.
    pub detail: String,
    /// Error number of the system, if it said one.
    pub errno: Option<i32>,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExtractReport {
    /// Directories of the image that are there now, the one that became the target included: as many
    /// as the check counts.
    pub directories: u64,
    /// Regular files made, without further hard links.
    pub files: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Device nodes, FIFOs and sockets made.
    pub specials: u64,
    /// Hard links to files counted above.
    pub hard_links: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Bytes of content that were holes.
    pub hole_bytes: u64,
    /// Owners were not restored, because the process may not.
    pub owners_skipped: bool,
    /// Attributes that only root may set, skipped.
    pub privileged_xattrs_skipped: u64,
    /// Set-user-ID and set-group-ID bits dropped, since their owner was not restored.
    pub set_id_bits_dropped: u64,
    /// Whether everything was gone through.
    pub complete: bool,
    /// Problems in all.
    pub problems_total: u64,
    /// The first problems.
    pub problems: Vec<Problem>,
}

impl ExtractReport {
    /// Whether all was done without a problem.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.complete && self.problems_total == 0
    }
}

/// Unpacks the engine's image into the directory `target`, which is made if it is missing.
///
/// Fails only if the job cannot begin; problems on the way are in the report.
pub fn extract(
    engine: &Engine,
    target: &Path,
    options: &ExtractOptions,
    context: Context<'_>,
) -> Result<ExtractReport> {
    if context.cancelled() {
        return Err(Error::Cancelled);
    }
    Ok(walk::Job::new(engine, target, options, context)?.run())
}
