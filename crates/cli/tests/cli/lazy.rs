// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that are mounted while their bytes are still on a server, and what is kept of them.

use crate::{FERROFS, Scratch, run};
use ferrofs_tests::origin::{Content, Fault, Origin, Request};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Ways to mount what is read on demand.
pub(crate) const METHODS: [&str; 3] = ["fuse", "fuse-file", "fanotify"];

/// A tree of 6 MB that compresses to a good part of it, and its image, served over HTTP.
pub(crate) struct Remote {
    pub(crate) scratch: Scratch,
    pub(crate) origin: Origin,
    pub(crate) pin: String,
}

impl Remote {
    pub(crate) fn new(options: &str) -> Self {
        let names = (0..60).map(|number| (format!("dir/{number}"), 100_000));
        Self::with_files(options, names)
    }

    /// The same with other files: names and sizes.
    fn with_files(options: &str, files: impl Iterator<Item = (String, usize)>) -> Self {
        let scratch = Scratch::new();
        let mut seed = 7_u64;
        for (name, size) in files {
            let mut bytes = Vec::with_capacity(size);
            while bytes.len() < size {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                bytes.extend_from_slice(&(seed >> 32).to_le_bytes());
            }
            let path = scratch.tree().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let image = scratch.path("www/image.erofs");
        std::fs::create_dir(scratch.path("www")).unwrap();
        let built = run(
            &format!("build {{}} -o {{}} --digests --json {options}"),
            &[&scratch.tree(), &image],
        );
        let built: serde_json::Value = serde_json::from_str(&built.ok()).unwrap();
        let pin = built["pin"].as_str().unwrap().to_owned();
        let origin = Origin::start(Content::Folder(scratch.path("www"))).unwrap();
        Self { scratch, origin, pin }
    }

    pub(crate) fn mount(&self, words: &str) -> Option<Mounted> {
        if !Path::new("/dev/fuse").exists() || !crate::is_root() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let target = self.scratch.path("mnt");
        std::fs::create_dir_all(&target).unwrap();
        let status = Command::new(FERROFS)
            .args(["mount", "-q", "--cache-dir"])
            .arg(self.cache())
            .args(words.split(' ').filter(|word| !word.is_empty()))
            .arg(self.origin.url("/image.erofs"))
            .arg(&target)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        status.success().then_some(Mounted(target))
    }

    fn pinned(&self) -> Option<Mounted> {
        self.mount(&format!("--pin {} -o soft=5", self.pin))
    }

    fn pinned_by(&self, method: &str) -> Option<Mounted> {
        let log = self.scratch.path("log");
        let log = log.display();
        self.mount(&format!("--pin {} -o soft=5 --method {method} --log {log}", self.pin))
    }

    /// Has each request take so long that what waits for another is seen.
    fn slow(&self) {
        let delay = |_: &Request, _| vec![Fault::Delay(Duration::from_millis(50))];
        self.origin.script(Box::new(delay));
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.scratch.path("cache")
    }
}

/// Unmounted at the end, however the test ends.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let flags = ferrofs_linux::UnmountFlags { lazy: true, force: true };
        // Most often it is gone.
        let _ = ferrofs_linux::unmount(&self.0, flags);
    }
}

