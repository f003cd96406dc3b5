// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking what is missing from the compressed copy behind a digest table: its start, single pieces, and
//! what others have not. What is left out of pieces comes from whoever has it, else from frames.

mod common;

use common::{Memory, bytes, cache, spec};
use ferrofs_store::{
    Algorithm, Blob, BlobSpec, Demand, FindEnd, Geometry, Origin, TableBuilder, TableSpec, Tail,
    make_copy,
};
use std::cell::Cell;
use std::collections::HashMap;
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
        table.extend(make_copy(&file, std::slice::from_ref(&(len / 2..len)), &[]).unwrap());
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

const DATA: usize = 1 << 20;
const FILES: usize = 600;
/// Bytes of each file's record: its digest, and what says something of it.
const RECORD: usize = 128;

/// A blob of data, then of records with the ends of files behind them; and these ends.
struct Sample {
    blob: Vec<u8>,
    ends: Vec<Vec<u8>>,
    /// The first end of a digest.
    digests: HashMap<[u8; 32], usize>,
    tails: Vec<Tail>,
}

impl Sample {
    fn new() -> Self {
        let mut blob = bytes(DATA, 5);
        let mut random = fastrand::Rng::with_seed(11);
        let (mut ends, mut tails, mut digests) = (Vec::new(), Vec::new(), HashMap::new());
        for number in 0..FILES {
            let len = random.usize(1..1500);
            // Every tenth has the bytes of the one before.
            let end = match ends.last() {
                Some(last) if number % 10 == 9 => Vec::clone(last),
                _ => bytes(len.div_ceil(2), number as u64).repeat(2),
            };
            // A tail lies in one block.
            let behind = blob.len() + RECORD;
            if behind / 4096 != (behind + end.len()) / 4096 {
                blob.resize(behind.next_multiple_of(4096) - RECORD, 0);
            }
            let digest_at = blob.len() as u64 + 16;
            blob.extend_from_slice(&[number as u8; 16]);
            let digest = Algorithm::Sha256.digest(&end);
            digests.entry(digest).or_insert(number);
            blob.extend_from_slice(&digest);
            blob.resize(blob.len() + RECORD - 48, 0);
            let start = blob.len() as u64;
            blob.extend_from_slice(&end);
            tails.push(Tail { range: start..blob.len() as u64, digest_at: Some(digest_at) });
            ends.push(end);
        }
        Self { blob, ends, digests, tails }
    }

    fn metadata(&self) -> Range<u64> {
        DATA as u64..self.blob.len() as u64
    }

    fn copy(&self) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.blob).unwrap();
        make_copy(&file, std::slice::from_ref(&self.metadata()), &self.tails).unwrap()
    }

    /// Which end has this digest.
    fn number(&self, digest: &[u8; 32]) -> usize {
        self.digests[digest]
    }
}

/// A sample's blob and table with a copy behind it, and how to open them.
fn published(sample: &Sample, copy: &[u8]) -> (Arc<Memory>, Arc<Memory>, BlobSpec) {
    let source = Memory::new(sample.blob.clone());
    let mut spec = spec(&source);
    let geometry = Geometry::new(Algorithm::Blake3);
    let built = TableBuilder::new(geometry).unwrap().build(&sample.blob[..]).unwrap();
    let table = Memory::new([&built.to_bytes(), copy].concat());
    spec.table = TableSpec::Pinned { pin: built.pin(), source: table.clone() };
    (source, table, spec)
}

/// A blob whose metadata was taken from `copy`, its source, and that of its table.
fn taken(
    sample: &Sample,
    copy: &[u8],
    find: Option<FindEnd<'_>>,
) -> (Blob, Arc<Memory>, Arc<Memory>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (source, table, spec) = published(sample, copy);
    let blob = cache(folder.path()).blob(spec).unwrap();
    let is_there = match find {
        Some(find) => blob.take_copy_beside(find, &demand()),
        None => blob.take_copy(u64::MAX, &[], &demand()),
    };
    assert!(is_there, "there is a copy");
    (blob, source, table, folder)
}

fn demand() -> Demand {
    Demand::soft(Duration::from_secs(20))
}

fn check(sample: &Sample, blob: &Blob) {
    let range = sample.metadata();
    let mut found = vec![0; (range.end - range.start) as usize];
    blob.read_exact_at(&mut found, range.start, &demand()).unwrap();
    assert!(found == sample.blob[DATA..]);
}

fn sent(source: &Memory) -> u64 {
    source.served.load(Ordering::Relaxed)
}

