// SPDX-License-Identifier: MIT OR Apache-2.0
//! lcluster indexes, full and compact: from an offset to its extent. format.md §10, §11.
//!
//! A lookup walks back to the head by the stored distances and forward lcluster by lcluster: the
//! true end of an extent is always known here. Both walks are bounded by the largest decoded
//! pcluster.

use super::{
    Encoding, Extent, FileMap, Head as InodeHead, Location, MetaReader, Pcluster, Source, algorithm,
};
use crate::{Error, Place, Result, Space};
use ferrofs_format::inode::Layout;
use ferrofs_format::lcluster::compact::{self, PACK_ENTRIES_MAX, PackLayout, PackRules};
use ferrofs_format::lcluster::header::{Advise, MapFields};
use ferrofs_format::lcluster::{Back, Head, Lcluster, full};
use ferrofs_format::limits::DECODED_SIZE_MAX;
use ferrofs_format::num::{u64_from_usize, usize_from_u64};

#[derive(Clone, Debug)]
enum Table {
    Full,
    Compact(PackLayout, PackRules),
}

#[derive(Clone, Debug)]
pub(super) struct IndexMap {
    header: MapFields,
    bits: u8,
    table: Table,
    space: Space,
    /// Byte offset of the first index or pack.
    first: u64,
    /// Number of lclusters.
    count: u64,
    /// Byte offset and length of the inline pcluster.
    inline: Option<(u64, u16)>,
    fragment: Option<u64>,
}

/// Decoded indexes of a run of lclusters.
#[derive(Debug)]
pub(super) struct Window {
    first: u64,
    len: usize,
    entries: [Lcluster; PACK_ENTRIES_MAX],
}

impl Window {
    pub(super) const EMPTY: Self = Self {
        first: 0,
        len: 0,
        entries: [Lcluster::NonHead { back: Back::Distance(0), forward: 0 }; PACK_ENTRIES_MAX],
    };

    fn get(&self, lcluster: u64) -> Option<Lcluster> {
        let index = usize_from_u64(lcluster.checked_sub(self.first)?);
        if index < self.len { self.entries.get(index).copied() } else { None }
    }
}

/// A head and where it is.
#[derive(Clone, Copy)]
struct At {
    lcluster: u64,
    start: u64,
    head: Head,
    block: u32,
    partial: bool,
    hole: bool,
}

impl IndexMap {
    pub(super) fn new(head: &InodeHead<'_>, header: MapFields, at: u64) -> Result<Self> {
        let inode = head.inode;
        let block_bits = head.image.superblock().block_bits;
        let bits = header.lcluster_bits(block_bits);
        let count = inode.size.div_ceil(1 << bits);
        let place = head.place;
        Self::check_header(head, header)?;
        let (table, first, len) = if inode.layout() == Layout::CompressedFull {
            let first = at.saturating_add(u64_from_usize(full::FIRST_INDEX));
            (Table::Full, first, count.saturating_mul(u64_from_usize(full::INDEX_LEN)))
        } else {
            if header.cluster_bits != 0 {
                return Err(Error::Unsupported {
                    place,
                    what: "compact indexes of lclusters that are not one block",
                    value: u64::from(header.cluster_bits),
                });
            }
            let first = at.saturating_add(8);
            let two_byte = header.advise.has(Advise::COMPACTED_2B);
            let layout = PackLayout::new(first, count, two_byte);
            let big = header.advise.has(Advise::BIG_PCLUSTER_1);
            let rules = PackRules { lcluster_bits: bits, big };
            (Table::Compact(layout, rules), first, layout.byte_len())
        };
        let check = |offset, len| {
            head.image.check_space(inode.space, offset, len).map_err(|e| e.with_nid(inode.nid))
        };
        check(first, len)?;
        let inline = match header.inline_len() {
            0 => None,
            inline_len => {
                let at = first.saturating_add(len);
                let end = block_bits.offset_in_block(at).saturating_add(u64::from(inline_len));
                if end > block_bits.size_u64() {
                    return Err(Error::corrupt(
                        place,
                        "inline pcluster crosses a block",
                        u64::from(inline_len),
                    ));
                }
                check(at, u64::from(inline_len))?;
                Some((at, inline_len))
            }
        };
        let fragment = header.advise.has(Advise::FRAGMENT).then(|| u64::from(header.word));
        Ok(Self { header, bits, table, space: inode.space, first, count, inline, fragment })
    }

