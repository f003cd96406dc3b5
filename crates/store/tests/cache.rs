// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs through a cache: right bytes or an error, whatever the source does.

mod common;

use common::{Faults, Memory, bytes, cache, config, spec};
use ferrofs_store::{
    Blob, BlobId, Cache, CacheConfig, Cancel, Demand, LimitConfig, Limits, Origin, OriginConfig,
    Policy, StoreError, SystemClock, TableSpec,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn read(blob: &Blob, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
    let mut buf = vec![0xaa; len];
    blob.read_exact_at(&mut buf, offset, &Demand::soft(Duration::from_secs(20)))?;
    Ok(buf)
}

#[test]
fn a_miss_then_hits_then_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(1_000_001, 1));
    let one = cache(folder.path());
    let blob = one.blob(spec(&source)).unwrap();
    assert_eq!(read(&blob, 999_990, 11).unwrap(), source.bytes[999_990..]);
    assert_eq!(read(&blob, 100, 200_000).unwrap(), source.bytes[100..200_100]);
    let requests = source.requests.load(Ordering::Relaxed);
    assert_eq!(read(&blob, 5000, 100_000).unwrap(), source.bytes[5000..105_000]);
    assert_eq!(source.requests.load(Ordering::Relaxed), requests);
    // A handle of its own shares nothing in memory but the map.
    let two = cache(folder.path());
    let same = two.blob(spec(&source)).unwrap();
    assert_eq!(read(&same, 5000, 100_000).unwrap(), source.bytes[5000..105_000]);
    assert_eq!(source.requests.load(Ordering::Relaxed), requests);
    assert!(same.is_present(100..200_100));
    assert_eq!(same.stats().hits, 1);
    let error = read(&blob, 1_000_000, 2).unwrap_err();
    assert!(matches!(error, StoreError::Range { .. }));
    let id = blob.id().clone();
    drop((blob, same, one, two));
    let three = cache(folder.path());
    settle(&three, &id);
    let info = &three.list().unwrap()[0];
    assert!(info.present_bytes >= 200_000, "the log tells: {info:?}");
    assert!(!info.in_use);
}

#[test]
fn of_many_readers_one_fetches() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(1 << 20, 2));
    *source.delay.lock().unwrap() = Duration::from_millis(20);
    let caches: Vec<Cache> = (0..2).map(|_| cache(folder.path())).collect();
    let blobs: Vec<Blob> = caches.iter().map(|cache| cache.blob(spec(&source)).unwrap()).collect();
    std::thread::scope(|scope| {
        for index in 0..16 {
            let (blob, source) = (&blobs[index % 2], &source);
            scope.spawn(move || {
                assert_eq!(read(blob, 65536, 131072).unwrap(), source.bytes[65536..196_608]);
            });
        }
    });
    assert_eq!(source.served.load(Ordering::Relaxed), 131_072, "{:?}", source.asked);
}

/// While one process fetches the middle of what the other has missed, that one waits; then it fetches
/// what is left on both sides.
#[test]
fn what_others_bring_meanwhile_is_not_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(256 << 10, 9));
    *source.delay.lock().unwrap() = Duration::from_millis(50);
    let caches: Vec<Cache> = (0..2).map(|_| cache(folder.path())).collect();
    let blobs: Vec<Blob> = caches.iter().map(|cache| cache.blob(spec(&source)).unwrap()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| read(&blobs[0], 65536, 65536).unwrap());
        while source.requests.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(read(&blobs[1], 0, 256 << 10).unwrap(), source.bytes);
    });
    assert_eq!(source.served.load(Ordering::Relaxed), 256 << 10, "{:?}", source.asked);
}

#[test]
fn wrong_bytes_are_asked_for_again_and_never_kept() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(300_000, 3));
    source.faults.lock().unwrap().wrong = 1000;
    let cache = cache(folder.path());
    let blob = cache.blob(spec(&source)).unwrap();
    assert_eq!(read(&blob, 0, 300_000).unwrap(), source.bytes);
    assert!(blob.stats().verification_failures > 0);
    // A source that always lies.
    let mut other = spec(&source);
    let liar = Memory::new(bytes(300_000, 4));
    other.origin = spec(&liar).origin;
    let folder = tempfile::tempdir().unwrap();
    let blob = common::cache(folder.path()).blob(other).unwrap();
    let error = read(&blob, 70_000, 10).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(blob.presence(), []);
}

