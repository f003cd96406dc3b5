// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers that wait for ever do so as long as there is a mount, and not longer.

use crate::lazy::{METHODS, Mounted, Remote};
use crate::run;
use ferrofs_tests::origin::Fault;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(100);

/// A process that reads a file; ended when it is dropped.
struct Reader(Child);

impl Reader {
    /// Begins to read what cannot be had, and waits.
    fn start(path: &Path) -> Self {
        let child =
            Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut reader = Self(child.unwrap());
        std::thread::sleep(Duration::from_millis(700));
        assert!(reader.0.try_wait().unwrap().is_none(), "it does not wait for what cannot be had");
        reader
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        ended("the reader that was killed", &mut self.0);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Most often it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the end; whether it was a good one.
fn ended(what: &str, child: &mut Child) -> bool {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        assert!(begin.elapsed() < LIMIT, "{what} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Both ways in which an origin cannot be reached: it refuses, and it is silent.
fn faults() -> [fn() -> Fault; 2] {
    [|| Fault::Reset(0), || Fault::Delay(Duration::from_secs(600))]
}

/// The processes of a mount; each has its folder in its plan or on its command line.
fn worker(target: &Path) -> i32 {
    let get = run("ctl {} get --json", &[target]).ok();
    let get: serde_json::Value = serde_json::from_str(&get).unwrap();
    get["pid"].as_str().unwrap().parse().unwrap()
}

fn lives(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("Name:") && !status.contains("Z (zombie)")
}

fn umount(target: &Path, words: &[&str]) -> Child {
    Command::new(crate::FERROFS).arg("umount").args(words).arg(target).spawn().unwrap()
}

#[test]
fn an_unmount_ends_waits_that_would_have_no_end() {
    for method in METHODS {
        for (number, fault) in faults().into_iter().enumerate() {
            let remote = Remote::new("-z lz4 -C 64K");
            let trace = remote.scratch.path("trace");
            let words = format!(
                "--pin {} -o hard --method {method} --prefetch none --trace none --record {}",
                remote.pin,
                trace.display()
            );
            let Some(mounted) = remote.mount(&words) else { return };
            std::fs::read(mounted.0.join("dir/3")).unwrap();
            let worker = worker(&mounted.0);
            remote.origin.script(Box::new(move |_, _| vec![fault()]));
            let mut readers: Vec<Reader> =
                ["dir/20", "dir/40"].map(|name| Reader::start(&mounted.0.join(name))).into();
            for reader in &mut readers {
                reader.kill();
            }
            let begin = Instant::now();
            assert!(ended("the unmount", &mut umount(&mounted.0, &[])), "{method}");
            let unmounted = begin.elapsed();
            while lives(worker) {
                assert!(begin.elapsed() < LIMIT, "{method}: the worker hangs");
                std::thread::sleep(Duration::from_millis(10));
            }
            println!(
                "{method}, fault {number}: unmounted in {unmounted:?}, ended in {:?}",
                begin.elapsed()
            );
            // It was not killed for hanging: it has written down what there was.
            while !trace.exists() {
                assert!(begin.elapsed() < LIMIT, "{method}, {number}: the trace was lost");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(ferrofs_linux::mountinfo::find(&mounted.0).unwrap().is_none());
        }
    }
}

#[test]
fn readers_of_a_detached_mount_are_served_or_get_errors() {
    for method in METHODS {
        // Silence takes its time; one method stands for all.
        let tried = if method == "fuse-file" { 2 } else { 1 };
        for (number, fault) in faults().into_iter().enumerate().take(tried) {
            let remote = Remote::new("-z lz4 -C 64K");
            let words = format!("--pin {} -o hard --method {method} --prefetch none", remote.pin);
            let Some(mounted) = remote.mount(&words) else { return };
            let worker = worker(&mounted.0);
            // As long as all goes well a detached mount is as good as another.
            let file = std::fs::File::open(mounted.0.join("dir/30")).unwrap();
            let waiting = mounted.0.join("dir/20");
            remote.origin.script(Box::new(move |_, _| vec![fault()]));
            let mut reader = Reader::start(&waiting);
            assert!(ended("the unmount", &mut umount(&mounted.0, &["--lazy"])), "{method}");
            let begin = Instant::now();
            assert!(!ended("the reader", &mut reader.0), "{method}: it got something");
            println!("{method}, fault {number}: an error after {:?}", begin.elapsed());
            remote.origin.behave();
            let expected = std::fs::read(remote.scratch.tree().join("dir/30")).unwrap();
            let mut found = Vec::new();
            let begin = Instant::now();
            // A server that has failed is left alone for a while, which is an error now.
            loop {
                found.clear();
                let mut file = &file;
                std::io::Seek::rewind(&mut file).unwrap();
                if std::io::Read::read_to_end(&mut file, &mut found).is_ok() {
                    break;
                }
                assert!(begin.elapsed() < LIMIT, "{method}: it is served no more");
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(found == expected, "{method}");
            drop(file);
            let begin = Instant::now();
            while lives(worker) {
                assert!(begin.elapsed() < LIMIT, "{method}: the worker hangs");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// As long as there is a mount, a reader waits: also over a new worker.
#[test]
fn a_mounted_reader_waits_on() {
    let remote = Remote::new("-z lz4 -C 64K");
    let words = format!("--pin {} -o hard --method fuse --prefetch none", remote.pin);
    let Some(mounted) = remote.mount(&words) else { return };
    remote.origin.script(Box::new(|_, _| vec![Fault::Reset(0)]));
    let mut reader = Reader::start(&mounted.0.join("dir/20"));
    // Another mount comes and goes: that is none of its business.
    let other = tempfile::tempdir().unwrap();
    run("mount -q {} {}", &[&remote.scratch.path("www/image.erofs"), other.path()]).ok();
    let beside = Mounted(other.path().to_owned());
    run("umount {}", &[&beside.0]).ok();
    kill_process(Pid::from_raw(worker(&mounted.0)).unwrap(), Signal::KILL).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(reader.0.try_wait().unwrap().is_none(), "it was given up");
    remote.origin.behave();
    assert!(ended("the reader", &mut reader.0));
    run("umount {}", &[&mounted.0]).ok();
}
