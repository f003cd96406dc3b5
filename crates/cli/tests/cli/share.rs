// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounts that share memory.
//!
//! Two files are one in memory if they are one inode of one file system: device and inode number tell.
//! Where each image is a file system of its own (passthrough), the kernel tells that its files have
//! nothing in memory themselves, and how much the files behind them have. Bytes are compared with the
//! trees that the images were made of.

mod on_demand;
mod stores;
mod unshared;

use crate::{FERROFS, Scratch, run};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A domain of a test's own, and what is mounted in it; gone at the end.
pub(crate) struct Domain {
    pub(crate) scratch: Scratch,
    pub(crate) name: String,
    pub(crate) mechanism: &'static str,
    targets: Vec<PathBuf>,
}

pub(crate) const MECHANISMS: [&str; 2] = ["superblock", "passthrough"];

impl Domain {
    fn new(label: &str) -> Option<Self> {
        Self::by("superblock", label)
    }

    pub(crate) fn by(mechanism: &'static str, label: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !crate::is_root() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        if mechanism == "passthrough" && !has_passthrough() {
            println!("skipped: this kernel has no FUSE passthrough (Linux 6.9)");
            return None;
        }
        let name = format!("test-{label}-{mechanism}-{}", std::process::id());
        Some(Self { scratch: Scratch::new(), name, mechanism, targets: Vec::new() })
    }

    /// An image of a folder below the scratch folder.
    pub(crate) fn image(&self, tree: &Path, name: &str, options: &str) -> PathBuf {
        let image = self.scratch.path(name);
        run(&format!("build {{}} -o {{}} -q {options}"), &[tree, &image]).ok();
        image
    }

    /// A copy of the tree that another image is made of.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let copy = self.scratch.path(name);
        let status = Command::new("cp").arg("-a").arg(self.scratch.tree()).arg(&copy).status();
        assert!(status.unwrap().success());
        copy
    }

    pub(crate) fn mount(&mut self, image: &Path, options: &str) -> PathBuf {
        let target = self.scratch.path(&format!("mnt{}", self.targets.len()));
        std::fs::create_dir(&target).unwrap();
        self.mount_on(image, &target, options);
        target
    }

    pub(crate) fn mount_on(&mut self, image: &Path, target: &Path, options: &str) {
        let status = Command::new(FERROFS)
            .args(["mount", "-q", "--share", &self.name, "--share-by", self.mechanism])
            .args(options.split(' ').filter(|word| !word.is_empty()))
            .args([image, target])
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        self.targets.push(target.to_owned());
    }

    pub(crate) fn stats(&self) -> serde_json::Value {
        let stats = run(&format!("share stat {} --json", self.name), &[]).ok();
        serde_json::from_str(&stats).unwrap()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        for target in self.targets.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(target).stderr(Stdio::null()).status();
        }
        // It is there as long as the kernel has not let go of the last mount.
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let ended = run(&format!("share stop {}", self.name), &[]);
            if ended.code == 0 || ended.err.contains("no domain") || ended.err.contains("refused") {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_dir_all(Path::new("/run/ferrofs/share").join(&self.name));
    }
}

/// As the kernel's version tells; what it was built with may still lack it.
pub(crate) fn has_passthrough() -> bool {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

/// What the kernel has in memory of a file by this name.
fn cached(path: &Path) -> u64 {
    ferrofs_linux::pagecache::cached_bytes(&std::fs::File::open(path).unwrap()).unwrap()
}

pub(crate) fn umount(target: &Path) {
    run("umount {}", &[target]).ok();
}

fn number(path: &Path) -> (u64, u64) {
    let meta = path.symlink_metadata().unwrap();
    (meta.dev(), meta.ino())
}

#[track_caller]
pub(crate) fn assert_same(tree: &Path, mounted: &Path) {
    assert_eq!(run("diff --no-times {} {}", &[tree, mounted]).out, "");
    for entry in std::fs::read_dir(tree.join("dir")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let other = mounted.join("dir").join(path.file_name().unwrap());
            assert!(
                std::fs::read(&path).unwrap() == std::fs::read(&other).unwrap(),
                "{}",
                path.display()
            );
            let (one, two) = (path.metadata().unwrap(), other.metadata().unwrap());
            assert_eq!(one.mtime(), two.mtime());
            assert_eq!((one.mode(), one.nlink()), (two.mode(), two.nlink()), "{}", path.display());
        }
    }
}

