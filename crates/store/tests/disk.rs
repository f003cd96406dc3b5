// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cache on a real file system that fills up: ext4 on a loop device, with its own idea of what is
//! free, blocks that come late, and few inodes.
//!
//! Needs root; says `skipped:` without.

mod common;

use common::{Memory, bytes, spec};
use ferrofs_store::{Blob, Cache, CacheConfig, Demand, StoreError, Thresholds};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// An ext4 file system in a file, mounted; unmounted at the end, however the test ends. The loop device
/// goes with the mount.
struct Ext4 {
    folder: tempfile::TempDir,
}

impl Ext4 {
    fn new(size: u64, words: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: a loop device needs root and /dev/loop-control");
            return None;
        }
        let small = Self { folder: tempfile::tempdir().unwrap() };
        let image = small.folder.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        std::fs::create_dir(small.path()).unwrap();
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        // -m 0: root, who may use what is kept for root, is who fills it here.
        let made = quiet(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-b", "4096"])
                .args(words)
                .arg(&image),
        );
        if !made {
            println!("skipped: no mkfs.ext4");
            return None;
        }
        if !quiet(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(small.path())) {
            println!("skipped: ext4 cannot be mounted");
            return None;
        }
        Some(small)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    /// Free blocks and inodes, in percent.
    fn free(&self) -> (f64, f64) {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let percent = |free: u64, all: u64| free as f64 * 100.0 / all as f64;
        (percent(stat.f_bavail, stat.f_blocks), percent(stat.f_favail, stat.f_files))
    }

    /// Somebody else writes until there is no room for another byte.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("rest");
        let mut file = File::create(&path).unwrap();
        for len in [1 << 20, 4096, 512] {
            // Ends when it is full; blocks are found when they are written, so it must be made sure.
            while file.write_all(&vec![1; len]).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        // If it was never mounted there is nothing to do.
        let _ = rustix::mount::unmount(self.path(), flags);
    }
}

/// Reads all of a blob, which must be right.
fn read_all(blob: &Blob, source: &Memory) -> Result<(), StoreError> {
    const STEP: usize = 256 << 10;
    let mut buf = vec![0; STEP];
    for at in (0..source.bytes.len()).step_by(STEP) {
        let len = STEP.min(source.bytes.len() - at);
        blob.read_exact_at(&mut buf[..len], at as u64, &Demand::soft(Duration::from_secs(60)))?;
        assert!(buf[..len] == source.bytes[at..at + len], "wrong bytes at {at}");
    }
    Ok(())
}

fn sources(count: u64, len: usize) -> Vec<Arc<Memory>> {
    (0..count).map(|seed| Memory::new(bytes(len, seed))).collect()
}

