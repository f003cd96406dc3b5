// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the parts of blobs that a trace names back to the files that are stored there.

use super::is_remote;
use crate::args::{ImageArgs, PlaceArgs, SourceArgs};
use crate::commands::digests;
use crate::errors::Advice;
use crate::json;
use crate::output::Out;
use anyhow::Context as _;
use ferrofs_check::RawPath;
use ferrofs_format::inode::FileType;
use ferrofs_image::{Image, Inode, Nid};
use ferrofs_store::{Algorithm, BlobId, BlobKind, Trace};
use std::collections::HashSet;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

pub(super) fn run(
    trace: &Trace,
    image: &Path,
    place: &PlaceArgs,
    source: &SourceArgs,
    as_json: bool,
) -> anyhow::Result<u8> {
    let files = order(trace, image, place, source)?;
    let mut out = Out::new();
    if as_json {
        let files: Vec<RawPath> = files.iter().map(|path| RawPath::from(&**path)).collect();
        json::write(&mut out, &files)?;
    } else {
        for path in &files {
            out.write_name(path)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(0)
}

/// The files of an image in the order in which a trace has read something of them.
pub(crate) fn order(
    trace: &Trace,
    image: &Path,
    place: &PlaceArgs,
    source: &SourceArgs,
) -> anyhow::Result<Vec<Vec<u8>>> {
    if let Some(url) = is_remote(image) {
        let look = source.spec(url, &place.device)?.look()?;
        let names = look.blob_names();
        return Touched::new(trace, &names)?.files(look.image());
    }
    let args = ImageArgs { image: image.to_owned(), place: place.clone() };
    let opened = args.open_whole()?;
    let names = names(trace, image, place)?;
    Touched::new(trace, &names)?.files(&opened)
}

/// The names that mounts give the blobs of an image here: the pins of their digest tables.
fn names(trace: &Trace, image: &Path, place: &PlaceArgs) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for path in std::iter::once(image).chain(place.device.iter().map(AsRef::as_ref)) {
        let name = |algorithm| -> anyhow::Result<String> {
            let pin = digests::make(path, algorithm)?.pin();
            Ok(BlobId::from_digest(BlobKind::Table, &pin.digest).to_string())
        };
        let found = name(Algorithm::Blake3)?;
        let other = !trace.blobs.contains(&found);
        names.push(if other { name(Algorithm::Sha256)? } else { found });
    }
    Ok(names)
}

/// What of each device was touched: ranges that do not overlap, in order, each with its rank.
struct Touched(Vec<Vec<(Range<u64>, usize)>>);

impl Touched {
    fn new(trace: &Trace, names: &[String]) -> anyhow::Result<Self> {
        // Ranges that overlap, in traces of others, are made into such as do not.
        let trace = Trace::merge(std::slice::from_ref(trace), 1);
        let mut of: Vec<Option<usize>> =
            trace.blobs.iter().map(|blob| names.iter().position(|name| name == blob)).collect();
        if of.iter().all(Option::is_none) {
            // Without a digest table a blob is known by where it was, which tells nothing here.
            let unverified = |name: &String| name.starts_with(BlobKind::Url.as_str());
            if trace.blobs.len() != names.len() || !trace.blobs.iter().all(unverified) {
                return Err(Advice::error(
                    "the trace is of another image",
                    "name the image that was mounted when the trace was recorded",
                ));
            }
            of = (0..names.len()).map(Some).collect();
        }
        let mut devices = vec![Vec::new(); names.len()];
        for (rank, touch) in trace.touches.iter().enumerate() {
            if let Some(Some(device)) = of.get(touch.blob as usize) {
                devices[*device].push((touch.start..touch.end(), rank));
            }
        }
        for device in &mut devices {
            device.sort_unstable_by_key(|(range, _)| range.start);
        }
        Ok(Self(devices))
    }

    /// The lowest rank of what is touched of a range.
    fn rank(&self, device: u16, range: &Range<u64>) -> Option<usize> {
        let touched = self.0.get(usize::from(device))?;
        let first = touched.partition_point(|(touch, _)| touch.end <= range.start);
        let within = touched[first..].iter().take_while(|(touch, _)| touch.start < range.end);
        within.map(|(_, rank)| *rank).min()
    }

    fn files(&self, image: &Image) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut found: Vec<((usize, u16, u64), Vec<u8>)> = Vec::new();
        let mut seen: HashSet<Nid> = HashSet::from([image.root()]);
        let mut pending = vec![(image.root(), Vec::new())];
        while let Some((folder, path)) = pending.pop() {
            let shown = || String::from_utf8_lossy(&path).into_owned();
            let entries = image
                .inode(folder)
                .and_then(|inode| image.directory(&inode)?.entries())
                .with_context(shown)?;
            for entry in entries.iter().filter(|entry| !entry.is_dot()) {
                let mut name = path.clone();
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(&entry.name);
                // Hard links, and directories in circles.
                if !seen.insert(entry.nid) {
                    continue;
                }
                let inode = image.inode(entry.nid).with_context(shown)?;
                match inode.file_type {
                    FileType::Directory => pending.push((entry.nid, name)),
                    FileType::Regular => {
                        if let Some(key) = self.key(image, &inode).with_context(shown)? {
                            found.push((key, name));
                        }
                    }
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// When something of a file was read for the first time; among those of one touch, where it lies.
    fn key(&self, image: &Image, inode: &Inode) -> anyhow::Result<Option<(usize, u16, u64)>> {
        let map = image.map(inode)?;
        let mut first: Option<(usize, u16, u64)> = None;
        image.stored_runs(&map, |device, range| {
            if let Some(rank) = self.rank(device, &range)
                && first.is_none_or(|(best, _, _)| rank < best)
            {
                first = Some((rank, device, range.start));
            }
        })?;
        Ok(first)
    }
}
