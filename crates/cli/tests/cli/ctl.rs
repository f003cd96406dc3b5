// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ctl`, `top`, remount and metrics on real mounts.

mod metrics;

use crate::mount::{Foreground, Target};
use crate::{FERROFS, command, run};
use rustix::fs::{Advice, OFlags};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of each file.
const FILE_LEN: usize = 1 << 20;
const FILES: usize = 4;

/// A mount of an image with some files of compressible text, in large pclusters.
struct Mounted {
    target: Target,
    folder: tempfile::TempDir,
    contents: Vec<Vec<u8>>,
}

/// Text that compresses to about half, and is another for each seed.
fn content(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(FILE_LEN + 64);
    while bytes.len() < FILE_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        writeln!(bytes, "line {:>8} of {seed}: {state:x}, and so on", bytes.len()).unwrap();
    }
    bytes.truncate(FILE_LEN);
    bytes
}

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let target = Target::new()?;
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        let contents: Vec<_> = (0..FILES as u64).map(content).collect();
        for (index, content) in contents.iter().enumerate() {
            fs::write(tree.join(format!("sub/{index}")), content).unwrap();
        }
        let image = folder.path().join("image");
        run("build {} -o {} -q -z lz4hc -C 65536", &[&tree, &image]).ok();
        let mounted = Self { target, folder, contents };
        run(&format!("mount --fuse {options} {{}} {{}}"), &[&image, mounted.path()]).ok();
        Some(mounted)
    }

    fn path(&self) -> &Path {
        &self.target.path
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn file(&self, index: usize) -> PathBuf {
        self.path().join(format!("sub/{index}"))
    }

    fn ctl(&self, words: &str) -> crate::Ended {
        run(&format!("ctl {{}} {words}"), &[self.path()])
    }

    fn get(&self, name: &str) -> String {
        let found: Value = serde_json::from_str(&self.ctl("get --json").ok()).unwrap();
        found[name].as_str().unwrap_or_else(|| panic!("{name} in {found}")).to_owned()
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&self.ctl("stats --json").ok()).unwrap()
    }

    fn socket(&self) -> PathBuf {
        let device = fs::metadata(self.path()).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        PathBuf::from(format!("/run/ferrofs/{major}-{minor}.sock"))
    }

    /// Reads past the kernel's page cache.
    fn read_direct(&self, index: usize, offset: usize, len: usize) -> std::io::Result<Vec<u8>> {
        let flags = OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.file(index))?;
        let mut buf = vec![0; len];
        file.read_exact_at(&mut buf, offset as u64).map(|()| buf)
    }
}

/// Everything that is looked up is accounted for.
fn add_up(stats: &Value) {
    let engine = |name: &str| stats["engine"][name].as_u64().unwrap_or_else(|| panic!("{name}"));
    let found = engine("extent_hits") + engine("page_hits") + engine("waits") + engine("claims");
    assert_eq!(engine("lookups"), found, "{stats:#}");
    let ended = engine("decodes") + engine("io_failures") + engine("decode_failures");
    assert_eq!(engine("claims"), ended, "{stats:#}");
    let cache = |name: &str| stats["cache_bytes"][name].as_u64().unwrap();
    let held = cache("extents") + cache("pages") + cache("encoded");
    assert!(held <= cache("limit"), "{stats:#}");
}

