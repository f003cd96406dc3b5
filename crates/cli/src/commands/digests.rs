// SPDX-License-Identifier: MIT OR Apache-2.0
//! `digests`: tables by which an image is verified while it is fetched.

use crate::args::{AlgorithmArg, DigestsArgs};
use crate::json;
use crate::output::Out;
use anyhow::Context as _;
use ferrofs_image::Image;
use ferrofs_store::source::remote::TABLE_SUFFIX;
use ferrofs_store::{Algorithm, BuiltTable, Geometry, Pin, TableBuilder, make_copy};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file and its table, for `--json`.
#[derive(Serialize)]
struct Row {
    file: PathBuf,
    table: Option<PathBuf>,
    pin: String,
}

pub(crate) fn run(args: &DigestsArgs) -> anyhow::Result<u8> {
    let algorithm = match args.algorithm {
        AlgorithmArg::Blake3 => Algorithm::Blake3,
        AlgorithmArg::Sha256 => Algorithm::Sha256,
    };
    let mut rows = Vec::new();
    for file in &args.files {
        let algorithm = args.check.map_or(algorithm, |pin| pin.algorithm);
        let table = make(file, algorithm)?;
        if let Some(expected) = args.check
            && table.pin() != expected
        {
            anyhow::bail!("{}: its pin is {}, not {expected}", file.display(), table.pin());
        }
        let written = match args.check {
            Some(_) => None,
            None => Some(write(file, &table)?),
        };
        rows.push(Row { file: file.clone(), table: written, pin: table.pin().to_string() });
    }
    let mut out = Out::new();
    if args.json {
        json::write(&mut out, &rows)?;
    } else {
        for row in &rows {
            writeln!(out, "{}  {}", row.pin, row.file.display())?;
        }
    }
    out.flush()?;
    Ok(0)
}

/// Makes the table of a file and puts it beside it; gives the pin.
pub(crate) fn beside(file: &Path) -> anyhow::Result<Pin> {
    let table = make(file, Algorithm::default())?;
    write(file, &table)?;
    Ok(table.pin())
}

/// The table of a file.
pub(crate) fn make(file: &Path, algorithm: Algorithm) -> anyhow::Result<BuiltTable> {
    let builder = TableBuilder::new(Geometry::new(algorithm))?;
    File::open(file)
        .and_then(|opened| builder.build(opened))
        .with_context(|| format!("no digests of {}", file.display()))
}

/// Writes a table under its name when it is complete.
fn write(file: &Path, table: &BuiltTable) -> anyhow::Result<PathBuf> {
    let name = |suffix: &str| {
        let mut name = OsString::from(file);
        name.push(suffix);
        PathBuf::from(name)
    };
    let target = name(TABLE_SUFFIX);
    let unfinished = name(&format!("{TABLE_SUFFIX}.{}~", std::process::id()));
    let written = copy_of(file)
        .and_then(|copy| write_all(&unfinished, table, &copy))
        .and_then(|()| std::fs::rename(&unfinished, &target));
    if written.is_err() {
        // What counts is why it could not be written.
        let _ = std::fs::remove_file(&unfinished);
    }
    written.with_context(|| target.display().to_string())?;
    Ok(target)
}

fn write_all(path: &Path, table: &BuiltTable, copy: &[u8]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create_new(path)?);
    table.emit(&mut out)?;
    out.write_all(copy)?;
    out.flush()
}

/// An image's metadata, compressed: who reads it on demand gets it at once. Nothing for what is no
/// image.
fn copy_of(file: &Path) -> io::Result<Vec<u8>> {
    let opened = File::open(file)?;
    let size = opened.metadata()?.len();
    let found = Image::open(opened.try_clone()?).and_then(|image| {
        let ranges = ferrofs_serve::metadata_ranges(&image, size)?;
        Ok((ranges, ferrofs_serve::metadata_tails(&image)?))
    });
    match found {
        Ok((ranges, tails)) => make_copy(&opened, &ranges, &tails),
        Err(error) => {
            tracing::debug!(file = %file.display(), %error, "no copy of metadata");
            Ok(Vec::new())
        }
    }
}
