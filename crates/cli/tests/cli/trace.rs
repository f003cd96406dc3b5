// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read first is learned, fetched before it is asked for, and laid out together. Bytes are
//! counted at the origin.

use crate::lazy::{Mounted, Remote};
use crate::published::{digest, lay_out, push};
use crate::{Ended, FERROFS, run};
use ferrofs_tests::origin::component::{Component, available};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Whatever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Read in this order: far from each other in the image.
const HOT: [&str; 16] = [
    "dir/41", "dir/18", "dir/55", "dir/32", "dir/9", "dir/46", "dir/23", "dir/0", "dir/37",
    "dir/14", "dir/51", "dir/28", "dir/5", "dir/42", "dir/19", "dir/56",
];

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A counter of the store behind a mount.
fn counter(mounted: &Path, name: &str) -> u64 {
    let stats = run("ctl {} stats --json", &[mounted]).ok();
    json(&stats)["store"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Waits for all prefetches of a mount; at least one must have been begun.
fn settled(mounted: &Path) {
    // A replay comes in steps, and metadata before it: between them nothing may be under way.
    let mut last = (0, 0);
    until("the end of the prefetches", || {
        let done = counter(mounted, "prefetch_done_bytes");
        let idle = done > 0 && counter(mounted, "prefetch_jobs") == 0;
        last = if idle && done == last.0 { (done, last.1 + 1) } else { (done, 0) };
        (last.1 >= 10).then_some(())
    });
    assert_eq!(counter(mounted, "prefetch_failed_bytes"), 0);
}

fn unmount(mounted: Mounted) {
    run("umount {}", &[&mounted.0]).ok();
    drop(mounted);
}

impl Remote {
    fn pinned_with(&self, words: &str) -> Option<Mounted> {
        self.mount(&format!("--pin {} -o soft=20 {words}", self.pin))
    }

    /// Reads the hot files; they must be right.
    fn read_hot(&self, mounted: &Path) {
        for name in HOT {
            let found = std::fs::read(mounted.join(name)).unwrap();
            assert!(found == std::fs::read(self.scratch.tree().join(name)).unwrap(), "{name}");
        }
    }

    /// As after a reboot of another machine: nothing is cached, nothing was asked.
    fn begin_anew(&self) {
        if self.cache().exists() {
            until("the end of the cache's users", || {
                std::fs::remove_dir_all(self.cache()).is_ok().then_some(())
            });
        }
        self.origin.forget();
    }

    /// Records a run that reads the hot files.
    fn record(&self, trace: &Path, runs: u64, method: &str) -> Option<()> {
        let words = format!("--trace none --method {method} --record {}", trace.display());
        let mounted = self.pinned_with(&words)?;
        self.read_hot(&mounted.0);
        unmount(mounted);
        until("the trace", || {
            let shown = run("trace show {} --json", &[trace]);
            (shown.code == 0 && json(&shown.out)["runs"] == runs).then_some(())
        });
        Some(())
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.scratch.path("www/image.erofs")
    }

    fn sent(&self) -> u64 {
        self.origin.ledger().bytes_sent_of("/image.erofs")
    }
}

#[test]
fn what_was_read_is_there_before_it_is_asked_for() {
    for method in ["fuse", "fuse-file"] {
        let remote = Remote::new("-z lz4 -C 64K");
        let trace = remote.scratch.path("trace");
        if remote.record(&trace, 1, method).is_none() {
            return;
        }
        remote.record(&trace, 2, method);
        let shown = json(&run("trace show {} --json", &[&trace]).ok());
        let bytes = shown["bytes"].as_u64().unwrap();
        assert!((1_200_000..3_500_000).contains(&bytes), "{shown}");
        // Nothing but the trace is left beside it.
        let names = std::fs::read_dir(remote.scratch.path("")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with("trace")).count(), 1);
        remote.begin_anew();
        let words = format!("--prefetch none --trace {} --method {method}", trace.display());
        let mounted = remote.pinned_with(&words).unwrap();
        settled(&mounted.0);
        assert!(counter(&mounted.0, "replayed_touches") > 0);
        let before = remote.sent();
        assert!(before < bytes * 12 / 10 + (300 << 10), "{before} for {bytes}");
        remote.read_hot(&mounted.0);
        let more = remote.sent() - before;
        // By fuse-file the kernel reads ahead, as far as it happens to get, and never quite the same.
        let ahead = if method == "fuse" { 64 << 10 } else { 512 << 10 };
        assert!(more <= ahead, "{method}: {more} bytes that the trace did not tell");
        unmount(mounted);
    }
}

#[test]
fn a_trace_beside_the_image_is_found() {
    let remote = Remote::new("");
    let trace = remote.scratch.path("www/image.erofs.trace");
    if remote.record(&trace, 1, "fuse").is_none() {
        return;
    }
    remote.begin_anew();
    let mounted = remote.pinned_with("").unwrap();
    settled(&mounted.0);
    assert!(counter(&mounted.0, "replayed_touches") > 0);
    unmount(mounted);
    // Who does not want it does not get it.
    remote.begin_anew();
    let mounted = remote.pinned_with("--trace none --prefetch none").unwrap();
    assert_eq!(counter(&mounted.0, "replayed_touches"), 0);
    unmount(mounted);
    assert_eq!(remote.origin.ledger().bytes_sent_of("/image.erofs.trace"), 0);
}

fn trace_command(remote: &Remote, words: &[&str], rest: &[&OsStr]) -> Ended {
    let mut command = Command::new(FERROFS);
    command.arg("trace").args(words).args(["--pin", &remote.pin, "--cache-dir"]);
    command.arg(remote.cache()).args(rest);
    Ended::new(&command.output().unwrap())
}

#[test]
fn a_program_is_recorded_and_its_trace_fills_a_cache() {
    let remote = Remote::new("-z zstd -C 16K");
    let url = remote.origin.url("/image.erofs");
    let trace = remote.scratch.path("app.trace");
    let script = "cat {}/dir/41 \"$FERROFS_MOUNT/dir/18\" | wc -c; exit 3";
    let rest: Vec<&OsStr> = vec![
        "-o".as_ref(),
        trace.as_os_str(),
        url.as_ref(),
        "--".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
    ];
    if !Path::new("/dev/fuse").exists() || !crate::is_root() {
        println!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    let ended = trace_command(&remote, &["record"], &rest);
    assert_eq!((ended.code, ended.out.trim()), (3, "200000"), "{}", ended.err);
    let listed = run("trace files {} {}", &[&trace, &remote.image()]).ok();
    let first: Vec<&str> = listed.lines().take(2).collect();
    assert_eq!(first, HOT[..2], "{listed}");
    assert!(listed.lines().count() < 20, "{listed}");
    remote.begin_anew();
    let words = [trace.as_os_str(), url.as_ref(), "--json".as_ref()];
    let replayed = json(&trace_command(&remote, &["replay"], &words).ok());
    assert_eq!(replayed["done_bytes"], replayed["wanted_bytes"]);
    let before = remote.sent();
    let mounted = remote.pinned_with("--trace none --prefetch none").unwrap();
    for name in &HOT[..2] {
        std::fs::read(mounted.0.join(name)).unwrap();
    }
    assert!(remote.sent() - before <= 64 << 10, "{} more", remote.sent() - before);
    unmount(mounted);
    // What is no trace is not replaced, and nothing is run.
    std::fs::write(&trace, "a letter").unwrap();
    let ended = trace_command(&remote, &["record"], &rest);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert_eq!(std::fs::read(&trace).unwrap(), b"a letter");
}

#[test]
fn hostile_traces_do_no_harm() {
    let remote = Remote::new("-z lz4 -C 64K");
    let beside = remote.scratch.path("www/image.erofs.trace");
    let name = format!("table:{}", remote.pin.split_once(':').unwrap().1);
    let endless = format!("blob {name}\n0 0 0 {} 1\n5 0 {} 7 1\n", u64::MAX, u64::MAX - 9);
    let many = format!("blob {name}\n{}", "0 0 0 1 1\n".repeat(300_000));
    for (text, is_refused) in [
        (String::from("<html>not here</html>"), true),
        (String::from("ferrofs-trace 9 runs=1\n"), true),
        (format!("ferrofs-trace 1 runs=1\nblob {name}\n0 0 -5 3 1\n"), true),
        (format!("ferrofs-trace 1 runs=1\n{many}"), true),
        ("x".repeat(17 << 20), true),
        (format!("ferrofs-trace 1 runs=1\nblob {}\n0 0 0 4096 1\n", "a".repeat(70)), false),
        (format!("ferrofs-trace 1 runs=4294967295\n{endless}"), false),
    ] {
        std::fs::write(&beside, &text).unwrap();
        remote.begin_anew();
        let Some(mounted) = remote.pinned_with("") else { return };
        remote.read_hot(&mounted.0);
        if text.contains(&endless) {
            // All of the image, and no more.
            settled(&mounted.0);
        } else {
            let notes = until("the note", || {
                let get = run("ctl {} get", &[&mounted.0]).ok();
                get.lines().find_map(|line| line.strip_prefix("notes=").map(str::to_owned))
            });
            assert!(notes.contains("trace"), "{notes}");
        }
        unmount(mounted);
        if is_refused {
            // Who names one hears of it.
            let words = format!("--trace {}", beside.display());
            assert!(remote.pinned_with(&words).is_none(), "{}", &text[..20]);
            run("trace show {}", &[&beside]).fails(1);
        }
    }
}

#[test]
fn a_killed_server_loses_little_of_a_run() {
    let remote = Remote::new("");
    let trace = remote.scratch.path("trace");
    let words = format!("--trace none --method fuse --record {}", trace.display());
    let Some(mounted) = remote.pinned_with(&words) else { return };
    std::fs::read(mounted.0.join(HOT[0])).unwrap();
    until("the run so far", || {
        let mut names = std::fs::read_dir(remote.scratch.path("")).unwrap();
        names.find_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            (name.starts_with("trace.") && name.ends_with('~')).then_some(())
        })
    });
    let get = run("ctl {} get --json", &[&mounted.0]).ok();
    let pid: i32 = json(&get)["pid"].as_str().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    std::fs::read(mounted.0.join(HOT[1])).unwrap();
    unmount(mounted);
    until("the trace", || trace.exists().then_some(()));
    assert_eq!(json(&run("trace show {} --json", &[&trace]).ok())["runs"], 1, "one mount");
    let listed = run("trace files {} {}", &[&trace, &remote.image()]).ok();
    let first: Vec<&str> = listed.lines().filter(|line| HOT.contains(line)).collect();
    assert_eq!(first, HOT[..2], "{listed}");
}

