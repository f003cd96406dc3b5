// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compact indexes: packs of 2 or 16 lclusters that share one base address. format.md §10.2.

use super::{BLOCK_COUNT_FLAG, Back, DELTA_MAX, Head, Lcluster};
use crate::num::{u32_at, u64_from_usize, usize_from_u64};
use crate::{FormatError, Result};
use alloc::vec::Vec;

/// Entries of the larger pack.
pub const PACK_ENTRIES_MAX: usize = 16;

/// The two kinds of packs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pack {
    /// 8 bytes, 2 entries of 16 bits.
    Four,
    /// 32 bytes, 16 entries of 14 bits.
    Two,
}

impl Pack {
    /// Bytes of a pack.
    #[must_use]
    pub const fn byte_len(self) -> usize {
        match self {
            Self::Four => 8,
            Self::Two => 32,
        }
    }

    /// Entries in a pack.
    #[must_use]
    pub const fn entries(self) -> usize {
        match self {
            Self::Four => 2,
            Self::Two => PACK_ENTRIES_MAX,
        }
    }

    const fn bits(self) -> usize {
        match self {
            Self::Four => 16,
            Self::Two => 14,
        }
    }
}

/// Where the packs of an inode are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackLayout {
    entries: u64,
    /// Entries in 4B packs before the first 2B pack.
    leading: u64,
    /// Entries in 2B packs.
    middle: u64,
}

/// One pack's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackAt {
    /// Kind.
    pub pack: Pack,
    /// Byte offset from the first pack.
    pub offset: u64,
    /// lcluster of its first entry.
    pub first: u64,
}

impl PackLayout {
    /// Lays out `entries` lclusters whose first pack lies at byte `start` (mod 32 counts);
    /// `two_byte` = the header advises 2B packs.
    #[must_use]
    pub fn new(start: u64, entries: u64, two_byte: bool) -> Self {
        // Distance to the next multiple of 32, in 4-byte entries: 0, 2, 4 or 6.
        let gap = start.wrapping_neg() & 31;
        let leading = gap >> 2;
        if two_byte && leading < entries {
            let middle = entries.saturating_sub(leading) & !15;
            if middle > 0 {
                return Self { entries, leading, middle };
            }
        }
        Self { entries, leading: 0, middle: 0 }
    }

    /// Bytes of all packs.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        let rest = self.entries.saturating_sub(self.leading).saturating_sub(self.middle);
        let trailing = rest.saturating_add(1) & !1;
        // 4 bytes an entry in 4B packs, 2 in 2B packs.
        self.leading
            .saturating_add(trailing)
            .saturating_mul(4)
            .saturating_add(self.middle.saturating_mul(2))
    }

    /// The pack that holds `lcluster`.
    #[must_use]
    pub fn locate(&self, lcluster: u64) -> PackAt {
        if lcluster < self.leading {
            let first = lcluster & !1;
            return PackAt { pack: Pack::Four, offset: first.saturating_mul(4), first };
        }
        let middle_end = self.leading.saturating_add(self.middle);
        let middle_offset = self.leading.saturating_mul(4);
        if lcluster < middle_end {
            let within = lcluster.saturating_sub(self.leading) & !15;
            return PackAt {
                pack: Pack::Two,
                offset: middle_offset.saturating_add(within.saturating_mul(2)),
                first: self.leading.saturating_add(within),
            };
        }
        let within = lcluster.saturating_sub(middle_end) & !1;
        PackAt {
            pack: Pack::Four,
            offset: middle_offset
                .saturating_add(self.middle.saturating_mul(2))
                .saturating_add(within.saturating_mul(4)),
            first: middle_end.saturating_add(within),
        }
    }
}

/// How an inode's packs are to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackRules {
    /// lcluster size exponent; at most 14 for 4B packs and 12 for 2B packs.
    pub lcluster_bits: u8,
    /// pclusters may span several blocks.
    pub big: bool,
}

impl PackRules {
    const fn low_bits(self) -> u8 {
        if self.lcluster_bits > 12 { self.lcluster_bits } else { 12 }
    }

    fn check(self, pack: Pack) -> Result<()> {
        let most = if pack == Pack::Two { 12 } else { 14 };
        if self.lcluster_bits > most {
            return Err(FormatError::Unsupported {
                what: "lcluster size of compact indexes",
                value: u64::from(self.lcluster_bits),
            });
        }
        Ok(())
    }
}

/// A decoded pack.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    entries: [Lcluster; PACK_ENTRIES_MAX],
    len: usize,
}

impl Decoded {
    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[Lcluster] {
        self.entries.get(..self.len).unwrap_or(&[])
    }
}

