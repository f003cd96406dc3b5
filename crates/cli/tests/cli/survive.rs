// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounts that survive the process that serves them.
//!
//! Pids come from the control socket, so that nothing but the mount's own processes is killed.

use crate::{FERROFS, Scratch, run};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whatever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A mount with its keeper in the foreground; both gone at the end, however the test ends.
struct Kept {
    target: PathBuf,
    keeper: Child,
}

impl Kept {
    fn new(scratch: &Scratch, options: &str) -> Option<Self> {
        let image = scratch.image("--compress lz4");
        Self::of(scratch, options, image.as_os_str(), &["--fuse", "--keeper"])
    }

    /// Of an image that is read on demand.
    fn lazy(scratch: &Scratch, method: &str, options: &str) -> Option<Self> {
        let image = scratch.image("--compress lz4");
        let location = format!("file://{}", image.display());
        let cache = format!("--cache-dir={}", scratch.path("cache").display());
        Self::of(
            scratch,
            options,
            OsStr::new(&location),
            &["--method", method, "--insecure", &cache],
        )
    }

    fn of(scratch: &Scratch, options: &str, image: &OsStr, words: &[&str]) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !crate::is_root() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let target = scratch.path("mnt");
        std::fs::create_dir(&target).unwrap();
        let mut command = Command::new(FERROFS);
        command.args(["mount", "--foreground", "-o", options]).args(words);
        command.arg(image).arg(&target).stdin(Stdio::null()).stderr(Stdio::null());
        let kept = Self { keeper: command.spawn().unwrap(), target };
        let begin = Instant::now();
        while kept.ask("pid").is_none() {
            assert!(begin.elapsed() < LIMIT, "the mount does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(kept)
    }

    /// A setting, if the worker is there to tell.
    fn ask(&self, name: &str) -> Option<u64> {
        let ended = run("ctl {} get", &[&self.target]);
        let line = ended.out.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.filter(|_| ended.code == 0)?.parse().ok()
    }

    fn worker(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.ask("pid")?).unwrap())
    }

    /// How the keeper ended.
    fn ended(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.keeper.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < LIMIT, "the keeper does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_mounted(&self) -> bool {
        ferrofs_linux::mountinfo::find(&self.target).unwrap().is_some()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Most often nothing of it is left.
        let flags = ferrofs_linux::UnmountFlags { lazy: true, force: true };
        let _ = ferrofs_linux::unmount(&self.target, flags);
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A tree whose data is not in the page cache after each look, and an image of it.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let folder = scratch.tree().join("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..400_u32 {
        let text = format!("{number} all work and no play makes jack a dull boy\n");
        std::fs::write(folder.join(number.to_string()), text.repeat(2000)).unwrap();
    }
    scratch
}

#[test]
fn no_reader_notices_workers_that_are_killed() {
    let scratch = scratch();
    if let Some(kept) = Kept::new(&scratch, "hard") {
        kill_workers_under_readers(&scratch, kept);
    }
}

#[test]
fn no_reader_notices_killed_workers_of_an_image_read_on_demand() {
    for method in ["fuse", "fuse-file", "fanotify"] {
        let scratch = scratch();
        if let Some(kept) = Kept::lazy(&scratch, method, "hard") {
            let value = run("ctl {} stats --json", &[&kept.target]).ok();
            assert!(value.contains("\"fetched_bytes\""), "{value}");
            kill_workers_under_readers(&scratch, kept);
        }
    }
}

/// A file that is open, of which the kernel has nothing in memory.
fn open_cold(kept: &Kept) -> std::fs::File {
    let file = std::fs::File::open(kept.target.join("many/7")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    file
}

/// Reads everything below `many` in parallel; every file is right or an error, which are counted.
fn read_all(scratch: &Scratch, files: &[std::fs::File]) -> usize {
    let errors = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (number, mut file) in files.iter().enumerate() {
            let errors = &errors;
            let source = scratch.tree().join("many").join(number.to_string());
            scope.spawn(move || {
                let mut found = Vec::new();
                if std::io::Read::read_to_end(&mut file, &mut found).is_err() {
                    errors.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                assert!(found == std::fs::read(source).unwrap(), "wrong bytes of {number}");
            });
        }
    });
    errors.load(Ordering::SeqCst) as usize
}

