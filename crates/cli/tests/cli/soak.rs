// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kills and faults under mounts that are read on demand: no wrong byte, and no read that hangs.
//!
//! docs/on-demand-failures.md says which row of the failure model is tested where. `FERROFS_SOAK=N`
//! does N random things instead of 20, `FERROFS_SEED=S` those of another run.

mod site;

use crate::run;
use ferrofs_tests::origin::{Content, Fault, Origin, at_random};
use rustix::process::{Pid, Signal, kill_process};
use site::{Live, Site};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A read that takes longer hangs. Well above the 20 seconds that these mounts are patient for.
const LIMIT: Duration = Duration::from_secs(90);
const FILES: usize = 40;

/// When the reads that are under way began, in milliseconds since the test did; 0: none.
struct Watch {
    begin: Instant,
    reads: Vec<AtomicU64>,
    done: AtomicBool,
    good: AtomicU64,
    failed: AtomicU64,
}

impl Watch {
    fn new(readers: usize) -> Self {
        Self {
            begin: Instant::now(),
            reads: (0..readers).map(|_| AtomicU64::new(0)).collect(),
            done: AtomicBool::new(false),
            good: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64 + 1
    }

    /// Reads until the end.
    fn reader(&self, number: usize, live: &Live, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed ^ (number as u64) << 32);
        while !self.done.load(Ordering::SeqCst) {
            self.reads[number].store(self.now(), Ordering::SeqCst);
            let read = live.read(&mut random);
            self.reads[number].store(0, Ordering::SeqCst);
            let counter = if read.is_ok() { &self.good } else { &self.failed };
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn check(&self) {
        for read in &self.reads {
            let since = read.load(Ordering::SeqCst);
            let waited = self.now().saturating_sub(since);
            assert!(since == 0 || waited < LIMIT.as_millis() as u64, "A READ HANGS");
        }
    }
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One thing that goes wrong for a moment. What the readers get meanwhile is right, or an error.
fn misfortune(site: &mut Site, lives: &[&Live], random: &mut fastrand::Rng) -> &'static str {
    let several = |site: &Site, random: &mut fastrand::Rng, fault: &dyn Fn(u64) -> Fault| {
        for _ in 0..random.u32(1..6) {
            site.origin().next(vec![fault(random.u64(0..60_000))]);
        }
    };
    match random.u32(0..14) {
        0..=2 => {
            lives[random.usize(..lives.len())].kill_worker();
            "a worker is killed"
        }
        3 => {
            for live in lives {
                live.kill_worker();
            }
            "all workers are killed"
        }
        4 => {
            several(site, random, &Fault::Reset);
            "connections are reset"
        }
        5 => {
            several(site, random, &Fault::Cut);
            several(site, random, &Fault::Short);
            "answers are truncated"
        }
        6 => {
            several(site, random, &Fault::Flip);
            several(site, random, &Fault::Elsewhere);
            "answers are wrong"
        }
        7 => {
            several(site, random, &|at| Fault::Stall(at, Duration::from_millis(300)));
            "answers stall"
        }
        8 => {
            several(site, random, &|_| Fault::busy(503, 0));
            "the server is busy"
        }
        9 => {
            several(site, random, &|_| Fault::Whole);
            "the server ignores ranges"
        }
        10 => {
            several(site, random, &|at| Fault::status(if at % 2 == 0 { 401 } else { 403 }));
            "the server denies"
        }
        11 => {
            site.stop_origin();
            std::thread::sleep(Duration::from_millis(random.u64(50..600)));
            site.start_origin();
            "the server is away"
        }
        12 => {
            for path in site.cached("data") {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                let len = file.metadata().unwrap().len();
                file.set_len(random.u64(..=len)).unwrap();
            }
            lives[random.usize(..lives.len())].kill_worker();
            "the cache's data is cut"
        }
        _ => {
            // The folder of a blob, with all that is in it, under those who use it.
            for path in site.cached("data") {
                let _ = std::fs::remove_dir_all(path.parent().unwrap());
            }
            "the cache's files are deleted"
        }
    }
}

#[test]
fn random_kills_and_faults_give_no_wrong_byte_and_no_hang() {
    let Some(mut site) = Site::new("-z lz4 -C 64K") else { return };
    let seed = number_of("FERROFS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let steps = number_of("FERROFS_SOAK").unwrap_or(20);
    println!("FERROFS_SEED={seed} FERROFS_SOAK={steps}");
    let mut random = fastrand::Rng::with_seed(seed);
    // Two mounts that share a cache, each in its own way.
    // It holds a part of the image, so that bytes are fetched to the end.
    let first = site.mount("one", "soft=20", &["--cache-dir-max", "1M"]);
    let second = site.mount("two", "soft=20", &["--cache-dir-max", "1M", "--fuse"]);
    let watch = Watch::new(6);
    let mut told = BTreeMap::new();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let live = if number % 2 == 0 { &first } else { &second };
            let watch = &watch;
            scope.spawn(move || watch.reader(number, live, seed));
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..steps {
                let what = misfortune(&mut site, &[&first, &second], &mut random);
                *told.entry(what).or_insert(0) += 1;
                std::thread::sleep(Duration::from_millis(random.u64(20..150)));
                watch.check();
            }
            // All is well again, and everybody gets on.
            site.origin().behave();
            let begin = Instant::now();
            let before = watch.good.load(Ordering::SeqCst);
            while watch.good.load(Ordering::SeqCst) < before + 30 {
                watch.check();
                assert!(begin.elapsed() < LIMIT, "readers do not get on");
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
        watch.done.store(true, Ordering::SeqCst);
        if let Err(panic) = ended {
            // Whoever hangs is freed, or the scope never ends.
            for live in [&first, &second] {
                let flags = ferrofs_linux::UnmountFlags { lazy: true, force: true };
                let _ = ferrofs_linux::unmount(&live.target, flags);
                let _ = kill_process(Pid::from_child(&live.keeper), Signal::KILL);
            }
            std::panic::resume_unwind(panic);
        }
    });
    let (good, failed) = (watch.good.into_inner(), watch.failed.into_inner());
    println!("{steps} faults: {told:?}; reads: {good} right, {failed} errors, 0 wrong, 0 hang");
    for live in [&first, &second] {
        live.read_all().unwrap();
        assert!(run("umount {}", &[&live.target]).code == 0);
    }
}

#[test]
fn sixteen_cold_readers_cost_the_origin_each_group_once() {
    for options in ["", "-z lz4 -C 64K"] {
        let Some(site) = Site::new(options) else { return };
        let free = rustix::fs::statvfs(site.scratch.path("")).unwrap();
        if free.f_bavail * 100 < free.f_blocks * 8 {
            return println!(
                "skipped: less than 8 % of the disk is free, where caches keep nothing"
            );
        }
        // Slow enough that they meet.
        site.origin().script(Box::new(|_, _| vec![Fault::Delay(Duration::from_millis(10))]));
        let first = site.mount("one", "soft=20", &[]);
        let second = site.mount("two", "soft=20", &["--fuse"]);
        std::thread::scope(|scope| {
            for reader in 0..16 {
                let live = if reader % 2 == 0 { &first } else { &second };
                scope.spawn(move || live.read_all().unwrap());
            }
        });
        let ledger = site.origin().ledger();
        let again = ledger.served_again("/image.erofs");
        assert!(again.is_empty(), "{options}: {again:?} of {:#?}", ledger.entries());
    }
}

#[test]
fn an_origin_that_is_gone_costs_patience_and_then_errors() {
    let Some(mut site) = Site::new("") else { return };
    let live = site.mount("one", "soft=1", &[]);
    site.stop_origin();
    let begin = Instant::now();
    let failed = live.read_all().unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(begin.elapsed() < LIMIT);
    site.start_origin();
    // The circuit breaker looks again after a while.
    let begin = Instant::now();
    while live.read_all().is_err() {
        assert!(begin.elapsed() < LIMIT, "the origin is back");
    }
    // Hard ones wait, however long it takes.
    std::fs::remove_dir_all(site.cache()).unwrap();
    let hard = site.mount("two", "hard", &[]);
    site.stop_origin();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = hard.read_all();
            done.store(true, Ordering::SeqCst);
            read
        });
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!done.load(Ordering::SeqCst), "it did not wait");
        site.start_origin();
        reader.join().unwrap().unwrap();
    });
}