    fn check_header(head: &InodeHead<'_>, header: MapFields) -> Result<()> {
        use ferrofs_format::features::IncompatFeatures;
        let big = Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2;
        let stated = header.advise.0 & big;
        if stated != 0 && !head.image.superblock().incompat.has(IncompatFeatures::COMPR_CFGS) {
            return Err(Error::corrupt(
                head.place,
                "big pclusters in an image without that feature",
                u64::from(stated),
            ));
        }
        if head.inode.layout() == Layout::CompressedCompact && stated != 0 && stated != big {
            return Err(Error::corrupt(
                head.place,
                "big pclusters for one head type only, in compact indexes",
                u64::from(stated),
            ));
        }
        Ok(())
    }

    pub(super) const fn header(&self) -> MapFields {
        self.header
    }

    pub(super) const fn has_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    fn load(
        &self,
        place: Place,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        lcluster: u64,
    ) -> Result<()> {
        let format = |error| Error::format(error, place);
        window.len = 0;
        match &self.table {
            Table::Full => {
                let first = lcluster & !15;
                let left = usize_from_u64(self.count.saturating_sub(first)).min(PACK_ENTRIES_MAX);
                let mut bytes = [0; PACK_ENTRIES_MAX * full::INDEX_LEN];
                let used = left.saturating_mul(full::INDEX_LEN);
                let bytes = bytes.get_mut(..used).unwrap_or_default();
                let skip = first.saturating_mul(u64_from_usize(full::INDEX_LEN));
                meta.read(self.space, self.first.saturating_add(skip), bytes)?;
                let size = 1u32.checked_shl(u32::from(self.bits)).unwrap_or(u32::MAX);
                for (slot, index) in
                    window.entries.iter_mut().zip(bytes.chunks_exact(full::INDEX_LEN))
                {
                    *slot = full::parse(index, size).map_err(format)?;
                }
                window.first = first;
                window.len = left;
            }
            Table::Compact(layout, rules) => {
                let at = layout.locate(lcluster);
                let mut bytes = [0; 32];
                let bytes = bytes.get_mut(..at.pack.byte_len()).unwrap_or_default();
                meta.read(self.space, self.first.saturating_add(at.offset), bytes)?;
                let used = usize_from_u64(self.count.saturating_sub(at.first));
                let pack = compact::parse(bytes, at.pack, used, *rules).map_err(format)?;
                let entries = pack.entries();
                for (slot, entry) in window.entries.iter_mut().zip(entries) {
                    *slot = *entry;
                }
                window.first = at.first;
                window.len = entries.len();
            }
        }
        Ok(())
    }

    fn get(
        &self,
        place: Place,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        lcluster: u64,
    ) -> Result<Lcluster> {
        if let Some(found) = window.get(lcluster) {
            return Ok(found);
        }
        self.load(place, meta, window, lcluster)?;
        window.get(lcluster).ok_or(Error::corrupt(
            place,
            "lcluster behind the end of the index",
            lcluster,
        ))
    }

    /// Most lclusters that one extent reaches into.
    const fn reach(&self) -> u64 {
        (DECODED_SIZE_MAX >> self.bits).saturating_add(2)
    }

    /// The head of the extent that holds `offset`.
    fn head_at(
        &self,
        place: Place,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        offset: u64,
    ) -> Result<At> {
        let wanted = offset >> self.bits;
        let mut lcluster = wanted;
        loop {
            if wanted.saturating_sub(lcluster) > self.reach() {
                return Err(Error::corrupt(place, "extent decodes to more than 12 MiB", lcluster));
            }
            let step = match self.get(place, meta, window, lcluster)? {
                Lcluster::Head { head, offset: within, block, partial, hole } => {
                    let start = (lcluster << self.bits).saturating_add(u64::from(within));
                    if start <= offset {
                        return Ok(At { lcluster, start, head, block, partial, hole });
                    }
                    1
                }
                Lcluster::NonHead { back, .. } => u64::from(back.steps()),
            };
            if step == 0 || step > lcluster {
                return Err(Error::corrupt(
                    place,
                    "lcluster points back before the file's start or at itself",
                    step,
                ));
            }
            lcluster = lcluster.saturating_sub(step);
        }
    }

    /// First offset behind the extent of `at`.
    fn end_of(
        &self,
        map: &FileMap,
        place: Place,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        at: &At,
    ) -> Result<u64> {
        let mut lcluster = at.lcluster.saturating_add(1);
        while lcluster < self.count {
            if lcluster.saturating_sub(at.lcluster) > self.reach() {
                return Err(Error::corrupt(place, "extent decodes to more than 12 MiB", lcluster));
            }
            if let Lcluster::Head { offset, .. } = self.get(place, meta, window, lcluster)? {
                let end = (lcluster << self.bits).saturating_add(u64::from(offset));
                return Ok(end.min(map.size()));
            }
            lcluster = lcluster.saturating_add(1);
        }
        Ok(map.size())
    }

