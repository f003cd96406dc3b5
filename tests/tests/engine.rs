// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine gives the same bytes as the plain read path and the manifests, for any size of read,
//! any number of readers, caches of any size and any strategy, and with faults injected exactly the
//! bytes that do not need what failed.

use ferrofs_engine::{
    DropCaches, Engine, EngineConfig, EngineStats, Hint, OnChange, Request, Rule, Strategy,
    SyncDecompression,
};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode, OpenOptions};
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use std::fs::File;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

/// Counters that must add up when nobody reads.
fn check_sums(stats: &EngineStats) {
    let cached = stats.extent_cache_bytes + stats.page_cache_bytes + stats.encoded_cache_bytes;
    assert!(cached <= stats.cache_limit, "{stats:?}");
    let ways = stats.extent_hits + stats.page_hits + stats.waits + stats.claims;
    assert_eq!(stats.lookups, ways, "{stats:?}");
    let ends = stats.decodes + stats.io_failures + stats.decode_failures;
    assert_eq!(stats.claims, ends, "{stats:?}");
    assert!(stats.direct_decodes <= stats.decodes && stats.partial_decodes <= stats.decodes);
    assert!(stats.in_place_decodes <= stats.claims && stats.encoded_hits <= stats.claims);
    assert_eq!(stats.request_time.count(), stats.requests);
    assert!(stats.failed_requests <= stats.requests);
}

