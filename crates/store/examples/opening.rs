// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it takes to open many blobs that are new to a cache, as the cachefiles daemon does for an
//! image of very many: 5,000 small files with digest tables, eight threads, at most 512 open in the
//! cache. `opening [COUNT]`; `TMPDIR` tells on which file system.

use ferrofs_store::cachefiles::{BlobProvider, KeyedImage, StoredBlobs};
use ferrofs_store::source::remote::Location;
use ferrofs_store::{
    Algorithm, Cache, CacheConfig, Geometry, ImagePlace, TableBuilder, Thresholds,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const OPEN_MAX: usize = 512;
const THREADS: usize = 8;

/// CPU time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let count = std::env::args().nth(1).map_or(5000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let images = (0..count).map(|number: usize| {
        let key = format!("b{number}");
        let content = format!("blob {number} ").repeat(500).into_bytes();
        let built = TableBuilder::new(Geometry::new(Algorithm::Blake3)).unwrap();
        let built = built.build(&content[..]).unwrap();
        let path = folder.path().join(&key);
        std::fs::write(&path, &content).unwrap();
        std::fs::write(folder.path().join(format!("{key}.digests")), built.to_bytes()).unwrap();
        let location = Location::parse(&format!("file://{}", path.display())).unwrap();
        let place = ImagePlace { pin: Some(built.pin()), ..ImagePlace::new(location) };
        KeyedImage { key, domain: None, place }
    });
    let images: Vec<_> = images.collect();
    // A nearly full disk is not what is measured.
    let low = Thresholds { run: 2, cull: 1, stop: 0 };
    let path = folder.path().join("cache");
    let config = CacheConfig { blocks: low, files: low, ..CacheConfig::new(path) };
    let cache = Cache::open(config).unwrap();
    let blobs = StoredBlobs::new(cache, Arc::default(), images, OPEN_MAX).unwrap();
    for what in ["new to the cache", "in the cache"] {
        let (next, start, before) = (AtomicUsize::new(0), Instant::now(), cpu());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        blobs.blob(b"erofs,x", format!("b{number}").as_bytes()).unwrap();
                    }
                });
            }
        });
        let (took, cpu) =
            (start.elapsed().as_secs_f64(), cpu().saturating_sub(before).as_secs_f64());
        println!(
            "{count} blobs {what}: {took:.2} s, CPU {cpu:.2} s ({:.0} us each)",
            cpu * 1e6 / count as f64
        );
    }
}