/// Changes bytes in an image file.
pub(crate) fn patch(image: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = std::fs::read(image).unwrap();
    let places: Vec<usize> =
        (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "what is to be replaced is there");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    std::fs::write(image, bytes).unwrap();
}

#[test]
fn equal_files_of_other_encodings_are_one() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "equal") else { continue };
        share_three(domain);
    }
}

fn share_three(mut domain: Domain) {
    let tree = domain.scratch.tree();
    let other = domain.copy("other");
    std::fs::write(other.join("small"), "other\n").unwrap();
    std::fs::write(other.join("dir/new"), "new").unwrap();
    let images = [
        domain.image(&tree, "a.erofs", "-z lz4 -C 64K"),
        domain.image(&other, "b.erofs", "-z zstd -C 16K"),
        domain.image(&tree, "c.erofs", ""),
    ];
    let mounted = images.map(|image| domain.mount(&image, ""));
    for (tree, target) in [&tree, &other, &tree].into_iter().zip(&mounted) {
        assert_same(tree, target);
    }
    let [a, b, c] = &mounted;
    if domain.mechanism == "superblock" {
        assert_eq!(number(&a.join("dir/text")), number(&b.join("dir/text")));
        assert_eq!(number(&a.join("dir/text")), number(&c.join("dir/text")));
        assert_eq!(number(&a.join("small")), number(&c.join("small")));
    } else {
        for image in [a, b, c] {
            assert_eq!(cached(&image.join("dir/text")), 0, "what is in memory is behind it");
        }
    }
    assert_ne!(number(&a.join("small")), number(&b.join("small")), "other content");
    assert_ne!(number(a), number(b));
    let stats = domain.stats();
    assert!(stats["contents"].as_u64().unwrap() >= 3, "{stats}");
    assert!(stats["saved_bytes"].as_u64().unwrap() >= 2 * 172_000, "{stats}");
    // All was read just now, and is there once.
    let text = std::fs::metadata(tree.join("dir/text")).unwrap().len();
    let memory = stats["memory_bytes"].as_u64().unwrap();
    assert!((text..2 * text).contains(&memory), "{stats}");
    // One leaves; the others stay.
    umount(a);
    assert_same(&other, b);
    assert_same(&tree, c);
}

#[test]
fn attributes_are_each_images_own() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "attributes") else { continue };
        differ(domain);
    }
}

fn differ(mut domain: Domain) {
    let tree = domain.scratch.tree();
    let other = domain.copy("other");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(other.join("dir/text"), mode).unwrap();
    let a = domain.image(&tree, "a.erofs", "");
    let b = domain.image(&other, "b.erofs", "");
    let (a, b) = (domain.mount(&a, ""), domain.mount(&b, ""));
    assert_same(&tree, &a);
    assert_same(&other, &b);
    assert_ne!(number(&a.join("dir/text")), number(&b.join("dir/text")));
    let stats = domain.stats();
    let text = std::fs::metadata(tree.join("dir/text")).unwrap().len();
    let memory = stats["memory_bytes"].as_u64().unwrap();
    if domain.mechanism == "superblock" {
        assert_eq!(number(&a.join("small")), number(&b.join("small")));
        assert!(memory < text, "files of other modes are two: {stats}");
    } else {
        assert!((text..2 * text).contains(&memory), "one behind both: {stats}");
    }
}