#[test]
fn a_stalled_answer_is_given_up() {
    let Some(site) = Site::new("") else { return };
    let live = site.mount("one", "soft=1", &[]);
    // Each answer stops after its first bytes, for longer than the reader is patient.
    site.origin().script(Box::new(|_, _| vec![Fault::Stall(100, Duration::from_secs(60))]));
    let begin = Instant::now();
    live.read_all().unwrap_err();
    assert!(begin.elapsed() < LIMIT);
    site.origin().behave();
    let begin = Instant::now();
    while live.read_all().is_err() {
        assert!(begin.elapsed() < LIMIT, "the origin is well again");
    }
}

#[test]
fn redirects_that_expire_are_renewed() {
    let Some(site) = Site::new("-z lz4 -C 64K") else { return };
    // What a registry does: it sends to a storage whose links are good for a while.
    let storage = Origin::start(Content::Folder(site.scratch.path("www"))).unwrap();
    let issued = Arc::new(AtomicU64::new(0));
    let (count, place) = (Arc::clone(&issued), storage.url(""));
    site.origin().script(Box::new(move |request, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        vec![Fault::redirect(&format!("{place}{path}?link={number}"))]
    }));
    let live_for = 3;
    let uses = std::sync::Mutex::new(BTreeMap::<String, u32>::new());
    storage.script(Box::new(move |request, _| {
        let mut uses = uses.lock().unwrap();
        let used = uses.entry(request.target.clone()).or_default();
        *used += 1;
        if *used > live_for { vec![Fault::status(403)] } else { Vec::new() }
    }));
    let live = site.mount("one", "soft=20", &[]);
    live.read_all().unwrap();
    assert!(issued.load(Ordering::SeqCst) >= 2);
}

