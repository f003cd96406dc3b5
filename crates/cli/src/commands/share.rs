// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share`: what mounts share, and what they would.

mod domain;
mod estimate;
mod html;
pub(super) mod overlay;

use crate::args::{ShareArgs, ShareCommand};
use crate::commands::inspect::html::Page;
use ferrofs_serve::ImageFiles;
use ferrofs_share::estimate::EstimateOptions;

/// Adds what images would save by sharing memory to a page.
pub(super) fn add_estimate(page: &mut Page, files: &[ImageFiles]) -> anyhow::Result<()> {
    let found = estimate::of(files, EstimateOptions::default())?;
    html::section(page, &found);
    Ok(())
}

pub(crate) fn run(args: &ShareArgs) -> anyhow::Result<u8> {
    match &args.command {
        ShareCommand::Estimate(args) => return estimate::run(args),
        ShareCommand::Ls { json, share_dir } => domain::list(*json, share_dir.as_deref())?,
        ShareCommand::Stat { domain, json, share_dir } => {
            domain::stat(domain, *json, share_dir.as_deref())?;
        }
        ShareCommand::Prune { domain, share_dir } => overlay::prune(domain, share_dir.as_deref())?,
        ShareCommand::Rm { domain, image, share_dir } => {
            overlay::remove(domain, share_dir.as_deref(), image)?;
        }
        ShareCommand::Stop { domain } => domain::stop(domain)?,
    }
    Ok(0)
}
