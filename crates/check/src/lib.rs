// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings as data: checking, extracting, listing, comparing and measuring EROFS images.
//!
//! The crate refuses to know terminals, exit codes and argument syntax: every job takes options and
//! a [`Context`], and gives a report that can be printed or serialized. What is wrong with a part of
//! an image is an item of the report; an [`Error`] says that the job as a whole could not be done.
//!
//! Invariant: whatever an image or a directory holds, a job ends, and its memory is bounded by its
//! options and the number of entries, never by a size that the image claims.
#![forbid(unsafe_code)]

mod context;
mod diff;
#[cfg(target_os = "linux")]
mod dirs;
mod error;
#[cfg(target_os = "linux")]
mod extract;
mod finding;
mod fsck;
mod inspect;
mod listing;
mod nidset;
mod pool;
mod rawpath;
mod statistics;

pub use context::{Context, Progress, engine};
pub use diff::{Attribute, Change, DiffOptions, DiffReport, Difference, Side, Status, diff};
pub use error::{Error, Result};
#[cfg(target_os = "linux")]
pub use extract::{ExtractOptions, ExtractReport, Problem, ProblemKind, extract};
pub use finding::{Code, Finding, Severity};
pub use fsck::{CheckOptions, CheckReport, check, check_opening};
pub use inspect::{DeviceCells, Inspection, Share, inspect};
pub use listing::{
    ExtentRow, Listing, Stat, XattrRow, encoding_name, extents, find, list, stat, type_name,
};
pub use rawpath::RawPath;
pub use statistics::{EncodingStatistics, Statistics, statistics};
