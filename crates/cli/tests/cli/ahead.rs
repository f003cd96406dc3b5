// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of a directory that are read before somebody asks for them.

use crate::mount::Target;
use crate::run;
use serde_json::Value;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Files of each directory: many small ones, and some that are too large to be read ahead.
const FILES: [usize; 5] = [0, 1, 3, 40, 300];

fn content(directory: usize, file: usize) -> Vec<u8> {
    let len = match file % 37 {
        0 => 0,
        36 => 1_400_000,
        kind => kind * kind * 40,
    };
    let line = format!("file {file} of directory {directory}, again and again; ");
    line.bytes().cycle().take(len).collect()
}

struct Mounted {
    target: Target,
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let target = Target::new()?;
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        for (directory, count) in FILES.iter().enumerate() {
            // In one another, so that a walk goes down and comes back.
            let path: PathBuf = (0..=directory).map(|level| format!("z{level}")).collect();
            let path = tree.join(path);
            fs::create_dir_all(&path).unwrap();
            for file in 0..*count {
                fs::write(path.join(format!("f{file:04}")), content(directory, file)).unwrap();
            }
        }
        let image = folder.path().join("image");
        run("build {} -o {} -q -z lz4 -C 16384", &[&tree, &image]).ok();
        let mounted = Self { target, folder };
        run(&format!("mount --fuse {options} {{}} {{}}"), &[&image, mounted.path()]).ok();
        Some(mounted)
    }

    fn path(&self) -> &Path {
        &self.target.path
    }

    /// Compares everything with the source, in the order of a walk.
    fn compare(&self) -> usize {
        let (mut files, mut pending) = (0, vec![PathBuf::new()]);
        while let Some(at) = pending.pop() {
            let mut names: Vec<_> = fs::read_dir(self.path().join(&at))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            for name in names {
                let path = at.join(name);
                if self.path().join(&path).is_dir() {
                    pending.push(path);
                    continue;
                }
                let found = fs::read(self.path().join(&path)).unwrap();
                let expected = fs::read(self.folder.path().join("tree").join(&path)).unwrap();
                assert!(found == expected, "{}", path.display());
                files += 1;
            }
        }
        files
    }

    /// Threads of the server with the policy `SCHED_IDLE`.
    fn idle_threads(&self) -> Vec<String> {
        let target = self.path().as_os_str().as_bytes();
        let mut idle = vec![];
        let mut servers = 0;
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if !words.split(|&byte| byte == 0).any(|word| word == target) {
                continue;
            }
            servers += 1;
            for task in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // proc(5): the policy is the 41st field; 5 is SCHED_IDLE.
                let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
                if fields.split_whitespace().nth(38) == Some("5") {
                    idle.push(stat);
                }
            }
        }
        assert!(servers > 0, "the server is not found");
        idle
    }

    /// Asks for names that are not there, one after the other: each is a request.
    fn look_up_all(&self, round: u32) {
        for name in 0..20_000 {
            let path = self.path().join(format!("z0/none{round}-{name}"));
            assert!(fs::symlink_metadata(path).is_err());
        }
    }

    fn counter(&self, name: &str) -> u64 {
        let text = run("ctl {} stats --json", &[self.path()]).ok();
        let found: Value = serde_json::from_str(&text).unwrap();
        found["fuse"][name].as_u64().unwrap_or_else(|| panic!("{name} in {found}"))
    }
}

#[test]
fn who_reads_in_order_gets_the_right_bytes_with_fewer_requests() {
    let Some(mounted) = Mounted::new("") else { return };
    assert_eq!(mounted.compare(), FILES.iter().sum::<usize>());
    assert!(mounted.counter("ahead_files") > 0);
    assert!(mounted.counter("ahead_bytes") > 0);
    // All of it is in the page cache now.
    mounted.compare();
}

#[test]
fn nothing_is_read_ahead_for_who_does_not_want_it_or_only_looks() {
    let Some(mounted) = Mounted::new("-o noreadmore") else { return };
    mounted.compare();
    assert_eq!(mounted.counter("ahead_files"), 0);
    drop(mounted);
    let Some(mounted) = Mounted::new("") else { return };
    for entry in fs::read_dir(mounted.path().join("z0/z1/z2/z3/z4")).unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    assert_eq!(mounted.counter("ahead_files"), 0);
}

/// A server that stays on its reader's processor as an idle thread must not starve there.
#[test]
fn busy_processors_hold_up_nobody() {
    let Some(mounted) = Mounted::new("") else { return };
    let busy = AtomicBool::new(true);
    let mut freed = true;
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        // First alone, so that the reader is followed.
        for at in 0..3 {
            if at == 1 {
                for _ in 0..threads {
                    scope.spawn(|| {
                        while busy.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                    });
                }
            }
            mounted.look_up_all(at);
            // Nobody asks any more: the server is set free, whoever else wants its processor.
            let end = Instant::now() + Duration::from_secs(30);
            while !mounted.idle_threads().is_empty() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
            freed &= mounted.idle_threads().is_empty();
        }
        mounted.compare();
        busy.store(false, Ordering::Relaxed);
    });
    assert!(freed, "the server's thread stayed SCHED_IDLE");
}