#[test]
fn a_server_without_ranges_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(3_000_000, 5));
    source.faults.lock().unwrap().whole = 1000;
    let cache = cache(folder.path());
    let blob = cache.blob(spec(&source)).unwrap();
    assert_eq!(read(&blob, 2_000_000, 10).unwrap(), source.bytes[2_000_000..2_000_010]);
    std::thread::scope(|scope| {
        for index in 0..8 {
            let (blob, source) = (&blob, &source);
            scope.spawn(move || {
                let at = index * 300_000;
                let got = read(blob, at as u64, 100_000).unwrap();
                assert_eq!(got, source.bytes[at..at + 100_000]);
            });
        }
    });
    // The rest comes while nobody waits.
    for _ in 0..2000 {
        if blob.is_present(0..3_000_000) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let missing = blob.missing(0..3_000_000);
    assert!(missing.is_empty(), "{missing:?}: {:?}", cache.last_error());
    assert_eq!(source.served.load(Ordering::Relaxed), 3_000_000);
}

/// A reader does not wait for all that a prefetch is to bring before its own bytes, nor at the speed
/// of the prefetches' limit.
#[test]
fn a_reader_passes_a_prefetch_that_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(16 << 20, 8));
    let cache = cache(folder.path());
    let mut slow = spec(&source);
    // All of it would take a quarter of an hour.
    let limits =
        LimitConfig { prefetch_bytes_per_second: Some(16 << 10), ..LimitConfig::default() };
    let (config, limits) = (OriginConfig::default(), Arc::new(Limits::new(limits)));
    let clock = Arc::new(SystemClock);
    slow.origin = Origin::with(vec![], source.clone(), config, limits, clock);
    let blob = cache.blob(slow).unwrap();
    // Who is not known to give parts is not asked anew for a reader: all would come for him.
    read(&blob, 500_000, 10).unwrap();
    let before = source.requests.load(Ordering::Relaxed);
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let demand = Demand { cancel: Some(cancel.clone()), ..Demand::prefetch() };
            assert!(blob.fill(1 << 20..16 << 20, &demand).is_err(), "it was cancelled");
        });
        while source.requests.load(Ordering::Relaxed) == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Far behind where the prefetch is, and just before it.
        for at in [12 << 20, (1 << 20) + 300_000] {
            assert_eq!(read(&blob, at as u64, 5000).unwrap(), source.bytes[at..at + 5000]);
        }
        cancel.cancel();
    });
    assert!(!blob.is_present(0..16 << 20));
}

#[test]
fn a_blob_without_a_table_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(10_000, 6));
    let mut bare = spec(&source);
    bare.table = TableSpec::Missing;
    let cache = cache(folder.path());
    assert!(matches!(cache.blob(bare.clone()), Err(StoreError::Unverified { .. })));
    bare.table = TableSpec::Insecure;
    let blob = cache.blob(bare).unwrap();
    assert_eq!(read(&blob, 0, 10_000).unwrap(), source.bytes);
}

#[test]
fn limits_hold_and_readers_get_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = CacheConfig { bytes_max: Some(512 << 10), ..config(folder.path()) };
    let cache = Cache::open(config).unwrap();
    let source = Memory::new(bytes(4 << 20, 7));
    let blob = cache.blob(spec(&source)).unwrap();
    for at in (0..4 << 20).step_by(65536) {
        assert_eq!(read(&blob, at as u64, 65536).unwrap(), source.bytes[at..at + 65536]);
        assert!(disk_bytes(folder.path()) <= (512 << 10) + INDEX_BLOCK);
        assert!(cache.stats().used_bytes <= 512 << 10);
    }
    assert!(blob.stats().evicted_bytes > 0);
    // Without eviction of ranges: from memory.
    let other = Memory::new(bytes(2 << 20, 8));
    let mut kept = spec(&other);
    kept.policy = Policy::keep_ranges();
    let kept = cache.blob(kept).unwrap();
    for at in (0..2 << 20).step_by(65536) {
        assert_eq!(read(&kept, at as u64, 65536).unwrap(), other.bytes[at..at + 65536]);
    }
    assert_eq!(kept.stats().evicted_bytes, 0);
    assert!(cache.stats().used_bytes <= 512 << 10);
}

/// ext4 counts the block in which it notes where the runs of a file lie, once they are more than four.
const INDEX_BLOCK: u64 = 4096;