#[test]
fn every_byte_comes_once_and_is_kept() {
    let free = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
    if free.f_bavail * 100 < free.f_blocks * 8 {
        println!("skipped: less than 8 % of the disk is free, where caches keep nothing");
        return;
    }
    let options = ["", "-z lz4 -C 64K", "-z zstd -C 16K"];
    for (options, method) in options.iter().flat_map(|options| METHODS.map(|way| (options, way))) {
        let remote = Remote::new(options);
        let Some(mounted) = remote.pinned_by(method) else { return };
        run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        let ledger = remote.origin.ledger();
        let again = ledger.served_again("/image.erofs");
        assert!(again.is_empty(), "{options}: {again:?}");
        run("umount {}", &[&mounted.0]).ok();
        // Another mount needs no origin for what is there.
        remote.origin.forget();
        let Some(mounted) = remote.pinned_by(method) else { panic!("it mounted before") };
        run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        assert_eq!(remote.origin.ledger().bytes_sent_of("/image.erofs"), 0, "{options}");
        run("umount {}", &[&mounted.0]).ok();
        let checked = run("cache --cache-dir {} verify", &[&remote.cache()]).ok();
        assert!(checked.contains("verified"), "{checked}");
        // Whoever served it may end a moment later, and writes down then what there is.
        let begin = std::time::Instant::now();
        let listed = loop {
            let listed = run("cache --cache-dir {} ls", &[&remote.cache()]).ok();
            if !listed.contains("in use") || begin.elapsed() > Duration::from_secs(30) {
                break listed;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(listed.contains("100.0%") || listed.contains("99."), "{listed}");
        let name = listed.lines().nth(1).unwrap().split(' ').next().unwrap();
        let map = run(&format!("cache --cache-dir {{}} map {name}"), &[&remote.cache()]).ok();
        assert!(map.contains("|####"), "{map}");
        let words = format!("cache --cache-dir {{}} map {name} --html -");
        let page = run(&words, &[&remote.cache()]).ok();
        assert!(page.contains("<svg") && page.contains("image.erofs"), "{page}");
        run("cache --cache-dir {} prune", &[&remote.cache()]).ok();
        assert!(run("cache --cache-dir {} ls", &[&remote.cache()]).ok().contains("empty"));
    }
}

#[test]
fn the_first_byte_comes_after_few_round_trips() {
    for method in METHODS {
        the_first_byte_of(method);
    }
}

fn the_first_byte_of(method: &str) {
    let remote = Remote::new("-z lz4 -C 64K");
    remote.slow();
    let Some(mounted) = remote.pinned_by(method) else { return };
    std::fs::read(mounted.0.join("small")).unwrap();
    let trips = remote.origin.ledger().round_trips();
    // Table and head at once, then metadata, data; by fanotify all metadata comes first, which is a
    // request more; all look for a trace meanwhile.
    let most = if method == "fanotify" { 5 } else { 4 };
    assert!(
        trips <= most,
        "{method}: {trips} requests one after another: {:?}",
        remote.origin.ledger()
    );
    run("umount {}", &[&mounted.0]).ok();
}

/// The kernel does not ask for metadata: all of it comes before the mount, by many requests at once.
#[test]
fn much_metadata_is_fetched_in_few_round_trips() {
    for is_copied in [false, true] {
        // Most of these files are in their inodes' blocks.
        let names = (0..4000).map(|number| (format!("{}/{number}", number % 97), 1500));
        let remote = Remote::with_files("-z lz4 -C 64K", names);
        remote.slow();
        // A copy of it is behind the digest table, which is used with a pin.
        let trust =
            if is_copied { format!("--pin {}", remote.pin) } else { String::from("--insecure") };
        let Some(mounted) = remote.mount(&format!("{trust} -o soft=5 --method fanotify")) else {
            return;
        };
        let ledger = remote.origin.ledger();
        let (trips, sent) = (ledger.round_trips(), ledger.bytes_sent_of("/image.erofs"));
        assert!(trips <= 20, "{trust}: {trips} requests one after another");
        assert_eq!(sent > 4 << 20, !is_copied, "{trust}: {sent} bytes of the image");
        run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        run("umount {}", &[&mounted.0]).ok();
    }
}

/// Who unmounts and then looks at the trace finds it.
#[test]
fn a_trace_is_written_when_the_mount_has_ended() {
    for method in METHODS {
        let remote = Remote::new("-z lz4 -C 64K");
        let trace = remote.scratch.path("learned.trace");
        let words = format!("--pin {} --method {method} --record", remote.pin);
        let Some(mounted) = remote.mount(&format!("{words} {}", trace.display())) else { return };
        std::fs::read(mounted.0.join("dir/11")).unwrap();
        run("umount {}", &[&mounted.0]).ok();
        assert!(trace.exists(), "{method}");
        run("trace show {}", &[&trace]).ok();
    }
}

/// on-demand.md section 5, "digest mismatch", "truncated body", "server ignores Range".
#[test]
fn no_wrong_byte_of_a_bad_origin_is_read() {
    for method in METHODS {
        read_from_a_bad_origin(method);
    }
}

fn read_from_a_bad_origin(method: &str) {
    let remote = Remote::new("-z lz4 -C 64K");
    let Some(mounted) = remote.pinned_by(method) else { return };
    let tree = remote.scratch.tree();
    let faults: [fn() -> Fault; 5] = [
        || Fault::Flip(700),
        || Fault::Cut(1000),
        || Fault::Short(1000),
        || Fault::Reset(500),
        || Fault::busy(503, 0),
    ];
    for (number, fault) in faults.iter().enumerate() {
        // Two requests go wrong; then all is well again.
        remote.origin.next(vec![fault(), fault()]);
        let name = format!("dir/{}", number * 7);
        let found = std::fs::read(mounted.0.join(&name)).unwrap();
        assert!(found == std::fs::read(tree.join(&name)).unwrap(), "{name}");
    }
    // All requests go wrong: an error, and nothing of it stays.
    remote.origin.script(Box::new(|_, _| vec![Fault::Flip(10)]));
    assert!(std::fs::read(mounted.0.join("dir/50")).is_err(), "wrong bytes were taken");
    let log = std::fs::read_to_string(remote.scratch.path("log")).unwrap();
    assert!(log.contains("a read failed") && log.contains("digest"), "{log}");
    remote.origin.behave();
    run("diff {} {}", &[&tree, &mounted.0]).ok();
    run("umount {}", &[&mounted.0]).ok();
}

/// The kernel's own settings and those of our server are both within reach.
#[test]
fn a_mount_by_the_kernel_is_controlled() {
    let remote = Remote::new("-z lz4 -C 64K");
    let mounted = remote.mount("--insecure --method fuse-file -o cache_strategy=disabled");
    let Some(mounted) = mounted else { return };
    let entry = ferrofs_linux::mountinfo::find(&mounted.0).unwrap().unwrap();
    assert_eq!(
        (entry.fs_type.as_str(), entry.source.file_name()),
        ("erofs", Some("image.erofs".as_ref()))
    );
    assert!(entry.options.contains("nosuid") && entry.options.contains("nodev"), "{entry:?}");
    run("ctl {} set cache_strategy=readahead", &[&mounted.0]).ok();
    let settings = run("ctl {} get", &[&mounted.0]).ok();
    assert!(settings.contains("cache_strategy=readahead"), "{settings}");
    assert!(settings.contains("image=http") && settings.contains("takeovers=0"), "{settings}");
    let stats = run("ctl {} stats", &[&mounted.0]).ok();
    assert!(stats.contains("store.fetched_bytes"), "{stats}");
    let top = run("top --once {}", &[&mounted.0]).ok();
    assert!(top.contains("fetched"), "{top}");
    run("umount {}", &[&mounted.0]).ok();
    for (words, way) in
        [("-o psi", "mounted by FUSE"), ("-o cache_strategy=readahead", "by the kernel")]
    {
        let cache = remote.cache();
        let said = run(
            &format!(
                "mount --insecure {words} --cache-dir {{}} {} {{}}",
                remote.origin.url("/image.erofs")
            ),
            &[&cache, &mounted.0],
        );
        assert!(said.code == 0 && said.err.contains(way), "{words}: {}", said.err);
        run("umount {}", &[&mounted.0]).ok();
    }
    let words = format!(
        "mount --insecure --method fuse-file -o psi --cache-dir {{}} {} {{}}",
        remote.origin.url("/image.erofs")
    );
    let said = run(&words, &[&remote.cache(), &mounted.0]).fails(1);
    assert!(said.contains("psi"), "{said}");
}

#[test]
fn the_kernel_asks_or_does_not_mount() {
    let remote = Remote::new("-z lz4 -C 64K");
    let Some(mounted) = remote.pinned_by("fanotify") else { return };
    let tree = remote.scratch.tree();
    let mapped = std::fs::read(tree.join("dir/9")).unwrap();
    // As programs do: by pages of a mapping.
    let found = Command::new("cmp").arg(mounted.0.join("dir/9")).arg(tree.join("dir/9")).status();
    assert!(found.unwrap().success() && mapped.len() >= 100_000);
    // Whoever else would write the file that the kernel reads is kept away, and told.
    let other = remote.scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    let url = remote.origin.url("/image.erofs");
    for method in METHODS {
        let words =
            format!("mount --method {method} --pin {} --cache-dir {{}} {url} {{}}", remote.pin);
        let said = run(&words, &[&remote.cache(), &other]).fails(1);
        assert!(said.contains("fanotify"), "{method}: {said}");
    }
    run("diff {} {}", &[&tree, &mounted.0]).ok();
    // Still in use after the unmount: as right as before.
    let mut file = std::fs::File::open(mounted.0.join("dir/20")).unwrap();
    run("umount --lazy {}", &[&mounted.0]).ok();
    let mut found = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut found).unwrap();
    assert!(found == std::fs::read(tree.join("dir/20")).unwrap());
    drop(file);
    // Memory cannot ask: nothing is mounted there.
    let words = format!("mount --method fanotify --pin {} --cache-dir {{}} {url} {{}}", remote.pin);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let said = run(&words, &[&memory.path().join("cache"), &other]).fails(1);
    assert!(said.contains("zeros") && said.contains("tmpfs"), "{said}");
}

#[test]
fn a_server_without_ranges_will_do() {
    let remote = Remote::new("");
    remote.origin.script(Box::new(|_, _| vec![Fault::Whole]));
    let Some(mounted) = remote.pinned() else { return };
    run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
    run("umount {}", &[&mounted.0]).ok();
}

#[test]
fn pins_are_kept_to() {
    let remote = Remote::new("");
    let other = format!("blake3:{}", "0".repeat(64));
    assert!(remote.mount(&format!("--pin {other}")).is_none(), "another pin");
    assert!(remote.mount("").is_none(), "no pin and not --insecure");
    let Some(mounted) = remote.mount("--insecure -o soft=5") else { return };
    run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
    run("umount {}", &[&mounted.0]).ok();
    let image = remote.scratch.path("www/image.erofs");
    run(&format!("digests {{}} --check {}", remote.pin), &[&image]).ok();
    run(&format!("digests {{}} --check {other}"), &[&image]).fails(1);
}

/// Nobody who gives a pin gets an image that was not verified, and no option is dropped in silence.
#[test]
fn options_of_images_elsewhere_are_for_them() {
    let scratch = Scratch::new();
    let (image, target) = (scratch.image(""), scratch.path("mnt"));
    std::fs::create_dir(&target).unwrap();
    let pin = format!("--pin blake3:{}", "0".repeat(64));
    for option in [
        &*pin,
        "--digests file:///x",
        "--insecure",
        "--mirror http://127.0.0.1:1/",
        "--bandwidth 1M",
        "--cache-dir /nowhere",
        "--cache-dir-max 1M",
        "--prefetch all",
    ] {
        let error = run(&format!("mount {option} {{}} {{}}"), &[&image, &target]).fails(1);
        let name = option.split(' ').next().unwrap();
        assert!(error.contains(&format!("{name} is for images that are read on")), "{error}");
    }
    let error = run("mount --insecure ftp://127.0.0.1/x {}", &[&target]).fails(1);
    assert!(error.contains("on demand") && error.contains("https://"), "{error}");
    let error = run("mount ftp://127.0.0.1/x {}", &[&target]).fails(1);
    assert!(error.contains("no place to fetch from") && error.contains("https://"), "{error}");
    // Those of a FUSE server, too.
    for option in ["--threads 2", "--cache 1M", "--allow-other"] {
        let error = run(&format!("mount --kernel {option} {{}} {{}}"), &[&image, &target]).fails(1);
        assert!(error.contains(option.split(' ').next().unwrap()), "{error}");
        assert!(error.contains("only mounts by FUSE have it"), "{error}");
    }
}

/// A folder that was named by mistake is told apart from an empty cache, and left as it is.
#[test]
fn a_folder_that_is_no_cache_is_left_alone() {
    let scratch = Scratch::new();
    for command in ["ls", "ls --json", "verify", "prune"] {
        let words = format!("cache --cache-dir {{}} {command}");
        let error = run(&words, &[&scratch.tree()]).fails(1);
        assert!(error.contains("there is no cache at"), "{error}");
    }
    let names = std::fs::read_dir(scratch.tree()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "space"), "{names:?}");
}