#[test]
fn strategies_change_under_readers() {
    let Some(mounted) = Mounted::new("-q --cache 4M") else { return };
    let (ended, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    // If the changer panics, the readers must end all the same.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for reader in 0..4_usize {
            let (mounted, ended, reads) = (&mounted, &ended, &reads);
            scope.spawn(move || {
                let mut step = reader;
                while !ended.load(Ordering::Relaxed) {
                    step += 1;
                    let index = (reader + step) % FILES;
                    let want = &mounted.contents[index];
                    if step % 3 == 0 {
                        // In order, through the page cache, cold.
                        let file = File::open(mounted.file(index)).unwrap();
                        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                        let mut found = Vec::new();
                        { &file }.read_to_end(&mut found).unwrap();
                        assert!(&found == want, "file {index}");
                    } else {
                        let offset = step.wrapping_mul(7919 * 512) % (FILE_LEN - 8192);
                        let found = mounted.read_direct(index, offset, 8192).unwrap();
                        assert!(found == want[offset..offset + 8192], "file {index} at {offset}");
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = End(&ended);
        for round in 0..6 {
            for change in [
                "set cache_strategy=disabled on_change=flush",
                "set cache_strategy=readahead cache_rule=original",
                "set cache_strategy=readaround cache_rule=current merge=64K",
                "set cache=100K sync_decompress=never readmore=off",
                "set cache_strategy=split on_change=keep cache=8M merge=1M",
                "set sync_decompress=auto sync_bytes=0 readmore=on",
                "drop_caches 3",
                "prefetch /sub",
            ] {
                mounted.ctl(change).ok();
            }
            add_up_when_quiet(&mounted, round);
        }
    });
    assert!(reads.load(Ordering::Relaxed) > 100, "{reads:?}");
    assert_eq!(mounted.get("cache_strategy"), "split");
    let stats = mounted.stats();
    add_up(&stats);
    assert_eq!(stats["engine"]["failed_requests"], 0);
}

/// While readers are at work, counters are at most a few reads apart.
fn add_up_when_quiet(mounted: &Mounted, round: usize) {
    let stats = mounted.stats();
    let engine = |name: &str| stats["engine"][name].as_i64().unwrap();
    let found = engine("extent_hits") + engine("page_hits") + engine("waits") + engine("claims");
    assert!((engine("lookups") - found).abs() < 1000, "round {round}: {stats:#}");
}

#[test]
fn what_is_cached_is_kept_flushed_or_a_reason_to_refuse() {
    let options = "-q -o cache_strategy=readaround,cache=16M";
    let Some(mounted) = Mounted::new(options) else { return };
    let encoded = || mounted.stats()["cache_bytes"]["encoded"].as_u64().unwrap();
    let touch = || {
        // Middles of extents, so that their encoded bytes are worth keeping.
        for offset in (20_000..FILE_LEN).step_by(100_000) {
            mounted.read_direct(0, offset, 4096).unwrap();
        }
    };
    touch();
    assert!(encoded() > 0, "{}", mounted.stats());
    let error = mounted.ctl("set cache=9M cache_strategy=disabled on_change=refuse").fails(1);
    assert!(error.contains("compressed data are in memory"), "{error}");
    let was = (mounted.get("cache_strategy"), mounted.get("cache"));
    assert_eq!(was, ("readaround".into(), (16 << 20).to_string()), "all or nothing");
    mounted.ctl("set cache_strategy=readahead on_change=keep").ok();
    assert!(encoded() > 0);
    mounted.ctl("set cache_strategy=readaround on_change=flush").ok();
    assert_eq!(encoded(), 0);
    mounted.ctl("set cache_strategy=split on_change=refuse").ok();
    mounted.ctl("drop_caches 3").ok();
    mounted.ctl("set cache_strategy=readaround").ok();
    touch();
    mounted.ctl("drop_caches 1").ok();
    assert_eq!(encoded(), 0);
    let extents = || mounted.stats()["cache_bytes"]["extents"].as_u64().unwrap();
    assert!(extents() > 0);
    mounted.ctl("drop-caches 2").ok();
    assert_eq!(extents(), 0);
    mounted.ctl("prefetch /sub/1").ok();
    for _ in 0..1000 {
        if extents() > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(extents() > 0);
    mounted.ctl("set cache=0").ok();
    assert_eq!(extents(), 0);
    add_up(&mounted.stats());
}

#[test]
fn what_was_decoded_besides_is_in_the_page_cache() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let file = File::open(mounted.file(0)).unwrap();
    // Without readahead each page that is missing is a request of its own.
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    let want = &mounted.contents[0];
    let read = |page: usize| {
        let mut buf = [0; 4096];
        file.read_exact_at(&mut buf, page as u64 * 4096).unwrap();
        assert!(buf[..] == want[page * 4096..][..4096], "page {page}");
    };
    let requests = || mounted.stats()["engine"]["requests"].as_u64().unwrap();
    for page in (3..256).step_by(37) {
        read(page);
    }
    // It is put there by a thread that has time; how much, depends.
    std::thread::sleep(Duration::from_millis(300));
    let before = requests();
    (0..256).for_each(read);
    let with = requests() - before;
    mounted.ctl("set readmore=off").ok();
    mounted.ctl("drop_caches 3").ok();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let before = requests();
    (0..256).for_each(read);
    let without = requests() - before;
    println!("{with} requests with readmore, {without} without");
    assert!(with * 2 < without && without >= 250, "{with} {without}");
}

#[test]
fn what_the_page_cache_has_got_is_not_kept_as_well() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let file = File::open(mounted.file(0)).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    for page in (3..256).step_by(17) {
        let mut buf = [0; 4096];
        file.read_exact_at(&mut buf, page * 4096).unwrap();
        assert!(buf[..] == mounted.contents[0][page as usize * 4096..][..4096], "page {page}");
    }
    let cached = || {
        let stats = mounted.stats();
        assert!(stats["engine"]["decodes"].as_u64().unwrap() > 3);
        ["extents", "encoded"].map(|pool| stats["cache_bytes"][pool].as_u64().unwrap())
    };
    for _ in 0..1000 {
        if cached() == [0, 0] {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(cached(), [0, 0]);
}

#[test]
fn bad_requests_change_nothing() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let before = mounted.ctl("get").ok();
    for (words, reason) in [
        ("set cache=1M bogus=1", "bogus=1: not known"),
        ("set cache=1M merge=1", "4K to 16M"),
        ("set workers=2", "fixed"),
        ("set on_change=flush", "cache_strategy only"),
        ("inject explode", "explode"),
        ("inject read-error --file /none", "/none"),
        ("prefetch /sub/0 /none", "/none"),
    ] {
        let error = mounted.ctl(words).fails(1);
        assert!(error.contains(reason), "{words}: {error}");
    }
    for words in ["drop_caches 4", "set", "inject", "inject decode --clear", "prefetch", "bogus"] {
        mounted.ctl(words).fails(1);
    }
    assert_eq!(mounted.ctl("get").ok(), before);
    assert!(run("ctl /proc get", &[]).fails(1).contains("no EROFS mount"));
    assert!(run("ctl /nowhere get", &[]).fails(1).contains("/nowhere"));
}

#[test]
fn faults_reach_their_files_and_go_away() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let read = |index: usize| mounted.read_direct(index, 4096, 4096);
    let is_io = |error: std::io::Error| error.raw_os_error() == Some(5);
    mounted.ctl("inject read-error --file /sub/1").ok();
    mounted.ctl("inject decode --file sub/2").ok();
    for round in 0..2 {
        assert!(read(0).unwrap() == mounted.contents[0][4096..8192]);
        assert!(is_io(read(1).unwrap_err()), "round {round}");
        // EUCLEAN: the data is corrupt, the device well.
        assert_eq!(read(2).unwrap_err().raw_os_error(), Some(117), "round {round}");
        assert!(fs::read(mounted.file(3)).unwrap() == mounted.contents[3]);
    }
    assert!(fs::read(mounted.file(1)).is_err(), "through the page cache, too");
    mounted.ctl("inject --clear").ok();
    for index in 0..FILES {
        assert!(read(index).unwrap() == mounted.contents[index][4096..8192]);
        assert!(fs::read(mounted.file(index)).unwrap() == mounted.contents[index], "{index}");
    }
    // Of one read, only the pages that need the pcluster.
    mounted.ctl("drop_caches 3").ok();
    mounted.ctl("set cache=0").ok();
    mounted.ctl("inject read-error,nth=3 --file /sub/0").ok();
    let file = File::open(mounted.file(0)).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let bad = (0..FILE_LEN)
        .step_by(4096)
        .filter(|offset| match mounted.read_direct(0, *offset, 4096) {
            Ok(found) => {
                assert!(found == mounted.contents[0][*offset..*offset + 4096]);
                false
            }
            Err(error) => is_io(error),
        })
        .count();
    assert_eq!(bad, 1, "each page is read by itself, and the third read fails");
    let stats = mounted.stats();
    assert!(stats["engine"]["io_failures"].as_u64() > Some(0), "{stats:#}");
    assert!(stats["engine"]["decode_failures"].as_u64() > Some(0), "{stats:#}");
    add_up(&stats);
}

#[test]
fn remount_changes_what_can_change() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let remount =
        |options: &str| run(&format!("mount -o remount,{options} {{}}"), &[mounted.path()]);
    remount("cache_strategy=disabled,cache=5M,noreadmore,nosuid").ok();
    let found = ["cache_strategy", "cache", "readmore"].map(|name| mounted.get(name));
    assert_eq!(found, ["disabled", "5242880", "off"]);
    for options in ["max_threads=3", "suid", "fsoffset=4096", "acl", "workers=1", "noexec"] {
        let error = remount(&format!("cache=6M,{options}")).fails(1);
        assert!(error.contains(options.split('=').next().unwrap()), "{error}");
    }
    assert_eq!(mounted.get("cache"), "5242880");
    run("mount -o remount,cache=7M {} {}", &[&mounted.image(), mounted.path()]).ok();
    assert_eq!(mounted.get("cache"), "7340032");
}

#[test]
fn bind_mounts_find_the_server() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let Some(bound) = Target::new() else { return };
    rustix::mount::mount_bind(mounted.path().join("sub"), &bound.path).unwrap();
    run("ctl {} set cache=3M", &[&bound.path]).ok();
    assert_eq!(mounted.get("cache"), (3 << 20).to_string());
    run("ctl {} get", &[&mounted.file(0)]).ok();
    run("umount {}", &[&bound.path]).ok();
    let socket = mounted.socket();
    assert!(socket.exists());
    let pid = mounted.get("pid");
    run("umount {}", &[mounted.path()]).ok();
    for _ in 0..1000 {
        if !Path::new("/proc").join(&pid).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Gone, or that of another mount, which has the number now.
    assert!(!socket.exists() || UnixStream::connect(&socket).is_ok());
}

#[test]
fn others_are_refused() {
    let Some(mounted) = Mounted::new("-q") else { return };
    // Everything up to the socket is open to everybody, who may then not talk to it.
    for folder in [mounted.folder.path(), mounted.path().parent().unwrap()] {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    match command.arg(FERROFS).arg("ctl").arg(mounted.path()).arg("get").output() {
        Ok(output) if output.status.code() == Some(1) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("only user 0"), "{error}");
        }
        Ok(output) if output.status.code() == Some(0) => panic!("user 65534 may do it"),
        other => println!("skipped: setpriv cannot run it: {other:?}"),
    }
}

