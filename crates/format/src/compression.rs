// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compression configuration records behind the superblock. format.md §2.6.

use crate::features::IncompatFeatures;
use crate::num::{u16_at, u32_at, u64_from_usize};
use crate::superblock::SuperBlock;
use crate::{FormatError, Result, limits};
use alloc::vec::Vec;

/// Algorithm ids as stored: LZ4 0, MicroLZMA 1, DEFLATE 2, Zstandard 3.
pub const ALGORITHMS: u8 = 4;

/// What the records say. An algorithm that is not declared is `None`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CompressionConfigs {
    /// LZ4, declared.
    pub lz4: Option<Lz4Config>,
    /// MicroLZMA's largest window in bytes.
    pub lzma_dict_size: Option<u32>,
    /// DEFLATE's window as a power of two; 0 as written by libdeflate images means 15.
    pub deflate_window_bits: Option<u8>,
    /// Zstandard's largest window as a power of two, 10 to 20.
    pub zstd_window_log: Option<u8>,
}

/// LZ4's record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lz4Config {
    /// Largest match distance; informative.
    pub max_distance: u16,
    /// Largest pcluster in blocks (0 is read as 1). Kernels size bounce buffers by it.
    pub max_pcluster_blocks: u16,
}

impl CompressionConfigs {
    /// Bytes that hold any valid set of records, with their alignment and room for longer ones.
    pub const AREA_MAX: usize = 4096;

    /// Parses the records in `area`, the bytes behind the superblock, whose address is a multiple
    /// of four. `area` may be cut at [`Self::AREA_MAX`].
    pub fn parse(superblock: &SuperBlock, area: &[u8]) -> Result<Self> {
        if !superblock.incompat.has(IncompatFeatures::COMPR_CFGS) {
            return Ok(Self::implicit(superblock));
        }
        let mut configs = Self::default();
        let mut cursor = 0usize;
        for id in 0..ALGORITHMS {
            if superblock.u1 >> id & 1 == 0 {
                continue;
            }
            let len = usize::from(u16_at(area, cursor, "compression configuration record")?);
            if len == 0 {
                return Err(FormatError::corrupt("empty compression configuration record", 0));
            }
            let start = cursor.saturating_add(2);
            let end = start.saturating_add(len);
            let payload = area.get(start..end).ok_or(FormatError::Truncated {
                what: "compression configuration record",
                needed: u64_from_usize(end),
                have: u64_from_usize(area.len()),
            })?;
            configs.parse_record(id, payload)?;
            cursor = end.saturating_add(3) & !3;
        }
        Ok(configs)
    }

    fn implicit(superblock: &SuperBlock) -> Self {
        let lz4 = superblock
            .may_be_compressed()
            .then_some(Lz4Config { max_distance: superblock.u1, max_pcluster_blocks: 1 });
        Self { lz4, ..Self::default() }
    }

    fn parse_record(&mut self, id: u8, payload: &[u8]) -> Result<()> {
        match id {
            0 => {
                self.lz4 = Some(Lz4Config {
                    max_distance: u16_at(payload, 0, "LZ4 configuration")?,
                    max_pcluster_blocks: u16_at(payload, 2, "LZ4 configuration")?.max(1),
                });
                // The record has 14 bytes; a shorter one is refused although the rest is reserved.
                minimum_len(payload, 14, "LZ4 configuration")
            }
            1 => {
                minimum_len(payload, 14, "MicroLZMA configuration")?;
                let dict_size = u32_at(payload, 0, "MicroLZMA configuration")?;
                let format = u16_at(payload, 4, "MicroLZMA configuration")?;
                if format != 0 {
                    return Err(FormatError::Unsupported {
                        what: "MicroLZMA format",
                        value: u64::from(format),
                    });
                }
                if !(limits::LZMA_DICT_MIN..=limits::LZMA_DICT_MAX).contains(&dict_size) {
                    return Err(FormatError::corrupt(
                        "MicroLZMA dictionary size out of range",
                        u64::from(dict_size),
                    ));
                }
                self.lzma_dict_size = Some(dict_size);
                Ok(())
            }
            2 => {
                minimum_len(payload, 6, "DEFLATE configuration")?;
                let bits = payload.first().copied().unwrap_or(0);
                if bits > 15 {
                    return Err(FormatError::Unsupported {
                        what: "DEFLATE window bits",
                        value: u64::from(bits),
                    });
                }
                self.deflate_window_bits = Some(bits);
                Ok(())
            }
            _ => {
                minimum_len(payload, 6, "Zstandard configuration")?;
                let format = payload.first().copied().unwrap_or(0);
                let log = payload.get(1).copied().unwrap_or(0);
                if format != 0 {
                    return Err(FormatError::Unsupported {
                        what: "Zstandard format",
                        value: u64::from(format),
                    });
                }
                if log > 10 {
                    return Err(FormatError::Unsupported {
                        what: "Zstandard window log",
                        value: u64::from(log),
                    });
                }
                self.zstd_window_log = Some(log.saturating_add(10));
                Ok(())
            }
        }
    }

    /// Whether the algorithm of this id is declared.
    #[must_use]
    pub const fn declares(&self, id: u8) -> bool {
        match id {
            0 => self.lz4.is_some(),
            1 => self.lzma_dict_size.is_some(),
            2 => self.deflate_window_bits.is_some(),
            3 => self.zstd_window_log.is_some(),
            _ => false,
        }
    }

    /// Bitmap for the superblock's `u1`.
    #[must_use]
    pub fn bitmap(&self) -> u16 {
        (0..ALGORITHMS).filter(|&id| self.declares(id)).fold(0, |bits, id| bits | 1 << id)
    }

    /// Emits the records; to be placed directly behind the superblock.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut record = |len: u16, fields: &[u8]| {
            let padded = out.len().saturating_add(3) & !3;
            out.resize(padded, 0u8);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(fields);
            let rest = usize::from(len).saturating_sub(fields.len());
            out.resize(out.len().saturating_add(rest), 0);
        };
        if let Some(lz4) = self.lz4 {
            let distance = lz4.max_distance.to_le_bytes();
            let blocks = lz4.max_pcluster_blocks.to_le_bytes();
            record(14, &[distance, blocks].concat());
        }
        if let Some(dict_size) = self.lzma_dict_size {
            record(14, &dict_size.to_le_bytes());
        }
        if let Some(bits) = self.deflate_window_bits {
            record(6, &[bits]);
        }
        if let Some(log) = self.zstd_window_log {
            record(6, &[0, log.saturating_sub(10)]);
        }
        out
    }
}

fn minimum_len(payload: &[u8], needed: usize, what: &'static str) -> Result<()> {
    if payload.len() < needed {
        return Err(FormatError::Truncated {
            what,
            needed: u64_from_usize(needed),
            have: u64_from_usize(payload.len()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_bytes_of_all_four() {
        let configs = CompressionConfigs {
            lz4: Some(Lz4Config { max_distance: 65535, max_pcluster_blocks: 16 }),
            lzma_dict_size: Some(262_144),
            deflate_window_bits: Some(15),
            zstd_window_log: Some(19),
        };
        // format.md §2.6.
        let expected = [
            0x0e, 0, 0xff, 0xff, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0e, 0, 0, 0, 4, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0x0f, 0, 0, 0, 0, 0, 6, 0, 0, 9, 0, 0, 0, 0,
        ];
        assert_eq!(configs.emit(), expected);
        assert_eq!(configs.bitmap(), 0xF);
    }
}