#[test]
fn the_cache_outlives_the_mounts() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "cache") else { continue };
        mount_again(domain);
    }
}

fn mount_again(mut domain: Domain) {
    let tree = domain.scratch.tree();
    let image = domain.image(&tree, "a.erofs", "-z lz4");
    let target = domain.mount(&image, "--share-keep 300");
    assert_same(&tree, &target);
    let before = domain.stats();
    assert!(before["device_bytes"].as_u64().unwrap() > 0);
    umount(&target);
    domain.mount_on(&image, &target, "");
    assert_same(&tree, &target);
    let after = domain.stats();
    assert_eq!(before["device_bytes"], after["device_bytes"], "nothing is read again");
    assert_eq!(after["images"].as_array().unwrap().len(), 1);
    // Another image in its place is another image.
    umount(&target);
    std::fs::write(tree.join("small"), "changed\n").unwrap();
    let image = domain.image(&tree, "a.erofs", "-z lz4");
    domain.mount_on(&image, &target, "");
    assert_same(&tree, &target);
    assert_eq!(std::fs::read(target.join("small")).unwrap(), b"changed\n");
}

#[test]
fn caches_go_after_their_time() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "time") else { continue };
        leave(domain);
    }
}

fn leave(mut domain: Domain) {
    let tree = domain.scratch.tree();
    let a = domain.image(&tree, "a.erofs", "-z lz4");
    let b = domain.image(&tree, "b.erofs", "-z zstd");
    let (one, two) = (domain.mount(&a, "--share-keep 0"), domain.mount(&b, ""));
    assert_same(&tree, &one);
    assert_same(&tree, &two);
    // From here on the server knows that it is mounted.
    assert_eq!(domain.stats()["images"].as_array().unwrap().len(), 2);
    umount(&one);
    let begin = Instant::now();
    while domain.stats()["images"].as_array().unwrap().len() > 1 {
        assert!(begin.elapsed() < LIMIT, "the first image stays");
        std::thread::sleep(Duration::from_millis(100));
    }
    // What it shared is the other's now.
    assert_same(&tree, &two);
    drop(std::fs::read(two.join("dir/text")).unwrap());
}

#[test]
fn an_image_that_changes_is_not_believed() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "changes") else { continue };
        change(domain);
    }
}

fn change(mut domain: Domain) {
    let tree = domain.scratch.tree();
    // Uncompressed, so that what is patched can still be read.
    let a = domain.image(&tree, "a.erofs", "");
    let b = domain.image(&tree, "b.erofs", "-z lz4");
    let (one, two) = (domain.mount(&a, ""), domain.mount(&b, ""));
    // Shared, and nothing of it read by anybody but the one who hashes.
    for image in [&one, &two] {
        drop(std::fs::File::open(image.join("dir/text")).unwrap());
    }
    assert!(domain.stats()["contents"].as_u64() > Some(0));
    patch(&a, b"jack a dull boy", b"jill a wise one");
    let read = std::fs::read(two.join("dir/text")).unwrap();
    assert!(read == std::fs::read(tree.join("dir/text")).unwrap(), "the other image has it still");
    // And an image that is changed after it was mounted is not shared at all.
    let c = domain.image(&tree, "c.erofs", "");
    let three = domain.mount(&c, "");
    patch(&c, b"small", b"SMALL");
    assert_eq!(std::fs::read(two.join("small")).unwrap(), b"small\n");
    drop(std::fs::read(three.join("small")).unwrap());
    assert_eq!(std::fs::read(two.join("small")).unwrap(), b"small\n");
    let stats = domain.stats();
    assert!(stats["images"].as_array().unwrap().iter().any(|image| image["lies"] != 0), "{stats}");
}

