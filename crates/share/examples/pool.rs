// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures what the second of two images costs in a domain: all files of A are read and composed,
//! then all of B.
//!
//! `cargo run --release -p ferrofs-share --example pool A B` prints figures, with `--json` one line for
//! bench/sharing. For copy-out reads memory is
//! that of the pool and the growth of the process (RssAnon); for composed mappings that of the memory
//! file and the different page frames behind all mappings, as /proc/self/pagemap has them (root). The
//! goals: 1.15 times the chunks of 16 KiB, 1.02 times the pages of 4 KiB of the estimate.

use ferrofs_engine::{Engine, EngineConfig, OpenFile};
use ferrofs_image::Image;
use ferrofs_image::format::inode::FileType;
use ferrofs_share::estimate::{Estimate, EstimateOptions, Input, estimate};
use ferrofs_share::pool::{Composed, Domain};
use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Enough for every pair.
const LIMIT: u64 = 8 << 30;
/// Of one read.
const READ: usize = 128 << 10;

fn open(path: &str) -> Result<Arc<Engine>> {
    let image = Image::open(File::open(path)?)?;
    let config = EngineConfig { cache_bytes: 4 << 20, ..EngineConfig::default() };
    Ok(Arc::new(Engine::new(image.into(), config)))
}

/// The regular files with content, each inode once.
fn files(engine: &Engine) -> Result<Vec<OpenFile>> {
    let image = engine.image();
    let mut files = vec![];
    let mut seen = HashSet::from([image.root()]);
    let mut pending = vec![image.root()];
    while let Some(nid) = pending.pop() {
        for entry in image.directory(&image.inode(nid)?)?.cursor() {
            let entry = entry?;
            if entry.is_dot() || !seen.insert(entry.nid) {
                continue;
            }
            let inode = image.inode(entry.nid)?;
            match inode.file_type {
                FileType::Directory => pending.push(entry.nid),
                FileType::Regular if inode.size > 0 => files.push(engine.open(&inode)?),
                _ => {}
            }
        }
    }
    Ok(files)
}

/// Megabytes of a line of /proc/self/status.
fn status(name: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    let number = line.trim_start_matches(':').split_whitespace().next().ok_or("no number")?;
    Ok(number.parse::<f64>()? * 1024.0 / 1e6)
}

/// Different frames behind mappings, and pages without one (holes that nobody touched).
fn frames<'a>(files: impl Iterator<Item = &'a Composed>) -> Result<(usize, usize)> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let (mut frames, mut absent) = (HashSet::new(), 0);
    let mut byte = [0; 1];
    for file in files {
        let pages = file.size().div_ceil(4096);
        // Reading a page maps it; what nobody looks at would not be read in a release build.
        (0..pages).for_each(|page| {
            file.read(page * 4096, &mut byte);
            std::hint::black_box(&byte);
        });
        let mut entries = vec![0; pages as usize * 8];
        pagemap.read_exact_at(&mut entries, file.address().addr() as u64 / 4096 * 8)?;
        for entry in entries.chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into()?);
            let frame = entry & ((1 << 55) - 1);
            if entry >> 63 == 0 || frame == 0 {
                absent += 1;
            } else {
                frames.insert(frame);
            }
        }
    }
    Ok((frames.len(), absent))
}

/// Pool, growth of the process, seconds.
type ChunkResult = (f64, f64, f64);

fn chunks(engines: &[Arc<Engine>]) -> Result<Vec<ChunkResult>> {
    let domain = Domain::new(LIMIT)?;
    let mut buf = vec![0; READ];
    let mut results = vec![];
    let (mut before, mut rss) = (0.0, status("RssAnon")?);
    for engine in engines {
        let start = Instant::now();
        for file in files(engine)? {
            let file = domain.share(Arc::clone(engine), file);
            let mut offset = 0;
            while offset < file.size() {
                offset += file.read_into(offset, &mut buf)? as u64;
            }
        }
        let (memory, now) = (domain.stats().chunk_memory as f64 / 1e6, status("RssAnon")?);
        results.push((memory - before, now - rss, start.elapsed().as_secs_f64()));
        (before, rss) = (memory, now);
    }
    Ok(results)
}

