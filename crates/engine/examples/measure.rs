// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures the engine without FUSE; the benchmarks in `bench/` call it.
//!
//! ```text
//! measure scan IMAGE [ROUNDS]              sequential reads of all files: bare decoder, 1 and 2 threads
//! measure memory IMAGE [ROUNDS]            the same with the image in memory, not in a file
//! measure pages IMAGE FILE STRATEGY CACHE  each 4 KiB page of FILE once, in random order
//! measure zipf IMAGE FILE STRATEGY CACHE   100,000 reads of 4 KiB pages, zipf 0.9
//! ```
//!
//! CACHE is in bytes. Prints one line of JSON.

use ferrofs_engine::{Engine, EngineConfig, EngineStats, OpenFile, Request, Strategy};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Decoder, Encoding, Extent, Image, Location, Pcluster, Source, decode_extent};
use std::error::Error;
use std::fs::File;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes of one read of a scan, and the spare room behind it.
const STEP: usize = 1 << 20;
const SPARE: usize = 8192;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn files(engine: &Engine) -> Outcome<Vec<OpenFile>> {
    let image = engine.image();
    let (mut files, mut pending) = (vec![], vec![image.root()]);
    while let Some(nid) = pending.pop() {
        for entry in image.directory(&image.inode(nid)?)?.entries()? {
            let inode = image.inode(entry.nid)?;
            match inode.file_type {
                FileType::Directory if !entry.is_dot() => pending.push(inode.nid),
                FileType::Regular if inode.size > 0 => files.push(engine.open(&inode)?),
                _ => {}
            }
        }
    }
    Ok(files)
}

fn scan(engine: &Engine, files: &[OpenFile], next: &AtomicUsize) -> u64 {
    let mut buf = vec![0; STEP + SPARE];
    let mut total = 0;
    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut offset = 0;
        while offset < file.size() {
            let len = engine.whole_extents(file, offset, STEP);
            let request = Request { offset, len, ..Request::default() };
            let mut buffers = [IoSliceMut::new(&mut buf)];
            let count = engine.read(file, &request, &mut buffers).into_result().expect("readable");
            offset += count as u64;
            total += count as u64;
        }
    }
    total
}

/// All compressed extents of all files, with their encoded bytes.
fn clusters(engine: &Engine, files: &[OpenFile]) -> Outcome<Vec<(Extent, Pcluster, Vec<u8>)>> {
    let image = engine.image();
    let mut clusters = vec![];
    for file in files {
        let mut cursor = file.map().cursor(image);
        let mut at = 0;
        while at < file.size() {
            let extent = cursor.extent_at(at)?;
            at = extent.end();
            if let Source::Pcluster(pcluster) = extent.source
                && let Encoding::Compressed(_) = pcluster.encoding
                && let Location::Device(device) = pcluster.location
            {
                let mut raw = vec![0; pcluster.len as usize];
                image.read_device(device, &mut raw)?;
                clusters.push((extent, pcluster, raw));
            }
        }
    }
    Ok(clusters)
}

/// Seconds that the decoder alone takes for all clusters, the encoded bytes in memory and the output
/// always the same buffer.
fn bare(image: &Image, clusters: &[(Extent, Pcluster, Vec<u8>)]) -> f64 {
    let longest = clusters.iter().map(|(extent, ..)| extent.len).max().unwrap_or(0);
    let mut out = vec![0; longest as usize];
    let mut decoder = Decoder::new();
    let start = Instant::now();
    for (extent, pcluster, raw) in clusters {
        let out = &mut out[..extent.len as usize];
        decode_extent(&mut decoder, image.rules(), extent, pcluster, raw, out).expect("decodes");
    }
    start.elapsed().as_secs_f64()
}

