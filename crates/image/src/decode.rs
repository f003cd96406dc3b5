// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the encoded bytes of a pcluster to the bytes of an extent. format.md §13.

use crate::{Encoding, Extent, Location, Pcluster};
use ferrofs_codec::{Algorithm, DecodeError, DecodeLimits, Decoder, lz4_in_place_margin};
use ferrofs_format::BlockBits;
use ferrofs_format::compression::CompressionConfigs;
use ferrofs_format::features::IncompatFeatures;
use ferrofs_format::num::{u64_from_usize, usize_from_u32, usize_from_u64};
use ferrofs_format::superblock::SuperBlock;

/// What decoding needs to know of an image.
#[derive(Clone, Debug)]
pub struct CodecRules {
    bits: BlockBits,
    limits: DecodeLimits,
    /// LZ4 pclusters are right-aligned; only images of ancient writers are not.
    lz4_padded: bool,
}

impl CodecRules {
    pub(crate) fn new(superblock: &SuperBlock, configs: &CompressionConfigs) -> Self {
        let defaults = DecodeLimits::default();
        Self {
            bits: superblock.block_bits,
            limits: DecodeLimits {
                lzma_dict_size: configs.lzma_dict_size.unwrap_or(defaults.lzma_dict_size),
                zstd_window_log: configs.zstd_window_log.unwrap_or(defaults.zstd_window_log),
            },
            lz4_padded: superblock.incompat.has(IncompatFeatures::LZ4_0PADDING)
                || superblock.incompat.has(IncompatFeatures::COMPR_CFGS),
        }
    }

    /// Limits for the decoder.
    #[must_use]
    pub const fn limits(&self) -> &DecodeLimits {
        &self.limits
    }

    /// How many bytes a buffer must be longer than all of `extent` to decode `pcluster` in it, the
    /// encoded bytes at its end. `None` if it does not decode in place. format.md §13.6.
    #[must_use]
    pub fn in_place_margin(&self, pcluster: &Pcluster) -> Option<usize> {
        let whole = !pcluster.partial && self.lz4_padded;
        let lz4 = pcluster.encoding == Encoding::Compressed(Algorithm::Lz4);
        (whole && lz4).then(|| lz4_in_place_margin(usize_from_u32(pcluster.len)))
    }

    /// Bytes at the front of `pcluster` that may be padding. format.md §13.
    #[must_use]
    pub fn padding_max(&self, pcluster: &Pcluster) -> usize {
        let len = usize_from_u32(pcluster.len);
        match pcluster.location {
            Location::Meta { .. } => len,
            Location::Device(at) => {
                let within = self.bits.offset_in_block(at.offset);
                len.min(usize_from_u64(self.bits.size_u64().saturating_sub(within)))
            }
        }
    }
}

/// A run of bytes that a stored pcluster and its extent have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Offset in the pcluster.
    pub encoded: u64,
    /// Offset in the extent.
    pub decoded: u64,
    /// Bytes.
    pub len: u64,
}

/// Where the bytes of a stored (shifted or interlaced) extent lie in its pcluster. The second piece
/// is empty for shifted ones. format.md §13.5.
#[must_use]
pub fn stored_pieces(rules: &CodecRules, extent: &Extent, pcluster: &Pcluster) -> [Piece; 2] {
    let none = Piece { encoded: 0, decoded: extent.len, len: 0 };
    let len = u64::from(pcluster.len);
    match pcluster.encoding {
        Encoding::Interlaced => {
            let within = rules.bits.offset_in_block(extent.start);
            let block = rules.bits.size_u64();
            let first = block.saturating_sub(within).min(extent.len);
            [
                Piece {
                    encoded: len.saturating_sub(block).saturating_add(within),
                    decoded: 0,
                    len: first,
                },
                Piece { encoded: 0, decoded: first, len: extent.len.saturating_sub(first) },
            ]
        }
        _ => [Piece { encoded: 0, decoded: 0, len: extent.len }, none],
    }
}

