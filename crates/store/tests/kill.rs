// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes of a cache are killed; what they leave must be right and must not stop others.

mod common;

use common::{Memory, bytes, cache, spec};
use ferrofs_store::Demand;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "FERROFS_TEST_KILL_FOLDER";
const LEN: usize = 3_000_000;

/// Reads everywhere until it is killed; nothing if it is not the child of the test below.
#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let source = Memory::new(bytes(LEN, 11));
    *source.delay.lock().unwrap() = Duration::from_micros(300);
    let cache = cache(Path::new(&folder));
    let blob = cache.blob(spec(&source)).unwrap();
    let mut buf = vec![0; 70_000];
    loop {
        let at = fastrand::usize(0..LEN - buf.len());
        blob.read_exact_at(&mut buf, at as u64, &Demand::default()).unwrap();
        assert!(buf == source.bytes[at..at + buf.len()]);
        if fastrand::u32(0..40) == 0 {
            cache.prune(200_000).unwrap();
        }
        if fastrand::u32(0..40) == 0 {
            cache.flush().unwrap();
        }
    }
}

#[test]
fn what_a_killed_process_leaves_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let source = Memory::new(bytes(LEN, 11));
    for round in 0..12 {
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["child", "--exact"])
                    .env(CHILD, folder.path())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(60 + round * 25));
        for child in &mut children {
            assert!(child.try_wait().unwrap().is_none(), "a child saw a wrong byte or an error");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let cache = cache(folder.path());
        let blob = cache.blob(spec(&source)).unwrap();
        // First what is called present, then everything: no lock of the dead is in the way.
        for run in blob.presence() {
            let mut buf = vec![0; (run.end - run.start) as usize];
            std::os::unix::fs::FileExt::read_exact_at(blob.data_file(), &mut buf, run.start)
                .unwrap();
            assert!(buf == source.bytes[run.start as usize..run.end as usize], "{run:?}");
        }
        let mut buf = vec![0; 1_000_000];
        let at = (round as usize % 3) * 1_000_000;
        let demand = Demand::soft(Duration::from_secs(20));
        blob.read_exact_at(&mut buf, at as u64, &demand).unwrap();
        assert!(buf == source.bytes[at..at + 1_000_000]);
        drop(blob);
        drop(cache);
        if round == 6 {
            // As after a new boot: only the log counts.
            let id = common::cache(folder.path()).list().unwrap()[0].id.clone();
            let map = folder.path().join(id.kind().as_str()).join(&id.hex()[..2]);
            std::fs::write(map.join(id.hex()).join("map"), b"not a map").unwrap();
        }
    }
}