fn measure_scan(image: &Arc<Image>, rounds: usize) -> Outcome<()> {
    let config = EngineConfig::default();
    let engine = Engine::new(Arc::clone(image), config);
    let files = files(&engine)?;
    let clusters = clusters(&engine, &files)?;
    let decoded: u64 = clusters.iter().map(|(extent, ..)| extent.len).sum();
    let (mut alone, mut one, mut two) = (f64::MAX, f64::MAX, f64::MAX);
    let mut total = 0;
    let mut stats = EngineStats::default();
    for _ in 0..rounds {
        alone = alone.min(bare(image, &clusters));
        for (threads, best) in [(1, &mut one), (2, &mut two)] {
            // Alone in its thread: what is compared is one core and two.
            let sync = ferrofs_engine::SyncDecompression::Always;
            let engine = Engine::new(Arc::clone(image), EngineConfig { sync, ..config });
            let next = AtomicUsize::new(0);
            let start = Instant::now();
            total = std::thread::scope(|scope| {
                let scan = || scan(&engine, &files, &next);
                let handles: Vec<_> = (0..threads).map(|_| scope.spawn(scan)).collect();
                handles.into_iter().map(|handle| handle.join().expect("no panic")).sum::<u64>()
            });
            *best = best.min(start.elapsed().as_secs_f64());
            stats = engine.stats();
        }
    }
    let rate = |bytes: u64, seconds: f64| bytes as f64 / seconds / 1e6;
    println!(
        "{{\"bytes\":{total},\"decoded_bytes\":{decoded},\"bare_mb_s\":{:.0},\"one_mb_s\":{:.0},\
         \"two_mb_s\":{:.0},\"one_to_bare\":{:.3},\"two_to_one\":{:.2},{}}}",
        rate(decoded, alone),
        rate(total, one),
        rate(total, two),
        rate(total, one) / rate(decoded, alone),
        one / two,
        counters(&stats)
    );
    Ok(())
}

/// A small generator with a fixed seed: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut random = Random(1);
    let mut pages: Vec<usize> = (0..count).collect();
    for index in (1..count).rev() {
        pages.swap(index, random.below(index + 1));
    }
    pages
}

/// Page numbers: which page has which rank is random.
fn zipf(count: usize, reads: usize) -> Vec<usize> {
    let pages = shuffled(count);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-0.9);
            sum
        })
        .collect();
    let mut random = Random(2);
    (0..reads)
        .map(|_| {
            let at = random.next() as f64 / u64::MAX as f64 * sum;
            pages[sums.partition_point(|sum| *sum < at).min(count - 1)]
        })
        .collect()
}

fn counters(stats: &EngineStats) -> String {
    let texts: Vec<String> = stats
        .counters()
        .into_iter()
        .filter(|(_, value)| *value > 0)
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    texts.join(",")
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let open = |path: &str| -> Outcome<_> { Ok(Arc::new(Image::open(File::open(path)?)?)) };
    match words[..] {
        ["scan", image] => measure_scan(&open(image)?, 5),
        ["scan", image, rounds] => measure_scan(&open(image)?, rounds.parse()?),
        ["memory", image] => measure_scan(&Arc::new(Image::open(std::fs::read(image)?)?), 5),
        ["memory", image, rounds] => {
            measure_scan(&Arc::new(Image::open(std::fs::read(image)?)?), rounds.parse()?)
        }
        [what @ ("pages" | "zipf"), image, file, strategy, cache] => {
            let strategy: Strategy = strategy.parse()?;
            let config =
                EngineConfig { strategy, cache_bytes: cache.parse()?, ..EngineConfig::default() };
            let engine = Engine::new(open(image)?, config);
            let file = engine.open(&engine.image().resolve(file.as_bytes())?)?;
            let count = (file.size() / 4096) as usize;
            let pages = if what == "pages" { shuffled(count) } else { zipf(count, 100_000) };
            let mut buf = [0; 4096];
            let start = Instant::now();
            for page in pages {
                engine.read_into(&file, page as u64 * 4096, &mut buf)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            let stats = engine.stats();
            println!(
                "{{\"seconds\":{seconds:.3},\"encoded_cache_bytes\":{},{}}}",
                stats.encoded_cache_bytes,
                counters(&stats)
            );
            Ok(())
        }
        _ => {
            Err("usage: measure scan|memory IMAGE [ROUNDS] | pages|zipf IMAGE FILE STRATEGY CACHE"
                .into())
        }
    }
}
