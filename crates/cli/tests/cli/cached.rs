// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferrofs cached` as a process of its own, before a cache that this process emulates.

use crate::{FERROFS, Scratch, run};
use ferrofs_image::{Image, OpenOptions, ReadAt};
use ferrofs_store::cachefiles::{CacheSocket, Emulator, EmulatorConfig, Object, Peers, Volume};
use ferrofs_store::{Algorithm, Demand, Geometry, TableBuilder};
use ferrofs_tests::craft::Craft;
use ferrofs_tests::origin::component::{Component, available};
use ferrofs_tests::origin::{Content, Fault, Origin, Proxy};
use rustix::io::Errno;
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Whatever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

fn patient() -> Demand {
    Demand::soft(LIMIT)
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Writes a digest table beside a blob; its pin.
fn table(path: &Path, content: &[u8]) -> String {
    let built = TableBuilder::new(Geometry::new(Algorithm::Blake3)).unwrap();
    let built = built.build(content).unwrap();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".digests");
    std::fs::write(beside, built.to_bytes()).unwrap();
    built.pin().to_string()
}

/// A cache with its daemon; both end with the test.
struct Served {
    emulator: Emulator,
    daemon: Child,
    _socket: CacheSocket,
}

impl Served {
    fn new(scratch: &Scratch, words: &[&str]) -> Self {
        Self::limited(scratch, words, None)
    }