/// What `du` would say of the data files below a folder.
fn disk_bytes(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        // Removed meanwhile: it takes nothing.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            sum += disk_bytes(&entry.path());
        } else if entry.file_name() == "data" {
            sum += meta.blocks() * 512;
        }
    }
    sum
}

/// Two handles are as two processes: their locks exclude each other, and only files are shared.
#[test]
fn processes_share_one_limit() {
    const MAX: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let open =
        || Cache::open(CacheConfig { bytes_max: Some(MAX), ..config(folder.path()) }).unwrap();
    let (one, two) = (open(), open());
    let sources = [Memory::new(bytes(4 << 20, 7)), Memory::new(bytes(4 << 20, 8))];
    let blobs = [one.blob(spec(&sources[0])).unwrap(), two.blob(spec(&sources[1])).unwrap()];
    let fill = |which: usize| {
        for at in (0..4 << 20).step_by(65536) {
            let got = read(&blobs[which], at as u64, 65536).unwrap();
            assert_eq!(got, sources[which].bytes[at..at + 65536]);
            assert!(disk_bytes(folder.path()) <= MAX + 2 * INDEX_BLOCK);
            assert!(one.stats().used_bytes <= MAX && two.stats().used_bytes <= MAX);
        }
    };
    fill(0);
    assert!(blobs[0].stats().present_bytes > MAX / 2, "one alone has nearly all of it");
    assert_eq!(two.stats().used_bytes, one.stats().used_bytes);
    // The other gets its share, when the first, who uses what it has, hears of it.
    for _ in 0..100 {
        fill(1);
        if blobs[1].stats().present_bytes > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(blobs[1].stats().present_bytes > 0);
    // Who comes when nobody is there counts what is there, whatever others had counted.
    drop((blobs, one, two));
    let count = || {
        (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let used = open().stats().used_bytes;
            (used == disk_bytes(folder.path())).then_some(used)
        })
    };
    assert!(count().is_some());
}

/// What is fetched ahead keeps a blob in use for a moment.
fn settle(cache: &Cache, id: &BlobId) {
    for _ in 0..1000 {
        if !cache.info(id).unwrap().in_use {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{id} stays in use");
}

#[test]
fn scrub_drops_what_is_wrong() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(500_000, 9));
    let cache = cache(folder.path());
    let blob = cache.blob(spec(&source)).unwrap();
    read(&blob, 0, 500_000).unwrap();
    assert_eq!(cache.verify(blob.id(), None, false).unwrap().verified_bytes, 500_000);
    blob.data_file().write_all_at(b"wrong", 100_000).unwrap();
    let findings = cache.verify(blob.id(), None, true).unwrap();
    assert_eq!((findings.wrong.len(), &findings.wrong[0]), (1, &(65536..131_072)));
    assert_eq!(findings.dropped_bytes, 65536);
    assert_eq!(read(&blob, 0, 500_000).unwrap(), source.bytes);
    assert!(cache.remove(blob.id()).is_err(), "in use");
    let id = blob.id().clone();
    drop(blob);
    settle(&cache, &id);
    cache.pin(&id, true).unwrap();
    assert!(matches!(cache.remove(&id), Err(StoreError::Pinned { .. })));
    cache.pin(&id, false).unwrap();
    assert!(cache.remove(&id).unwrap() >= 500_000);
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn every_byte_is_right_whatever_happens() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(2_000_003, 10));
    *source.faults.lock().unwrap() =
        Faults { error: 100, short: 100, wrong: 50, whole: 5, delay: 50 };
    let caches: Vec<Cache> = (0..2)
        .map(|_| {
            let config = CacheConfig { bytes_max: Some(1 << 20), ..config(folder.path()) };
            Cache::open(config).unwrap()
        })
        .collect();
    let blobs: Vec<Blob> = caches.iter().map(|cache| cache.blob(spec(&source)).unwrap()).collect();
    let blobs = &blobs;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let source: &Arc<Memory> = &source;
            let caches = &caches;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for round in 0..150 {
                    let at = random.usize(0..source.bytes.len());
                    let len = random.usize(1..200_000).min(source.bytes.len() - at);
                    match read(&blobs[thread as usize % 2], at as u64, len) {
                        Ok(got) => assert!(got == source.bytes[at..at + len], "{at}+{len}"),
                        Err(error) => panic!("{error}"),
                    }
                    if round % 16 == 7 {
                        caches[0].prune(300_000).unwrap();
                    }
                }
            });
        }
    });
    assert!(blobs[0].stats().evicted_bytes > 0);
}
