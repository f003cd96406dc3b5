// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both pools against plain content: random reads, little memory, faults, threads; and how much memory
//! equal content takes.

use super::*;
use ferrofs_build::{BuildOptions, Compression, Method, Silent, Target, build};
use ferrofs_engine::EngineConfig;
use ferrofs_image::Image;
use ferrofs_tree::{Walk, WalkOptions};
use std::fs::{self, File};

/// Bytes that repeat nowhere, but compress by half.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> =
        (0..len.div_ceil(8)).flat_map(|_| (step() & 0x0F0F_0F0F_0F0F_0F0F).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// An image of one file, and an engine over it.
fn engine(content: &[u8], compressed: bool) -> Arc<Engine> {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), content).unwrap();
    let walked = Walk::run(&tree, &WalkOptions::default()).unwrap();
    let compression =
        Compression { method: Method::Lz4, pcluster_size: 65536, legacy_indexes: false };
    let options =
        BuildOptions { compression: compressed.then_some(compression), ..BuildOptions::default() };
    let target = Target { image: &image, blob: None };
    build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
    let image = Image::open(File::open(&image).unwrap()).unwrap();
    let config = EngineConfig { cache_bytes: 1 << 20, ..EngineConfig::default() };
    Arc::new(Engine::new(image.into(), config))
}

fn open(engine: &Engine) -> OpenFile {
    engine.open(&engine.image().resolve(b"/file").unwrap()).unwrap()
}

fn share(domain: &Domain, engine: &Arc<Engine>) -> SharedFile {
    domain.share(Arc::clone(engine), open(engine))
}