/// The kernel reads holes as zeros if nobody keeps it waiting any more: the worker must, when the
/// keeper is gone, the keeper when no worker comes, and the guard when both are killed at once, also
/// with whatever the keeper has started.
#[test]
fn nobody_reads_zeros_when_the_one_who_is_asked_dies() {
    for dies in ["keeper", "worker", "both", "both, and a guard before"] {
        let scratch = incompressible();
        let Some(mut kept) = Kept::lazy(&scratch, "fanotify", "soft=1") else { return };
        let worker = kept.worker().unwrap();
        let open = |number: usize| {
            std::fs::File::open(kept.target.join("many").join(number.to_string())).unwrap()
        };
        let files: Vec<_> = (0..40).map(open).collect();
        let keeper = Pid::from_child(&kept.keeper);
        let data = data_file(&scratch.path("cache"));
        let mut asked = who_is_asked(data);
        assert_eq!(asked.len(), 3, "{asked:?}");
        if dies.ends_with("before") {
            let guard = *asked.iter().find(|pid| ![keeper, worker].contains(pid)).unwrap();
            kill_process(guard, Signal::KILL).unwrap();
            let begin = Instant::now();
            while asked.contains(&guard) || asked.len() < 3 {
                assert!(begin.elapsed() < LIMIT, "no other guard comes: {asked:?}");
                asked = who_is_asked(data);
            }
        }
        if dies == "keeper" {
            kept.keeper.kill().unwrap();
            kept.keeper.wait().unwrap();
        } else if dies.starts_with("both") {
            let all: Vec<_> = children_of(keeper).into_iter().chain([keeper]).collect();
            assert!(all.contains(&worker), "{all:?}");
            for signal in [Signal::STOP, Signal::KILL] {
                for process in &all {
                    kill_process(*process, signal).unwrap();
                }
            }
            kept.keeper.wait().unwrap();
        } else {
            // Without its image no worker can go on.
            std::fs::remove_file(scratch.path("image.erofs")).unwrap();
            kill_process(worker, Signal::KILL).unwrap();
        }
        let errors = read_all(&scratch, &files);
        assert!(errors > 30, "{dies}: {errors} errors; few of 40 files were there");
        drop(files);
        if dies == "worker" {
            run("umount {}", &[&kept.target]).ok();
            assert!(!kept.ended().success());
        } else {
            let begin = Instant::now();
            while !who_is_asked(data).is_empty() {
                assert!(begin.elapsed() < LIMIT, "a process lives on");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(!kept.is_mounted());
    }
}

/// The inode of the one data file in a cache.
fn data_file(cache: &Path) -> u64 {
    let inside = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let blobs = inside(&cache.join("url")).flat_map(|path| inside(&path).collect::<Vec<_>>());
    let files: Vec<_> = blobs.map(|path| path.join("data")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&files[0]).unwrap())
}

/// Processes that the kernel asks about a file.
fn who_is_asked(inode: u64) -> Vec<Pid> {
    let line = format!("fanotify ino:{inode:x} ");
    let asks = |path: &Path| {
        let texts = std::fs::read_dir(path.join("fdinfo")).into_iter().flatten().flatten();
        let mut texts = texts.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        texts.any(|text| text.contains(&line))
    };
    let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let found = all.filter(|path| asks(path));
    found.filter_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?)).collect()
}

