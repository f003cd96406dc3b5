// SPDX-License-Identifier: MIT OR Apache-2.0
//! Full (legacy) indexes: eight bytes an lcluster. format.md §10.1.

use super::{Back, Head, Lcluster};
use crate::num::u16_at;
use crate::{FormatError, Result, num::u32_at};

/// Bytes of one index.
pub const INDEX_LEN: usize = 8;
/// Bytes between the start of the map header and the first index: the header and eight reserved.
pub const FIRST_INDEX: usize = 16;

const HOLE: u16 = 1 << 14;
const PARTIAL: u16 = 1 << 15;

/// Parses the index at the start of `bytes`; `lcluster_size` bounds the offset of a head.
pub fn parse(bytes: &[u8], lcluster_size: u32) -> Result<Lcluster> {
    let advise = u16_at(bytes, 0, "lcluster index")?;
    let offset = u16_at(bytes, 2, "lcluster index")?;
    let head = match advise & 3 {
        0 => Head::Plain,
        1 => Head::Head1,
        2 => {
            let back = Back::parse(u16_at(bytes, 4, "lcluster index")?);
            let forward = u16_at(bytes, 6, "lcluster index")?;
            return Ok(Lcluster::NonHead { back, forward });
        }
        _ => Head::Head2,
    };
    if u32::from(offset) >= lcluster_size {
        return Err(FormatError::corrupt(
            "extent begins behind its own lcluster",
            u64::from(offset),
        ));
    }
    Ok(Lcluster::Head {
        head,
        offset,
        block: u32_at(bytes, 4, "lcluster index")?,
        partial: advise & PARTIAL != 0,
        hole: advise & HOLE != 0,
    })
}

/// Emits one index. `head_offset` is the offset of the last head, which writers repeat in NONHEADs.
pub fn emit(index: Lcluster, head_offset: u16) -> Result<[u8; INDEX_LEN]> {
    let (advise, offset, word) = match index {
        Lcluster::Head { head, offset, block, partial, hole } => {
            let flags = if partial { PARTIAL } else { 0 } | if hole { HOLE } else { 0 };
            (head.type_bits() | flags, offset, block.to_le_bytes())
        }
        Lcluster::NonHead { back, forward } => {
            let [a, b] = back.emit()?.to_le_bytes();
            let [c, d] = forward.to_le_bytes();
            (2, head_offset, [a, b, c, d])
        }
    };
    let [a, b] = advise.to_le_bytes();
    let [c, d] = offset.to_le_bytes();
    let [e, f, g, h] = word;
    Ok([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example() {
        // format.md §10.1.
        let rows: [([u8; 8], Lcluster, u16); 4] = [
            (
                [1, 0, 0x48, 0x0f, 2, 0, 0, 0],
                Lcluster::Head {
                    head: Head::Head1,
                    offset: 3912,
                    block: 2,
                    partial: false,
                    hole: false,
                },
                0,
            ),
            (
                [2, 0, 0x48, 0x0f, 1, 0, 2, 0],
                Lcluster::NonHead { back: Back::Distance(1), forward: 2 },
                3912,
            ),
            ([2, 0, 0, 0, 4, 8, 8, 0], Lcluster::NonHead { back: Back::Blocks(4), forward: 8 }, 0),
            (
                [0, 0, 0xfe, 0x0f, 0x0d, 0, 0, 0],
                Lcluster::Head {
                    head: Head::Plain,
                    offset: 4094,
                    block: 13,
                    partial: false,
                    hole: false,
                },
                0,
            ),
        ];
        for (bytes, index, head_offset) in rows {
            assert_eq!(parse(&bytes, 4096).unwrap(), index);
            assert_eq!(emit(index, head_offset).unwrap(), bytes);
        }
        assert!(parse(&[1, 0, 0, 0x10, 0, 0, 0, 0], 4096).is_err(), "offset >= lcluster");
        let flagged = [1, 0xC0, 0, 0, 1, 0, 0, 0];
        assert_eq!(emit(parse(&flagged, 4096).unwrap(), 0).unwrap(), flagged);
    }
}
