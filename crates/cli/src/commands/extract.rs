// SPDX-License-Identifier: MIT OR Apache-2.0
//! `extract`.

use crate::args::ExtractArgs;
use crate::output::Out;
use crate::progress::Bar;
use crate::{interrupt, json, size};
use ferrofs_check::{Context, ExtractOptions, ExtractReport};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

pub(crate) fn run(args: &ExtractArgs) -> anyhow::Result<u8> {
    let image = args.image.open_whole()?;
    let options = ExtractOptions {
        subtree: args.path.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
        strip: !args.full_path,
        owners: match (args.owners, args.no_owners) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        permissions: !args.no_permissions,
        xattrs: !args.no_xattrs,
        times: !args.no_times,
        overwrite: args.overwrite,
        continue_on_error: !args.stop_on_error,
        keep_broken: args.keep_broken,
        bytes_max: args.size_max,
        ..ExtractOptions::default()
    };
    let engine = ferrofs_check::engine(Arc::new(image), args.memory);
    let bar = Bar::new(args.quiet || args.json, "extracting");
    let cancel = Some(interrupt::watch());
    let context = Context { workers: args.workers, progress: Some(&bar), cancel };
    let report = ferrofs_check::extract(&engine, &args.directory, &options, context)?;
    drop(bar);
    if args.json {
        json::write(&mut Out::new(), &report)?;
    } else {
        tell(&report, args.quiet)?;
    }
    Ok(code(&report))
}

/// The exit code; says so if the job was interrupted.
pub(crate) fn code(report: &ExtractReport) -> u8 {
    match interrupt::code() {
        Some(code) if !report.complete => {
            eprintln!(
                "ferrofs: interrupted: what is in the directory is whole, but not everything"
            );
            code
        }
        _ => u8::from(!report.is_clean()),
    }
}

fn tell(report: &ExtractReport, quiet: bool) -> std::io::Result<()> {
    print_problems(report);
    if quiet {
        return Ok(());
    }
    let mut out = Out::new();
    writeln!(
        out,
        "{} files, {} directories, {} symbolic links, {} hard links, {} special; {} written, {} of holes",
        report.files,
        report.directories,
        report.symlinks,
        report.hard_links,
        report.specials,
        size::show(report.bytes),
        size::show(report.hole_bytes)
    )?;
    out.flush()?;
    if report.owners_skipped {
        eprintln!("owners were not restored: that needs root");
    }
    if report.privileged_xattrs_skipped > 0 {
        eprintln!(
            "{} extended attributes were not restored: they need root",
            report.privileged_xattrs_skipped
        );
    }
    if report.set_id_bits_dropped > 0 {
        eprintln!(
            "{} set-user-ID or set-group-ID bits were dropped with their owners",
            report.set_id_bits_dropped
        );
    }
    Ok(())
}

/// What went wrong, a line each, on the standard error.
pub(crate) fn print_problems(report: &ExtractReport) {
    for problem in &report.problems {
        eprintln!("{}: {}", problem.path, problem.detail);
    }
    let more = report.problems_total.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        eprintln!("and {more} more problems");
    }
    if !report.complete {
        eprintln!("ended before everything was gone through");
    }
}
