// SPDX-License-Identifier: MIT OR Apache-2.0
//! The judge: the kernel mounts what was built, and everything in it equals the source.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferrofs_codec::Method;
use ferrofs_tests::seen::{Seen, look};
use ferrofs_tree::{Walk, WalkOptions};
use rustix::fs::{CWD, FileType, Mode};

use super::model::Dice;
use crate::{
    BlobTarget, BuildOptions, ChunkEntries, Chunks, Compression, Silent, Target, Uuid,
    XattrOptions, build,
};

/// A loop mount that ends with the test, however that ends.
struct Mounted(PathBuf);

/// A loop device that ends with the test.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .arg(file)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

impl Mounted {
    fn new(image: &Path, at: &Path, more: &str) -> Result<Self, String> {
        std::fs::create_dir_all(at).unwrap();
        let output = Command::new("mount")
            .args(["-t", "erofs", "-o", &format!("loop,ro{more}")])
            .args([image, at])
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self(at.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Root, and a kernel that knows the file system; otherwise why not.
fn unable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.contains("erofs")
        || Command::new("modprobe").arg("erofs").status().is_ok_and(|status| status.success());
    (!known).then_some("the kernel does not know erofs")
}

/// A tree with some of everything.
fn populate(root: &Path) {
    let mut dice = Dice::new(11);
    let file = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    for directory in ["", "empty", "many", "deep/er/still"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for len in [0, 1, 60, 4000, 4031, 4032, 4033, 4064, 4095, 4096, 4097, 8191, 8192, 20_000] {
        file(&format!("text-{len}"), &dice.bytes(len, 5));
        file(&format!("noise-{len}"), &dice.bytes(len, 256));
    }
    file("zeros", &vec![0; 3 << 20]);
    file("mixed", &[dice.bytes(90_000, 3), dice.bytes(90_000, 256), dice.bytes(9_000, 3)].concat());
    file("big", &dice.bytes(1 << 20, 16));
    for number in 0..900 {
        file(&format!("many/file with a longer name {number}"), &dice.bytes(number, 7));
    }
    let sparse = std::fs::File::create(root.join("islands")).unwrap();
    for at in [0, 5 << 20, (30 << 20) + 123] {
        sparse.write_all_at(&dice.bytes(5000, 200), at).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    std::fs::File::create(root.join("hole")).unwrap().set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("short", root.join("link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(4000), root.join("long link")).unwrap();
    std::fs::hard_link(root.join("big"), root.join("deep/er/hard")).unwrap();
    let node = |name: &str, kind, device| {
        let name = CString::new(root.join(name).as_os_str().as_bytes()).unwrap();
        rustix::fs::mknodat(CWD, &name, kind, Mode::from_raw_mode(0o600), device).unwrap();
    };
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node("fifo", FileType::Fifo, 0);
    let set = |name: &str, key: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(root.join(name), key, value, flags).unwrap();
    };
    for len in [1, 60, 4000, 4096] {
        set(&format!("text-{len}"), "user.long.prefix.one", b"shared by all of them");
        set(&format!("text-{len}"), "trusted.own", len.to_string().as_bytes());
    }
    set("empty", "security.odd", &dice.bytes(1500, 256));
    std::os::unix::fs::chown(root.join("text-60"), Some(70_000), Some(5)).unwrap();
}

fn cases() -> Vec<(&'static str, BuildOptions)> {
    let plain = BuildOptions::default();
    let compressed = |method: &str, pcluster_size, legacy_indexes| BuildOptions {
        compression: Some(Compression {
            method: Method::parse(method).unwrap(),
            pcluster_size,
            legacy_indexes,
        }),
        ..BuildOptions::default()
    };
    let chunks = |size, entries| BuildOptions {
        chunks: Some(Chunks { size, entries }),
        ..BuildOptions::default()
    };
    let prefixes = vec![b"user.long.prefix.".to_vec()];
    let xattrs = XattrOptions { shared_above: 0, name_filter: false, prefixes };
    let small = ferrofs_format::BlockBits::new(9).unwrap();
    vec![
        ("plain", plain.clone()),
        ("no tails", BuildOptions { inline_tails: false, ..plain.clone() }),
        ("xattrs", BuildOptions { xattrs: Some(xattrs), ..plain.clone() }),
        ("blocks of 512", BuildOptions { block_bits: small, ..plain }),
        ("lz4 4K", compressed("lz4", 4096, false)),
        ("lz4 4K legacy", compressed("lz4", 4096, true)),
        ("lz4hc 64K", compressed("lz4hc,9", 65536, false)),
        ("lz4 1M", compressed("lz4", 1 << 20, false)),
        ("zstd 64K legacy", compressed("zstd,1", 65536, true)),
        (
            "zstd 16K of 512",
            BuildOptions { block_bits: small, ..compressed("zstd,1", 16384, false) },
        ),
        ("chunks map", chunks(4096, ChunkEntries::Map)),
        ("chunks indexes", chunks(65536, ChunkEntries::Indexes)),
    ]
}

#[test]
fn the_kernel_sees_what_was_there() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("source");
    populate(&root);
    let expected = look(&root);
    let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
    for (name, options) in cases() {
        let image = directory.path().join("image");
        let options = BuildOptions { uuid: Uuid::Clear, ..options };
        let target = Target { image: &image, blob: None };
        build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
        assert!(std::fs::metadata(&image).unwrap().len() < 20 << 20, "{name}: holes take space");
        let mounted = match Mounted::new(&image, &directory.path().join("mnt"), "") {
            Ok(mounted) => mounted,
            Err(why) if why.contains("loop") => {
                println!("skipped: no loop devices: {why}");
                return;
            }
            Err(why) => panic!("{name}: {why}"),
        };
        compare(name, &expected, &look(&mounted.0));
        let hole = std::fs::File::open(mounted.0.join("hole")).unwrap();
        let mut bytes = [1; 5000];
        hole.read_exact_at(&mut bytes, (1 << 40) - 5000).unwrap();
        assert_eq!(bytes, [0; 5000], "{name}");
    }
}

fn compare(name: &str, expected: &BTreeMap<PathBuf, Seen>, found: &BTreeMap<PathBuf, Seen>) {
    assert!(expected.keys().eq(found.keys()), "{name}");
    for (path, seen) in expected {
        assert!(*seen == found[path], "{name}: {}", path.display());
    }
}

#[test]
fn the_kernel_finds_chunks_on_another_device_and_behind_the_image() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("source");
    populate(&root);
    let expected = look(&root);
    let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
    let (image, blob) = (directory.path().join("image"), directory.path().join("blob"));
    let at = directory.path().join("mnt");
    for entries in [ChunkEntries::Auto, ChunkEntries::Map] {
        let chunks = Some(Chunks { size: 8192, entries });
        let options = BuildOptions { chunks, ..BuildOptions::default() };
        let target = Target { image: &image, blob: Some(BlobTarget::new(&blob)) };
        build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
        let device = match Loop::new(&blob) {
            Ok(device) => device,
            Err(why) => {
                println!("skipped: no loop devices: {why}");
                return;
            }
        };
        let two = Mounted::new(&image, &at, &format!(",device={}", device.0)).unwrap();
        compare("two devices", &expected, &look(&two.0));
        drop((two, device));
        let flat = directory.path().join("flat");
        let both = [std::fs::read(&image).unwrap(), std::fs::read(&blob).unwrap()].concat();
        std::fs::write(&flat, both).unwrap();
        let one = Mounted::new(&flat, &at, "").unwrap();
        compare("one flat device", &expected, &look(&one.0));
    }
}

#[test]
fn deep_paths_and_wide_directories_build() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("source");
    std::fs::create_dir(&root).unwrap();
    // Deeper than one path can say: made step by step.
    let mut fd = rustix::fs::open(&root, rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    let name = "d".repeat(50);
    for _ in 0..120 {
        rustix::fs::mkdirat(&fd, &*name, Mode::from_raw_mode(0o755)).unwrap();
        fd = rustix::fs::openat(&fd, &*name, rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
    let leaf = rustix::fs::openat(&fd, "leaf", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&leaf, b"at the bottom").unwrap();
    let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
    let image = directory.path().join("image");
    let target = Target { image: &image, blob: None };
    let options = BuildOptions::default();
    let report = build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
    assert_eq!((report.directories, report.files), (121, 1));
    let bytes = std::fs::read(&image).unwrap();
    let model = super::read::Image::open(&bytes, &[]).model();
    let deepest = model.paths.keys().max_by_key(|path| path.len()).unwrap();
    assert_eq!(deepest.len(), 120 * 51 + 4);
}