/// Evicting begins below `cull` and goes on to `run`; below `stop` nothing is kept.
#[test]
fn thresholds_are_kept_to() {
    let Some(disk) = Ext4::new(64 << 20, &["-O", "^has_journal"]) else { return };
    let blocks = Thresholds { run: 50, cull: 40, stop: 25 };
    let files = Thresholds { run: 2, cull: 1, stop: 0 };
    let config = CacheConfig { blocks, files, ..CacheConfig::new(disk.cache()) };
    let cache = Cache::open(config).unwrap();
    let sources = sources(24, 4 << 20);
    let mut least = 100.0_f64;
    for source in &sources {
        let blob = cache.blob(spec(source)).unwrap();
        read_all(&blob, source).unwrap();
        drop(blob);
        cache.flush().unwrap();
        least = least.min(disk.free().0);
    }
    let stats = cache.stats();
    println!("least free {least:.1} %; {stats:?}");
    // More than the disk holds went through it.
    assert!(stats.removed_blobs + stats.total.evicted_bytes > 0, "{stats:?}");
    // A look at the file system is taken every 8 MiB, an eighth of this one.
    assert!(least >= 25.0 - 13.0, "only {least:.1} % were left free");
    assert!(least < 50.0, "it keeps nothing: {least:.1} %");
    // Somebody else takes what was free, and nothing may be evicted: no more is kept, and all is read.
    for info in cache.list().unwrap() {
        cache.pin(&info.id, true).unwrap();
    }
    let rest = disk.path().join("rest");
    let mut file = File::create(&rest).unwrap();
    while disk.free().0 > 15.0 {
        file.write_all(&[1; 4096].repeat(64)).unwrap();
        file.sync_data().unwrap();
    }
    drop(cache);
    let config = CacheConfig { blocks, files, ..CacheConfig::new(disk.cache()) };
    let cache = Cache::open(config).unwrap();
    let more = Memory::new(bytes(6 << 20, 99));
    let blob = cache.blob(spec(&more)).unwrap();
    read_all(&blob, &more).unwrap();
    let stats = blob.stats();
    assert_eq!(stats.present_bytes, 0, "at {:?} % free", disk.free());
    assert!(stats.uncached_bytes >= 6 << 20, "{stats:?}");
    drop((blob, file));
    std::fs::remove_file(rest).unwrap();
    let blob = cache.blob(spec(&more)).unwrap();
    for _ in 0..100 {
        read_all(&blob, &more).unwrap();
        if blob.stats().present_bytes == 6 << 20 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(blob.stats().present_bytes, 6 << 20, "there is room again");
}

/// Not one block is free: for data, maps, logs, or names.
#[test]
fn a_full_disk_is_read_past() {
    for words in [&["-O", "^has_journal"][..], &[]] {
        let Some(disk) = Ext4::new(24 << 20, words) else { return };
        let low = Thresholds { run: 2, cull: 1, stop: 0 };
        let open = || {
            let config = CacheConfig { blocks: low, files: low, ..CacheConfig::new(disk.cache()) };
            Cache::open(config).unwrap()
        };
        let sources = sources(3, 3 << 20);
        let cache = open();
        let begun = cache.blob(spec(&sources[0])).unwrap();
        begun
            .read_exact_at(&mut [0; 9000], 100_000, &Demand::soft(Duration::from_secs(60)))
            .unwrap();
        cache.flush().unwrap();
        let rest = disk.fill();
        assert!(disk.free().0 < 1.0);
        // One that was begun before, and one that is new.
        read_all(&begun, &sources[0]).unwrap();
        match cache.blob(spec(&sources[1])) {
            Ok(blob) => read_all(&blob, &sources[1]).unwrap(),
            Err(error) => println!("a blob that is new cannot be opened: {error}"),
        }
        // What says that it is there is there, for another process, too.
        let other = open();
        match other.blob(spec(&sources[0])) {
            Ok(blob) => read_all(&blob, &sources[0]).unwrap(),
            Err(error) => println!("a blob that was begun cannot be opened: {error}"),
        }
        drop((other, begun, cache));
        std::fs::remove_file(rest).unwrap();
        let cache = open();
        for source in &sources {
            let blob = cache.blob(spec(source)).unwrap();
            read_all(&blob, source).unwrap();
            assert!(blob.stats().present_bytes > 2 << 20, "there is room again");
        }
        cache.flush().unwrap();
        drop(cache);
        // Nothing that is kept is wrong.
        let cache = open();
        for source in &sources {
            read_all(&cache.blob(spec(source)).unwrap(), source).unwrap();
        }
    }
}

/// Blobs are files and folders, of which there is a number, too.
#[test]
fn a_disk_without_inodes_is_read_past() {
    let Some(disk) = Ext4::new(32 << 20, &["-O", "^has_journal", "-N", "1024"]) else { return };
    let low = Thresholds { run: 2, cull: 1, stop: 0 };
    let files = Thresholds { run: 50, cull: 40, stop: 20 };
    let config = CacheConfig { blocks: low, files, ..CacheConfig::new(disk.cache()) };
    let cache = Cache::open(config).unwrap();
    let sources = sources(300, 5_000);
    let mut least = 100.0_f64;
    for source in &sources {
        match cache.blob(spec(source)) {
            Ok(blob) => read_all(&blob, source).unwrap(),
            Err(error) => panic!("{error} with {:?} % free", disk.free()),
        }
        cache.flush().unwrap();
        least = least.min(disk.free().1);
    }
    let stats = cache.stats();
    println!("least free inodes {least:.1} %; {} blobs removed", stats.removed_blobs);
    assert!(stats.removed_blobs > 20 && least > 20.0, "{least:.1} % {stats:?}");
    assert!(cache.list().unwrap().len() > 2, "it keeps nothing");
    // None is left for anybody.
    let mut made = Vec::new();
    loop {
        let path = disk.path().join(format!("n{}", made.len()));
        if File::create(&path).is_err() {
            break;
        }
        made.push(path);
    }
    let more = Memory::new(bytes(70_000, 10_000));
    match cache.blob(spec(&more)) {
        Ok(blob) => read_all(&blob, &more).unwrap(),
        Err(error) => println!("a blob that is new cannot be opened: {error}"),
    }
    for path in made {
        std::fs::remove_file(path).unwrap();
    }
    read_all(&cache.blob(spec(&more)).unwrap(), &more).unwrap();
}