#[test]
fn hot_files_are_laid_out_together() {
    let remote = Remote::new("-z lz4 -C 16K");
    let trace = remote.scratch.path("trace");
    if remote.record(&trace, 1, "fuse").is_none() {
        return;
    }
    let image = remote.image();
    let again = remote.scratch.path("www/again.erofs");
    let listed = run("trace files {} {}", &[&trace, &image]).ok();
    let order: Vec<&str> = listed.lines().filter(|line| HOT.contains(line)).collect();
    assert_eq!(order, HOT, "{listed}");
    let built = run(
        "build {} -o {} -z lz4 -C 16K --digests --json --order {} --order-image {}",
        &[&remote.scratch.tree(), &again, &trace, &image],
    );
    let pin = json(&built.ok())["pin"].as_str().unwrap().to_owned();
    // A trace alone tells no files, and a list needs no image.
    let tree = remote.scratch.tree();
    let error = run("build {} -o {} --order {}", &[&tree, &remote.scratch.path("x"), &trace]);
    assert!(error.fails(1).contains("--order-image"));
    let words = "build {} -o {} --order {} --order-image {}";
    let other = remote.scratch.path("other.erofs");
    run("build {} -o {} -q", &[&tree, &other]).ok();
    let error = run(words, &[&tree, &remote.scratch.path("x"), &trace, &other]).fails(1);
    assert!(error.contains("another image"), "{error}");
    // What it takes to read them, of either.
    let cost = |name: &str, pin: &str| {
        remote.begin_anew();
        let target = remote.scratch.path("mnt");
        let url = remote.origin.url(&format!("/{name}"));
        run(
            &format!(
                "mount -q --cache-dir {{}} --pin {pin} --trace none --prefetch none \
                 --method fuse {url} {{}}"
            ),
            &[&remote.cache(), &target],
        )
        .ok();
        let mounted = Mounted(target);
        remote.origin.forget();
        remote.read_hot(&mounted.0);
        let ledger = remote.origin.ledger();
        unmount(mounted);
        let requests = ledger.entries().iter().filter(|entry| entry.target.ends_with(name));
        (requests.count(), ledger.bytes_sent_of(name))
    };
    let before = cost("image.erofs", &remote.pin);
    let after = cost("again.erofs", &pin);
    println!("requests and bytes: {before:?} before, {after:?} in the order of the trace");
    assert!(after.0 < before.0, "{after:?} is not less than {before:?}");
    // How far windows reach beyond what is read depends on who comes first.
    assert!(after.1 <= before.1 * 11 / 10, "{after:?} is more than {before:?}");
    let listed = run("trace files {} {}", &[&trace, &image]).ok();
    assert_eq!(contiguous(&again, &listed), 1, "the hot files lie in one run");
    assert!(contiguous(&image, &listed) > 1);
}