#[test]
fn hostile_clients_harm_nobody() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let connect = || UnixStream::connect(mounted.socket()).unwrap();
    let deep = format!("{{\"version\":1,\"command\":{}\n", "[".repeat(60_000));
    for line in [
        "\n",
        "garbage\n",
        "{}\n",
        "{\"version\":2,\"command\":\"stats\"}\n",
        "{\"version\":1,\"command\":\"explode\"}\n",
        "{\"version\":1,\"command\":{\"drop_caches\":999999999999}}\n",
        "{\"version\":1,\"command\":{\"prefetch\":[[0,255],\"/../..//.\"]}}\n",
        "{\"version\":1,\"command\":\"stats\",\"more\":1}\n",
        "\0\u{1}\u{7f}\n",
        &deep,
    ] {
        let mut stream = connect();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_string(), "{line}: {answer}");
    }
    // A line without end.
    let mut stream = connect();
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0_u64;
    while sent < 1 << 30 {
        match stream.write(&block) {
            Ok(len) => sent += len as u64,
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
                break;
            }
        }
    }
    assert!(sent < 10 << 20, "{sent} bytes were taken");
    // Many that begin and say no more, and one that takes no answer.
    let mut silent: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    for stream in &mut silent {
        // Those that were closed for newer ones cannot be written.
        let _ = stream.write_all(b"{\"version\":");
    }
    let mut deaf = connect();
    deaf.write_all(b"{\"version\":1,\"command\":\"metrics\"}\n").unwrap();
    assert_eq!(mounted.get("cache_strategy"), "split");
    mounted.ctl("stats").ok();
    // The server loses patience by itself.
    let last = silent.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(matches!(last.read(&mut [0; 16]), Ok(0) | Err(_)));
    assert!(fs::read(mounted.file(0)).unwrap() == mounted.contents[0]);
}

