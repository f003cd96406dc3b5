// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damage everywhere, one place at a time: nothing may panic, hang, or fail without a place. The
//! work is bounded by counting, see [`Budget`].

use super::{SAMPLE, check_error, open, patched};
use ferrofs_image::OpenOptions;
use ferrofs_tests::exercise::{Budget, exercise};
use std::sync::Arc;

/// Small reads, of every file once: there are tens of thousands of images.
const QUICK: Budget = Budget { inodes: 48, entries: 60, read: 1500 };
/// Which bits a sampled sweep flips.
const SEED: u32 = 0x5EED_0001;
/// Tests that a sweep is shared by.
const TURNS: usize = 4;

/// Whether sweeps are to leave nothing out.
fn exhaustive() -> bool {
    std::env::var_os("FERROFS_EXHAUSTIVE").is_some_and(|value| value != "0")
}

#[test]
fn truncated_anywhere() {
    let base = Arc::new(SAMPLE.bytes.clone());
    let whole = exercise(&open(SAMPLE.bytes.clone()).unwrap(), Budget::default());
    for len in (0..base.len()).step_by(if exhaustive() { 8 } else { 64 }) {
        let mut image = patched(&base, usize::MAX, 0);
        image.len = len;
        match open(image) {
            Err(error) => check_error("truncated", &error),
            Ok(image) => {
                let found = exercise(&image, Budget::default());
                for (path, content) in &found.files {
                    assert!(whole.files[path] == *content, "other bytes after a cut at {len}");
                }
                // The padding of the last block holds nothing.
                let padding = len + 512 > base.len();
                assert!(padding || !found.errors.is_empty(), "cut at {len} unnoticed");
            }
        }
    }
}

/// Every byte of the superblock, the inodes and their indexes, the root and a directory of several
/// blocks, in four turns so that they run side by side. One bit of each is flipped, which one is
/// drawn from the seed; all eight with `FERROFS_EXHAUSTIVE=1` (`make soak`).
fn flip_bits(turn: usize) {
    let base = Arc::new(SAMPLE.bytes.clone());
    let root = SAMPLE.at("root.data");
    let directory = SAMPLE.at("dir.data");
    let tables = (1024..SAMPLE.meta_end).chain(root..base.len()).chain(directory..directory + 1024);
    for offset in tables.skip(turn).step_by(TURNS) {
        for bit in bits_of(offset) {
            let image = patched(&base, offset, 1 << bit);
            let options = OpenOptions::new().metadata_cache(64 << 10).ignore_checksum(true);
            match options.open(image) {
                Err(error) => check_error("bit flipped", &error),
                Ok(image) => {
                    let _ = exercise(&Arc::new(image), QUICK);
                }
            }
        }
    }
}

/// Bits of the byte at `offset` to be flipped.
fn bits_of(offset: usize) -> std::ops::Range<u32> {
    // The superblock says what all the rest means: no sampling there.
    if exhaustive() || offset < 1024 + 256 {
        return 0..8;
    }
    let bit = (offset as u32 ^ SEED).wrapping_mul(2_654_435_761) >> 29;
    bit..bit + 1
}

#[test]
fn any_bit_of_the_metadata_flipped_1() {
    flip_bits(0);
}

#[test]
fn any_bit_of_the_metadata_flipped_2() {
    flip_bits(1);
}

#[test]
fn any_bit_of_the_metadata_flipped_3() {
    flip_bits(2);
}

#[test]
fn any_bit_of_the_metadata_flipped_4() {
    flip_bits(3);
}

/// Without `ignore_checksum` not one changed bit of the first block goes unnoticed, the checksum and
/// the bit that says there is one included (that one makes the rest unchecked, by design).
#[test]
fn the_checksum_sees_every_bit() {
    let base = Arc::new(SAMPLE.bytes.clone());
    for offset in 1024..1024 + 512 {
        for bit in 0..8 {
            if (offset, bit) == (1024 + 8, 0) {
                continue;
            }
            // The checksum covers one block from byte 1024, and the block size is in there, too.
            let error = open(patched(&base, offset, 1 << bit)).expect_err("a changed superblock");
            check_error("superblock", &error);
        }
    }
}

#[test]
fn any_byte_of_the_data_changed() {
    let base = Arc::new(SAMPLE.bytes.clone());
    for offset in (SAMPLE.meta_end..base.len()).step_by(if exhaustive() { 1 } else { 13 }) {
        let image = open(patched(&base, offset, 0x81)).unwrap();
        let _ = exercise(&image, QUICK);
    }
}