/// Decodes a pack. `used` is how many of its entries belong to the file; the unused slot of the
/// last pack is zero and must not be taken for a head.
pub fn parse(bytes: &[u8], pack: Pack, used: usize, rules: PackRules) -> Result<Decoded> {
    rules.check(pack)?;
    let base_at = pack.byte_len().saturating_sub(4);
    let base = u32_at(bytes, base_at, "lcluster pack")?;
    let len = pack.entries().min(used);
    let mut raw = [(0u16, 0u8); PACK_ENTRIES_MAX];
    for (slot, entry) in raw.iter_mut().enumerate().take(len) {
        *entry = raw_entry(bytes, slot, pack, rules)?;
    }
    let raw = raw.get(..len).unwrap_or(&[]);
    let filler = Lcluster::NonHead { back: Back::Distance(0), forward: 0 };
    let mut decoded = Decoded { entries: [filler; PACK_ENTRIES_MAX], len };
    let mut blocks = Blocks::new(base, rules.big);
    for (slot, out) in decoded.entries.iter_mut().enumerate().take(len) {
        *out = decode_entry(raw, slot, pack, rules, &mut blocks)?;
    }
    Ok(decoded)
}

fn decode_entry(
    raw: &[(u16, u8)],
    slot: usize,
    pack: Pack,
    rules: PackRules,
    blocks: &mut Blocks,
) -> Result<Lcluster> {
    let (low, kind) = raw.get(slot).copied().unwrap_or((0, 0));
    let next = raw.get(slot.saturating_add(1)).copied();
    if kind != 2 {
        if u32::from(low) >= 1u32 << rules.lcluster_bits {
            return Err(FormatError::corrupt(
                "extent begins behind its own lcluster",
                u64::from(low),
            ));
        }
        let head = match kind {
            0 => Head::Plain,
            1 => Head::Head1,
            _ => Head::Head2,
        };
        let block = blocks.head(next)?;
        return Ok(Lcluster::Head { head, offset: low, block, partial: false, hole: false });
    }
    let last = slot.saturating_add(1) == pack.entries();
    if low & BLOCK_COUNT_FLAG != 0 {
        let count = low & DELTA_MAX;
        blocks.count(count)?;
        let forward = forward_of(raw, slot, pack);
        return Ok(Lcluster::NonHead { back: Back::Blocks(count), forward });
    }
    let back = if last {
        // The slot holds delta1, so delta0 follows from the entry before.
        match slot.checked_sub(1).and_then(|before| raw.get(before)) {
            Some(&(before, 2)) if before & BLOCK_COUNT_FLAG != 0 => 2,
            Some(&(before, 2)) => before.saturating_add(1).min(DELTA_MAX),
            _ => 1,
        }
    } else {
        low
    };
    Ok(Lcluster::NonHead { back: Back::Distance(back), forward: forward_of(raw, slot, pack) })
}

/// Distance to the next head from the NONHEAD at `slot`.
fn forward_of(raw: &[(u16, u8)], slot: usize, pack: Pack) -> u16 {
    let mut distance = 0u16;
    for (index, &(low, kind)) in raw.iter().enumerate().skip(slot) {
        if kind != 2 {
            return distance;
        }
        if index.saturating_add(1) == pack.entries() && low & BLOCK_COUNT_FLAG == 0 {
            return distance.saturating_add(low).min(DELTA_MAX);
        }
        distance = distance.saturating_add(1);
    }
    distance
}

/// Follows the addresses inside one pack.
struct Blocks {
    current: u32,
    big: bool,
}

impl Blocks {
    fn new(base: u32, big: bool) -> Self {
        Self { current: base, big }
    }

    fn head(&mut self, next: Option<(u16, u8)>) -> Result<u32> {
        if !self.big {
            self.current = self.current.wrapping_add(1);
            return Ok(self.current);
        }
        let block = self.current;
        match next {
            Some((low, 2)) if low & BLOCK_COUNT_FLAG == 0 => {
                return Err(FormatError::corrupt(
                    "lcluster behind a big pcluster's head lacks the block count",
                    u64::from(low),
                ));
            }
            Some((_, 2)) | None => {}
            Some(_) => self.current = self.current.wrapping_add(1),
        }
        Ok(block)
    }

    fn count(&mut self, blocks: u16) -> Result<()> {
        if !self.big {
            return Err(FormatError::corrupt(
                "block count in an lcluster of an inode without big pclusters",
                u64::from(blocks),
            ));
        }
        self.current = self.current.wrapping_add(u32::from(blocks));
        Ok(())
    }
}

fn raw_entry(bytes: &[u8], slot: usize, pack: Pack, rules: PackRules) -> Result<(u16, u8)> {
    let bit = slot.saturating_mul(pack.bits());
    // 14- and 16-bit entries at any bit offset lie within 4 bytes; a pack ends in its 4-byte base,
    // so reading 4 bytes never leaves the pack.
    let word = u32_at(bytes, bit >> 3, "lcluster pack")? >> (bit & 7);
    let low_bits = rules.low_bits();
    let low = word & (1u32 << low_bits).wrapping_sub(1);
    let kind = word >> low_bits & 3;
    Ok((u16::try_from(low).unwrap_or(u16::MAX), u8::try_from(kind).unwrap_or(0)))
}