/// Decodes the first `dst.len()` bytes of `extent` out of `raw`, all encoded bytes of `pcluster`.
pub fn decode_extent(
    decoder: &mut Decoder,
    rules: &CodecRules,
    extent: &Extent,
    pcluster: &Pcluster,
    raw: &[u8],
    dst: &mut [u8],
) -> Result<(), DecodeError> {
    let Encoding::Compressed(algorithm) = pcluster.encoding else {
        for piece in stored_pieces(rules, extent, pcluster) {
            copy_piece(piece, raw, dst);
        }
        return Ok(());
    };
    if algorithm == Algorithm::Lz4 && !rules.lz4_padded {
        return decoder.decode_lz4_unpadded(raw, dst);
    }
    let stream = ferrofs_codec::strip_zero_padding(raw, rules.padding_max(pcluster))?;
    let whole = !pcluster.partial && u64_from_usize(dst.len()) == extent.len;
    if whole {
        decoder.decode_exact(algorithm, &rules.limits, stream, dst)
    } else {
        decoder.decode_prefix(algorithm, &rules.limits, stream, dst)
    }
}

/// Decodes all of `extent` into the front of `buf`, whose end holds the encoded bytes of `pcluster`
/// and is lost. There must be the margin of [`CodecRules::in_place_margin`].
pub fn decode_extent_in_place(
    decoder: &Decoder,
    rules: &CodecRules,
    extent: &Extent,
    pcluster: &Pcluster,
    buf: &mut [u8],
) -> Result<(), DecodeError> {
    let start = buf.len().saturating_sub(usize_from_u32(pcluster.len));
    let raw = buf.get(start..).unwrap_or_default();
    let len = ferrofs_codec::strip_zero_padding(raw, rules.padding_max(pcluster))?.len();
    decoder.decode_lz4_in_place(buf, len, usize_from_u64(extent.len))
}

/// Copies what of `piece` falls into `dst`. Pieces lie inside their pcluster, since a stored extent
/// is never longer than that (checked by the map).
fn copy_piece(piece: Piece, raw: &[u8], dst: &mut [u8]) {
    let start = usize_from_u64(piece.decoded);
    let room = dst.len().saturating_sub(start);
    let count = usize_from_u64(piece.len).min(room);
    let from = usize_from_u64(piece.encoded);
    let end = start.saturating_add(count);
    if let (Some(to), Some(from)) =
        (dst.get_mut(start..end), raw.get(from..from.saturating_add(count)))
    {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceAddress;

    fn rules() -> CodecRules {
        CodecRules {
            bits: BlockBits::new(9).unwrap(),
            limits: DecodeLimits::default(),
            lz4_padded: true,
        }
    }

    fn stored(encoding: Encoding, blocks: u32) -> Pcluster {
        Pcluster {
            location: Location::Device(DeviceAddress { device: 0, offset: 512 }),
            len: blocks * 512,
            encoding,
            partial: false,
        }
    }

    fn decode(extent_start: u64, len: usize, pcluster: &Pcluster, raw: &[u8]) -> Vec<u8> {
        let source = crate::Source::Pcluster(*pcluster);
        let extent = Extent { start: extent_start, len: len as u64, source };
        let mut dst = vec![0xEE; len];
        decode_extent(&mut Decoder::new(), &rules(), &extent, pcluster, raw, &mut dst).unwrap();
        dst
    }

    #[test]
    fn interlaced_bytes_stand_at_their_own_place_in_the_block() {
        let raw: Vec<u8> = (0..512u32).map(|i| (i % 251) as u8).collect();
        // The byte of file offset p is stored at p mod 512.
        let dst = decode(700, 400, &stored(Encoding::Interlaced, 1), &raw);
        for (index, byte) in dst.iter().enumerate() {
            assert_eq!(*byte, raw[(700 + index) % 512], "offset {index}");
        }
        let short = decode(700, 20, &stored(Encoding::Interlaced, 1), &raw);
        assert_eq!(short, raw[188..208]);
    }

    #[test]
    fn interlaced_head_piece_of_several_blocks_is_at_the_end() {
        let raw: Vec<u8> = (0..1024u32).map(|i| (i % 241) as u8).collect();
        let dst = decode(100, 1000, &stored(Encoding::Interlaced, 2), &raw);
        assert_eq!(dst[..412], raw[612..1024]);
        assert_eq!(dst[412..], raw[..588]);
    }

    #[test]
    fn shifted_bytes_begin_at_the_front() {
        let raw: Vec<u8> = (0..512u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(decode(700, 400, &stored(Encoding::Shifted, 1), &raw), raw[..400]);
    }
}