#[test]
fn a_lie_about_content_hurts_nobody_else() {
    for (first, mechanism) in
        [true, false].into_iter().flat_map(|first| MECHANISMS.map(|mechanism| (first, mechanism)))
    {
        let label = format!("lie{}", u8::from(first));
        let Some(mut domain) = Domain::by(mechanism, &label) else { continue };
        let tree = domain.scratch.tree();
        let other = domain.copy("other");
        // Of the same size, so that nothing but the digest could tell them apart.
        std::fs::write(other.join("small"), "evil!\n").unwrap();
        let time = tree.join("small").metadata().unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(other.join("small")).unwrap();
        file.set_modified(time).unwrap();
        let good = domain.image(&tree, "good.erofs", "--inode-digest");
        let evil = domain.image(&other, "evil.erofs", "--inode-digest");
        let digest = |text: &str| {
            use sha2::Digest;
            [b"sha256:".as_slice(), &sha2::Sha256::digest(text)].concat()
        };
        patch(&evil, &digest("evil!\n"), &digest("small\n"));
        let order = if first { [&evil, &good] } else { [&good, &evil] };
        let mounted = order.map(|image| domain.mount(image, ""));
        let (evil, good) =
            if first { (&mounted[0], &mounted[1]) } else { (&mounted[1], &mounted[0]) };
        assert_eq!(std::fs::read(good.join("small")).unwrap(), b"small\n");
        // The liar's own users get what it has.
        assert_eq!(std::fs::read(evil.join("small")).unwrap(), b"evil!\n");
        assert_eq!(std::fs::read(good.join("small")).unwrap(), b"small\n");
        for image in [evil, good] {
            drop(std::fs::read(image.join("dir/text")).unwrap());
        }
        assert!(domain.stats()["contents"].as_u64() > Some(0), "what is true is shared");
        let stats = domain.stats();
        let lies = |name: &str| {
            let images = stats["images"].as_array().unwrap();
            let ends =
                |image: &&serde_json::Value| image["image"].as_str().unwrap().ends_with(name);
            images.iter().find(ends).unwrap()["lies"].as_u64().unwrap()
        };
        assert_eq!((lies("evil.erofs") > 0, lies("good.erofs")), (true, 0), "{stats}");
    }
}

#[test]
fn files_of_absurd_size_hold_up_nobody() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "size") else { continue };
        let tree = domain.scratch.tree();
        let file = std::fs::File::create(tree.join("huge")).unwrap();
        file.set_len(1 << 40).unwrap();
        let a = domain.image(&tree, "a.erofs", "");
        let b = domain.image(&tree, "b.erofs", "-z lz4");
        for mounted in [domain.mount(&a, ""), domain.mount(&b, "")] {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::open(mounted.join("huge")).unwrap();
            let mut buf = [1; 100];
            file.read_exact_at(&mut buf, 1 << 39).unwrap();
            assert_eq!(buf, [0; 100]);
        }
        // It would take a quarter of an hour to hash.
        assert!(domain.stats()["hashed_bytes"].as_u64().unwrap() < 1 << 30);
    }
}