fn children_of(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

/// What is complete stays so: the kernel asks nobody, so nobody need be there to answer.
#[test]
fn what_is_complete_is_read_without_questions() {
    let scratch = incompressible();
    let Some(kept) = Kept::lazy(&scratch, "fanotify", "soft=60") else { return };
    let keeper = Pid::from_child(&kept.keeper);
    run("diff {} {}", &[&scratch.tree(), &kept.target]).ok();
    let read = |number: usize| {
        let name = format!("many/{number}");
        let file = std::fs::File::open(kept.target.join(&name)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        drop(file);
        let found = std::fs::read(kept.target.join(&name)).unwrap();
        found == std::fs::read(scratch.tree().join(&name)).unwrap()
    };
    let begin = Instant::now();
    while marks_of(keeper) > 0 {
        assert!(begin.elapsed() < LIMIT, "the kernel goes on asking about a complete image");
        assert!(read(7));
        std::thread::sleep(Duration::from_millis(50));
    }
    kill_process(keeper, Signal::STOP).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send((0..40).all(read)));
        let right = receiver.recv_timeout(LIMIT);
        // A reader that asked after all is let go, so that the test fails and does not hang.
        kill_process(keeper, Signal::CONT).unwrap();
        assert!(right.expect("a reader waits for an answer"), "wrong bytes");
    });
    run("umount {}", &[&kept.target]).ok();
}

/// Files about which the kernel asks a process.
fn marks_of(pid: Pid) -> usize {
    let folder = format!("/proc/{}/fdinfo", pid.as_raw_nonzero());
    let texts = std::fs::read_dir(folder).unwrap().flatten();
    let texts = texts.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.map(|text| text.lines().filter(|line| line.starts_with("fanotify ino:")).count()).sum()
}

/// Files that are each larger than what is fetched with others.
fn incompressible() -> Scratch {
    let scratch = Scratch::new();
    let folder = scratch.tree().join("many");
    std::fs::create_dir(&folder).unwrap();
    let mut seed = 3_u64;
    for number in 0..40_u32 {
        let mut bytes = Vec::with_capacity(300_000);
        while bytes.len() < 300_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.extend_from_slice(&(seed >> 32).to_le_bytes());
        }
        std::fs::write(folder.join(number.to_string()), bytes).unwrap();
    }
    scratch
}

