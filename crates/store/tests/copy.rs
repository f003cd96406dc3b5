// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers who take what they miss from the compressed copy behind a digest table.

mod common;

use common::{Memory, cache};
use ferrofs_store::{
    Algorithm, Blob, BlobSpec, Demand, Geometry, Origin, TableBuilder, TableSpec, make_copy,
};
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Of the copy, its start is taken at once.
const START: u64 = 128 << 10;

/// A blob whose second half is in the copy behind its table.
struct Published {
    blob: Arc<Memory>,
    table: Arc<Memory>,
    spec: BlobSpec,
    /// Where the copy begins in the table's file.
    copy: u64,
}

impl Published {
    /// `change`: what somebody does to the copy.
    fn new(len: u64, change: impl FnOnce(&mut [u8])) -> Self {
        // Digits, which shrink to a third.
        let mut bytes = Vec::new();
        for line in 0..len / 16 {
            writeln!(bytes, "{:015}", line.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_007_919)
                .unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let built = TableBuilder::new(Geometry::new(Algorithm::Blake3)).unwrap();
        let built = built.build(&bytes[..]).unwrap();
        let mut table = built.to_bytes();
        let copy = table.len() as u64;
        table.extend(make_copy(&file, std::slice::from_ref(&(len / 2..len))).unwrap());
        change(&mut table[copy as usize..]);
        let (blob, table) = (Memory::new(bytes), Memory::new(table));
        let pinned = TableSpec::Pinned { pin: built.pin(), source: table.clone() };
        let spec = BlobSpec { table: pinned, ..BlobSpec::new(Origin::new(blob.clone())) };
        Self { blob, table, spec, copy }
    }

    /// What was asked of the copy.
    fn asked_of_copy(&self) -> Vec<Range<u64>> {
        let asked = self.table.asked.lock().unwrap();
        asked.iter().filter(|range| range.start >= self.copy).cloned().collect()
    }

    fn page(&self, blob: &Blob, at: u64) {
        let mut page = [0; 4096];
        blob.read_exact_at(&mut page, at, &Demand::default()).unwrap();
        assert!(page == self.blob.bytes[at as usize..at as usize + 4096], "wrong bytes at {at}");
    }
}

/// Places from the last to the first, so that nothing looks like a reader in sequence.
fn backwards(range: Range<u64>, step: u64) -> impl Iterator<Item = u64> {
    (1..=(range.end - range.start) / step).map(move |count| range.end - count * step)
}

#[test]
fn a_page_brings_the_piece_that_it_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let published = Published::new(8 * MIB, |_| ());
    let blob = cache(folder.path()).blob(published.spec.clone()).unwrap();
    assert!(blob.take_copy(START, &[], &Demand::ahead()));
    let start = std::slice::from_ref(&(published.copy..published.copy + START)).to_vec();
    assert_eq!(published.asked_of_copy(), start);
    let blob_requests = || published.blob.requests.load(Ordering::Relaxed);
    let before = blob_requests();
    for at in backwards(4 * MIB..8 * MIB, 4096) {
        published.page(&blob, at);
    }
    assert_eq!(blob_requests(), before, "all of it came from the copy");
    let asked = published.asked_of_copy();
    assert_eq!(asked.len() - 1, 15, "pieces, the first one excepted: {asked:?}");
    let mut sorted = asked;
    sorted.sort_unstable_by_key(|range| range.start);
    for two in sorted.windows(2) {
        assert!(two[0].end <= two[1].start, "asked twice: {two:?}");
    }
    // What is not in the copy is fetched as ever.
    published.page(&blob, MIB);
    assert_eq!(blob_requests(), before + 1);
}

#[test]
fn of_many_readers_of_a_piece_one_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let published = Published::new(8 * MIB, |_| ());
    let blob = cache(folder.path()).blob(published.spec.clone()).unwrap();
    assert!(blob.take_copy(START, &[], &Demand::ahead()));
    *published.table.delay.lock().unwrap() = Duration::from_millis(50);
    let before = published.asked_of_copy().len();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (blob, published) = (&blob, &published);
            scope.spawn(move || published.page(blob, 7 * MIB + reader * 8192));
        }
    });
    assert_eq!(published.asked_of_copy().len(), before + 1);
}

#[test]
fn a_copy_that_lies_is_asked_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let published = Published::new(8 * MIB, |copy| {
        let half = copy.len() / 2;
        copy[half..].fill(0x55);
    });
    let blob = cache(folder.path()).blob(published.spec.clone()).unwrap();
    assert!(blob.take_copy(START, &[], &Demand::ahead()));
    let before = published.asked_of_copy().len();
    for at in (7 * MIB..8 * MIB).step_by(256 << 10) {
        published.page(&blob, at);
    }
    assert_eq!(published.asked_of_copy().len(), before + 1, "and not for the other pages");
}

#[test]
fn readers_of_little_do_not_take_all_of_a_large_copy() {
    let folder = tempfile::tempdir().unwrap();
    let published = Published::new(64 * MIB, |_| ());
    let copy_len = published.table.bytes.len() as u64 - published.copy;
    assert!(copy_len > 6 * MIB, "{copy_len}");
    let blob = cache(folder.path()).blob(published.spec.clone()).unwrap();
    assert!(blob.take_copy(START, &[], &Demand::ahead()));
    for at in backwards(32 * MIB..64 * MIB, 256 << 10) {
        published.page(&blob, at);
    }
    let asked = published.asked_of_copy();
    let sum: u64 = asked.iter().map(|range| range.end - range.start).sum();
    // Two MiB, its start, and a quarter of what was wanted.
    assert!(sum > MIB && sum < 2 * MIB + START + MIB / 4, "{sum} of {copy_len}");
}
