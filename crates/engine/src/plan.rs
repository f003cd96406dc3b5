// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cutting a read into parts, each with one way to get its bytes.

use crate::cache::Key;
use ferrofs_image::{
    CodecRules, DeviceAddress, Encoding, Error, Extent, FileMap, Image, Location, Nid, Pcluster,
    Place, Result, Source, Space, stored_pieces,
};
use std::ops::Range;

/// A run of bytes of the caller's buffer and where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Range of the buffer.
    pub(crate) target: Range<usize>,
    pub(crate) from: From,
}

#[derive(Clone, Debug)]
pub(crate) enum From {
    Zeros,
    /// Bytes as they are on a device.
    Device(DeviceAddress),
    /// Bytes as they are in a metadata space.
    Meta {
        space: Space,
        offset: u64,
    },
    Encoded(Encoded),
}

/// Bytes of a compressed extent.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) nid: Nid,
    pub(crate) extent: Extent,
    pub(crate) pcluster: Pcluster,
    /// First byte of the extent that is wanted.
    pub(crate) within: usize,
}

impl Encoded {
    pub(crate) const fn key(&self) -> Key {
        Key::new(&self.pcluster)
    }

    /// Bytes of the whole extent.
    pub(crate) const fn whole(&self) -> usize {
        self.extent.len as usize
    }

    /// The error of this pcluster when it does not decode.
    pub(crate) fn undecodable(&self, source: ferrofs_image::DecodeError) -> Error {
        let address = match self.pcluster.location {
            Location::Device(at) => at.offset,
            Location::Meta { offset, .. } => offset,
        };
        Error::Undecodable { place: Place::content(self.nid, self.extent.start), address, source }
    }
}

/// Appends the parts of the file from `offset` on, which lies inside it with all of `target`, the
/// range of the request that they go to.
pub(crate) fn plan(
    image: &Image,
    map: &FileMap,
    mut offset: u64,
    mut target: Range<usize>,
    parts: &mut Vec<Part>,
) -> Result<()> {
    let mut cursor = map.cursor(image);
    while !target.is_empty() {
        let extent = cursor.extent_at(offset)?;
        let within = offset - extent.start;
        let left = usize::try_from(extent.len - within).unwrap_or(usize::MAX);
        let count = left.min(target.len());
        let now = target.start..target.start + count;
        match extent.source {
            Source::Hole => push(parts, Part { target: now, from: From::Zeros }),
            Source::Plain(at) => {
                push(parts, Part { target: now, from: From::Device(forward(at, within)) });
            }
            Source::Inline { space, offset } => {
                push(
                    parts,
                    Part { target: now, from: From::Meta { space, offset: offset + within } },
                );
            }
            Source::Fragment { offset: start } => {
                // The packed inode has no fragments itself (checked when the image was opened), so
                // this goes one level down and no further.
                let Some(packed) = image.packed_map() else {
                    return Err(Error::NotFound);
                };
                plan(image, packed, start + within, now, parts)?;
            }
            Source::Pcluster(pcluster) => {
                plan_pcluster(image.rules(), map.nid(), &extent, pcluster, within, now, parts);
            }
        }
        offset += count as u64;
        target.start += count;
    }
    Ok(())
}

fn plan_pcluster(
    rules: &CodecRules,
    nid: Nid,
    extent: &Extent,
    pcluster: Pcluster,
    within: u64,
    target: Range<usize>,
    parts: &mut Vec<Part>,
) {
    if let Encoding::Compressed(_) = pcluster.encoding {
        let within = within as usize; // At most 12 MiB, checked by the map.
        let from = From::Encoded(Encoded { nid, extent: *extent, pcluster, within });
        push(parts, Part { target, from });
        return;
    }
    let end = within + target.len() as u64;
    for piece in stored_pieces(rules, extent, &pcluster) {
        let first = piece.decoded.max(within);
        let last = (piece.decoded + piece.len).min(end);
        if first >= last {
            continue;
        }
        let skip = piece.encoded + (first - piece.decoded);
        let start = target.start + (first - within) as usize;
        let range = start..start + (last - first) as usize;
        let from = match pcluster.location {
            Location::Device(at) => From::Device(forward(at, skip)),
            Location::Meta { space, offset } => From::Meta { space, offset: offset + skip },
        };
        push(parts, Part { target: range, from });
    }
}

fn forward(at: DeviceAddress, bytes: u64) -> DeviceAddress {
    // The whole extent lies on its device, so a byte of it has an address.
    DeviceAddress { device: at.device, offset: at.offset + bytes }
}

/// Appends a part, or lengthens the last one when both are neighbours in the buffer and on the
/// device: stored extents of small pclusters become one read.
fn push(parts: &mut Vec<Part>, part: Part) {
    if part.target.is_empty() {
        return;
    }
    if let Some(last) = parts.last_mut()
        && last.target.end == part.target.start
    {
        let follows = match (&last.from, &part.from) {
            (From::Zeros, From::Zeros) => true,
            (From::Device(at), From::Device(next)) => {
                forward(*at, last.target.len() as u64) == *next
            }
            _ => false,
        };
        if follows {
            last.target.end = part.target.end;
            return;
        }
    }
    parts.push(part);
}
