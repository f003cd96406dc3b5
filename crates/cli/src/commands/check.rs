// SPDX-License-Identifier: MIT OR Apache-2.0
//! `check`.

use crate::args::CheckArgs;
use crate::output::Out;
use crate::progress::Bar;
use crate::{json, size};
use ferrofs_check::{CheckOptions, CheckReport, Context, Severity};
use ferrofs_serve::{Error, ImageFiles};
use std::cell::RefCell;
use std::io::Write;

/// Errors were found and left as they are.
const UNCORRECTED: u8 = 4;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<u8> {
    let options =
        CheckOptions { data: !args.no_data, digests: args.digests, ..CheckOptions::default() };
    let bar = Bar::new(args.quiet || args.json, "checking");
    let report = check(&args.image.files(), &options, args.workers, &bar)?;
    drop(bar);
    let mut out = Out::new();
    if args.json {
        json::write(&mut out, &report)?;
    } else {
        tell(&mut out, &report, args.quiet)?;
    }
    out.flush()?;
    Ok(if report.is_clean() { 0 } else { UNCORRECTED })
}

/// Checks an image. That it cannot be opened because of what is in it is a finding; fails only if its
/// files cannot be.
pub(crate) fn check(
    files: &ImageFiles,
    options: &CheckOptions,
    workers: usize,
    bar: &Bar,
) -> anyhow::Result<CheckReport> {
    let failed = RefCell::new(None);
    let open = |ignore_checksum| {
        let ignore_checksum = ignore_checksum || files.ignore_checksum;
        let files = ImageFiles { ignore_checksum, ..files.clone() };
        files.open_whole().map_err(|error| match error {
            Error::Image { error, .. } => error,
            other => {
                failed.replace(Some(other));
                ferrofs_image::Error::NotFound
            }
        })
    };
    let context = Context { workers, progress: Some(bar), cancel: None };
    let report = ferrofs_check::check_opening(open, options, context);
    match failed.into_inner() {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

fn tell(out: &mut Out, report: &CheckReport, quiet: bool) -> std::io::Result<()> {
    for finding in &report.findings {
        if quiet && finding.severity == Severity::Info {
            continue;
        }
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        writeln!(out, "{severity}: {finding}")?;
    }
    let total = report.errors + report.warnings + report.infos;
    let more = total.saturating_sub(report.findings.len() as u64);
    if more > 0 {
        writeln!(out, "and {more} more findings")?;
    }
    if quiet && report.is_clean() {
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} errors, {} warnings; {} inodes, {} directories, {} extents, {} decoded{}",
        if report.is_clean() { "clean" } else { "NOT CLEAN" },
        report.errors,
        report.warnings,
        report.inodes,
        report.directories,
        report.extents,
        size::show(report.decoded_bytes),
        if report.complete { "" } else { "; not everything was gone through" }
    )
}
