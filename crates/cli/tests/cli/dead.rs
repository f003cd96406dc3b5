// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains whose servers are killed: readers get errors, soon and never wrong bytes; what is left goes.

use crate::share::{Domain, LIMIT, MECHANISMS, assert_same};
use crate::{FERROFS, Scratch, is_root, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn folder(domain: &Domain) -> PathBuf {
    Path::new("/run/ferrofs/share").join(&domain.name)
}

/// Kills the server of a domain; its mounts give errors when this returns.
fn kill(domain: &Domain, target: &Path) {
    let pid = domain.stats()["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let begin = Instant::now();
    // What the kernel remembers may still be read; this is asked.
    while rustix::fs::statfs(target).is_ok() {
        assert!(begin.elapsed() < LIMIT, "nobody serves, but it is answered");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_mounted(target: &Path) -> bool {
    ferrofs_linux::mountinfo::find(target).unwrap().is_some()
}

#[test]
fn a_killed_server_gives_errors() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "killed") else { continue };
        let tree = domain.scratch.tree();
        let a = domain.image(&tree, "a.erofs", "-z lz4");
        let b = domain.image(&tree, "b.erofs", "-z zstd");
        let (one, two) = (domain.mount(&a, ""), domain.mount(&b, ""));
        assert_same(&tree, &one);
        let mut open = File::open(two.join("dir/text")).unwrap();
        kill(&domain, &one);
        // Who has a file open gets what is in memory, or an error.
        let mut bytes = Vec::new();
        if open.read_to_end(&mut bytes).is_ok() {
            assert!(bytes == std::fs::read(tree.join("dir/text")).unwrap());
        }
        // It was never read, and nobody knows what it is.
        assert!(std::fs::read(two.join("dir/sub/skip.o")).is_err());
        let message = run(&format!("share stat {}", domain.name), &[]).fails(1);
        assert!(message.contains("share stop"), "{message}");
        // The next mount begins anew, while the dead ones are still there.
        let again = domain.mount(&a, "");
        assert_same(&tree, &again);
        assert!(is_mounted(&one) && rustix::fs::statfs(&one).is_err(), "not what lies below");
        let more = domain.mount(&b, "");
        assert_same(&tree, &more);
        assert_eq!(domain.stats()["images"].as_array().unwrap().len(), 2);
        drop(open);
    }
}

#[test]
fn what_a_killed_server_leaves_can_be_removed() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "left") else { continue };
        let tree = domain.scratch.tree();
        let image = domain.image(&tree, "a.erofs", "-z lz4");
        let target = domain.mount(&image, "");
        assert_same(&tree, &target);
        kill(&domain, &target);
        assert!(
            run("share ls", &[]).ok().contains(&format!("{}: its server was killed", domain.name))
        );
        let said = run(&format!("share stop {}", domain.name), &[]);
        assert!(said.code == 0 && said.err.contains("1 mounts"), "{}", said.err);
        assert!(!is_mounted(&target) && !folder(&domain).exists());
        assert!(!run("share ls", &[]).ok().contains(&domain.name));
        run(&format!("share stop {}", domain.name), &[]).fails(1);
        let again = domain.mount(&image, "");
        assert_same(&tree, &again);
        // One that ends by itself leaves nothing.
        run("umount {}", &[&again]).ok();
        let begin = Instant::now();
        while run(&format!("share stop {}", domain.name), &[]).code != 0 {
            assert!(begin.elapsed() < LIMIT, "the kernel does not let go of it");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!folder(&domain).exists());
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_reader_waits_for_a_killed_server() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "wait") else { continue };
        let tree = domain.scratch.tree();
        for number in 0..100 {
            let bytes = format!("content of {number}\n").repeat(number + 1);
            std::fs::write(tree.join(format!("dir/file{number}")), bytes).unwrap();
        }
        let images = [domain.image(&tree, "a.erofs", "-z lz4"), domain.image(&tree, "b.erofs", "")];
        for round in 0..3 {
            let stop = domain.scratch.path(&format!("stop{round}"));
            let targets = [0, 1].map(|index: usize| domain.mount(&images[index], ""));
            // In processes of their own: who waits for ever would not let the test end.
            let mut readers: Vec<Running> = targets
                .iter()
                .flat_map(|target| [target, target])
                .map(|target| {
                    // What is in memory may go on to be read.
                    let line =
                        "until test -e \"$1\"; do cat \"$0\"/dir/file* > /dev/null 2>&1; done";
                    let reader =
                        Command::new("sh").args(["-c", line]).args([target, &stop]).spawn();
                    Running(reader.unwrap())
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100));
            kill(&domain, &targets[0]);
            std::fs::write(&stop, "").unwrap();
            let begin = Instant::now();
            for reader in &mut readers {
                while reader.0.try_wait().unwrap().is_none() {
                    assert!(begin.elapsed() < LIMIT, "a reader waits");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// A mount that is taken down whatever happens: its server may be stopped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ =
            Command::new("umount").args(["-f", "-l"]).arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// A server that cannot die since it waits for itself cannot be made at will. So one is played: a
/// process that has ended and is not reaped, while its pipe is open, and a mount that does not answer.
#[test]
fn the_guard_ends_what_a_dying_server_holds() {
    if !Path::new("/dev/fuse").exists() || !is_root() {
        println!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.image("-z lz4");
    let (inside, outside) = (scratch.path("domain/tree"), scratch.path("other"));
    for target in [&inside, &outside] {
        std::fs::create_dir_all(target).unwrap();
    }
    let serve = |target: &Path| {
        let mut command = Command::new(FERROFS);
        command.args(["mount", "--fuse", "--foreground", "-q"]).args([&image, target]);
        Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let servers = [serve(&inside), serve(&outside)];
    let _mounts = [Mounted(inside.clone()), Mounted(outside.clone())];
    let begin = Instant::now();
    while !is_mounted(&inside) || !is_mounted(&outside) {
        assert!(begin.elapsed() < LIMIT, "not mounted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let device = |target: &Path| {
        let device = target.metadata().unwrap().dev();
        format!("{}:{}\n", rustix::fs::major(device), rustix::fs::minor(device))
    };
    let devices = device(&inside) + &device(&outside);
    for server in &servers {
        kill_process(Pid::from_child(&server.0), Signal::STOP).unwrap();
    }
    let mut dying = Running(Command::new("sleep").arg("600").spawn().unwrap());
    let mut guard = Command::new(FERROFS)
        .args(["__domain", "guard", &dying.0.id().to_string()])
        .arg(scratch.path("domain"))
        .stdin(Stdio::piped())
        .spawn()
        .map(Running)
        .unwrap();
    let mut pipe = guard.0.stdin.take().unwrap();
    pipe.write_all(devices.as_bytes()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nobody answers; so this ends when the guard acts.
            assert!(std::fs::read(inside.join("dir/text")).is_err());
            ended.store(true, Ordering::Relaxed);
        });
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!ended.load(Ordering::Relaxed) && is_mounted(&inside), "the server lives");
        dying.0.kill().unwrap();
        let begin = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            if begin.elapsed() > LIMIT {
                drop(Mounted(inside.clone()));
                panic!("the guard does nothing");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(!is_mounted(&inside));
    assert!(is_mounted(&outside), "not the domain's");
    // Its server has ended whole: the guard, too.
    drop(pipe);
    let begin = Instant::now();
    while guard.0.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < LIMIT, "the guard stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}