    /// Blocks of the pcluster of `at`; 0 is a hole.
    fn blocks_of(
        &self,
        place: Place,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        at: &At,
    ) -> Result<u16> {
        let bit = match at.head {
            Head::Head1 => Advise::BIG_PCLUSTER_1,
            Head::Plain | Head::Head2 => Advise::BIG_PCLUSTER_2,
        };
        let next = at.lcluster.saturating_add(1);
        if !self.header.advise.has(bit) || next >= self.count {
            return Ok(1);
        }
        match self.get(place, meta, window, next)? {
            Lcluster::Head { .. } => Ok(1),
            Lcluster::NonHead { back: Back::Blocks(blocks), .. } => Ok(blocks),
            Lcluster::NonHead { .. } => Err(Error::corrupt(
                place,
                "lcluster behind a big pcluster's head lacks the block count",
                next,
            )),
        }
    }

    pub(super) fn extent_at(
        &self,
        map: &FileMap,
        meta: &mut MetaReader<'_>,
        window: &mut Window,
        offset: u64,
    ) -> Result<Extent> {
        let nid = map.nid();
        let place = Place::content(nid, offset);
        let at = self.head_at(place, meta, window, offset).map_err(|error| error.with_nid(nid))?;
        // The block count stands right behind the head: read it before walking on.
        let blocks = self.blocks_of(place, meta, window, &at)?;
        let end = self.end_of(map, place, meta, window, &at)?;
        let len = end.saturating_sub(at.start);
        let place = Place::content(nid, at.start);
        let source = if end == map.size() && self.is_special_tail() {
            self.tail(meta, &at, place)?
        } else {
            self.pcluster(map, meta, &at, blocks, place)?
        };
        Ok(Extent { start: at.start, len, source })
    }

    const fn is_special_tail(&self) -> bool {
        self.fragment.is_some() || self.inline.is_some()
    }

    /// The last extent of a file whose tail is a fragment or an inline pcluster.
    fn tail(&self, meta: &MetaReader<'_>, at: &At, place: Place) -> Result<Source> {
        if let Some(low) = self.fragment {
            let high = match self.table {
                Table::Full => u64::from(at.block) << 32,
                Table::Compact(..) => 0,
            };
            return Ok(Source::Fragment { offset: low | high });
        }
        let (offset, len) = self.inline.unwrap_or((0, 0));
        // An inline raw tail is never rotated, whatever the advice says. format.md §11.3.
        let encoding = match at.head {
            Head::Plain => Encoding::Shifted,
            _ => self.encoding(meta, at, place)?,
        };
        Ok(Source::Pcluster(Pcluster {
            location: Location::Meta { space: self.space, offset },
            len: u32::from(len),
            encoding,
            partial: at.partial,
        }))
    }

    fn pcluster(
        &self,
        map: &FileMap,
        meta: &MetaReader<'_>,
        at: &At,
        blocks: u16,
        place: Place,
    ) -> Result<Source> {
        if at.hole || blocks == 0 {
            return Ok(Source::Hole);
        }
        let bits = meta.image.superblock().block_bits;
        let len = u64::from(blocks) << bits.bits();
        let len = u32::try_from(len)
            .ok()
            .filter(|len| u64::from(*len) <= ferrofs_format::limits::PCLUSTER_SIZE_MAX)
            .ok_or(Error::corrupt(place, "pcluster is larger than 1 MiB", len))?;
        let address = u64::from(at.block) << bits.bits();
        let found = meta.image.devices.resolve(0, address, u64::from(len), map.nid())?;
        Ok(Source::Pcluster(Pcluster {
            location: Location::Device(found),
            len,
            encoding: self.encoding(meta, at, place)?,
            partial: at.partial,
        }))
    }

    fn encoding(&self, meta: &MetaReader<'_>, at: &At, place: Place) -> Result<Encoding> {
        let id = match at.head {
            Head::Plain if self.header.advise.has(Advise::INTERLACED) => {
                return Ok(Encoding::Interlaced);
            }
            Head::Plain => return Ok(Encoding::Shifted),
            Head::Head1 => self.header.algorithm1(),
            Head::Head2 => self.header.algorithm2(),
        };
        algorithm(meta.image, id, place).map(Encoding::Compressed)
    }
}
