// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mount` and `umount`: processes, signals, messages.

use crate::{Scratch, command, golden, is_root, run};
use ferrofs_tests::manifest::Manifest;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A place to mount on; whatever is there goes at the end.
pub(crate) struct Target {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Target {
    pub(crate) fn new() -> Option<Self> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            println!("skipped: needs root and /dev/fuse");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("a b, \"c\"");
        fs::create_dir(&path).unwrap();
        Some(Self { _folder: folder, path })
    }

    pub(crate) fn kind(&self) -> Option<String> {
        ferrofs_linux::mountinfo::find(&self.path).unwrap().map(|entry| entry.fs_type)
    }

    /// Waits until something is mounted, or is no more.
    fn wait(&self, mounted: bool) {
        for _ in 0..6000 {
            if self.kind().is_some() == mounted {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("mounted is not {mounted} after a minute");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.kind().is_some() {
            let _ = run("umount --lazy {}", &[&self.path]);
        }
    }
}

/// A server in the foreground, killed at the end if it still runs.
pub(crate) struct Foreground(pub(crate) Child);

impl Foreground {
    pub(crate) fn new(image: &Path, target: &Target) -> Self {
        let words = ["mount", "--fuse", "--foreground"].map(OsStr::new);
        let mut command = command(&words);
        let child = command.arg(image).arg(&target.path).stderr(Stdio::piped()).spawn().unwrap();
        target.wait(true);
        Self(child)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn in_the_background() {
    let Some(target) = Target::new() else { return };
    let image = golden().image("lz4-64k");
    for (options, kind) in [("--fuse", "fuse.ferrofs"), ("--kernel", "erofs")] {
        let ended = run(&format!("mount {options} {{}} {{}}"), &[&image, &target.path]);
        if ended.code != 0 && options == "--kernel" {
            println!("skipped: {}", ended.err);
            continue;
        }
        assert!(ended.err.starts_with("ferrofs: mounted by "), "{}", ended.err);
        assert!(ended.err.ends_with(": as asked\n"), "{}", ended.err);
        ended.ok();
        assert_eq!(target.kind().as_deref(), Some(kind));
        let found = Manifest::of_directory(&target.path).unwrap();
        assert!(golden().manifest("lz4-64k").differences(&found).is_empty());
        assert_eq!(run("umount {}", &[&target.path]).ok(), "");
        assert_eq!(target.kind(), None);
    }
    let ended = run("mount {} {}", &[&image, &target.path]);
    assert!(ended.err.contains(": mounted by "), "{}", ended.err);
    ended.ok();
    run("umount {}", &[&target.path]).ok();
    run("mount -q {} {}", &[&image, &target.path]).ok();
}

#[test]
fn signals_unmount() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let Some(target) = Target::new() else { return };
        let mut server = Foreground::new(&golden().image("lz4"), &target);
        assert!(fs::read_dir(&target.path).unwrap().count() > 0);
        server.signal(signal);
        assert_eq!(server.0.wait().unwrap().code(), Some(0), "{signal:?}");
        assert_eq!(target.kind(), None, "{signal:?}");
    }
}

#[test]
fn open_files_can_be_read_to_their_end() {
    use rustix::process::Signal;
    use std::os::unix::fs::FileExt;
    let Some(target) = Target::new() else { return };
    let scratch = Scratch::new();
    let image = scratch.image("-z lz4");
    let mut server = Foreground::new(&image, &target);
    let file = fs::File::open(target.path.join("dir/text")).unwrap();
    let error = run("umount {}", &[&target.path]).fails(1);
    assert!(error.contains("still uses it") && error.contains("--lazy"), "{error}");
    server.signal(Signal::TERM);
    target.wait(false);
    let mut tail = [0; 10];
    file.read_exact_at(&mut tail, 160_000).unwrap();
    drop(file);
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
}

#[test]
fn unmounting_ends_the_server() {
    let Some(target) = Target::new() else { return };
    let mut server = Foreground::new(&golden().image("zstd-64k"), &target);
    let file = fs::File::open(target.path.join(".")).unwrap();
    run("umount {}", &[&target.path]).fails(1);
    run("umount --lazy {}", &[&target.path]).ok();
    assert_eq!(target.kind(), None);
    drop(file);
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    let error = run("umount {}", &[&target.path]).fails(1);
    assert!(error.contains("nothing is mounted on"), "{error}");
}

#[test]
fn options_are_honoured_or_refused() {
    let Some(target) = Target::new() else { return };
    let image = golden().image("lz4");
    for options in ["bogus", "nosuid,bogus=1", "cache_strategy=all", "merge=1", "fsoffset=x"] {
        let error = run(&format!("mount -o {options} {{}} {{}}"), &[&image, &target.path]).fails(1);
        assert!(error.contains("mount option"), "{error}");
        assert_eq!(target.kind(), None);
    }
    run("mount --fuse -o noexec,ro {} {}", &[&image, &target.path]).ok();
    let entry = ferrofs_linux::mountinfo::find(&target.path).unwrap().unwrap();
    assert!(entry.options.contains("noexec") && entry.options.contains("ro"), "{entry:?}");
    assert_eq!(entry.source, image);
    run("umount {}", &[&target.path]).ok();
    let error = run("mount --fuse -o dax=never {} {}", &[&image, &target.path]).fails(1);
    assert!(error.contains("dax"), "{error}");
    for words in ["mount -o remount {} {}", "mount {}"] {
        let paths = [&*image, &*target.path];
        let paths = if words.contains("remount") { &paths[..] } else { &paths[..1] };
        run(words, paths).fails(1);
    }
    let error = run("mount -o nosuid {}", &[&image]).fails(1);
    assert!(error.contains("no directory"), "{error}");
    let error = run("mount -o remount,cache=1M {}", &[&target.path]).fails(1);
    assert!(error.contains("no EROFS mount"), "{error}");
}

#[test]
fn what_cannot_be_mounted() {
    let Some(target) = Target::new() else { return };
    let scratch = Scratch::new();
    let good = golden().image("lz4");
    for method in ["", "--fuse", "--kernel", "--fuse --foreground"] {
        let mount = |image: &Path, target: &Path| {
            run(&format!("mount {method} {{}} {{}}"), &[image, target]).fails(1)
        };
        assert!(mount(&scratch.path("missing"), &target.path).contains("missing"));
        assert!(mount(&scratch.path("tree/dir/text"), &target.path).contains("not an EROFS image"));
        assert!(mount(&good, &scratch.path("tree/small")).contains("not a directory"));
        assert!(mount(&good, &scratch.path("nowhere")).contains("does not exist"));
        let blob = golden().image("chunk-blobdev");
        assert!(mount(&blob, &target.path).contains("--device"));
        assert_eq!(target.kind(), None);
    }
}

/// A server does nothing while nobody asks: its threads only wait.
#[test]
fn an_idle_server_is_idle() {
    let Some(target) = Target::new() else { return };
    let server = Foreground::new(&golden().image("lz4"), &target);
    Manifest::of_directory(&target.path).unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", server.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // Times in user and kernel mode.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let switches = || {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", server.0.id())).unwrap() {
            let status =
                fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            let count = line.and_then(|line| line.split_whitespace().nth(1));
            total += count.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
        total
    };
    // Threads that are not needed any more may still end, and other tests make the kernel ask for
    // this or that; one that polls would be seen in every second.
    let mut seen = vec![];
    let calm = (0..60).any(|_| {
        let before = (ticks(), switches());
        std::thread::sleep(Duration::from_secs(1));
        let after = (ticks(), switches());
        seen.push((before, after));
        after.0 == before.0 && after.1 <= before.1
    });
    assert!(calm, "{seen:?}");
}
