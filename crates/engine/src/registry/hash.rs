// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hash for keys that are few at a time.
//!
//! The map has an entry for each decode under way, so an image whose places were chosen to collide costs
//! its readers nothing; the standard hash, which guards against that, took a tenth of a claim.

use std::hash::Hasher;

/// Odd, with its bits well mixed (2^64 divided by the golden ratio).
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Multiplies and rotates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlaceHasher(u64);

impl PlaceHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        // The upper bits depend on all that went in; maps look at the lower ones first.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.add(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.add(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.add(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.add(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    #[test]
    fn neighbours_are_spread() {
        let build = BuildHasherDefault::<PlaceHasher>::default();
        let hashes: Vec<u64> =
            (0..4096_u64).map(|block| build.hash_one((block << 12, 1_u32))).collect();
        for shift in [0, 4, 56] {
            let mut count = [0; 16];
            for hash in &hashes {
                count[(hash >> shift) as usize % 16] += 1;
            }
            assert!(count.iter().all(|count| (128..512).contains(count)), "{shift}: {count:?}");
        }
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 4096);
        assert_ne!(build.hash_one([1_u8, 0]), build.hash_one([1_u8]));
    }
}