#[test]
fn the_kernels_mount_fails_without_its_keeper() {
    let scratch = scratch();
    let Some(mut kept) = Kept::lazy(&scratch, "fuse-file", "hard") else { return };
    let (worker, file) = (kept.worker().unwrap(), open_cold(&kept));
    kept.keeper.kill().unwrap();
    kept.keeper.wait().unwrap();
    let begin = Instant::now();
    while test_kill_process(worker).is_ok() {
        assert!(begin.elapsed() < LIMIT, "the worker lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!kept.is_mounted());
    std::io::Read::read_to_end(&mut &file, &mut Vec::new()).unwrap_err();
}

#[test]
fn the_kernels_mount_gives_errors_in_time() {
    let scratch = scratch();
    let Some(mut kept) = Kept::lazy(&scratch, "fuse-file", "soft=1") else { return };
    let file = open_cold(&kept);
    // Without its image no worker can go on.
    std::fs::remove_file(scratch.path("image.erofs")).unwrap();
    kill_process(kept.worker().unwrap(), Signal::KILL).unwrap();
    let begin = Instant::now();
    std::io::Read::read_to_end(&mut &file, &mut Vec::new()).unwrap_err();
    assert!(begin.elapsed() < LIMIT);
    assert!(!kept.ended().success());
    drop(file);
    run("umount --lazy {}", &[&kept.target]).ok();
    assert!(!kept.is_mounted());
}

fn kill_workers_under_readers(scratch: &Scratch, mut kept: Kept) {
    let done = AtomicBool::new(false);
    let (reads, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let source = scratch.tree().join("many");
    let mounted = kept.target.join("many");
    std::thread::scope(|scope| {
        for part in 0..4_u64 {
            let (done, reads, wrong) = (&done, &reads, &wrong);
            let (source, mounted) = (&source, &mounted);
            scope.spawn(move || {
                let mut seed = part + 1;
                while !done.load(Ordering::SeqCst) {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let name = (seed >> 33).wrapping_rem(400).to_string();
                    let found = std::fs::read(mounted.join(&name));
                    let right = std::fs::read(source.join(&name)).unwrap();
                    if found.ok() != Some(right) {
                        wrong.fetch_add(1, Ordering::SeqCst);
                    }
                    // Else everything is in the kernel's memory soon, and nobody asks.
                    let file = std::fs::File::open(mounted.join(&name)).unwrap();
                    let advice = rustix::fs::Advice::DontNeed;
                    let _ = rustix::fs::fadvise(&file, 0, None, advice);
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut killed = Vec::new();
        let begin = Instant::now();
        while killed.len() < 20 && begin.elapsed() < LIMIT {
            let worker = kept.worker().filter(|pid| !killed.contains(pid));
            if let Some(pid) = worker {
                kill_process(pid, Signal::KILL).unwrap();
                killed.push(pid);
            }
            std::thread::sleep(Duration::from_millis(3 + killed.len() as u64 * 7 % 31));
        }
        // Everybody gets on afterwards.
        let before = reads.load(Ordering::SeqCst);
        while reads.load(Ordering::SeqCst) < before + 20 && begin.elapsed() < LIMIT * 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        done.store(true, Ordering::SeqCst);
        assert_eq!(killed.len(), 20);
        assert!(reads.load(Ordering::SeqCst) >= before + 20, "readers hang");
    });
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
    let begin = Instant::now();
    // The last one may just be coming.
    let worker = loop {
        assert!(begin.elapsed() < LIMIT, "no worker comes");
        if let (Some(20..), Some(worker)) = (kept.ask("takeovers"), kept.worker()) {
            break worker;
        }
    };
    run("umount {}", &[&kept.target]).ok();
    assert!(kept.ended().success());
    assert!(!kept.is_mounted());
    test_kill_process(worker).unwrap_err();
}

#[test]
fn a_signal_to_the_keeper_ends_all() {
    let scratch = Scratch::new();
    let Some(mut kept) = Kept::new(&scratch, "hard") else { return };
    let worker = kept.worker().unwrap();
    kill_process(Pid::from_child(&kept.keeper), Signal::TERM).unwrap();
    assert!(kept.ended().success());
    assert!(!kept.is_mounted());
    test_kill_process(worker).unwrap_err();
}

#[test]
fn without_its_keeper_the_mount_fails() {
    let scratch = Scratch::new();
    let Some(mut kept) = Kept::new(&scratch, "hard") else { return };
    let worker = kept.worker().unwrap();
    let file = std::fs::File::open(kept.target.join("dir/text")).unwrap();
    kept.keeper.kill().unwrap();
    kept.keeper.wait().unwrap();
    let begin = Instant::now();
    while test_kill_process(worker).is_ok() {
        assert!(begin.elapsed() < LIMIT, "the worker lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!kept.is_mounted());
    // What was open is an error, never zeros.
    std::io::Read::read_to_end(&mut &file, &mut Vec::new()).unwrap_err();
}

#[test]
fn soft_mounts_give_errors_in_time() {
    let scratch = Scratch::new();
    let Some(mut kept) = Kept::new(&scratch, "soft=1") else { return };
    let file = std::fs::File::open(kept.target.join("dir/text")).unwrap();
    // Without its image no worker can go on.
    std::fs::remove_file(scratch.path("image.erofs")).unwrap();
    kill_process(kept.worker().unwrap(), Signal::KILL).unwrap();
    let begin = Instant::now();
    std::io::Read::read_to_end(&mut &file, &mut Vec::new()).unwrap_err();
    assert!(begin.elapsed() < LIMIT);
    assert!(!kept.ended().success());
    drop(file);
    run("umount --lazy {}", &[&kept.target]).ok();
    assert!(!kept.is_mounted());
}

#[test]
fn what_has_no_digest_table_is_not_read_unasked() {
    let scratch = Scratch::new();
    if !Path::new("/dev/fuse").exists() || !crate::is_root() {
        return println!("skipped: mounting needs root and /dev/fuse");
    }
    let image = scratch.image("");
    let target = scratch.path("mnt");
    std::fs::create_dir(&target).unwrap();
    let cache = scratch.path("cache");
    let said = run("mount --cache-dir {} file://{} {}", &[&cache, &image, &target]).fails(1);
    assert!(said.contains("digest table"), "{said}");
    assert!(ferrofs_linux::mountinfo::find(&target).unwrap().is_none());
}
