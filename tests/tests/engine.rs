// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine gives the same bytes as the plain read path and the manifests, for any size of read,
//! any number of readers and caches of any size.

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode, OpenOptions};
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use std::fs::File;
use std::sync::Arc;

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

#[test]
fn engine_reads_every_golden_image() {
    let golden = Golden::unpack();
    let mut failures = vec![];
    for (index, name) in golden.names().into_iter().enumerate() {
        let engine = Engine::new(open(&golden, &name), EngineConfig::default());
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
        assert!(stats.cached_bytes <= stats.cache_limit, "{name}: {stats:?}");
        assert_eq!(stats.failures, 0, "{name}");
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

#[test]
fn readers_race_while_caches_change() {
    let golden = Golden::unpack();
    for name in ["lz4-dedupe-fragments-64k", "zstd-1m-all-fragments-dedupe", "lz4-64k-legacy"] {
        let image = open(&golden, name);
        let files = regular_files(&image);
        let whole: Vec<Vec<u8>> = files
            .iter()
            .map(|inode| {
                let mut bytes = vec![0; inode.size as usize];
                let count = image.read(&image.map(inode).unwrap(), 0, &mut bytes).unwrap();
                assert_eq!(count, bytes.len());
                bytes
            })
            .collect();
        let config = EngineConfig { cache_bytes: 1 << 20, merge_bytes: 96 << 10 };
        let engine = Engine::new(Arc::clone(&image), config);
        std::thread::scope(|scope| {
            for reader in 0..6 {
                let (engine, files, whole) = (&engine, &files, &whole);
                scope.spawn(move || {
                    let mut random = Lcg(reader);
                    let mut buf = vec![0; 300_000];
                    for round in 0..400 {
                        let index = random.below(files.len() as u64) as usize;
                        let offset = random.below(files[index].size);
                        let len = random.below(if round % 4 == 0 { 300_000 } else { 9000 }) + 1;
                        let file = engine.open(&files[index]).unwrap();
                        let buf = &mut buf[..len as usize];
                        let count = engine.read_into(&file, offset, buf).unwrap();
                        let want = &whole[index][offset as usize..];
                        let want = &want[..want.len().min(len as usize)];
                        assert_eq!(count, want.len());
                        assert!(buf[..count] == *want, "nid {} at {offset}", files[index].nid);
                        if reader == 0 && round % 50 == 0 {
                            engine.set_cache_bytes([0, 100_000, 8 << 20][round / 50 % 3]);
                        }
                        if reader == 1 && round % 70 == 0 {
                            engine.drop_caches();
                        }
                    }
                });
            }
        });
        let stats = engine.stats();
        assert!(stats.cached_bytes <= stats.cache_limit);
        assert!(stats.hits > 0 && stats.decodes > 0, "{stats:?}");
    }
}
