// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encoded-extent records of 4, 8, 16 or 32 bytes. format.md §12.

use crate::num::{u32_at, u64_at};
use crate::superblock::low_half;
use crate::{FormatError, Result, limits};
use alloc::vec::Vec;

const LEN_MASK: u32 = 0x1F_FFFF;
const PARTIAL: u32 = 1 << 27;
const FORMAT_SHIFT: u32 = 28;

/// The `plen` word of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EncodedLen {
    /// Encoded bytes, at most 1 MiB; 0 is a hole.
    pub len: u32,
    /// The pcluster decodes to more than the extent uses.
    pub partial: bool,
    /// Algorithm id; `None` is plain.
    pub algorithm: Option<u8>,
}

impl EncodedLen {
    /// Parses the word.
    pub fn parse(word: u32) -> Result<Self> {
        let format = word >> FORMAT_SHIFT;
        let algorithm = match format {
            0 => None,
            1..=4 => u8::try_from(format).ok().and_then(|format| format.checked_sub(1)),
            _ => {
                return Err(FormatError::Unsupported {
                    what: "format of an extent record",
                    value: u64::from(format),
                });
            }
        };
        let len = word & LEN_MASK;
        if u64::from(len) > limits::PCLUSTER_SIZE_MAX {
            return Err(FormatError::Unsupported {
                what: "encoded length of an extent record",
                value: u64::from(len),
            });
        }
        Ok(Self { len, partial: word & PARTIAL != 0, algorithm })
    }

    /// The word.
    pub fn emit(self) -> Result<u32> {
        if u64::from(self.len) > limits::PCLUSTER_SIZE_MAX {
            return Err(FormatError::DoesNotFit {
                what: "encoded length of an extent record",
                value: u64::from(self.len),
            });
        }
        let format = self.algorithm.map_or(0, |id| u32::from(id).saturating_add(1));
        if format > 4 {
            return Err(FormatError::DoesNotFit {
                what: "algorithm of an extent record",
                value: u64::from(format),
            });
        }
        Ok(self.len | if self.partial { PARTIAL } else { 0 } | format << FORMAT_SHIFT)
    }
}

/// A record as stored; fields that a record size lacks are `None`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExtentRecord {
    /// The `plen` word, unparsed: in the last record of a file with a fragment tail it is the low
    /// half of the fragment's offset.
    pub word: u32,
    /// Physical start byte; with a fragment tail its low half is the high half of the offset.
    pub physical: Option<u64>,
    /// Logical start byte.
    pub logical: Option<u64>,
}

impl ExtentRecord {
    /// Parses a record of `record_len` bytes at the start of `bytes`.
    pub fn parse(bytes: &[u8], record_len: u8) -> Result<Self> {
        const WHAT: &str = "extent record";
        let word = u32_at(bytes, 0, WHAT)?;
        let low = |offset| u32_at(bytes, offset, WHAT).map(u64::from);
        let (physical, logical) = match record_len {
            4 => (None, None),
            8 => (Some(low(4)?), None),
            16 => (Some(low(4)? | low(8)? << 32), Some(low(12)?)),
            _ => (Some(low(4)? | low(8)? << 32), Some(u64_at(bytes, 12, WHAT)?)),
        };
        if record_len == 32 && bytes.len() < 32 {
            return Err(FormatError::Truncated {
                what: WHAT,
                needed: 32,
                have: crate::num::u64_from_usize(bytes.len()),
            });
        }
        Ok(Self { word, physical, logical })
    }

    /// Appends the record with `record_len` bytes; values that it cannot hold are errors.
    pub fn emit(&self, record_len: u8, out: &mut Vec<u8>) -> Result<()> {
        let physical = self.physical.unwrap_or(0);
        let logical = self.logical.unwrap_or(0);
        let narrow = |value: u64, what| {
            u32::try_from(value).map_err(|_| FormatError::DoesNotFit { what, value })
        };
        out.extend_from_slice(&self.word.to_le_bytes());
        match record_len {
            4 => {}
            8 => out.extend_from_slice(&narrow(physical, "physical address")?.to_le_bytes()),
            16 => {
                out.extend_from_slice(&physical.to_le_bytes());
                out.extend_from_slice(&narrow(logical, "logical address")?.to_le_bytes());
            }
            _ => {
                out.extend_from_slice(&physical.to_le_bytes());
                out.extend_from_slice(&logical.to_le_bytes());
                out.extend_from_slice(&[0; 12]);
            }
        }
        Ok(())
    }

    /// Fragment offset that the last record of a file with a fragment tail holds.
    #[must_use]
    pub fn fragment_offset(&self) -> u64 {
        let high = self.physical.map_or(0, low_half);
        u64::from(self.word) | u64::from(high) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn worked_example() {
        // format.md §12: d5170040 is zstd, 0x17d5 bytes.
        let word = u32::from_le_bytes([0xd5, 0x17, 0, 0x40]);
        let parsed = EncodedLen::parse(word).unwrap();
        assert_eq!(parsed, EncodedLen { len: 0x17d5, partial: false, algorithm: Some(3) });
        assert_eq!(parsed.emit().unwrap(), word);
        assert!(EncodedLen::parse(9 << 28).is_err());
        assert!(EncodedLen::parse(0x10_0001).is_err());
    }

    proptest! {
        #[test]
        fn records_round_trip(word: u32, physical: u64, logical: u64, size in 2u32..6) {
            let record_len = 1u8 << size;
            let record = ExtentRecord {
                word,
                physical: match record_len {
                    4 => None,
                    8 => Some(physical & 0xFFFF_FFFF),
                    _ => Some(physical),
                },
                logical: match record_len {
                    4 | 8 => None,
                    16 => Some(logical & 0xFFFF_FFFF),
                    _ => Some(logical),
                },
            };
            let mut out = Vec::new();
            record.emit(record_len, &mut out).unwrap();
            prop_assert_eq!(out.len(), usize::from(record_len));
            prop_assert_eq!(ExtentRecord::parse(&out, record_len).unwrap(), record);
            prop_assert!(ExtentRecord::parse(&out[..out.len() - 1], record_len).is_err());
        }
    }
}
