// SPDX-License-Identifier: MIT OR Apache-2.0
//! `digests`: tables by which an image is verified while it is fetched.

mod remote;

use crate::args::{AlgorithmArg, DigestsArgs};
use crate::json;
use crate::output::Out;
use anyhow::Context as _;
use ferrofs_build::BlobSeal;
use ferrofs_image::Image;
use ferrofs_store::source::remote::{Location, TABLE_SUFFIX};
use ferrofs_store::{Algorithm, BuiltTable, Geometry, Pin, TableBuilder, make_copy};
use serde::Serialize;
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
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
    let algorithm = args.check.map_or(algorithm, |pin| pin.algorithm);
    let mut rows = Vec::new();
    for file in &args.files {
        let url = file.to_str().filter(|text| Location::is_location(text));
        let place = match url {
            Some(url) => Place::Url(remote::Image::new(url, &args.network)?),
            None => Place::File(file),
        };
        let table = match &place {
            Place::Url(image) => image.table(algorithm, args.quiet)?,
            Place::File(file) => make(file, algorithm)?,
        };
        let shown = match &place {
            Place::Url(image) => PathBuf::from(image.to_string()),
            Place::File(file) => file.to_path_buf(),
        };
        if let Some(expected) = args.check
            && table.pin() != expected
        {
            anyhow::bail!("{}: its pin is {}, not {expected}", shown.display(), table.pin());
        }
        let written = match &place {
            _ if args.check.is_some() => None,
            Place::Url(image) => {
                let name = image.file_name()?;
                Some(write(&name, &table, |file| image.copy(file, table.pin()))?)
            }
            Place::File(file) => Some(write(file, &table, |_| copy_of(file))?),
        };
        rows.push(Row { file: shown, table: written, pin: table.pin().to_string() });
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

/// Where an image is.
enum Place<'a> {
    File(&'a Path),
    Url(remote::Image),
}

/// Makes the table of a file and puts it beside it; gives the pin.
pub(crate) fn beside(file: &Path) -> anyhow::Result<Pin> {
    let table = make(file, Algorithm::default())?;
    write(file, &table, |_| copy_of(file))?;
    Ok(table.pin())
}

/// The table of a file.
pub(crate) fn make(file: &Path, algorithm: Algorithm) -> anyhow::Result<BuiltTable> {
    let builder = TableBuilder::new(Geometry::new(algorithm))?;
    File::open(file)
        .and_then(|opened| builder.build(opened))
        .with_context(|| format!("no digests of {}", file.display()))
}

/// Has an image hold the pin of its blob, so that its own pin stands for both.
#[derive(Debug, Default)]
pub(crate) struct PinSeal(RefCell<Option<BuiltTable>>);

impl PinSeal {
    /// Writes the blob's table beside it, if its pin was asked for.
    pub(crate) fn write_table(self, blob: &Path) -> anyhow::Result<()> {
        if let Some(table) = self.0.into_inner() {
            // It has no metadata.
            write(blob, &table, |_| Ok(Vec::new()))?;
        }
        Ok(())
    }
}

impl BlobSeal for PinSeal {
    fn name(&self) -> &[u8] {
        ferrofs_serve::PINS_XATTR
    }

    fn value_len(&self) -> usize {
        Algorithm::Blake3.name().len() + 1 + 2 * 32
    }

    fn value(&self, blob: &File, len: u64) -> io::Result<Vec<u8>> {
        let builder = TableBuilder::new(Geometry::new(Algorithm::Blake3));
        let table = builder.map_err(io::Error::other)?.build(blob.take(len))?;
        let pin = table.pin().to_string().into_bytes();
        self.0.replace(Some(table));
        Ok(pin)
    }
}

/// Writes the table of what has this name, under its own name when it is complete. `copy` gives what
/// goes behind it, and may read the table from the file in which it is then.
fn write(
    file: &Path,
    table: &BuiltTable,
    copy: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
) -> anyhow::Result<PathBuf> {
    let name = |suffix: &str| {
        let mut name = OsString::from(file);
        name.push(suffix);
        PathBuf::from(name)
    };
    let target = name(TABLE_SUFFIX);
    let unfinished = name(&format!("{TABLE_SUFFIX}.{}~", std::process::id()));
    let written =
        write_all(&unfinished, table, copy).and_then(|()| std::fs::rename(&unfinished, &target));
    if written.is_err() {
        // What counts is why it could not be written.
        let _ = std::fs::remove_file(&unfinished);
    }
    written.with_context(|| target.display().to_string())?;
    Ok(target)
}

fn write_all(
    path: &Path,
    table: &BuiltTable,
    copy: impl FnOnce(&Path) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut out = BufWriter::new(File::create_new(path)?);
    table.emit(&mut out)?;
    out.flush()?;
    out.write_all(&copy(path)?)?;
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