    /// A daemon that may have so many descriptors.
    fn limited(scratch: &Scratch, words: &[&str], descriptors: Option<u32>) -> Self {
        let root = scratch.path("fscache");
        std::fs::create_dir_all(&root).unwrap();
        let emulator = Emulator::new(&root, EmulatorConfig::default()).unwrap();
        let path = scratch.path("socket");
        let socket = CacheSocket::listen(emulator.clone(), &path, Peers::OwnUser).unwrap();
        let mut command = match descriptors {
            None => Command::new(FERROFS),
            Some(count) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {count} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script, FERROFS]);
                shell
            }
        };
        command.args(["cached", "--foreground", "--patience", "3", "--socket"]).arg(&path);
        command.arg("--cache-dir").arg(scratch.path("cache"));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().unwrap();
        let served = Self { emulator, daemon, _socket: socket };
        let begin = Instant::now();
        while !served.emulator.is_bound() {
            assert!(begin.elapsed() < LIMIT, "the daemon does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        served
    }

    fn volume(&self, name: &str) -> Volume {
        self.emulator.volume(format!("erofs,{name}").as_bytes()).unwrap()
    }

    /// Resident memory of the daemon, without files.
    fn memory(&self) -> u64 {
        anonymous_memory(&format!("/proc/{}/status", self.daemon.id()))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn anonymous_memory(path: &str) -> u64 {
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn errno(volume: &Volume, key: &[u8]) -> Errno {
    volume.cookie(key, &patient()).unwrap_err().errno()
}

#[test]
fn images_come_from_where_they_are_and_are_verified() {
    let scratch = Scratch::new();
    let www = scratch.path("www");
    std::fs::create_dir(&www).unwrap();
    let content = bytes(3_000_000, 1);
    std::fs::write(www.join("a.img"), &content).unwrap();
    let pin = table(&www.join("a.img"), &content);
    std::fs::write(www.join("b.img"), &content[..2_000_000]).unwrap();
    let second = table(&www.join("b.img"), &content[..2_000_000]);
    std::fs::write(www.join("loose"), &content[..9000]).unwrap();
    std::fs::write(
        scratch.path("from"),
        format!(
            "# comment\n\nlocal=file://{},pin={pin}\nloose={{}},insecure\n",
            www.join("a.img").display()
        )
        .replace("{}", &format!("file://{}", www.join("loose").display())),
    )
    .unwrap();
    let origin = Origin::start(Content::Folder(www)).unwrap();
    let url = origin.url("/a.img");
    let blobs = [
        format!("a={url},pin={pin}"),
        format!("second={},pin={second}", origin.url("/b.img")),
        format!("unpinned={url}"),
        format!("gone={},insecure", origin.url("/gone")),
        format!("other={url},pin=blake3:{}", "0".repeat(64)),
    ];
    let from = scratch.path("from");
    let mut words = vec!["--from", from.to_str().unwrap()];
    words.extend(blobs.iter().flat_map(|blob| ["--blob", blob]));
    let served = Served::new(&scratch, &words);
    let volume = served.volume("a");
    let object = volume.cookie(b"a", &patient()).unwrap();
    assert_eq!(object.size(), 3_000_000);
    let second = volume.cookie(b"second", &patient()).unwrap();
    // The first answers are wrong in every way; nobody notices.
    for fault in
        [Fault::Flip(9), Fault::Cut(1000), Fault::Short(50), Fault::busy(503, 0), Fault::Whole]
    {
        origin.next(vec![fault]);
    }
    let mut found = vec![0; 1_500_000];
    object.read_at(&mut found, 700_001, &patient()).unwrap();
    assert!(found == content[700_001..2_200_001]);
    // All answers are wrong: an error, and nothing of it stays.
    origin.script(Box::new(|_, _| vec![Fault::Flip(10)]));
    let failed = second.read_at(&mut [0; 100], 900_000, &patient()).unwrap_err();
    assert_eq!(failed.errno(), Errno::IO);
    origin.behave();
    let mut found = vec![0; 100_000];
    second.read_at(&mut found, 900_000, &patient()).unwrap();
    assert!(found == content[900_000..1_000_000]);
    let mut found = vec![0; 3_000_000];
    object.read_at(&mut found, 0, &patient()).unwrap();
    assert!(found == content);
    // The same blob by another way needs nothing that is there already, but is another object.
    origin.forget();
    let local = volume.cookie(b"local", &patient()).unwrap();
    local.read_at(&mut found, 0, &patient()).unwrap();
    assert!(found == content);
    assert_eq!(volume.cookie(b"loose", &patient()).unwrap().size(), 9000);
    assert_eq!(origin.ledger().bytes_sent_of("/a.img"), 0);
    assert_eq!(errno(&volume, b"unpinned"), Errno::PERM);
    assert_eq!(errno(&volume, b"gone"), Errno::NOENT);
    assert_eq!(errno(&volume, b"other"), Errno::IO);
    assert_eq!(errno(&served.volume("zzz"), b"never-heard-of"), Errno::NOENT);
    assert_eq!(errno(&volume, b"../www/loose"), Errno::INVAL);
    assert_eq!(errno(&volume, &[b'x'; 250]), Errno::PERM, "beside a verified image");
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let scratch = Scratch::new();
    let start = |words: &str| run(&format!("cached --foreground --socket /nowhere {words}"), &[]);
    assert!(start("").fails(1).contains("--blobs"));
    let error = start("--blob a=nonsense").fails(1);
    assert!(error.contains("a=nonsense") && error.contains("scheme"), "{error}");
    let error = start("--blob a=file:///a,pin=blake3:12").fails(1);
    assert!(error.contains("no pin"), "{error}");
    std::fs::write(scratch.path("from"), "# fine\na=file:///a\nwhat\n").unwrap();
    let ended = run("cached --foreground --socket /nowhere --from {}", &[&scratch.path("from")]);
    assert!(ended.fails(1).contains("line 3"));
}

/// By https, through a proxy that wants a password, in the daemon and in a supervisor's worker.
#[test]
fn certificates_and_proxies_are_for_daemons_too() {
    let Some(authority) = crate::network::authority() else { return };
    let scratch = Scratch::new();
    let www = scratch.path("www");
    std::fs::create_dir(&www).unwrap();
    let content = bytes(300_000, 1);
    std::fs::write(www.join("a.img"), &content).unwrap();
    let pin = table(&www.join("a.img"), &content);
    let origin = Origin::start(Content::Folder(www)).unwrap();
    let certificate = authority.sign("IP:127.0.0.1", 30).unwrap();
    let server = available(Component::tls(&certificate, origin.address()));
    let Some(server) = server else { return };
    // us:s3c@ret
    let proxy = Proxy::start(Some("Basic dXM6czNjQHJldA==")).unwrap();
    let with = format!("http://us:s3c%40ret@{}", proxy.address());
    let ca = authority.certificate();
    let blob = format!("a=https://{}/a.img,pin={pin}", server.address());
    for more in [&[][..], &["--supervise"][..]] {
        let cache = scratch.path("cache");
        let words = ["--blob", &blob, "--ca", ca.to_str().unwrap(), "--proxy", &with];
        let words = [&words[..], more].concat();
        let asked = proxy.asked().len();
        let served = Served::new(&scratch, &words);
        let object = served.volume("a").cookie(b"a", &patient()).unwrap();
        let mut found = vec![0; content.len()];
        object.read_at(&mut found, 0, &patient()).unwrap();
        assert!(found == content);
        let asked = proxy.asked().split_off(asked);
        assert!(asked.contains(&format!("CONNECT {}", server.address())), "{asked:?}");
        let lines = crate::network::command_lines(cache.to_str().unwrap());
        assert!(lines.len() > more.len(), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("s3c")), "{lines:?}");
        drop((object, served));
        let begin = Instant::now();
        while std::fs::remove_dir_all(&cache).is_err() && cache.exists() {
            assert!(begin.elapsed() < LIMIT, "the cache stays in use");
        }
    }
    let served = Served::new(&scratch, &["--blob", &blob, "--proxy", "none"]);
    assert_eq!(errno(&served.volume("a"), b"a"), Errno::IO, "nobody knows its certificate");
}

#[test]
fn data_blobs_have_pins_of_their_own() {
    let scratch = Scratch::new();
    let folder = scratch.path("blobs");
    std::fs::create_dir(&folder).unwrap();
    let contents: Vec<Vec<u8>> = (0..4).map(|number| bytes(300_000, number)).collect();
    let names = ["image", "layer=0", "layer-1", "layer-2"];
    let pin = |number: usize| {
        let path = folder.join(names[number]);
        std::fs::write(&path, &contents[number]).unwrap();
        table(&path, &contents[number])
    };
    let pins: Vec<String> = (0..4).map(pin).collect();
    let blob = format!(
        "image=file://{},pin={},pin-device=layer=0={},pin-device=layer-2=blake3:{}",
        folder.join("image").display(),
        pins[0],
        pins[1],
        "0".repeat(64)
    );
    for more in [&[][..], &["--supervise"][..]] {
        let served = Served::new(&scratch, &[&["--blob", &blob], more].concat());
        let volume = served.volume("image");
        for (name, content) in names.iter().zip(&contents).take(2) {
            let object = volume.cookie(name.as_bytes(), &patient()).unwrap();
            let mut found = vec![0; content.len()];
            object.read_at(&mut found, 0, &patient()).unwrap();
            assert!(found == *content, "{name}");
        }
        assert_eq!(errno(&volume, b"layer-1"), Errno::PERM, "it has no pin");
        assert_eq!(errno(&volume, b"layer-2"), Errno::IO, "it has another pin");
    }
    for (wrong, expected) in [("pin-device=x", "x"), ("pin-device=x=blake3:1", "blake3:HEX")] {
        let words = format!("cached --foreground --socket /nowhere --blob a=file:///a,{wrong}");
        let error = run(&words, &[]).fails(1);
        assert!(error.contains(expected) && error.contains("TAG=blake3:HEX"), "{error}");
    }
}

/// A blob as the device of an image.
struct Device(Object);

impl ReadAt for Device {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(buf, offset, &patient()).map_err(|error| error.errno().into())
    }

    fn size(&self) -> std::io::Result<u64> {
        Ok(self.0.size())
    }
}

#[test]
fn one_image_has_its_data_in_many_blobs() {
    use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
    use ferrofs_image::format::device::DeviceSlot;
    const BLOBS: u16 = 24;
    let scratch = Scratch::new();
    let folder = scratch.path("blobs");
    std::fs::create_dir(&folder).unwrap();
    let mut craft = Craft::new(12);
    let format = ChunkFormat { bits: 0, indexes: true, wide: false };
    let contents: Vec<_> = (0..BLOBS).map(|n| bytes(3 * 4096, n.into())).collect();
    let mut slots = Vec::new();
    let mut all = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let name = format!("layer-{number}");
        std::fs::write(folder.join(&name), content).unwrap();
        let mut tag = [0; 64];
        tag[..name.len()].copy_from_slice(name.as_bytes());
        slots.push(DeviceSlot { tag, blocks: 3, unified_start: 0 });
        let device = number as u16 + 1;
        let chunks: Vec<_> = [2, 0, 1].map(|block| Chunk::At { device, block }).into();
        craft.chunked(&format!("f{number}"), 3 * 4096, format, &chunks);
        all.push(Chunk::At { device, block: 1 });
    }
    craft.chunked("all", u64::from(BLOBS) * 4096, format, &all);
    craft.devices(&slots);
    let image = craft.finish().bytes;
    std::fs::write(folder.join("image"), &image).unwrap();
    // The image by its place; its blobs are beside it.
    let blob = format!("image=file://{},insecure", folder.join("image").display());
    let served = Served::new(&scratch, &["--blob", &blob]);
    let volume = served.volume("image");
    let open = |key: &[u8]| Device(volume.cookie(key, &patient()).unwrap());
    let bootstrap = Image::open(open(b"image")).unwrap();
    let mut options = OpenOptions::new();
    for slot in bootstrap.device_slots() {
        options = options.device(open(slot.label()));
    }
    let image = options.open(open(b"image")).unwrap();
    let read = |name: &str| {
        let inode = image.resolve(format!("/{name}").as_bytes()).unwrap();
        let mut found = vec![0; inode.size as usize];
        image.read(&image.map(&inode).unwrap(), 0, &mut found).unwrap();
        found
    };
    for (number, content) in contents.iter().enumerate() {
        let expected = [&content[8192..], &content[..8192]].concat();
        assert!(read(&format!("f{number}")) == expected, "f{number}");
    }
    let expected: Vec<u8> = contents.iter().flat_map(|c| c[4096..8192].to_vec()).collect();
    assert!(read("all") == expected);
    assert_eq!(served.emulator.load().1, usize::from(BLOBS) + 1);
}