/// In how many runs of blocks the files of a list lie.
fn contiguous(image: &Path, listed: &str) -> usize {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for name in listed.lines().filter(|line| HOT.contains(line)) {
        let text = run("dump {} --extents {} --json", &[image, Path::new(name)]).ok();
        let extents = json(&text);
        let mut found = Vec::new();
        collect(&extents, &mut found);
        runs.append(&mut found);
    }
    runs.sort_unstable();
    let gaps = runs.windows(2).filter(|pair| pair[1].0 > pair[0].1 + 4096).count();
    gaps + usize::from(!runs.is_empty())
}

fn collect(value: &Value, found: &mut Vec<(u64, u64)>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => {
            let number = |name: &str| fields.get(name).and_then(Value::as_u64);
            let place = (number("device"), number("address"), number("encoded_len"));
            if let (Some(0), Some(start), Some(len)) = place {
                found.push((start, start + len));
            }
            fields.values().for_each(|value| collect(value, found));
        }
        _ => {}
    }
}

#[test]
fn wishes_reach_the_store() {
    for method in ["fuse", "fuse-file"] {
        let remote = Remote::new("-z lz4 -C 64K");
        let list = remote.scratch.path("list");
        std::fs::write(&list, "dir/41\nno/such/file\n/dir/sub\n").unwrap();
        let words = format!("--prefetch-list {} --method {method}", list.display());
        let Some(mounted) = remote.pinned_with(&words) else { return };
        settled(&mounted.0);
        let get = run("ctl {} get", &[&mounted.0]).ok();
        assert!(get.contains("no/such/file"), "{get}");
        let misses = counter(&mounted.0, "misses");
        std::fs::read(mounted.0.join("dir/41")).unwrap();
        // The kernel reads ahead, past the end of a file, on devices that it reads itself.
        assert!(method == "fuse-file" || counter(&mounted.0, "misses") == misses, "it was listed");
        let again = remote.origin.ledger().served_again("/image.erofs");
        assert!(again.is_empty(), "{again:?}");
        let error = run("ctl {} prefetch /no/such", &[&mounted.0]).fails(1);
        assert!(error.contains("/no/such"), "{error}");
        let told = run("ctl {} prefetch /dir/18 /dir/55", &[&mounted.0]).ok();
        assert!(told.contains("2 files"), "{told}");
        settled(&mounted.0);
        run("ctl {} prefetch --all", &[&mounted.0]).ok();
        until("all of it", || {
            let size = counter(&mounted.0, "size_bytes");
            (counter(&mounted.0, "present_bytes") == size).then_some(())
        });
        remote.origin.script(Box::new(|_, _| vec![ferrofs_tests::origin::Fault::status(404)]));
        run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        unmount(mounted);
    }
    let remote = Remote::new("");
    let Some(mounted) = remote.pinned_with("--prefetch all --prefetch-bandwidth 20M") else {
        return;
    };
    settled(&mounted.0);
    assert_eq!(counter(&mounted.0, "present_bytes"), counter(&mounted.0, "size_bytes"));
    let again = remote.origin.ledger().served_again("/image.erofs");
    assert!(again.is_empty(), "{again:?}");
    unmount(mounted);
    // Of an image that is here there is nothing to be fetched.
    let (image, target) = (remote.image(), remote.scratch.path("mnt"));
    let error = run("mount --prefetch all {} {}", &[&image, &target]).fails(1);
    assert!(error.contains("read on demand"), "{error}");
}

