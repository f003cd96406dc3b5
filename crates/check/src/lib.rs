// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings as data: checking, extracting, listing, comparing and measuring EROFS images.
#![forbid(unsafe_code)]

mod context;
mod error;
#[cfg(target_os = "linux")]
mod extract;
mod nidset;
mod pool;
mod rawpath;

pub use context::{Context, Progress};
pub use error::{Error, Result};
#[cfg(target_os = "linux")]
pub use extract::{ExtractOptions, ExtractReport, Problem, ProblemKind, extract};
pub use rawpath::RawPath;