/// An object that is put there again, or is served by several machines, may have another `ETag`: what is
/// verified needs none. Without digests it is all there is.
#[test]
fn who_verifies_does_not_mind_another_tag() {
    for (pinned, readable) in [(true, true), (false, false)] {
        let remote = Remote::new("");
        let log = remote.scratch.path("log");
        let words = format!("--prefetch none --method fuse -o soft=5 --log {}", log.display());
        let trust = if pinned { format!("--pin {}", remote.pin) } else { "--insecure".to_owned() };
        let Some(mounted) = remote.mount(&format!("{words} {trust}")) else { return };
        let tag = |_: &Request, number| vec![Fault::Tag(format!("\"{number}\""))];
        remote.origin.script(Box::new(tag));
        let read = std::fs::read(mounted.0.join("dir/7"));
        assert_eq!(read.is_ok(), readable, "{pinned}: {:?}", read.err());
        if readable {
            run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        } else {
            let told = std::fs::read_to_string(log).unwrap();
            assert!(told.contains("has changed on the server"), "{told}");
            // No colours in a file.
            assert!(!told.contains('\u{1b}'), "{told:?}");
        }
        run("umount {}", &[&mounted.0]).ok();
    }
}

#[test]
fn inspection_tells_where_bytes_went() {
    let remote = Remote::new("-z lz4 -C 64K");
    let (image, page) = (remote.scratch.path("www/image.erofs"), remote.scratch.path("page.html"));
    let text = run("inspect {}", &[&image]).ok();
    assert!(text.contains("/dir/") && text.contains("below the root"), "{text}");
    run("inspect {} --html {}", &[&image, &page]).ok();
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("/dir/7"), "{page}");
    assert!(!page.contains("http") && !page.contains("<script"), "it needs nothing but itself");
    let json = run("inspect {} --json", &[&image]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let cells = json["devices"][0]["cells"].as_array().unwrap();
    let counted: u64 = cells
        .iter()
        .flat_map(|cell| cell.as_array().unwrap())
        .map(|bytes| bytes.as_u64().unwrap())
        .sum();
    let size = std::fs::metadata(image).unwrap().len();
    assert!(counted > size / 2 && counted <= size, "{counted} of {size}");
}