#[test]
fn engine_reads_every_golden_image() {
    let golden = Golden::unpack();
    let mut failures = vec![];
    for (index, name) in golden.names().into_iter().enumerate() {
        let config = EngineConfig {
            strategy: Strategy::ALL[index % 4],
            sync: SyncDecompression::ALL[index % 3],
            strict: index % 2 == 0,
            ..EngineConfig::default()
        };
        let engine = Engine::new(open(&golden, &name), config);
        // Reads the size of FUSE's, one byte off now and then, and tiny merges.
        let step = [131_072, 4096, 1 << 20, 65_537][index % 4];
        let found = Manifest::of_image_with(engine.image(), step, |inode| {
            let file = engine.open(inode)?;
            let engine = &engine;
            Ok(move |offset, buf: &mut [u8]| engine.read_into(&file, offset, buf))
        });
        let lines = match found {
            Ok(found) => golden.manifest(&name).differences(&found),
            Err(error) => vec![error.to_string()],
        };
        failures.extend(lines.iter().take(5).map(|line| format!("{name}: {line}")));
        let stats = engine.stats();
        check_sums(&stats);
        assert_eq!(stats.io_failures + stats.decode_failures, 0, "{name}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A small generator with a fixed seed: the reads are the same in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

fn regular_files(image: &Image) -> Vec<Inode> {
    let mut files = vec![];
    let mut pending = vec![image.root()];
    while let Some(nid) = pending.pop() {
        let inode = image.inode(nid).unwrap();
        for entry in image.directory(&inode).unwrap().entries().unwrap() {
            if !entry.is_dot() {
                let inode = image.inode(entry.nid).unwrap();
                match inode.file_type {
                    FileType::Directory => pending.push(inode.nid),
                    FileType::Regular if inode.size > 0 => files.push(inode),
                    _ => {}
                }
            }
        }
    }
    files
}

fn content(image: &Image, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size as usize];
    let count = image.read(&image.map(inode).unwrap(), 0, &mut bytes).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

/// One random request; returns how many bytes could not be delivered.
fn read_and_compare(engine: &Engine, inode: &Inode, whole: &[u8], random: &mut Lcg) -> usize {
    let offset = random.below(inode.size);
    let len = match random.below(4) {
        0 => random.below(400_000),
        1 => inode.size,
        _ => random.below(9000),
    } as usize
        + 1;
    let file = engine.open(inode).unwrap();
    let hint = [Hint::None, Hint::Readahead, Hint::Random][random.below(3) as usize];
    let spare = [0, 8192, 100][random.below(3) as usize];
    let mut memory = vec![0xA5; len + spare];
    // One buffer, or several of odd sizes.
    let mut buffers: Vec<IoSliceMut<'_>> = match random.below(3) {
        0 => {
            let (first, rest) = memory.split_at_mut(random.below(len as u64) as usize);
            let (second, third) = rest.split_at_mut(random.below(rest.len() as u64) as usize);
            [first, second, third].map(IoSliceMut::new).into()
        }
        _ => vec![IoSliceMut::new(&mut memory)],
    };
    let request = Request { offset, len, hint, surplus: random.below(4) == 0 };
    let report = engine.read(&file, &request, &mut buffers);
    let want = &whole[offset as usize..];
    let want = &want[..want.len().min(len)];
    assert_eq!(report.len, want.len());
    let mut at = 0;
    let mut failed = 0;
    for failure in &report.failures {
        assert!(failure.range.start >= at && failure.range.end <= report.len);
        assert!(memory[at..failure.range.start] == want[at..failure.range.start]);
        at = failure.range.end;
        failed += failure.range.len();
    }
    assert!(memory[at..want.len()] == want[at..], "nid {} at {offset}", inode.nid);
    for surplus in &report.surplus {
        let asked = offset..offset + report.len as u64;
        let [before, behind] = surplus.around(&asked);
        assert!(before.offset() + before.bytes().len() as u64 <= asked.start.max(before.offset()));
        assert!(behind.bytes().is_empty() || behind.offset() >= asked.end);
        for surplus in [surplus, &before, &behind] {
            let bytes = surplus.bytes();
            assert!(*bytes == whole[surplus.offset() as usize..][..bytes.len()]);
        }
    }
    failed
}

/// Eight readers, while strategies, limits and settings change and caches are dropped.
fn race(
    name: &str,
    goes_on: impl Fn(u64) -> bool + Sync,
    change: impl Fn(&Engine, &mut Lcg) + Sync,
) -> (u64, EngineStats) {
    let golden = Golden::unpack();
    let image = open(&golden, name);
    let files = regular_files(&image);
    let whole: Vec<Vec<u8>> = files.iter().map(|inode| content(&image, inode)).collect();
    let config = EngineConfig {
        cache_bytes: 1 << 20,
        merge_bytes: 96 << 10,
        workers: 3,
        ..EngineConfig::default()
    };
    let engine = Engine::new(Arc::clone(&image), config);
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (engine, files, whole) = (&engine, &files, &whole);
            let (change, failed, goes_on) = (&change, &failed, &goes_on);
            scope.spawn(move || {
                let mut random = Lcg(reader);
                for round in (0..).take_while(|round| goes_on(*round)) {
                    // Half of the readers want the same few files, to meet each other.
                    let some = if reader % 2 == 0 { 3.min(files.len()) } else { files.len() };
                    let index = random.below(some as u64) as usize;
                    let bytes = read_and_compare(engine, &files[index], &whole[index], &mut random);
                    failed.fetch_add(bytes as u64, Ordering::Relaxed);
                    if reader == 1 && round % 20 == 0 {
                        change(engine, &mut random);
                    }
                    if reader == 3 && round % 15 == 0 {
                        let file = engine.open(&files[index]).unwrap();
                        engine.prefetch(&file, 0..file.size());
                    }
                }
            });
        }
    });
    let stats = engine.stats();
    check_sums(&stats);
    (failed.into_inner(), stats)
}

fn change_everything(engine: &Engine, random: &mut Lcg) {
    let strategy = Strategy::ALL[random.below(4) as usize];
    let _ = engine.set_strategy(strategy, OnChange::ALL[random.below(3) as usize]);
    let bytes = [0, 100_000, 1 << 20, 8 << 20][random.below(4) as usize];
    engine.set_cache_bytes(bytes);
    engine.update(|config| {
        config.rule = Rule::ALL[random.below(2) as usize];
        config.sync = SyncDecompression::ALL[random.below(3) as usize];
        config.readmore = random.below(2) == 0;
        config.merge_bytes = [1, 4096, 1 << 20][random.below(3) as usize];
    });
    match random.below(6) {
        0 => engine.drop_caches(DropCaches::Encoded),
        1 => engine.drop_caches(DropCaches::Decoded),
        2 => engine.drop_caches(DropCaches::All),
        _ => {}
    }
}

#[test]
fn readers_race_while_everything_changes() {
    for name in ["lz4-dedupe-fragments-64k", "zstd-1m-all-fragments-dedupe", "lz4-64k-legacy"] {
        let (failed, stats) = race(name, |round| round < 300, change_everything);
        assert_eq!(failed, 0, "{name}");
        assert!(stats.decodes > 0 && stats.extent_hits > 0, "{name}: {stats:?}");
    }
}

