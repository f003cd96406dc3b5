// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables against digests taken one by one, against flipped bits, and over sources that lie.

use super::*;
use crate::{FetchContext, FetchErrorKind, Identity, RangeSource, Sink};
use proptest::prelude::*;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 88172645463325252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

fn build(geometry: Geometry, blob: &[u8]) -> BuiltTable {
    TableBuilder::new(geometry).unwrap().threads(3).build(blob).unwrap()
}

/// A reader that gives a few bytes a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(self.0.len()).min(4097);
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

/// A table's file, some bytes of which may be wrong unless it is asked afresh.
#[derive(Debug)]
struct Server {
    file: Vec<u8>,
    wrong: Vec<usize>,
    wrong_afresh: bool,
    requests: Mutex<Vec<Range<u64>>>,
    delay: std::time::Duration,
}

impl Server {
    fn new(file: Vec<u8>) -> Self {
        Self {
            file,
            wrong: vec![],
            wrong_afresh: false,
            requests: Mutex::default(),
            delay: std::time::Duration::ZERO,
        }
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl RangeSource for Server {
    fn describe(&self) -> String {
        "server".into()
    }

    fn identity(&self, _: &FetchContext) -> Result<Identity, FetchError> {
        Ok(Identity { size: self.file.len() as u64, validator: None })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        self.requests.lock().unwrap().push(range.clone());
        std::thread::sleep(self.delay);
        let mut file = self.file.clone();
        for at in self.wrong.iter().filter(|_| self.wrong_afresh || !context.fresh) {
            file[*at] ^= 0x10;
        }
        let end = range.end.min(file.len() as u64) as usize;
        let mut rest = &file[(range.start as usize).min(end)..end];
        if sink.begin(range.start, Some(file.len() as u64)).is_err() {
            return Ok(());
        }
        while !rest.is_empty() {
            let room = sink.room();
            let len = room.len().min(rest.len());
            room[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            if sink.filled(len).is_err() {
                return Ok(());
            }
        }
        if range.end > file.len() as u64 {
            return Err(FetchError::new(FetchErrorKind::Length, "the file is shorter"));
        }
        Ok(())
    }
}

/// The layout of the documentation, digest by digest.
#[test]
fn the_bytes_are_those_of_the_documentation() {
    for algorithm in [Algorithm::Blake3, Algorithm::Sha256] {
        let blob = bytes(300_000);
        let table = build(Geometry::new(algorithm), &blob);
        let file = table.to_bytes();
        let code = algorithm.code();
        let start = [b"frfsdgst".as_slice(), &[1, 0, code, 12, 16, 0, 0, 0]].concat();
        assert_eq!(file[..16], start);
        assert_eq!(file[16..24], 300_000_u64.to_le_bytes());
        // One page of 5 coarse digests, one of 74 fine ones.
        let body = &file[64 + 2 * 32..];
        assert_eq!(body.len(), 2 * 4096);
        for (group, piece) in blob.chunks(65536).enumerate() {
            assert_eq!(body[group * 32..][..32], algorithm.digest(piece));
        }
        assert!(body[5 * 32..4096].iter().all(|byte| *byte == 0));
        for (grain, piece) in blob.chunks(4096).enumerate() {
            assert_eq!(body[4096 + grain * 32..][..32], algorithm.digest(piece));
        }
        for page in 0..2 {
            let digest = algorithm.digest(&body[page * 4096..][..4096]);
            assert_eq!(file[64 + page * 32..][..32], digest);
        }
        assert_eq!(table.pin().digest, algorithm.digest(&file[..128]));
    }
}

#[test]
fn digests_are_the_known_ones() {
    let hex = |algorithm: Algorithm| Pin { algorithm, digest: algorithm.digest(b"abc") }.hex();
    assert_eq!(
        hex(Algorithm::Sha256),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        hex(Algorithm::Blake3),
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    );
}

#[test]
fn threads_and_pieces_do_not_show() {
    let blob = bytes(5_000_001);
    for geometry in [
        Geometry::default(),
        Geometry { algorithm: Algorithm::Sha256, grain_bits: 12, group_bits: 12 },
        Geometry { algorithm: Algorithm::Blake3, grain_bits: 13, group_bits: 22 },
    ] {
        let builder = TableBuilder::new(geometry).unwrap();
        let one = builder.threads(1).build(blob.as_slice()).unwrap().to_bytes();
        assert_eq!(builder.threads(7).build(Drops(&blob)).unwrap().to_bytes(), one);
    }
}

#[test]
fn pins_are_written_in_one_way() {
    let pin = build(Geometry::default(), b"x").pin();
    assert_eq!(pin.to_string().parse(), Ok(pin));
    let upper = format!("blake3:{}", pin.hex().to_uppercase());
    let short = format!("blake3:{}", &pin.hex()[1..]);
    for text in [upper.as_str(), &short, "blake3", "", "md5:00", &format!("blake2:{}", pin.hex())] {
        assert_eq!(text.parse::<Pin>(), Err(PinError), "{text}");
    }
}

#[test]
fn hostile_headers_are_refused() {
    let table = build(Geometry::default(), &bytes(10_000));
    let good = table.to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Layout::parse(&bytes)
    };
    assert!(matches!(with(0, 0), Err(TableError::Magic)));
    assert!(matches!(with(8, 2), Err(TableError::Version(2))));
    assert!(matches!(with(10, 3), Err(TableError::Algorithm(3))));
    assert!(matches!(with(11, 11), Err(TableError::Geometry { grain_bits: 11, .. })));
    assert!(matches!(with(12, 25), Err(TableError::Geometry { group_bits: 25, .. })));
    assert!(matches!(with(13, 1), Err(TableError::Reserved { offset: 13 })));
    assert!(matches!(with(63, 1), Err(TableError::Reserved { offset: 63 })));
    assert!(matches!(with(23, 255), Err(TableError::BlobSize(_))));
    assert!(matches!(Layout::parse(&good[..63]), Err(TableError::Length { .. })));
    assert!(Layout::new(Geometry::default(), u64::MAX).is_err());
}

#[test]
fn empty_and_tiny_blobs_have_tables() {
    for len in [0, 1, 4095, 4096, 4097, 65535, 65536, 65537] {
        let blob = bytes(len);
        let table = build(Geometry::default(), &blob);
        BuiltTable::parse(&table.pin(), &table.to_bytes()).unwrap();
        table.verify(0, &blob).unwrap();
        assert_eq!(table.layout().blob_size(), len as u64);
    }
}

/// Every bit of a small table and blob, both algorithms.
#[test]
fn every_flipped_bit_is_refused() {
    for algorithm in [Algorithm::Blake3, Algorithm::Sha256] {
        let blob = bytes(9000);
        let table = build(Geometry { algorithm, grain_bits: 12, group_bits: 13 }, &blob);
        let mut file = table.to_bytes();
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(BuiltTable::parse(&table.pin(), &file).is_err(), "bit {bit} of the table");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        let mut wrong = blob.clone();
        for bit in (0..blob.len() * 8).step_by(7) {
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(table.verify(0, &wrong).is_err(), "bit {bit} of the blob");
            let grain = bit / 8 / 4096 * 4096;
            let end = (grain + 4096).min(blob.len());
            assert!(table.verify(grain as u64, &wrong[grain..end]).is_err());
            wrong[bit / 8] ^= 1 << (bit % 8);
        }
        BuiltTable::parse(&table.pin(), &file).unwrap().verify(0, &wrong).unwrap();
    }
}

fn open(server: Server, size: Option<u64>, pin: Pin) -> (Arc<Server>, Result<Table, TableError>) {
    let server = Arc::new(server);
    let options = TableOptions { blob_size: size, ..TableOptions::default() };
    (server.clone(), Table::open(pin, server, options, &FetchContext::default()))
}

#[test]
fn small_tables_come_whole_in_one_request() {
    let blob = bytes(1 << 20);
    let table = build(Geometry::default(), &blob);
    let (server, opened) = open(Server::new(table.to_bytes()), Some(1 << 20), table.pin());
    let opened = opened.unwrap();
    assert!(opened.cached(0..1 << 20).is_some());
    opened.verify(0, &blob, &FetchContext::default()).unwrap();
    opened.verify(4096, &blob[4096..20480], &FetchContext::default()).unwrap();
    assert_eq!(server.count(), 1);
    let (server, opened) = open(Server::new(table.to_bytes()), None, table.pin());
    assert_eq!(opened.unwrap().layout().blob_size(), 1 << 20);
    assert_eq!(server.count(), 1, "neither does one whose size is not known");
}

#[test]
fn pages_of_large_tables_come_when_needed() {
    let blob = bytes(24 << 20);
    let table = build(Geometry::default(), &blob);
    let size = blob.len() as u64;
    let (server, opened) = open(Server::new(table.to_bytes()), Some(size), table.pin());
    let opened = opened.unwrap();
    let context = FetchContext::default();
    opened.verify(1 << 20, &blob[1 << 20..9 << 20], &context).unwrap();
    assert_eq!(
        server.count(),
        1,
        "whole groups need coarse digests only, which came with the head"
    );
    let range = (10 << 20) + 4096..(15 << 20) - 4096;
    assert!(opened.cached(range.clone()).is_none());
    let digests = opened.digests(range.clone(), &context).unwrap();
    assert_eq!(server.count(), 3, "a page for each edge");
    digests.verify(range.start, &blob[range.start as usize..range.end as usize]).unwrap();
    // In pieces, cut at groups.
    let cut = 12 << 20;
    digests.verify(range.start, &blob[range.start as usize..cut]).unwrap();
    digests.verify(cut as u64, &blob[cut..range.end as usize]).unwrap();
    let outside = digests.verify(0, &blob[..4096]);
    assert!(matches!(outside, Err(TableError::Range { offset: 0, len: 4096 })));
    assert!(matches!(opened.digests(1..4096, &context), Err(TableError::Range { .. })));
    assert_eq!(server.count(), 3);
    assert_eq!(opened.stats().requests, 3);
}

#[test]
fn another_geometry_or_size_than_expected_is_found_out() {
    let blob = bytes(3 << 20);
    let geometry = Geometry { algorithm: Algorithm::Blake3, grain_bits: 16, group_bits: 20 };
    let table = build(geometry, &blob);
    let size = blob.len() as u64;
    let (_, opened) = open(Server::new(table.to_bytes()), Some(size), table.pin());
    opened.unwrap().verify(0, &blob, &FetchContext::default()).unwrap();
    let (_, opened) = open(Server::new(table.to_bytes()), Some(size - 1), table.pin());
    assert!(matches!(opened, Err(TableError::OtherSize { .. })));
}

#[test]
fn wrong_tables_are_asked_for_afresh_once() {
    let blob = bytes(24 << 20);
    let table = build(Geometry::default(), &blob);
    let size = blob.len() as u64;
    let head_len = table.layout().head_len() as usize;
    let context = FetchContext::default();
    // The head; then a fine page.
    for at in [100, head_len + (3 + 40) * 4096] {
        for wrong_afresh in [false, true] {
            let server = Server { wrong: vec![at], wrong_afresh, ..Server::new(table.to_bytes()) };
            let (_, opened) = open(server, Some(size), table.pin());
            let offset = 40 * 128 * 4096_u64 + 4096;
            let result = opened.and_then(|opened| {
                let grain = &blob[offset as usize..][..4096];
                opened.verify(offset, grain, &context)?;
                Ok(opened.stats().mismatches)
            });
            match result {
                Ok(mismatches) => assert_eq!(mismatches, 1, "{at}"),
                Err(error) => assert!(wrong_afresh && error.is_mismatch(), "{error}"),
            }
        }
    }
}

#[test]
fn what_is_on_the_shelf_is_not_asked_for_and_not_trusted() {
    let blob = bytes(24 << 20);
    let table = build(Geometry::default(), &blob);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digests");
    let context = FetchContext::default();
    let open = |server: &Arc<Server>| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let options = TableOptions {
            shelf: Some(Arc::new(FileShelf::new(file.unwrap()))),
            ..TableOptions::default()
        };
        Table::open(table.pin(), server.clone(), options, &context).unwrap()
    };
    let check = |table: &Table| table.verify(4096, &blob[4096..1 << 20], &context).unwrap();
    let server = Arc::new(Server::new(table.to_bytes()));
    check(&open(&server));
    let before = server.count();
    check(&open(&server));
    assert_eq!(server.count(), before, "all of it was on the shelf");
    // A flipped bit in a page, and in the head.
    for at in [table.layout().head_len() as usize + 3 * 4096, 70] {
        let mut file = std::fs::read(&path).unwrap();
        file[at] ^= 1;
        std::fs::write(&path, &file).unwrap();
        let before = server.count();
        check(&open(&server));
        assert!(server.count() > before);
    }
}

#[test]
fn threads_that_miss_one_page_fetch_it_once() {
    let blob = bytes(24 << 20);
    let table = build(Geometry::default(), &blob);
    let delay = std::time::Duration::from_millis(20);
    let server = Server { delay, ..Server::new(table.to_bytes()) };
    let (server, opened) = open(server, Some(blob.len() as u64), table.pin());
    let opened = opened.unwrap();
    let ready = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (opened, blob, ready) = (&opened, &blob, &ready);
            scope.spawn(move || {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < 8 {
                    std::hint::spin_loop();
                }
                let offset = 4096 * (1 + thread);
                let grain = &blob[offset..][..4096];
                opened.verify(offset as u64, grain, &FetchContext::default()).unwrap();
            });
        }
    });
    assert_eq!(server.count(), 2);
}