/// A small tmpfs, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let option = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &path, "tmpfs", flags, option.as_c_str()).unwrap();
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_cache_folder_is_no_reason_to_fail() {
    let Some(site) = Site::new("-z lz4 -C 64K") else { return };
    let small = Tmpfs::new(site.scratch.path("small"), "400k");
    let folder = small.0.join("cache").display().to_string();
    let live = site.mount("one", "soft=20", &["--cache-dir", &folder]);
    live.read_all().unwrap();
    // Not even one more byte.
    let rest = small.0.join("rest");
    let filled = std::fs::write(&rest, vec![1; 1 << 20]);
    assert!(filled.is_err(), "it is full");
    live.read_all().unwrap();
    live.kill_worker();
    live.read_all().unwrap();
    std::fs::remove_file(rest).unwrap();
    live.read_all().unwrap();
}

#[test]
fn files_of_the_cache_that_are_cut_or_deleted_give_no_wrong_byte() {
    let Some(site) = Site::new("-z lz4 -C 64K") else { return };
    for words in [&[][..], &["--fuse"]] {
        let live = site.mount("one", "soft=20", words);
        live.read_all().unwrap();
        for path in site.cached("data") {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(8192).unwrap();
        }
        live.read_all().unwrap();
        // The next worker finds a file that is not as long as its blob, and begins anew.
        live.kill_worker();
        live.read_all().unwrap();
        for path in site.cached("log").into_iter().chain(site.cached("map")) {
            std::fs::remove_file(path).unwrap();
        }
        live.kill_worker();
        live.read_all().unwrap();
        // The worker makes files there meanwhile.
        let begin = Instant::now();
        while std::fs::remove_dir_all(site.cache()).is_err() && site.cache().exists() {
            assert!(begin.elapsed() < Duration::from_secs(30), "the cache cannot be removed");
        }
        live.read_all().unwrap();
        live.kill_worker();
        live.read_all().unwrap();
    }
}

#[test]
fn damage_of_the_cache_is_found_by_verification() {
    let Some(site) = Site::new("-z lz4 -C 64K") else { return };
    drop({
        let live = site.mount("one", "soft=20", &[]);
        live.read_all().unwrap();
        live
    });
    for path in site.cached("data") {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 300_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 300_000).unwrap();
    }
    let said = run("cache --cache-dir {} verify", &[&site.cache()]);
    assert!(said.code != 0, "{} {}", said.out, said.err);
    run("cache --cache-dir {} scrub", &[&site.cache()]);
    let live = site.mount("two", "soft=20", &[]);
    live.read_all().unwrap();
}

#[test]
fn servers_that_fail_at_random_are_read_in_full() {
    let Some(site) = Site::new("-z zstd -C 32K") else { return };
    let seed = number_of("FERROFS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("FERROFS_SEED={seed}");
    let live = site.mount("one", "soft=60", &[]);
    let kinds = vec![
        Fault::Reset(0),
        Fault::Reset(5000),
        Fault::Cut(3000),
        Fault::Short(2000),
        Fault::Flip(77),
        Fault::Elsewhere(4096),
        Fault::Whole,
        Fault::busy(429, 0),
        Fault::busy(503, 0),
        Fault::status(500),
        Fault::Stall(10, Duration::from_millis(50)),
    ];
    site.origin().script(at_random(seed, 300, kinds));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| live.read_all().unwrap());
        }
    });
}