#[test]
fn traces_are_merged_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let head = "ferrofs-trace 1 runs=1\nblob table:x\n";
    for (name, touches) in [
        ("a", "10 0 0 4096 1\n90 0 8192 4096 1\n"),
        ("b", "30 0 0 4096 1\n"),
        ("c", "20 0 0 4096 1\n"),
    ] {
        std::fs::write(path(name), format!("{head}{touches}")).unwrap();
    }
    let (a, b, c, out) = (path("a"), path("b"), path("c"), path("out"));
    run("trace merge {} {} {} -o {}", &[&a, &b, &c, &out]).ok();
    let text = std::fs::read_to_string(&out).unwrap();
    assert_eq!(text, "ferrofs-trace 1 runs=3\nblob table:x\n20 0 0 4096 3\n90 0 8192 4096 1\n");
    run("trace merge {} -o {} --runs-min 2", &[&out, &a]).ok();
    let shown = json(&run("trace show {} --json", &[&a]).ok());
    assert_eq!(
        (&shown["runs"], &shown["touches"], &shown["bytes"]),
        (&3.into(), &1.into(), &4096.into())
    );
    assert!(run("trace show {}", &[&out]).ok().starts_with("3 runs, 2 parts"));
}

#[test]
fn an_image_layout_keeps_a_trace_with_its_image() {
    let remote = Remote::new("-z lz4 -C 64K");
    let layout = remote.scratch.path("layout");
    lay_out(&layout, &remote.image(), &remote.pin);
    let url = format!("file://{}", layout.display());
    let (trace, cache) = (remote.scratch.path("trace"), remote.cache());
    let first = run(&format!("trace replay auto {url} --cache-dir {{}}"), &[&cache]).fails(1);
    assert!(first.contains("no trace is kept"), "{first}");
    if !Path::new("/dev/fuse").exists() || !crate::is_root() {
        return println!("skipped: mounting needs root and /dev/fuse");
    }
    let program = HOT.map(|name| format!("{{}}/{name}")).join(" ");
    let words: Vec<&Path> = HOT.iter().map(|_| Path::new("{}")).collect();
    let mut paths: Vec<&Path> = vec![&trace, &cache];
    paths.extend(words);
    let line = format!("trace record {url} -o {{}} --cache-dir {{}} -- cat {program}");
    run(&line, &paths).ok();
    let words = format!("trace attach {{}} {url} --json");
    let older = json(&run(&words, &[&trace]).ok());
    run("trace merge {} {} -o {}", &[&trace, &trace, &trace]).ok();
    std::thread::sleep(Duration::from_millis(1100));
    let newer = json(&run(&words, &[&trace]).ok());
    assert_ne!(older["artifact"], newer["artifact"]);
    assert_eq!(older["image"], newer["image"]);
    // As any artifact: a manifest that names the image, and an entry that names the manifest.
    let index = json(&std::fs::read_to_string(layout.join("index.json")).unwrap());
    let entries = index["manifests"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["digest"] == newer["artifact"]).unwrap();
    assert_eq!(entry["artifactType"], "application/vnd.ferrofs.trace.v1");
    let hex = newer["artifact"].as_str().unwrap().split_once(':').unwrap().1.to_owned();
    let manifest = std::fs::read(layout.join("blobs/sha256").join(&hex)).unwrap();
    assert_eq!(digest(&manifest), format!("sha256:{hex}"));
    let manifest = json(&String::from_utf8(manifest).unwrap());
    assert_eq!(manifest["subject"]["digest"], newer["image"]);
    // The newest is found by mounts and replayed without one.
    remote.begin_anew();
    let target = remote.scratch.path("mnt");
    std::fs::create_dir_all(&target).unwrap();
    let line = format!("mount -q --cache-dir {{}} --prefetch none --method fuse {url} {{}}");
    run(&line, &[&cache, &target]).ok();
    let mounted = Mounted(target);
    settled(&mounted.0);
    assert!(counter(&mounted.0, "replayed_touches") > 0);
    remote.read_hot(&mounted.0);
    unmount(mounted);
    remote.begin_anew();
    let replayed = run(&format!("trace replay auto {url} --cache-dir {{}} --json"), &[&cache]);
    assert!(json(&replayed.ok())["done_bytes"].as_u64().unwrap() > 1_000_000);
    let shown = run(&format!("trace replay {url} {url} --cache-dir {{}} --json"), &[&cache]);
    shown.ok();
    // What is not what its digest says is not used, and the mount is none the worse.
    std::fs::write(layout.join("blobs/sha256").join(&hex), "{}").unwrap();
    run(&format!("trace replay auto {url} --cache-dir {{}}"), &[&cache]).fails(1);
    run(&line, &[&cache, &remote.scratch.path("mnt")]).ok();
    let mounted = Mounted(remote.scratch.path("mnt"));
    remote.read_hot(&mounted.0);
    unmount(mounted);
}