#[test]
fn memory_for_pages_has_a_limit() {
    let blob = bytes(24 << 20);
    let table = build(Geometry::default(), &blob);
    let pages = Arc::new(PageCache::new(5 * 4096));
    let options = TableOptions { pages: pages.clone(), ..TableOptions::default() };
    let server = Arc::new(Server::new(table.to_bytes()));
    let opened = Table::open(table.pin(), server, options, &FetchContext::default()).unwrap();
    for offset in (4096..blob.len()).step_by(500_000) {
        let start = offset / 4096 * 4096;
        opened.verify(start as u64, &blob[start..start + 4096], &FetchContext::default()).unwrap();
        assert!(pages.bytes() <= 5 * 4096);
    }
    drop(opened);
    assert_eq!(pages.bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_range_of_any_blob_is_verified_and_any_flip_refused(
        len in 1_usize..400_000,
        grain_bits in 12_u8..15,
        more_bits in 0_u8..4,
        is_sha in any::<bool>(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let algorithm = if is_sha { Algorithm::Sha256 } else { Algorithm::Blake3 };
        let geometry = Geometry { algorithm, grain_bits, group_bits: grain_bits + more_bits };
        let mut blob = bytes(len);
        let built = build(geometry, &blob);
        let mut file = built.to_bytes();
        prop_assert!(BuiltTable::parse(&built.pin(), &file).is_ok());
        let (server, opened) = open(Server::new(file.clone()), None, built.pin());
        let opened = opened.unwrap();
        let (a, b) = (from.index(len) as u64, to.index(len) as u64);
        let range = opened.layout().whole_grains(&(a.min(b)..a.max(b) + 1));
        let (start, end) = (range.start as usize, range.end as usize);
        let context = FetchContext::default();
        prop_assert!(opened.verify(range.start, &blob[start..end], &context).is_ok());
        prop_assert!(built.verify(range.start, &blob[start..end]).is_ok());
        prop_assert!(server.count() <= 5);
        blob[start + flip.index(end - start)] ^= 1 << bit;
        prop_assert!(opened.verify(range.start, &blob[start..end], &context).is_err());
        let at = flip.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(BuiltTable::parse(&built.pin(), &file).is_err());
    }

    #[test]
    fn any_bytes_are_refused_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let pin = Pin { algorithm: Algorithm::Blake3, digest: [7; 32] };
        prop_assert!(Head::parse(&pin, &bytes).is_err());
        prop_assert!(BuiltTable::parse(&pin, &bytes).is_err());
    }
}
