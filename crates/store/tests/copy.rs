// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copy behind a digest table: what is left out of it comes from whoever has it, else from its frames.

mod common;

use common::{Memory, bytes, cache, spec};
use ferrofs_store::{
    Algorithm, Blob, Demand, FindEnd, Geometry, TableBuilder, TableSpec, Tail, make_copy,
};
use std::cell::Cell;
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

/// A blob whose metadata was taken from `copy`, its source, and that of its table.
fn taken(
    sample: &Sample,
    copy: &[u8],
    find: Option<FindEnd<'_>>,
) -> (Blob, Arc<Memory>, Arc<Memory>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(sample.blob.clone());
    let mut spec = spec(&source);
    let geometry = Geometry::new(Algorithm::Blake3);
    let built = TableBuilder::new(geometry).unwrap().build(&sample.blob[..]).unwrap();
    let table = Memory::new([&built.to_bytes(), copy].concat());
    spec.table = TableSpec::Pinned { pin: built.pin(), source: table.clone() };
    let blob = cache(folder.path()).blob(spec).unwrap();
    assert!(blob.take_copy(&demand(), find), "there is a copy");
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
