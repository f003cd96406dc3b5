// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plain way to read content: extent by extent, nothing kept, one decode for every call.

use crate::decode::{Piece, decode_extent, stored_pieces};
use crate::meta::ContentReader;
use crate::{
    Decoder, DeviceAddress, Encoding, Error, Extent, FileMap, Image, Inode, Location, Pcluster,
    Place, Result, Source, Space,
};
use ferrofs_format::inode::FileType;
use ferrofs_format::num::{u64_from_usize, usize_from_u32, usize_from_u64};

/// Idle decoders kept for later calls.
const DECODERS_MAX: usize = 16;

impl Image {
    /// Reads content from `offset` on; returns how many bytes, less than asked only at the end.
    pub fn read(&self, map: &FileMap, mut offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = map.size().saturating_sub(offset);
        let total = usize_from_u64(left).min(buf.len());
        let mut rest = buf.get_mut(..total).unwrap_or_default();
        let mut cursor = map.cursor(self);
        while !rest.is_empty() {
            let extent = cursor.extent_at(offset)?;
            let within = offset.saturating_sub(extent.start);
            let left = usize_from_u64(extent.len.saturating_sub(within));
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            self.read_extent(map, &extent, within, now)
                .map_err(|error| error.with_nid(map.nid()))?;
            offset = offset.saturating_add(u64_from_usize(now.len()));
            rest = later;
        }
        Ok(total)
    }

    /// Reads `dst.len()` bytes of `extent` from `within` on; the range lies inside the extent.
    pub fn read_extent(
        &self,
        map: &FileMap,
        extent: &Extent,
        within: u64,
        dst: &mut [u8],
    ) -> Result<()> {
        match extent.source {
            Source::Hole => {
                dst.fill(0);
                Ok(())
            }
            Source::Plain(at) => {
                let at = at.plus(within).ok_or(Error::corrupt(
                    Place::content(map.nid(), extent.start),
                    "block address past 2^64",
                    at.offset,
                ))?;
                self.devices.read(at, dst)
            }
            Source::Inline { space, offset } => {
                self.read_meta(space, offset.saturating_add(within), dst)
            }
            Source::Fragment { offset } => self.read_fragment(offset.saturating_add(within), dst),
            Source::Pcluster(pcluster) => match pcluster.encoding {
                Encoding::Compressed(_) => {
                    self.read_compressed(map, extent, &pcluster, within, dst)
                }
                Encoding::Shifted | Encoding::Interlaced => {
                    stored_pieces(&self.rules, extent, &pcluster)
                        .into_iter()
                        .try_for_each(|piece| self.read_piece(&pcluster, piece, within, dst))
                }
            },
        }
    }

    /// Content of the packed inode. Through the cache of decoded metadata extents, since the
    /// fragments of many small files share one pcluster.
    fn read_fragment(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.read_meta(Space::Packed, offset, dst)
    }

    /// What of a stored piece falls into `dst`, whose first byte is byte `within` of the extent.
    fn read_piece(
        &self,
        pcluster: &Pcluster,
        piece: Piece,
        within: u64,
        dst: &mut [u8],
    ) -> Result<()> {
        let end = within.saturating_add(u64_from_usize(dst.len()));
        let from = piece.decoded.max(within);
        let to = piece.decoded.saturating_add(piece.len).min(end);
        if from >= to {
            return Ok(());
        }
        let skip = piece.encoded.saturating_add(from.saturating_sub(piece.decoded));
        let start = usize_from_u64(from.saturating_sub(within));
        let stop = usize_from_u64(to.saturating_sub(within));
        let dst = dst.get_mut(start..stop).unwrap_or_default();
        self.read_encoded(pcluster, skip, dst)
    }

    /// Encoded bytes of a pcluster from `skip` on.
    pub fn read_encoded(&self, pcluster: &Pcluster, skip: u64, dst: &mut [u8]) -> Result<()> {
        match pcluster.location {
            Location::Device(at) => {
                let offset = at.offset.saturating_add(skip);
                self.devices.read(DeviceAddress { offset, ..at }, dst)
            }
            Location::Meta { space, offset } => {
                self.read_meta(space, offset.saturating_add(skip), dst)
            }
        }
    }

    fn read_compressed(
        &self,
        map: &FileMap,
        extent: &Extent,
        pcluster: &Pcluster,
        within: u64,
        dst: &mut [u8],
    ) -> Result<()> {
        // Both lengths were checked by the map: at most 1 MiB and 12 MiB.
        let mut raw = vec![0; usize_from_u32(pcluster.len)];
        self.read_encoded(pcluster, 0, &mut raw)?;
        let mut decoder = self.decoder();
        let rules = &self.rules;
        let result = if within == 0 {
            decode_extent(&mut decoder, rules, extent, pcluster, &raw, dst)
        } else {
            let skip = usize_from_u64(within);
            let mut head = vec![0; skip.saturating_add(dst.len())];
            let result = decode_extent(&mut decoder, rules, extent, pcluster, &raw, &mut head);
            if result.is_ok() {
                dst.copy_from_slice(head.get(skip..).unwrap_or(&[]));
            }
            result
        };
        self.give_back(decoder);
        result.map_err(|source| undecodable(map, extent, pcluster, source))
    }

    fn decoder(&self) -> Decoder {
        let idle = self.decoders.lock().ok().and_then(|mut decoders| decoders.pop());
        idle.unwrap_or_default()
    }

    fn give_back(&self, decoder: Decoder) {
        if let Ok(mut decoders) = self.decoders.lock()
            && decoders.len() < DECODERS_MAX
        {
            decoders.push(decoder);
        }
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.file_type != FileType::Symlink {
            return Err(Error::WrongType { nid: inode.nid, what: "not a symbolic link" });
        }
        // At most 4095 bytes, checked when the inode was read.
        let mut target = vec![0; usize_from_u64(inode.size)];
        let map = self.map(inode)?;
        ContentReader::new(self, &map).read(0, &mut target)?;
        Ok(target)
    }
}

/// The error of a pcluster that does not decode.
pub(crate) fn undecodable(
    map: &FileMap,
    extent: &Extent,
    pcluster: &Pcluster,
    source: ferrofs_codec::DecodeError,
) -> Error {
    let address = match pcluster.location {
        Location::Device(at) => at.offset,
        Location::Meta { offset, .. } => offset,
    };
    Error::Undecodable { place: Place::content(map.nid(), extent.start), address, source }
}