#[test]
fn a_registry_keeps_a_trace_with_its_image() {
    let Some(registry) = available(Component::registry()) else { return };
    let remote = Remote::new("-z lz4 -C 64K");
    let trace = remote.scratch.path("trace");
    if remote.record(&trace, 1, "fuse").is_none() {
        return;
    }
    push(&registry, &remote.image(), &remote.pin);
    let url = format!("oci://{}/app:v1", registry.address());
    let words = format!("trace attach {{}} {url} --json");
    let older = json(&run(&words, &[&trace]).ok());
    assert!(older["artifact"].as_str().unwrap().starts_with("sha256:"));
    run("trace merge {} {} -o {}", &[&trace, &trace, &trace]).ok();
    std::thread::sleep(Duration::from_millis(1100));
    let newer = json(&run(&words, &[&trace]).ok());
    assert_ne!(older["artifact"], newer["artifact"]);
    assert_eq!(older["image"], newer["image"]);
    remote.begin_anew();
    let target = remote.scratch.path("mnt");
    run(
        &format!("mount -q --cache-dir {{}} --prefetch none --method fuse {url} {{}}"),
        &[&remote.cache(), &target],
    )
    .ok();
    let mounted = Mounted(target);
    settled(&mounted.0);
    assert!(counter(&mounted.0, "replayed_touches") > 0);
    let fetched = counter(&mounted.0, "fetched_bytes");
    remote.read_hot(&mounted.0);
    let more = counter(&mounted.0, "fetched_bytes") - fetched;
    assert!(more <= 64 << 10, "{more} bytes that the trace did not tell");
    unmount(mounted);
    // Elsewhere a file lies beside the image.
    let url = remote.origin.url("/image.erofs");
    let error = run(&format!("trace attach {{}} {url}"), &[&trace]).fails(1);
    assert!(error.contains(".trace"), "{error}");
}
