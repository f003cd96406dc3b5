// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a file lies.

use crate::output::Out;
use anyhow::Context;
use ferrofs_check::RawPath;
use ferrofs_image::{Algorithm, Encoding, Image, Inode, Location, Source};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
pub(crate) struct FileExtents {
    pub(crate) path: RawPath,
    pub(crate) nid: u64,
    pub(crate) size: u64,
    pub(crate) layout: &'static str,
    pub(crate) extents: Vec<ExtentView>,
}

#[derive(Serialize)]
pub(crate) struct ExtentView {
    /// File offset and bytes.
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// hole, plain, inline, fragment, compressed, or stored (a plain pcluster).
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) algorithm: Option<&'static str>,
    /// Where the bytes are: "device 0", "metabox" and so on.
    pub(crate) origin: String,
    /// Byte offset there, and bytes.
    pub(crate) address: u64,
    pub(crate) stored: u64,
    /// Only part of what is stored there is used.
    pub(crate) partial: bool,
}

/// Where a location lies.
fn origin_text(location: Location) -> (String, u64) {
    match location {
        Location::Device(at) => (format!("device {}", at.device), at.offset),
        Location::Meta { space, offset } => (space.to_string(), offset),
    }
}

const fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Lz4 => "lz4",
        Algorithm::Lzma => "lzma",
        Algorithm::Deflate => "deflate",
        Algorithm::Zstd => "zstd",
    }
}

impl FileExtents {
    pub(crate) fn new(image: &Image, path: &[u8], inode: &Inode) -> anyhow::Result<Self> {
        let path = RawPath(path.to_vec());
        let context = || format!("{path}");
        let map = image.map(inode).with_context(context)?;
        let mut cursor = map.cursor(image);
        let mut extents: Vec<ExtentView> = Vec::new();
        let mut at = 0;
        while at < map.size() {
            let extent = cursor.extent_at(at).with_context(context)?;
            at = extent.end();
            let view = ExtentView::new(extent.start, extent.len, extent.source);
            match extents.last_mut() {
                // Chunks and holes that follow each other are one piece to whoever looks.
                Some(last) if last.continues(&view) => {
                    last.len += view.len;
                    last.stored += view.stored;
                }
                _ => extents.push(view),
            }
        }
        let layout = inode.layout().name();
        Ok(Self { nid: inode.nid.0, size: inode.size, layout, extents, path })
    }

    pub(super) fn show(&self, out: &mut Out) -> io::Result<()> {
        write!(out, "file ")?;
        out.write_name(&self.path.0)?;
        writeln!(out, ": nid {}, {} bytes, {}", self.nid, self.size, self.layout)?;
        writeln!(out, "{:>14} {:>12}  {:<18} {:>14} {:>10}", "offset", "bytes", "kind", "at", "stored")?;
        for extent in &self.extents {
            let kind = match extent.algorithm {
                Some(algorithm) => format!("{} {algorithm}", extent.kind),
                None => extent.kind.to_owned(),
            };
            write!(
                out,
                "{:>14} {:>12}  {kind:<18} {:>14} {:>10}",
                extent.start, extent.len, extent.address, extent.stored
            )?;
            if extent.origin != "device 0" {
                write!(out, " {}", extent.origin)?;
            }
            writeln!(out, "{}", if extent.partial { " (partial)" } else { "" })?;
        }
        writeln!(out, "{} extents", self.extents.len())
    }
}

impl ExtentView {
    fn new(start: u64, len: u64, source: Source) -> Self {
        let view = |kind, origin: String, address, stored| Self {
            start,
            len,
            kind,
            algorithm: None,
            origin,
            address,
            stored,
            partial: false,
        };
        match source {
            Source::Hole => view("hole", String::from("nowhere"), 0, 0),
            Source::Plain(at) => {
                let (origin, address) = origin_text(Location::Device(at));
                view("plain", origin, address, len)
            }
            Source::Inline { space, offset } => view("inline", space.to_string(), offset, len),
            Source::Fragment { offset } => {
                view("fragment", String::from("packed inode"), offset, len)
            }
            Source::Pcluster(pcluster) => {
                let (origin, address) = origin_text(pcluster.location);
                let (kind, algorithm) = match pcluster.encoding {
                    Encoding::Compressed(algorithm) => {
                        ("compressed", Some(algorithm_name(algorithm)))
                    }
                    _ => ("stored", None),
                };
                let partial = pcluster.partial;
                Self { algorithm, partial, ..view(kind, origin, address, pcluster.len.into()) }
            }
        }
    }

    /// Whether `next` only goes on with this one.
    fn continues(&self, next: &Self) -> bool {
        let address = if self.kind == "hole" { 0 } else { self.address.wrapping_add(self.len) };
        matches!(self.kind, "hole" | "plain")
            && self.kind == next.kind
            && self.origin == next.origin
            && next.address == address
    }
}
