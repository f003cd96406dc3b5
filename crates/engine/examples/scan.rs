// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads every file of an image through the engine, or random 4 KiB pieces, and prints what it took.
//!
//! usage: scan IMAGE [STEP [THREADS [RANDOM_READS]]]

use ferrofs_engine::{Engine, EngineConfig, OpenFile};
use ferrofs_image::Image;
use ferrofs_image::format::inode::FileType;
use std::error::Error;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn files(engine: &Engine) -> Result<Vec<OpenFile>, Box<dyn Error>> {
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

fn scan(engine: &Engine, files: &[OpenFile], step: usize, next: &AtomicUsize) -> u64 {
    let mut buf = vec![0; step];
    let mut total = 0;
    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut offset = 0;
        while offset < file.size() {
            let count = engine.read_into(file, offset, &mut buf).expect("readable");
            offset += count as u64;
            total += count as u64;
        }
    }
    total
}

fn random(engine: &Engine, files: &[OpenFile], reads: usize) -> u64 {
    let mut state = 1u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % end.max(1)
    };
    let size: u64 = files.iter().map(OpenFile::size).sum();
    let mut starts = vec![];
    files.iter().fold(0, |start, file| {
        starts.push(start);
        start + file.size()
    });
    let mut buf = [0; 4096];
    (0..reads).fold(0, |total, _| {
        let at = below(size / 4096) * 4096;
        let index = starts.partition_point(|start| *start <= at) - 1;
        total
            + engine.read_into(&files[index], at - starts[index], &mut buf).expect("readable")
                as u64
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: scan IMAGE [STEP [THREADS [RANDOM_READS]]]")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (step, threads, reads) = (number(131_072)?, number(1)?, number(0)?);
    let config = EngineConfig { cache_bytes: 256 << 20, ..EngineConfig::default() };
    let engine = Engine::new(Arc::new(Image::open(File::open(path)?)?), config);
    let start = Instant::now();
    let files = files(&engine)?;
    println!("walk: {} files, {:.3} s", files.len(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    let total = if reads > 0 {
        random(&engine, &files, reads)
    } else {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let handles: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| scan(&engine, &files, step, &next))).collect();
            handles.into_iter().map(|handle| handle.join().expect("no panic")).sum()
        })
    };
    let seconds = start.elapsed().as_secs_f64();
    println!("read: {total} bytes, {seconds:.3} s, {:.0} MB/s", total as f64 / seconds / 1e6);
    println!("{:#?}", engine.stats());
    Ok(())
}