#[test]
fn without_descriptors_openers_get_errors_and_others_go_on() {
    let scratch = Scratch::new();
    let folder = scratch.path("blobs");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..100 {
        std::fs::write(folder.join(number.to_string()), bytes(5000, number)).unwrap();
    }
    let words = ["--blobs", folder.to_str().unwrap()];
    let served = Served::limited(&scratch, &words, Some(80));
    let volume = served.volume("x");
    let mut opened = Vec::new();
    let mut refused = 0;
    for number in 0..100 {
        match volume.cookie(number.to_string().as_bytes(), &patient()) {
            Ok(object) => opened.push((number, object)),
            Err(error) => {
                assert_eq!(error.errno(), Errno::MFILE, "{error}");
                refused += 1;
            }
        }
    }
    assert!(opened.len() >= 10 && refused >= 10, "{} {refused}", opened.len());
    for (number, object) in &opened {
        let mut found = vec![0; 5000];
        object.read_at(&mut found, 0, &patient()).unwrap();
        assert!(found == bytes(5000, *number));
    }
    drop(opened);
    let begin = Instant::now();
    while volume.cookie(b"99", &patient()).is_err() {
        assert!(begin.elapsed() < LIMIT, "what was closed makes no room");
    }
}

/// Cheap to make: there are thousands.
fn plain(number: usize) -> Vec<u8> {
    let text = format!("blob {number} ");
    text.repeat(6000 / text.len()).into_bytes()
}