#[test]
fn top_shows_rates() {
    let Some(mounted) = Mounted::new("-q") else { return };
    fs::read(mounted.file(0)).unwrap();
    let text = run("top --once {}", &[mounted.path()]).ok();
    for word in ["reads", "device", "decodes", "lookups", "request", "p99", "extents", "[", " of "]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no terminal, no escapes");
    run("top --interval 0 {}", &[mounted.path()]).fails(1);
    // Again and again, until the mount is gone.
    let words = ["top", "--interval", "0.1"].map(OsStr::new);
    let mut child = command(&words);
    child.arg(mounted.path()).stdout(std::process::Stdio::piped());
    child.stderr(std::process::Stdio::piped());
    let child = child.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    run("umount {}", &[mounted.path()]).ok();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.matches("lookups").count() >= 1, "{text}");
}

#[test]
fn a_server_that_died_is_told_from_one_that_lives() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let Some(target) = Target::new() else { return };
    let mut server = Foreground::new(&mounted.image(), &target);
    let device = fs::metadata(&target.path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let socket = PathBuf::from(format!("/run/ferrofs/{major}-{minor}.sock"));
    run("ctl {} get", &[&target.path]).ok();
    server.0.kill().unwrap();
    server.0.wait().unwrap();
    assert!(socket.exists(), "nobody was left to remove it");
    let error = run("ctl {} get", &[&target.path]).fails(1);
    assert!(error.contains("gone") || error.contains("not connected"), "{error}");
    run("umount --lazy {}", &[&target.path]).ok();
    run("mount -q --fuse {} {}", &[&mounted.image(), &target.path]).ok();
    run("ctl {} get", &[&target.path]).ok();
    // Gone, or another mount's by now.
    assert!(!socket.exists() || UnixStream::connect(&socket).is_ok());
    mounted.ctl("get").ok();
}