fn read_all(file: &SharedFile) -> Vec<u8> {
    let mut bytes = vec![0; file.size() as usize];
    assert_eq!(file.read_into(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Reads at places that look random and are the same each time.
fn random_reads(file: &SharedFile, content: &[u8], seed: u64, count: usize) {
    let mut dice = seed | 1;
    let mut below = |end: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % end.max(1)
    };
    let mut buf = vec![0; 300_000];
    for _ in 0..count {
        let offset = below(content.len() + 5000);
        let longest = [100, 5000, 300_000][below(3)];
        let len = below(longest);
        let expected = content.get(offset..).unwrap_or(&[]);
        let expected = &expected[..expected.len().min(len)];
        let found = file.read_into(offset as u64, &mut buf[..len]).unwrap();
        assert!(buf[..found] == *expected, "{len} bytes from {offset}");
    }
}

#[test]
fn shifted_content_is_in_memory_once() {
    let a = noise(9_000_000, 1);
    let b = [b"shifted", a.as_slice()].concat();
    let domain = Domain::new(64 << 20).unwrap();
    assert!(read_all(&share(&domain, &engine(&a, true))) == a);
    let one = domain.stats();
    assert!(read_all(&share(&domain, &engine(&b, false))) == b);
    let two = domain.stats();
    let len = a.len() as u64;
    assert!((len..len * 105 / 100).contains(&one.chunk_memory), "{one:?}");
    // Around the ends of segments and at the beginning chunks differ.
    assert!(two.chunk_memory - one.chunk_memory < len / 20, "{two:?}");
    assert_eq!(two.segments_decoded, 6);
    // Another domain has none of it.
    let other = Domain::new(64 << 20).unwrap();
    assert!(read_all(&share(&other, &engine(&a, true))) == a);
    assert_eq!(other.stats().chunk_equal_bytes, 0);
}

#[test]
fn many_engines_have_one_budget() {
    let content = noise(5_000_000, 8);
    let limit = 8 << 20;
    let domain = Domain::new(limit).unwrap();
    let engines: Vec<_> = (0..4).map(|index| engine(&content, index % 2 == 0)).collect();
    let files: Vec<_> = engines.iter().map(|engine| share(&domain, engine)).collect();
    for file in &files {
        assert!(read_all(file) == content);
    }
    let stats = domain.stats();
    assert!(stats.chunk_memory < 5_250_000, "equal bytes once: {stats:?}");
    assert_eq!(stats.chunk_equal_bytes, 15_000_000);
    for file in &files {
        random_reads(file, &content, 3, 20);
    }
    let decoded = domain.stats().segments_decoded;
    assert_eq!(decoded, stats.segments_decoded, "all of it is there, for every engine");
    let others: Vec<_> = (0..4).map(|seed| engine(&noise(5_000_000, 20 + seed), true)).collect();
    for engine in &others {
        read_all(&share(&domain, engine));
    }
    assert!(domain.stats().chunk_memory <= limit, "{:?}", domain.stats());
}

#[test]
fn eviction_and_threads_lose_nothing() {
    let a = noise(6_000_000, 2);
    let mut b = a.clone();
    b[2_500_000] ^= 1;
    for limit in [0, 300_000, 4 << 20, 64 << 20] {
        let domain = Domain::new(limit).unwrap();
        let files = [share(&domain, &engine(&a, true)), share(&domain, &engine(&b, true))];
        std::thread::scope(|scope| {
            for (seed, (file, content)) in files.iter().zip([&a, &b]).cycle().take(4).enumerate() {
                scope.spawn(move || random_reads(file, content, seed as u64 + 7, 25));
            }
        });
        let stats = domain.stats();
        assert!(stats.chunk_memory <= limit, "{stats:?}");
        if limit == 64 << 20 {
            assert_eq!(stats.segments_decoded, 4, "each segment once, whoever wants it");
        }
    }
}

#[test]
fn failures_are_not_kept() {
    let content = noise(3_000_000, 3);
    let engine = engine(&content, true);
    let domain = Domain::new(64 << 20).unwrap();
    let file = share(&domain, &engine);
    engine.inject("read-error".parse().unwrap());
    let mut buf = vec![0; 5000];
    assert!(file.read_into(1_000_000, &mut buf).is_err());
    assert_eq!(domain.stats().chunk_new_bytes, 0);
    assert!(domain.compose(&engine, &open(&engine)).is_err());
    assert_eq!((domain.stats().pages, domain.stats().page_memory), (0, 0));
    engine.clear_faults();
    random_reads(&file, &content, 1, 10);
    // Part of a segment that fails does not fail the rest of it.
    let file = share(&domain, &engine);
    engine.drop_caches(ferrofs_engine::DropCaches::All);
    engine.inject("read-error,nth=1".parse().unwrap());
    assert_eq!(file.read_into(2_900_000, &mut buf).unwrap(), 5000);
    assert!(buf == content[2_900_000..2_905_000]);
}

#[test]
fn composed_files_have_equal_pages_once() {
    let mut a = noise(4_000_100, 4);
    a[1_000_000..1_100_000].fill(0);
    let mut b = a.clone();
    b[3_000_000] ^= 1;
    let domain = Domain::new(0).unwrap();
    let (one, two) = (engine(&a, true), engine(&b, false));
    let first = domain.compose(&one, &open(&one)).unwrap();
    let before = domain.stats();
    let second = domain.compose(&two, &open(&two)).unwrap();
    let stats = domain.stats();
    assert_eq!(stats.page_memory, before.page_memory + 4096, "one page differs");
    assert_eq!(stats.pages, before.pages + 1);
    let pages = a.len().div_ceil(4096) as u64;
    assert_eq!(stats.composed_bytes, 2 * pages * 4096);
    assert_eq!(before.page_memory, (pages - 23) * 4096, "zeros take none");
    assert_eq!((first.pieces(), second.pieces()), (2, 4));
    for (file, content) in [(&first, &a), (&second, &b)] {
        let mut bytes = vec![1; content.len() + 10];
        assert_eq!(file.read(0, &mut bytes), content.len());
        assert!(bytes[..content.len()] == **content);
        assert_eq!(file.read(4_000_099, &mut bytes), 1);
        assert_eq!(file.read(4_000_100, &mut bytes), 0);
    }
    drop(first);
    let mut bytes = vec![0; b.len()];
    second.read(0, &mut bytes);
    assert!(bytes == b, "what others still use stays");
    assert_eq!(domain.stats().page_memory, before.page_memory);
    drop(second);
    let stats = domain.stats();
    assert_eq!((stats.pages, stats.page_memory, stats.composed_bytes), (0, 0, 0));
}

#[test]
fn too_many_pieces_become_one() {
    // Every other page of the second file is one of the first: no two pages follow each other.
    let a = noise(20_000 * 4096, 5);
    let mut b = noise(20_000 * 4096, 6);
    for page in (0..20_000).step_by(2) {
        b[page * 4096..][..4096].copy_from_slice(&a[page * 4096..][..4096]);
    }
    let domain = Domain::new(0).unwrap();
    let (one, two) = (engine(&a, false), engine(&b, false));
    let first = domain.compose(&one, &open(&one)).unwrap();
    let second = domain.compose(&two, &open(&two)).unwrap();
    assert_eq!((first.pieces(), second.pieces()), (1, 1));
    let mut bytes = vec![0; b.len()];
    second.read(0, &mut bytes);
    assert!(bytes == b);
    drop(second);
    assert_eq!(domain.stats().page_memory, a.len() as u64);
}

#[test]
fn empty_files_and_the_last_byte() {
    let domain = Domain::new(1 << 20).unwrap();
    for content in [vec![], vec![7], vec![0; 4097]] {
        let engine = engine(&content, false);
        let composed = domain.compose(&engine, &open(&engine)).unwrap();
        let mut bytes = vec![9; 5000];
        assert_eq!(composed.read(0, &mut bytes), content.len());
        assert_eq!(bytes[..content.len()], content);
        let file = share(&domain, &engine);
        assert_eq!(read_all(&file), content);
    }
}