/// Prints what it costs: docs/performance.md has the figures of a release build.
#[test]
fn five_thousand_blobs_are_open_at_once() {
    const COUNT: usize = 5000;
    if ferrofs_linux::descriptors::raise_limit().unwrap() < 3 * COUNT as u64 + 1000 {
        return println!("skipped: this process may have too few descriptors (ulimit -Hn)");
    }
    let scratch = Scratch::new();
    let folder = scratch.path("blobs");
    std::fs::create_dir(&folder).unwrap();
    let mut lines = String::new();
    for number in 0..COUNT {
        let content = plain(number);
        let path = folder.join(format!("b{number}"));
        std::fs::write(&path, &content).unwrap();
        let pin = table(&path, &content);
        writeln!(lines, "b{number}=file://{},pin={pin}", path.display()).unwrap();
    }
    std::fs::write(scratch.path("from"), lines).unwrap();
    // What was read is made durable when another blob takes its place in the store: not by thousands
    // on a slow disk.
    for (what, option, path, step) in
        [("a folder", "--blobs", folder, 1), ("URLs, verified", "--from", scratch.path("from"), 10)]
    {
        let served = Served::new(&scratch, &[option, path.to_str().unwrap()]);
        let volume = served.volume(option);
        // What the first one costs is not of each.
        volume.cookie(b"b0", &patient()).unwrap().ensure(0..100, &patient()).unwrap();
        let before = (served.memory(), anonymous_memory("/proc/self/status"));
        let begin = Instant::now();
        let next = AtomicUsize::new(0);
        let mut objects: Vec<(usize, Object)> = std::thread::scope(|scope| {
            let open = || {
                let mut mine = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= COUNT {
                        return mine;
                    }
                    let key = format!("b{number}");
                    mine.push((number, volume.cookie(key.as_bytes(), &patient()).unwrap()));
                }
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let took = begin.elapsed();
        let grown = served.memory().saturating_sub(before.0) / COUNT as u64;
        let ours = anonymous_memory("/proc/self/status").saturating_sub(before.1) / COUNT as u64;
        println!(
            "{COUNT} blobs from {what}: opened in {:.2} s; memory each: daemon {grown}, cache {ours} \
             bytes",
            took.as_secs_f64()
        );
        assert_eq!(served.emulator.load().1, COUNT);
        assert!(grown < 16 << 10, "the daemon has {grown} bytes for each blob");
        objects.sort_by_key(|(number, _)| number % 97);
        for (number, object) in objects.iter().step_by(step) {
            let (from, content) = (number % 1000, plain(*number));
            let mut found = vec![0; 4500];
            object.read_at(&mut found, from as u64, &patient()).unwrap();
            assert!(found == content[from..from + 4500], "b{number}");
        }
    }
}

#[test]
fn a_killed_worker_of_a_supervisor_is_not_noticed() {
    let scratch = Scratch::new();
    let content = bytes(4_000_000, 5);
    let path = scratch.path("image");
    std::fs::write(&path, &content).unwrap();
    let pin = table(&path, &content);
    let blob = format!("image=file://{},pin={pin}", path.display());
    let served = Served::new(&scratch, &["--supervise", "--blob", &blob]);
    let object = Arc::new(served.volume("image").cookie(b"image", &patient()).unwrap());
    let children = format!("/proc/{0}/task/{0}/children", served.daemon.id());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (object, content) = (&object, &content);
            scope.spawn(move || {
                for step in 0..40 {
                    let from = (step * 4 + thread) * 24_000;
                    let mut found = vec![0; 30_000];
                    object.read_at(&mut found, from as u64, &patient()).unwrap();
                    assert!(found == content[from..from + 30_000]);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(40));
            let listed = std::fs::read_to_string(&children).unwrap_or_default();
            let pid = listed.split_whitespace().next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                // Gone already, perhaps.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    });
}

#[test]
fn a_mount_through_the_kernels_cache_is_refused_where_there_is_none() {
    if !crate::is_root() {
        return println!("skipped: mounting needs root");
    }
    if Path::new("/dev/cachefiles").exists() {
        return println!("skipped: this kernel has the cache");
    }
    let scratch = Scratch::new();
    let target = scratch.path("mnt");
    std::fs::create_dir(&target).unwrap();
    for line in ["mount -o fsid=x {}", "mount -o fsid=x,domain_id=d,device=b none {}"] {
        let said = run(line, &[&target]).fails(1);
        assert!(said.contains("/dev/cachefiles") && said.contains("ferrofs mount URL"), "{said}");
    }
    for (line, word) in [
        ("mount -o fsid= none {}", "fsid"),
        ("mount -o fsid none {}", "fsid"),
        ("mount --fuse -o fsid=x none {}", "only mounts by the kernel"),
        ("mount -o domain_id=x none {}", "domain_id"),
        ("mount -o fsid=x,fsoffset=4096 none {}", "fsoffset"),
        ("mount -o fsid=x,cache=1M none {}", "cache"),
    ] {
        let said = run(line, &[&target]).fails(1);
        assert!(said.contains(word), "{line}: {said}");
    }
    assert!(ferrofs_linux::mountinfo::find(&target).unwrap().is_none());
}