/// Encodes all lclusters of an inode. Heads inside a pack must have consecutive pclusters, which is
/// what a writer that allocates in order produces; anything else is an error.
///
/// `start` is the byte where the packs will lie (mod 32 counts).
pub fn emit(
    lclusters: &[Lcluster],
    start: u64,
    two_byte: bool,
    rules: PackRules,
    out: &mut Vec<u8>,
) -> Result<()> {
    let layout = PackLayout::new(start, u64_from_usize(lclusters.len()), two_byte);
    let mut first = 0u64;
    let mut running = Running::default();
    while usize_from_u64(first) < lclusters.len() {
        let at = layout.locate(first);
        let rest = lclusters.get(usize_from_u64(first)..).unwrap_or(&[]);
        let entries = rest.get(..at.pack.entries().min(rest.len())).unwrap_or(&[]);
        emit_pack(entries, rest, at.pack, rules, &mut running, out)?;
        first = first.saturating_add(u64_from_usize(at.pack.entries()));
    }
    Ok(())
}

/// First block behind everything emitted so far: the base of a BIG pack that holds no head.
#[derive(Default)]
struct Running {
    end: u32,
}

fn emit_pack(
    entries: &[Lcluster],
    rest: &[Lcluster],
    pack: Pack,
    rules: PackRules,
    running: &mut Running,
    out: &mut Vec<u8>,
) -> Result<()> {
    rules.check(pack)?;
    let base = base_of(entries, rest, rules, running);
    let mut bytes = [0u8; 32];
    for (slot, &entry) in entries.iter().enumerate() {
        let last = slot.saturating_add(1) == pack.entries();
        let word = entry_word(entry, last, rules)?;
        put_bits(&mut bytes, slot.saturating_mul(pack.bits()), word);
    }
    let base_at = pack.byte_len().saturating_sub(4);
    if let Some(slot) = bytes.get_mut(base_at..pack.byte_len()) {
        slot.copy_from_slice(&base.to_le_bytes());
    }
    let emitted = bytes.get(..pack.byte_len()).unwrap_or(&[]);
    // What a reader will see must be what was meant: catches address gaps inside a pack.
    let back = parse(emitted, pack, entries.len(), rules)?;
    for (&meant, &read) in entries.iter().zip(back.entries()) {
        if let (Lcluster::Head { block, .. }, Lcluster::Head { block: read, .. }) = (meant, read)
            && block != read
        {
            return Err(FormatError::DoesNotFit {
                what: "lcluster pack (pclusters are not consecutive)",
                value: u64::from(block),
            });
        }
    }
    out.extend_from_slice(emitted);
    track(entries, rules, running);
    Ok(())
}

fn base_of(entries: &[Lcluster], rest: &[Lcluster], rules: PackRules, running: &Running) -> u32 {
    let next_head = rest.iter().find_map(|entry| match entry {
        Lcluster::Head { block, .. } => Some(*block),
        Lcluster::NonHead { .. } => None,
    });
    if !rules.big {
        return next_head.unwrap_or(0).wrapping_sub(1);
    }
    match entries.first() {
        // The head closed the pack before; its pcluster's address is where counting goes on.
        Some(Lcluster::NonHead { back: Back::Blocks(_), .. }) => running.end,
        _ => next_head.unwrap_or(running.end),
    }
}

fn track(entries: &[Lcluster], rules: PackRules, running: &mut Running) {
    if !rules.big {
        return;
    }
    for (slot, entry) in entries.iter().enumerate() {
        match *entry {
            Lcluster::Head { block, .. } => {
                let next = entries.get(slot.saturating_add(1));
                let single = matches!(next, Some(Lcluster::Head { .. }));
                running.end = if single { block.wrapping_add(1) } else { block };
            }
            Lcluster::NonHead { back: Back::Blocks(blocks), .. } => {
                running.end = running.end.wrapping_add(u32::from(blocks));
            }
            Lcluster::NonHead { .. } => {}
        }
    }
}

fn entry_word(entry: Lcluster, last: bool, rules: PackRules) -> Result<u32> {
    let (low, kind) = match entry {
        Lcluster::Head { partial, hole, .. } if partial || hole => {
            return Err(FormatError::DoesNotFit {
                what: "compact index (partial or hole extent)",
                value: 0,
            });
        }
        Lcluster::Head { head, offset, .. } => (offset, head.type_bits()),
        Lcluster::NonHead { back: back @ Back::Blocks(_), .. } => (back.emit()?, 2),
        Lcluster::NonHead { forward, .. } if last => (forward.min(DELTA_MAX), 2),
        Lcluster::NonHead { back, .. } => (back.emit()?, 2),
    };
    Ok(u32::from(low) | u32::from(kind) << rules.low_bits())
}

fn put_bits(bytes: &mut [u8; 32], bit: usize, word: u32) {
    let shifted = word << (bit & 7);
    let start = bit >> 3;
    for (slot, byte) in bytes.iter_mut().skip(start).zip(shifted.to_le_bytes()) {
        *slot |= byte;
    }
}

#[cfg(test)]
mod tests;