#[test]
fn the_kernels_mounts_have_what_the_kernel_has() {
    let Some(mounted) = Mounted::new("-q") else { return };
    let Some(target) = Target::new() else { return };
    let options = "-o cache_strategy=readahead,noacl";
    let ended =
        run(&format!("mount --kernel -q {options} {{}} {{}}"), &[&mounted.image(), &target.path]);
    if ended.code != 0 {
        println!("skipped: {}", ended.err);
        return;
    }
    let ctl = |words: &str| run(&format!("ctl {{}} {words}"), &[&target.path]);
    assert!(ctl("get").ok().contains("cache_strategy=readahead\n"));
    ctl("set cache_strategy=disabled").ok();
    let found = ctl("get").ok();
    assert!(found.contains("cache_strategy=disabled\n") && !found.contains("\nacl="), "{found}");
    run("mount -o remount,cache_strategy=readaround {}", &[&target.path]).ok();
    assert!(ctl("get").ok().contains("cache_strategy=readaround\n"));
    assert!(fs::read(target.path.join("sub/0")).unwrap() == mounted.contents[0]);
    for words in ["set cache_strategy=split", "set cache=1M", "stats", "metrics", "prefetch /"] {
        let error = ctl(words).fails(1);
        assert!(error.contains("the kernel has mounted this image"), "{error}");
    }
    assert!(run("top --once {}", &[&target.path]).fails(1).contains("the kernel"));
    for words in ["drop_caches 3", "set sync_decompress=always"] {
        let ended = ctl(words);
        // Other tests may have mounts of the kernel, too.
        assert!(ended.code == 0 || ended.err.contains("which of several"), "{}", ended.err);
    }
    assert_eq!(ctl("set cache_strategy=readahead on_change=flush").code, 1);
}

#[test]
fn pressure_is_watched_or_refused() {
    let Some(target) = Target::new() else { return };
    let image = crate::golden().image("lz4");
    let ended = run("mount --fuse -q -o psi=50 {} {}", &[&image, &target.path]);
    if ended.code == 0 {
        assert!(run("ctl {} get", &[&target.path]).ok().contains("psi=50%"));
    } else {
        assert!(ended.err.contains("pressure"), "{}", ended.err);
        assert_eq!(target.kind(), None);
    }
    run("mount --fuse -o psi=0 {} {}", &[&image, &target.path]).fails(1);
}
