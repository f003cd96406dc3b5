// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dump`: superblock, statistics, extents of files.

mod statistics;
mod superblock;

use crate::args::DumpArgs;
use crate::json;
use crate::output::Out;
use anyhow::Context as _;
use ferrofs_check::{Context, ExtentRow, RawPath, Statistics};
use ferrofs_image::Image;
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use superblock::SuperblockView;

#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    superblock: Option<SuperblockView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    path: RawPath,
    nid: u64,
    size: u64,
    layout: &'static str,
    extents: Vec<ExtentRow>,
}

pub(crate) fn run(args: &DumpArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let all = !args.statistics && args.extents.is_empty();
    let mut report = Report {
        superblock: (args.superblock || all).then(|| SuperblockView::new(&image)),
        statistics: None,
        files: Vec::new(),
    };
    if args.statistics {
        let context = Context { workers: args.workers, ..Context::default() };
        report.statistics = Some(ferrofs_check::statistics(&image, context)?);
    }
    for path in &args.extents {
        report.files.push(file(&image, path.as_os_str().as_bytes())?);
    }
    let mut out = Out::new();
    if args.json {
        json::write(&mut out, &report)?;
    } else {
        if let Some(superblock) = &report.superblock {
            superblock.show(&mut out)?;
        }
        if let Some(found) = &report.statistics {
            statistics::show(&mut out, found)?;
        }
        for file in &report.files {
            file.show(&mut out)?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn file(image: &Image, path: &[u8]) -> anyhow::Result<FileView> {
    let inode = ferrofs_check::find(image, path, None)?;
    let path = RawPath::from(path);
    let mut extents = Vec::new();
    ferrofs_check::extents(image, &inode, |row| {
        extents.push(row);
        ControlFlow::Continue(())
    })
    .with_context(|| path.to_string())?;
    let layout = inode.layout().name();
    Ok(FileView { path, nid: inode.nid.0, size: inode.size, layout, extents })
}

impl FileView {
    fn show(&self, out: &mut Out) -> io::Result<()> {
        write!(out, "file ")?;
        out.write_name(self.path.as_bytes())?;
        writeln!(out, ": nid {}, {} bytes, {}", self.nid, self.size, self.layout)?;
        writeln!(
            out,
            "{:>14} {:>12}  {:<10} {:>14} {:>10}",
            "offset", "bytes", "kind", "at", "stored"
        )?;
        for row in &self.extents {
            let address = row.address.map(|address| address.to_string()).unwrap_or_default();
            write!(
                out,
                "{:>14} {:>12}  {:<10} {address:>14} {:>10}",
                row.start, row.len, row.kind, row.encoded_len
            )?;
            match (row.device, &row.space) {
                (Some(device @ 1..), _) => write!(out, " device {device}")?,
                (_, Some(space)) => write!(out, " {space}")?,
                _ => {}
            }
            writeln!(out, "{}", if row.partial { " (partial)" } else { "" })?;
        }
        writeln!(out, "{} extents", self.extents.len())
    }
}