/// Many small files, which are made ready ahead of those who read them in order, and of which only some
/// stay ready.
#[test]
fn trees_of_small_files_are_right_in_any_order() {
    let Some(mut domain) = Domain::by("passthrough", "small") else { return };
    let tree = domain.scratch.tree();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..900 {
        let folder = tree.join(format!("many{}", number / 300));
        std::fs::create_dir_all(&folder).unwrap();
        // Few sizes, so that most have to be told apart by what they hold; one in nine is a copy.
        let len = [1, 700, 4096, 5000, 9000, 40_000, 140_000][number % 7];
        let mut seed = fastrand::Rng::with_seed((number - number % 9 % 2) as u64);
        let bytes: Vec<u8> = std::iter::repeat_with(|| seed.u8(b'a'..=b'h')).take(len).collect();
        std::fs::write(folder.join(format!("file{number:04}")), bytes).unwrap();
    }
    let other = domain.copy("other");
    std::fs::write(other.join("many1/file0400"), "not what the first has").unwrap();
    let a = domain.image(&tree, "a.erofs", "-z lz4 -C 64K");
    let b = domain.image(&other, "b.erofs", "-z zstd");
    let (one, two) = (domain.mount(&a, ""), domain.mount(&b, ""));
    let mut files: Vec<PathBuf> = (0..900)
        .map(|number| PathBuf::from(format!("many{}/file{number:04}", number / 300)))
        .collect();
    let same = |tree: &Path, mounted: &Path, files: &[PathBuf]| {
        for file in files {
            let (expected, found) =
                (std::fs::read(tree.join(file)), std::fs::read(mounted.join(file)));
            assert!(expected.unwrap() == found.unwrap(), "{}", file.display());
        }
    };
    same(&tree, &one, &files);
    same(&other, &two, &files);
    for file in &files {
        assert_eq!(cached(&one.join(file)), 0, "{} is the domain's", file.display());
    }
    // All but the one that differs, and those of the tree that every test has.
    let shared = domain.stats()["files"].as_u64().unwrap();
    assert!(shared >= 2 * 899, "{shared} files share");
    random.shuffle(&mut files);
    std::thread::scope(|scope| {
        for part in files.chunks(225) {
            scope.spawn(|| {
                same(&tree, &one, part);
                same(&other, &two, part);
            });
        }
        // Beside those, somebody in order.
        scope.spawn(|| {
            let mut files = files.clone();
            files.sort();
            same(&tree, &one, &files);
        });
    });
    assert_same(&tree, &one);
    assert_same(&other, &two);
}

#[test]
fn domains_share_nothing() {
    let (Some(mut one), Some(mut two)) = (Domain::new("one"), Domain::new("two")) else { return };
    let image = one.image(&one.scratch.tree(), "a.erofs", "-z lz4");
    let (first, second) = (one.mount(&image, ""), two.mount(&image, ""));
    let (first, second) = (number(&first.join("small")), number(&second.join("small")));
    assert_ne!(first.0, second.0, "other file systems");
    assert_eq!(one.stats()["images"].as_array().unwrap().len(), 1);
    let names = run("share ls --json", &[]).ok();
    assert!(names.contains(&one.name) && names.contains(&two.name));
}

#[test]
fn bad_words_are_refused() {
    let Some(domain) = Domain::new("words") else { return };
    let image = domain.scratch.image("");
    let target = domain.scratch.path("mnt");
    std::fs::create_dir(&target).unwrap();
    for name in ["", ".hidden", "a/b", "..", &"x".repeat(65)] {
        let words = ["mount", "--share", name].map(std::ffi::OsStr::new);
        let words = [words.as_slice(), &[image.as_os_str(), target.as_os_str()]].concat();
        assert!(crate::run_os(&words).fails(1).contains("domain"), "{name}");
    }
    let line = format!("mount --share {} --share-by kernel {{}} {{}}", domain.name);
    assert!(run(&line, &[&image, &target]).fails(1).contains("--trust-digests"));
    // The kernel would take it for another option of its own.
    let line = "mount --trust-digests --share a,fsid=b --share-by kernel {} {}";
    assert!(run(line, &[&image, &target]).fails(1).contains("domain's name"));
    let line = format!("mount --trust-digests --share {} --share-by kernel {{}} {{}}", domain.name);
    let kept = format!("{line} --share-keep 5");
    assert!(run(&kept, &[&image, &target]).fails(1).contains("--share-keep"));
    // An image without digests, or a kernel that cannot: never a mount that shares nothing.
    let said = run(&line, &[&image, &target]).fails(1);
    assert!(said.contains("--inode-digest") || said.contains("Linux 7.0"), "{said}");
    assert!(run("share stat nobody-has-this", &[]).fails(1).contains("no domain"));
    assert!(run("mount --trust-digests {} {}", &[&image, &target]).code != 0);
}
