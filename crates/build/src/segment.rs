// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressing one segment of a file into extents and pclusters.
//!
//! A pure function of bytes and options: it refuses to know files, addresses and other segments,
//! which is what makes images independent of how work is spread over threads.
//!
//! Rules (format.md §10, §13.7): an extent is kept compressed only if that saves a block; at most
//! one extent begins in a block of the file; what begins in the file's last block is stored; data
//! ends at the end of its pcluster, with less than a block of zeros in front.

use ferrofs_codec::{EncodeError, FixedOutput, Prefix};
use ferrofs_format::{BlockBits, limits};

/// One extent of a compressed file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Extent {
    /// Bytes of the file.
    pub(crate) len: u32,
    /// Blocks of its pcluster.
    pub(crate) blocks: u16,
    /// Stored, not compressed: then it has one block.
    pub(crate) plain: bool,
}

/// Compresses segments; holds an encoder and its buffer.
#[derive(Debug)]
pub(crate) struct Compressor {
    encoder: Box<dyn FixedOutput>,
    bits: BlockBits,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor for pclusters of up to `size_max` bytes.
    pub(crate) fn new(encoder: Box<dyn FixedOutput>, bits: BlockBits, size_max: u32) -> Self {
        Self { encoder, bits, buffer: vec![0; size_max as usize] }
    }

    /// Appends the pclusters of `src` to `out` and its extents to `extents`.
    pub(crate) fn compress(
        &mut self,
        src: &[u8],
        pcluster_size: u32,
        out: &mut Vec<u8>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), EncodeError> {
        let block = self.bits.size_usize();
        let mut rest = src;
        let mut hint = 0;
        while rest.len() > block {
            let window = rest.len().min(limits::DECODED_SIZE_MAX as usize);
            let buffer = &mut self.buffer[..pcluster_size as usize];
            let prefix = self.encoder.compress_prefix_hinted(&rest[..window], buffer, hint)?;
            hint = prefix.consumed;
            let blocks = prefix.written.div_ceil(block);
            let taken = if blocks * block < prefix.consumed {
                self.keep(prefix, blocks, out, extents);
                prefix.consumed
            } else {
                // What does not compress here will not if tried again a block later.
                let whole = (prefix.consumed / block).max(1);
                for stored in rest[..whole * block].chunks_exact(block) {
                    push_plain(stored, block, out, extents);
                }
                whole * block
            };
            rest = &rest[taken..];
        }
        if !rest.is_empty() {
            push_plain(rest, block, out, extents);
        }
        Ok(())
    }

    fn keep(&self, prefix: Prefix, blocks: usize, out: &mut Vec<u8>, extents: &mut Vec<Extent>) {
        let padding = blocks * self.bits.size_usize() - prefix.written;
        out.resize(out.len() + padding, 0);
        out.extend_from_slice(&self.buffer[..prefix.written]);
        // The window and the pcluster size bound both.
        extents.push(Extent { len: prefix.consumed as u32, blocks: blocks as u16, plain: false });
    }
}

fn push_plain(stored: &[u8], block: usize, out: &mut Vec<u8>, extents: &mut Vec<Extent>) {
    let end = out.len() + block;
    out.extend_from_slice(stored);
    out.resize(end, 0);
    extents.push(Extent { len: stored.len() as u32, blocks: 1, plain: true });
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrofs_codec::{Algorithm, DecodeLimits, Decoder, Method};
    use proptest::prelude::*;

    fn check(src: &[u8], bits: BlockBits, pcluster_size: u32, method: Method) {
        let encoder = method.resolve(pcluster_size as usize).encoder().unwrap();
        let mut compressor = Compressor::new(encoder, bits, pcluster_size);
        let (mut out, mut extents) = (Vec::new(), Vec::new());
        compressor.compress(src, pcluster_size, &mut out, &mut extents).unwrap();
        let block = bits.size_usize();
        let mut decoder = Decoder::new();
        let limits = DecodeLimits::default();
        let (mut at, mut read) = (0, 0);
        for extent in &extents {
            let len = extent.len as usize;
            let pcluster = &out[read..read + usize::from(extent.blocks) * block];
            read += pcluster.len();
            let expected = &src[at..at + len];
            // At most one begins in a block, none compressed in the last one.
            assert!(at / block < (at + len) / block || at + len == src.len());
            if extent.plain {
                assert_eq!(extent.blocks, 1);
                assert_eq!(&pcluster[..len], expected);
            } else {
                assert!(pcluster.len() < len);
                assert!(at / block < (src.len() - 1) / block);
                assert!(pcluster[..block].iter().any(|&byte| byte != 0));
                let mut decoded = vec![0; len];
                decoder.decode_exact(Algorithm::Lz4, &limits, pcluster, &mut decoded).unwrap();
                assert_eq!(decoded, expected);
            }
            at += len;
        }
        assert_eq!((at, read), (src.len(), out.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn extents_cover_the_source_and_decode(
            pieces in proptest::collection::vec((any::<u8>(), 1usize..3000, any::<bool>()), 0..60),
            bits in 9u8..=13,
            blocks in 1u32..20,
        ) {
            let mut src = Vec::new();
            let mut state = 12345u32;
            for (byte, len, noise) in pieces {
                for _ in 0..len {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    src.push(if noise { (state >> 24) as u8 } else { byte });
                }
            }
            let bits = BlockBits::new(bits).unwrap();
            check(&src, bits, blocks << bits.bits(), Method::Lz4);
            check(&src, bits, blocks << bits.bits(), Method::Lz4Hc { level: 3 });
        }
    }
}
