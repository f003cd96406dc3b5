// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chunk-based inodes. format.md §7.

use super::{Extent, FileMap, Head, MetaReader, Source};
use crate::{DeviceAddress, Error, Result, Space};
use ferrofs_format::chunk::{Chunk, ChunkFormat};
use ferrofs_format::num::{u64_from_usize, usize_from_u64};

/// Neighbouring chunks are given as one extent, up to this many: large reads become few, and one
/// lookup in a huge sparse file stays cheap.
const MERGE_MAX: u64 = 1024;

#[derive(Clone, Debug)]
pub(super) struct ChunkMap {
    format: ChunkFormat,
    /// Size exponent.
    bits: u32,
    space: Space,
    table: u64,
    count: u64,
}

impl ChunkMap {
    pub(super) fn new(head: &Head<'_>) -> Result<Self> {
        let inode = head.inode;
        let [low, high, ..] = inode.record.u.to_le_bytes();
        let format = ChunkFormat::parse(u16::from_le_bytes([low, high]))
            .map_err(|error| Error::format(error, head.place))?;
        let size = format.chunk_size(head.image.superblock().block_bits);
        let unit = u64_from_usize(format.element_len());
        let table = head.aligned(unit)?;
        let count = inode.size.div_ceil(size);
        let bytes = count.checked_mul(unit).ok_or(Error::corrupt(
            head.place,
            "chunk table is impossibly long",
            count,
        ))?;
        head.image
            .check_space(inode.space, table, bytes)
            .map_err(|error| error.with_nid(inode.nid))?;
        Ok(Self { format, bits: size.trailing_zeros(), space: inode.space, table, count })
    }

    pub(super) const fn chunk_size(&self) -> u64 {
        1 << self.bits
    }

    fn element(&self, map: &FileMap, meta: &mut MetaReader<'_>, index: u64) -> Result<Chunk> {
        let len = self.format.element_len();
        let offset = self.table.saturating_add(index.saturating_mul(u64_from_usize(len)));
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        meta.read(self.space, offset, bytes).map_err(|error| error.with_nid(map.nid()))?;
        self.format
            .parse_element(bytes)
            .map_err(|error| Error::format(error, crate::Place::meta(self.space, offset)))
    }

    /// Bytes of chunk `index`: all of it, or what the size leaves.
    fn len_of(&self, map: &FileMap, index: u64) -> u64 {
        let start = index << self.bits;
        map.size().saturating_sub(start).min(self.chunk_size())
    }

    pub(super) fn extent_at(
        &self,
        map: &FileMap,
        meta: &mut MetaReader<'_>,
        offset: u64,
    ) -> Result<Extent> {
        let first = offset >> self.bits;
        let source = self.source(map, meta, first)?;
        let mut len = self.len_of(map, first);
        let end = self.count.min(first.saturating_add(MERGE_MAX));
        for index in first.saturating_add(1)..end {
            let next = self.source(map, meta, index)?;
            let follows = match (source, next) {
                (Source::Hole, Source::Hole) => true,
                (Source::Plain(at), Source::Plain(next)) => at.plus(len) == Some(next),
                _ => false,
            };
            if !follows {
                break;
            }
            len = len.saturating_add(self.len_of(map, index));
        }
        Ok(Extent { start: first << self.bits, len, source })
    }

    fn source(&self, map: &FileMap, meta: &mut MetaReader<'_>, index: u64) -> Result<Source> {
        let Chunk::At { device, block } = self.element(map, meta, index)? else {
            return Ok(Source::Hole);
        };
        let place = crate::Place::content(map.nid(), index << self.bits);
        let address = meta.image.superblock().block_bits.byte_of(block).ok_or(Error::corrupt(
            place,
            "block address past 2^64",
            block,
        ))?;
        let at: DeviceAddress =
            meta.image.devices.resolve(device, address, self.len_of(map, index), map.nid())?;
        Ok(Source::Plain(at))
    }
}

const _: () = assert!(usize_from_u64(MERGE_MAX) == 1024);
