// SPDX-License-Identifier: MIT OR Apache-2.0
//! `inspect`: where the bytes of an image went.

pub(super) mod html;

use crate::args::InspectArgs;
use crate::json;
use crate::output::Out;
use crate::progress::Bar;
use crate::size;
use anyhow::Context as _;
use ferrofs_check::{Context, Inspection, Share};
use ferrofs_serve::ImageFiles;
use std::io::{self, Write};
use std::path::Path;

/// Rows of a table for people.
const ROWS: usize = 12;

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let quiet = args.json || args.html.is_some();
    let bar = Bar::new(quiet, "looking");
    let context = Context { progress: Some(&bar), ..Context::default() };
    let found = ferrofs_check::inspect(&image, args.cells, context)?;
    bar.finish();
    let title = args.image.image.display().to_string();
    if let Some(path) = &args.html {
        let mut page = html::page(&title, &image, &found);
        if !args.others.is_empty() {
            let mut files = vec![args.image.files()];
            files.extend(args.others.iter().map(ImageFiles::new));
            page.heading("What sharing would save");
            super::share::add_estimate(&mut page, &files)?;
        }
        write_page(&mut Out::new(), path, &page.end())?;
    } else if args.json {
        json::write(&mut Out::new(), &found)?;
    } else {
        let mut out = Out::new();
        show(&mut out, &found)?;
        out.flush()?;
    }
    Ok(0)
}

/// Writes a page to a file, or to the standard output.
pub(super) fn write_page(out: &mut Out, path: &Path, page: &str) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        out.write_all(page.as_bytes())?;
        out.flush()?;
        return Ok(());
    }
    std::fs::write(path, page).with_context(|| path.display().to_string())
}

fn show(out: &mut Out, found: &Inspection) -> io::Result<()> {
    let statistics = &found.statistics;
    let device: u64 = statistics.device_bytes.iter().sum();
    writeln!(
        out,
        "{} for {} in {} inodes; {:.3} bytes of files for each stored",
        size::show(device),
        size::show(statistics.file_bytes),
        statistics.inodes,
        statistics.ratio()
    )?;
    table(out, "below the root", &found.tops)?;
    table(out, "by suffix", &found.suffixes)?;
    table(out, "largest files", &found.largest)
}

fn table(out: &mut Out, title: &str, shares: &[Share]) -> io::Result<()> {
    writeln!(out, "\n{:>12} {:>12} {:>9}  {title}", "stored", "content", "inodes")?;
    for share in shares.iter().take(ROWS) {
        write!(
            out,
            "{:>12} {:>12} {:>9}  ",
            size::show(share.stored),
            size::show(share.bytes),
            share.inodes
        )?;
        let name = share.name.as_bytes();
        out.write_name(if name.is_empty() { b"(none)" } else { name })?;
        writeln!(out)?;
    }
    if let Some(more) = shares.len().checked_sub(ROWS).filter(|&more| more > 0) {
        writeln!(out, "{:>36} and {more} more", "")?;
    }
    Ok(())
}