/// Memory file, frames, files, pieces, tables.
type PageResult = (f64, f64, usize, u64, f64);

fn pages(engines: &[Arc<Engine>]) -> Result<Vec<PageResult>> {
    let domain = Domain::new(0)?;
    let mut composed = vec![];
    let mut results = vec![];
    let (mut memory, mut rss, mut unique) = (0.0, status("RssAnon")?, 0);
    for engine in engines {
        for file in files(engine)? {
            composed.push(domain.compose(engine, &file)?);
        }
        let stats = domain.stats();
        let now = stats.page_memory as f64 / 1e6;
        let (count, _) = frames(composed.iter())?;
        let anonymous = status("RssAnon")?;
        let frames = (count - unique) as f64 * 4096.0 / 1e6;
        results.push((
            now - memory,
            frames,
            composed.len(),
            stats.composed_pieces,
            anonymous - rss,
        ));
        (memory, unique, rss) = (now, count, anonymous);
    }
    Ok(results)
}

/// What was estimated, and what it took, in bytes.
fn figures(estimated: &Estimate, chunks: &[ChunkResult], pages: &[PageResult]) -> String {
    let of = |method| {
        let row = estimated.methods.iter().find(|row| row.method == method);
        row.map_or(0, |row| row.unique_bytes)
    };
    let bytes = |megabytes: f64| (megabytes * 1e6) as u64;
    let copied = bytes(chunks.iter().map(|(memory, ..)| memory).sum());
    let mapped = bytes(pages.iter().map(|(_, frames, ..)| frames).sum());
    let seconds: f64 = chunks.iter().map(|(_, _, seconds)| seconds).sum();
    format!(
        "{{\"cdc16k\": {}, \"page4k\": {}, \"copied\": {copied}, \"mapped\": {mapped}, \
        \"copy_s\": {seconds:.3}}}",
        of("cdc16k"),
        of("page4k")
    )
}

fn main() -> Result<()> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    let json = paths.first().is_some_and(|word| word == "--json");
    if json {
        paths.remove(0);
    }
    if paths.len() != 2 {
        return Err("usage: pool [--json] A B".into());
    }
    let engines = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    let inputs = paths.iter().cloned().zip(engines.iter().map(|engine| Input::Image(engine)));
    let found = estimate(&inputs.collect::<Vec<_>>(), EstimateOptions::default())?;
    let (chunks, pages) = (chunks(&engines)?, pages(&engines)?);
    if json {
        println!("{}", figures(&found, &chunks, &pages));
        return Ok(());
    }
    let column = |method| {
        let row = found.methods.iter().find(|row| row.method == method);
        row.map_or(0.0, |row| row.added_bytes[1] as f64 / 1e6)
    };
    let (cdc, page) = (column("cdc16k"), column("page4k"));
    println!(
        "estimate of the second image, MB: none {:.1}, whole {:.1}, page4k {page:.1}, cdc16k {cdc:.1}",
        column("none"),
        column("whole")
    );
    for (name, (memory, rss, seconds)) in ["first", "second"].into_iter().zip(&chunks) {
        println!("chunks, {name}: pool +{memory:.1} MB, RssAnon {rss:+.1} MB, {seconds:.1} s");
    }
    println!("chunks, second over cdc16k: {:.3}", chunks[1].0 / cdc);
    for (name, (memory, frames, files, pieces, rss)) in ["first", "second"].into_iter().zip(&pages)
    {
        println!(
            "pages, {name}: memory file +{memory:.1} MB, frames +{frames:.1} MB, \
            {files} files in {pieces} pieces, tables RssAnon {rss:+.1} MB"
        );
    }
    println!(
        "pages, second over page4k: memory file {:.3}, frames {:.3}",
        pages[1].0 / page,
        pages[1].1 / page
    );
    Ok(())
}