/// Changes everything, and which faults strike.
fn change_faults(engine: &Engine, random: &mut Lcg) {
    change_everything(engine, random);
    engine.clear_faults();
    for fault in [
        "read-error,probability=0.05",
        "short-read,probability=0.05",
        "no-memory,probability=0.05",
        "decode,probability=0.05",
        "delay=1ms,probability=0.02",
        "read-error,nth=3",
    ] {
        if random.below(2) == 0 {
            engine.inject(fault.parse().unwrap());
        }
    }
}

#[test]
fn faults_cost_only_the_bytes_that_need_what_failed() {
    for name in ["lz4-dedupe-fragments-64k", "zstd-1m-all-fragments-dedupe"] {
        let (failed, stats) = race(name, |round| round < 200, change_faults);
        assert!(failed > 0 && stats.failed_requests > 0, "{name}: {stats:?}");
        assert!(stats.io_failures > 0 && stats.decode_failures > 0, "{name}: {stats:?}");
    }
}

/// The same for long: a minute in CI, ten by `make soak`, else a few seconds.
#[test]
fn soak_with_faults() {
    let set = std::env::var("FERROFS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = set.unwrap_or(if std::env::var_os("CI").is_some() { 60 } else { 3 });
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let (failed, stats) = race("lz4-dedupe-fragments-64k", |_| Instant::now() < end, change_faults);
    assert!(failed > 0, "{stats:?}");
    println!("{} requests, {} failed in part", stats.requests, stats.failed_requests);
}

/// After faults are gone everything is right again: failures are not kept.
#[test]
fn failures_are_not_kept() {
    let golden = Golden::unpack();
    let image = open(&golden, "lz4-dedupe-fragments-64k");
    let files = regular_files(&image);
    for fault in ["read-error", "short-read", "no-memory", "decode"] {
        let engine = Engine::new(Arc::clone(&image), EngineConfig::default());
        engine.inject(fault.parse().unwrap());
        let mut random = Lcg(1);
        let mut failed = 0;
        for inode in &files {
            let whole = content(&image, inode);
            failed += read_and_compare(&engine, inode, &whole, &mut random);
        }
        assert!(failed > 0, "{fault}");
        engine.clear_faults();
        for inode in &files {
            let whole = content(&image, inode);
            assert_eq!(read_and_compare(&engine, inode, &whole, &mut random), 0, "{fault}");
        }
    }
}

/// What the kernel's page cache has got is not kept a second time; but pages that two extents share are,
/// in halves.
#[test]
fn what_was_delivered_goes_but_for_the_ends() {
    const PAGE: usize = 4096;
    let golden = Golden::unpack();
    let (mut shared, mut delivered) = (0, 0);
    for name in golden.names() {
        let image = open(&golden, &name);
        for inode in regular_files(&image) {
            let whole = content(&image, &inode);
            let engine = Engine::new(Arc::clone(&image), EngineConfig::default());
            let file = engine.open(&inode).unwrap();
            let mut page = [0; PAGE];
            let request = Request { len: PAGE, surplus: true, ..Request::default() };
            let report = engine.read(&file, &request, &mut [IoSliceMut::new(&mut page)]);
            let Some(surplus) = report.surplus.into_iter().next() else { continue };
            assert!(engine.stats().extent_cache_bytes > 0);
            engine.delivered(&surplus);
            let stats = engine.stats();
            assert_eq!((stats.extent_cache_bytes, stats.encoded_cache_bytes), (0, 0), "{name}");
            delivered += 1;

            let end = surplus.offset() as usize + surplus.bytes().len();
            let last = end - end % PAGE;
            if last == end || end == whole.len() || last < PAGE {
                continue;
            }
            engine.read_into(&file, last as u64, &mut page[..end - last]).unwrap();
            assert!(page[..end - last] == whole[last..end]);
            assert_eq!(engine.stats().decodes, stats.decodes, "{name}: its end was kept");
            engine.read_into(&file, last as u64 - 1, &mut page[..1]).unwrap();
            assert_eq!(page[0], whole[last - 1]);
            assert_eq!(engine.stats().decodes, stats.decodes + 1, "{name}: all else was not");
            shared += 1;
        }
    }
    assert!(delivered > 10 && shared > 3, "{delivered} {shared}");
}
