// SPDX-License-Identifier: MIT OR Apache-2.0
//! `diff`.

use crate::args::DiffArgs;
use crate::json;
use crate::output::Out;
use ferrofs_check::{Context, DiffOptions, DiffReport, Difference, Side, Status};
use ferrofs_serve::{Engine, ImageFiles};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A side that is opened.
enum Opened {
    Image(Box<Engine>),
    Directory(PathBuf),
}

impl Opened {
    fn new(path: &Path, offset: u64, devices: &[PathBuf]) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let files = ImageFiles { offset, devices: devices.to_vec(), ..ImageFiles::new(path) };
        let image = Arc::new(files.open_whole()?);
        Ok(Self::Image(Box::new(ferrofs_check::engine(image, 32 << 20))))
    }

    fn side(&self) -> Side<'_> {
        match self {
            Self::Image(engine) => Side::Image(engine),
            Self::Directory(path) => Side::Directory(path),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    differences: &'a [Difference],
    #[serde(flatten)]
    report: &'a DiffReport,
}

pub(crate) fn run(args: &DiffArgs) -> anyhow::Result<u8> {
    let left = Opened::new(&args.left, args.offset, &args.device)?;
    let right = Opened::new(&args.right, args.right_offset, &args.right_device)?;
    let options = DiffOptions {
        mtime: !args.no_times,
        owner: !args.no_owners,
        xattrs: !args.no_xattrs,
        ..DiffOptions::default()
    };
    let context = Context { workers: args.workers, ..Context::default() };
    let mut out = Out::new();
    let mut written = Ok(());
    let mut kept = Vec::new();
    let report = ferrofs_check::diff(left.side(), right.side(), &options, context, |difference| {
        if args.json {
            kept.push(difference);
        } else if !args.quiet {
            written = show(&mut out, &difference);
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    if args.json {
        json::write(&mut out, &Report { differences: &kept, report: &report })?;
    }
    out.flush()?;
    Ok(match &report {
        report if report.failed > 0 || !report.complete => 2,
        report if report.is_equal() => 0,
        _ => 1,
    })
}

fn show(out: &mut Out, difference: &Difference) -> io::Result<()> {
    let path = difference.path.as_bytes();
    let sign = match &difference.status {
        Status::OnlyA => "-",
        Status::OnlyB => "+",
        Status::Changed { .. } => "M",
        Status::Failed { .. } => "!",
    };
    write!(out, "{sign} ")?;
    out.write_name(path)?;
    match &difference.status {
        Status::Changed { changes } => {
            for (index, change) in changes.iter().enumerate() {
                let separator = if index == 0 { ":" } else { ";" };
                let attribute = format!("{:?}", change.attribute).to_lowercase();
                write!(out, "{separator} {attribute} {} -> {}", change.a, change.b)?;
            }
        }
        Status::Failed { detail } => write!(out, ": {detail}")?,
        Status::OnlyA | Status::OnlyB => {}
    }
    writeln!(out)
}
