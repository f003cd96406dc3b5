// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share estimate`.

use super::html;
use crate::args::EstimateArgs;
use crate::commands::inspect::write_page;
use crate::json;
use crate::output::{Out, shown};
use crate::progress::Bar;
use anyhow::Context as _;
use ferrofs_check::Progress;
use ferrofs_serve::{Engine, ImageFiles};
use ferrofs_share::estimate::{Estimate, EstimateOptions, Input, estimate};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Memory for decoded data of each image.
const CACHE: u64 = 32 << 20;

/// A tree to read: an engine over an image, or nothing for a directory.
struct Opened<'a> {
    path: &'a Path,
    engine: Option<Engine>,
}

impl<'a> Opened<'a> {
    fn new(files: &'a ImageFiles) -> anyhow::Result<Self> {
        let path = &*files.image;
        if path.is_dir() {
            return Ok(Self { path, engine: None });
        }
        let image = files.open_whole()?;
        Ok(Self { path, engine: Some(ferrofs_check::engine(image.into(), CACHE)) })
    }

    fn input(&self) -> Input<'_> {
        self.engine.as_ref().map_or(Input::Directory(self.path), Input::Image)
    }

    fn name(&self) -> String {
        shown(self.path.as_os_str().as_bytes())
    }
}

/// What images and directories would save.
pub(super) fn of(files: &[ImageFiles], options: EstimateOptions<'_>) -> anyhow::Result<Estimate> {
    let named = |files: &ImageFiles| shown(files.image.as_os_str().as_bytes());
    let opened = files.iter().map(|one| Opened::new(one).with_context(|| named(one)));
    let opened = opened.collect::<anyhow::Result<Vec<_>>>()?;
    let inputs: Vec<_> = opened.iter().map(|tree| (tree.name(), tree.input())).collect();
    Ok(estimate(&inputs, options)?)
}

pub(super) fn run(args: &EstimateArgs) -> anyhow::Result<u8> {
    let files: Vec<_> = args.images.iter().map(ImageFiles::new).collect();
    let bar = Bar::new(args.quiet || args.json || args.html.is_some(), "reading");
    let progress = |bytes| Progress::bytes(&bar, bytes);
    let options = EstimateOptions {
        workers: args.workers,
        trust_digests: args.trust_digests,
        progress: Some(&progress),
        cancel: None,
    };
    let found = of(&files, options)?;
    bar.finish();
    let mut out = Out::new();
    if let Some(path) = &args.html {
        write_page(&mut out, path, &html::page(&found))?;
    } else if args.json {
        json::write(&mut out, &found)?;
    } else {
        show(&mut out, &found)?;
    }
    out.flush()?;
    Ok(0)
}

/// What a method is, for people.
pub(super) fn title(method: &str) -> &str {
    match method {
        "none" => "no sharing",
        "whole" => "whole files",
        "page4k" => "pages of 4 KiB",
        "fix64k" => "chunks of 64 KiB",
        "cdc4k" => "content-defined, 4 KiB",
        "cdc16k" => "content-defined, 16 KiB",
        "cdc64k" => "content-defined, 64 KiB",
        other => other,
    }
}

/// Millions of bytes.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

fn show(out: &mut Out, found: &Estimate) -> io::Result<()> {
    for (index, tree) in found.trees.iter().enumerate() {
        writeln!(
            out,
            "image {}: {} files, {} MB in pages: {}",
            index + 1,
            tree.files,
            megabytes(tree.page_bytes),
            tree.name
        )?;
    }
    write!(out, "\n{:24} {:>10} {:>8}", "MB when all is read", "together", "saved")?;
    for index in 1..=found.trees.len() {
        write!(out, " {:>11}", format!("{}image {index}", if index > 1 { "+ " } else { "" }))?;
    }
    writeln!(out)?;
    for row in &found.methods {
        let together = megabytes(row.unique_bytes);
        write!(out, "{:24} {together:>10} {:>6.1} %", title(row.method), row.saved_percent)?;
        for &added in &row.added_bytes {
            write!(out, " {:>11}", megabytes(added))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
