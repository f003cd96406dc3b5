// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dump`: superblock, statistics, extents of files.

mod extents;
mod superblock;

use crate::args::DumpArgs;
use crate::json;
use crate::output::Out;
pub(crate) use extents::FileExtents;
use serde::Serialize;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use superblock::SuperblockView;

#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    superblock: Option<SuperblockView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extents: Vec<FileExtents>,
}

pub(crate) fn run(args: &DumpArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let all = !args.statistics && args.extents.is_empty();
    let mut report = Report {
        superblock: (args.superblock || all).then(|| SuperblockView::new(&image)),
        extents: Vec::new(),
    };
    for path in &args.extents {
        let inode = super::resolve(&image, path)?;
        report.extents.push(FileExtents::new(&image, path.as_os_str().as_bytes(), &inode)?);
    }
    let mut out = Out::new();
    if args.json {
        json::write(&mut out, &report)?;
    } else {
        if let Some(superblock) = &report.superblock {
            superblock.show(&mut out)?;
        }
        for extents in &report.extents {
            extents.show(&mut out)?;
        }
    }
    out.flush()?;
    Ok(0)
}
