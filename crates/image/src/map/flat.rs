// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contiguous blocks, with or without an inline tail. format.md §4.

use super::{Extent, FileMap, Head, MetaReader, Source};
use crate::{Error, Result, Space};
use ferrofs_format::inode::Layout;

#[derive(Clone, Debug)]
pub(super) struct FlatMap {
    /// First byte of the blocks in the unified address space; `None` is the null address.
    start: Option<u64>,
    /// Bytes in blocks; what is left of the size is the tail.
    in_blocks: u64,
    tail: (Space, u64),
}

impl FlatMap {
    pub(super) fn new(head: &Head<'_>) -> Result<Self> {
        let inode = head.inode;
        let bits = head.image.superblock().block_bits;
        let start = match inode.record.start_block() {
            None => None,
            Some(block) => Some(bits.byte_of(block).ok_or(Error::corrupt(
                head.place,
                "block address past 2^64",
                block,
            ))?),
        };
        let tail_at = inode.body_end();
        if inode.layout() == Layout::FlatPlain {
            return Ok(Self { start, in_blocks: inode.size, tail: (inode.space, tail_at) });
        }
        let tail_len = bits.offset_in_block(inode.size);
        if tail_len == 0 {
            return Err(Error::corrupt(
                head.place,
                "inline layout for a size of whole blocks",
                inode.size,
            ));
        }
        if bits.offset_in_block(tail_at).saturating_add(tail_len) > bits.size_u64() {
            return Err(Error::corrupt(head.place, "inline tail crosses a block", tail_len));
        }
        head.image
            .check_space(inode.space, tail_at, tail_len)
            .map_err(|error| error.with_nid(inode.nid))?;
        let in_blocks = inode.size.saturating_sub(tail_len);
        Ok(Self { start, in_blocks, tail: (inode.space, tail_at) })
    }

    pub(super) fn extent_at(
        &self,
        map: &FileMap,
        meta: &MetaReader<'_>,
        offset: u64,
    ) -> Result<Extent> {
        if offset >= self.in_blocks {
            let (space, at) = self.tail;
            return Ok(Extent {
                start: self.in_blocks,
                len: map.size().saturating_sub(self.in_blocks),
                source: Source::Inline { space, offset: at },
            });
        }
        let source = match self.start {
            None => Source::Hole,
            Some(start) => {
                Source::Plain(meta.image.devices.resolve(0, start, self.in_blocks, map.nid())?)
            }
        };
        Ok(Extent { start: 0, len: self.in_blocks, source })
    }
}