#[test]
fn ends_that_others_have_are_not_fetched() {
    let sample = Sample::new();
    let copy = sample.copy();
    // Nobody has anything: all comes at once.
    let (blob, source, table, _folder) = taken(&sample, &copy, None);
    assert!(blob.is_present(sample.metadata()));
    check(&sample, &blob);
    assert_eq!(sent(&source), 0);
    let all = sent(&table);
    assert_eq!(table.asked.lock().unwrap().iter().filter(|range| range.end == all).count(), 1);
    // All of it is there.
    let find = |digest: &[u8; 32], end: &mut [u8]| {
        end.copy_from_slice(&sample.ends[sample.number(digest)]);
        true
    };
    let (blob, source, table, _folder) = taken(&sample, &copy, Some(&find));
    assert!(blob.is_present(sample.metadata()));
    check(&sample, &blob);
    assert_eq!(sent(&source), 0);
    let ends: usize = sample.ends.iter().map(Vec::len).sum();
    assert!(sent(&table) + ends as u64 / 3 < all, "{} of {all}", sent(&table));
    let without = sent(&table);
    // All but some that lie together, and one more.
    let is_new = |number: usize| (100..140).contains(&number) || number == 300;
    let find = |digest: &[u8; 32], end: &mut [u8]| {
        let number = sample.number(digest);
        end.copy_from_slice(&sample.ends[number]);
        !is_new(number)
    };
    let (blob, source, table, _folder) = taken(&sample, &copy, Some(&find));
    assert!(blob.is_present(sample.metadata()));
    check(&sample, &blob);
    assert_eq!(sent(&source), 0);
    let new: usize = (0..FILES).filter(|n| is_new(*n)).map(|n| sample.ends[n].len()).sum();
    let more = sent(&table) - without;
    assert!(more > 0 && more < new as u64, "{more} bytes for {new}");
}

#[test]
fn what_others_only_say_that_they_have_is_fetched() {
    let sample = Sample::new();
    let copy = sample.copy();
    let lies = Cell::new(0);
    let find = |digest: &[u8; 32], end: &mut [u8]| {
        let number = sample.number(digest);
        end.copy_from_slice(&sample.ends[number]);
        if number == 250 {
            end[0] ^= 1;
            lies.set(lies.get() + 1);
        }
        true
    };
    let (blob, source, _, _folder) = taken(&sample, &copy, Some(&find));
    assert!(lies.get() > 0);
    let missing = blob.missing(sample.metadata());
    let tail = sample.tails[250].range.clone();
    assert!(missing.iter().any(|part| part.start <= tail.start && tail.end <= part.end));
    let bytes: u64 = missing.iter().map(|part| part.end - part.start).sum();
    assert!(bytes <= 2 * (64 << 10), "no more than the groups of a lie: {missing:?}");
    assert_eq!(sent(&source), 0);
    check(&sample, &blob);
    assert!(sent(&source) >= bytes);
    assert_eq!(blob.stats().verification_failures, 0, "nobody's copy was wrong");
}

/// Whatever of a copy is wrong or missing, bytes are right.
#[test]
fn a_wrong_copy_costs_bytes_only() {
    let sample = Sample::new();
    let copy = sample.copy();
    let find = |digest: &[u8; 32], end: &mut [u8]| {
        let known = sample.digests.get(digest).copied();
        let Some(known) = known.filter(|number| number % 2 == 0) else { return false };
        let same = sample.ends[known].len() == end.len();
        if same {
            end.copy_from_slice(&sample.ends[known]);
        }
        same
    };
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..60 {
        let mut wrong = copy.clone();
        match round % 3 {
            0 => wrong.truncate(random.usize(1..copy.len())),
            1 => wrong[random.usize(..copy.len())] ^= 1 << random.u32(..8),
            _ => {
                let at = random.usize(..copy.len());
                random.fill(&mut wrong[at..]);
            }
        }
        let find: Option<FindEnd<'_>> = (round % 2 == 0).then_some(&find);
        let (blob, _, _, _folder) = taken(&sample, &wrong, find);
        check(&sample, &blob);
    }
}

/// A piece that a reader takes has its ends with it.
#[test]
fn a_piece_that_a_reader_takes_is_whole() {
    let sample = Sample::new();
    let copy = sample.copy();
    let folder = tempfile::tempdir().unwrap();
    let (source, table, spec) = published(&sample, &copy);
    let blob = cache(folder.path()).blob(spec).unwrap();
    // The index, and nothing else.
    assert!(blob.take_copy(1000, &[], &demand()));
    assert!(!blob.is_present(sample.metadata()));
    let mut page = [0; 4096];
    for at in backwards(sample.metadata(), 4096) {
        blob.read_exact_at(&mut page, at, &demand()).unwrap();
        assert!(page[..] == sample.blob[at as usize..at as usize + 4096], "wrong bytes at {at}");
    }
    assert_eq!(sent(&source), 0);
    let copy_start = table.bytes.len() as u64 - copy.len() as u64;
    let asked = table.asked.lock().unwrap();
    let count = asked.iter().filter(|range| range.start >= copy_start).count();
    assert_eq!(count, 1 + sample.blob.len().div_ceil(256 << 10) - DATA / (256 << 10), "{asked:?}");
}
