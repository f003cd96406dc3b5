// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounts out of a domain equal plain ones, share their memory, and come and go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ferrofs_build::{BuildOptions, ChunkEntries, Chunks, Compression, Method};
use ferrofs_linux::{MountFlags, UnmountFlags, mountinfo};

use super::place::{Place, file, unable};
use crate::contents::Input;
use ferrofs_tests::seen::look;

/// A tree with some of everything; `version` differs in attributes and some contents.
fn populate(root: &Path, version: u32) {
    for number in 0..40u32 {
        let bytes = format!("line {number} of a file\n").repeat(number as usize * 40 + 1);
        file(root, &format!("many/file{number}"), bytes.as_bytes());
    }
    let noise: Vec<u8> =
        (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    file(root, "noise", &noise);
    file(root, "zeros", &vec![0; 70_000]);
    file(root, "empty", b"");
    file(root, "own", format!("version {version}").as_bytes());
    fs::copy("/bin/sleep", root.join("sleep")).unwrap();
    File::create(root.join("hole")).unwrap().set_len(5 << 20).unwrap();
    fs::hard_link(root.join("noise"), root.join("many/noise again")).unwrap();
    std::os::unix::fs::symlink("many/file1", root.join("link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(3000), root.join("long link")).unwrap();
    let node = |name: &str, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, device).unwrap();
    };
    node("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("fifo", rustix::fs::FileType::Fifo, 0);
    let set = |name: &str, key: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(root.join(name), key, value, flags).unwrap();
    };
    set("noise", "user.note", b"a note");
    set("many", "trusted.mine", &version.to_le_bytes());
    set("many", "trusted.overlay.opaque", b"y");
    set("own", "trusted.overlay.redirect", b"/ab/nowhere");
    set("own", "trusted.overlay.metacopy", b"");
    let owner = Some(1000 + version);
    std::os::unix::fs::chown(root.join("many/file3"), owner, owner).unwrap();
    let mode = fs::Permissions::from_mode(0o4711 + version);
    fs::set_permissions(root.join("sleep"), mode).unwrap();
}

fn by_mkfs(place: &Place, name: &str, version: u32) -> Option<Input> {
    let root = place.path(&format!("{name}.tree"));
    fs::create_dir(&root).unwrap();
    populate(&root, version);
    let image = place.path(name);
    let status = Command::new("mkfs.erofs")
        .args(["--quiet", "-d0", "-zlz4hc", "-C65536"])
        .args([&image, &root])
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success()).then(|| Input { image, ..Input::default() })
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn new(program: &Path) -> Self {
        Self(Command::new(program).arg("600").stdin(Stdio::null()).spawn().unwrap())
    }

    /// Frames of memory behind the program's code.
    fn frames(&self) -> BTreeSet<u64> {
        let folder = format!("/proc/{}", self.0.id());
        let maps = fs::read_to_string(format!("{folder}/maps")).unwrap();
        let pagemap = File::open(format!("{folder}/pagemap")).unwrap();
        let mut frames = BTreeSet::new();
        for line in maps.lines().filter(|line| line.ends_with("/sleep") && line.contains("r-xp")) {
            let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let page = |text| u64::from_str_radix(text, 16).unwrap() >> 12;
            for page in page(start)..page(end) {
                let mut entry = [0; 8];
                pagemap.read_exact_at(&mut entry, page * 8).unwrap();
                let entry = u64::from_le_bytes(entry);
                if entry >> 63 == 1 {
                    frames.insert(entry & ((1 << 55) - 1));
                }
            }
        }
        frames
    }
}

#[test]
fn mounts_equal_plain_ones_and_share_frames() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let compression = |method, pcluster_size| {
        let method = Method::parse(method).unwrap();
        let compression = Some(Compression { method, pcluster_size, legacy_indexes: false });
        BuildOptions { compression, ..BuildOptions::default() }
    };
    let chunks = Some(Chunks { size: 4096, entries: ChunkEntries::Auto });
    let chunks = BuildOptions { chunks, ..BuildOptions::default() };
    let mut images = vec![
        place.image_with("lz4", &compression("lz4", 4096), |root| populate(root, 1)),
        place.image_with("deflate", &compression("deflate,6", 65536), |root| populate(root, 2)),
        place.image_with("chunks", &chunks, |root| populate(root, 3)),
    ];
    match by_mkfs(&place, "mkfs", 4) {
        Some(image) => images.push(image),
        None => println!("skipped: no mkfs.erofs"),
    }
    let domain = place.domain("app");
    let mut frames = Vec::new();
    let mut running = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let (plain, shared) = (place.plain(image), place.shared(&domain, image));
        let (expected, found) = (look(&plain), look(&shared));
        assert!(expected.keys().eq(found.keys()), "{}", image.image.display());
        for (path, seen) in &expected {
            assert!(*seen == found[path], "{}: {}", image.image.display(), path.display());
        }
        let added = domain.add(image).unwrap();
        assert!(added.known);
        // Each has one content of its own.
        assert_eq!(domain.stores().unwrap().len(), number + 1);
        let program = Running::new(&shared.join("sleep"));
        // It has run as far as it will when it sleeps.
        let stat = format!("/proc/{}/wchan", program.0.id());
        while !fs::read_to_string(&stat).unwrap().contains("sleep") {
            std::thread::yield_now();
        }
        frames.push(program.frames());
        running.push(program);
    }
    assert!(!frames[0].is_empty());
    for other in &frames[1..] {
        assert_eq!(frames[0], *other, "the same code lies in the same memory");
    }
    drop(running);
}

#[test]
fn mounts_come_and_go_in_any_order() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let one = place.image("one", |root| populate(root, 1));
    let two = place.image("two", |root| populate(root, 2));
    let none = place.image("none", |root| file(root, "empty", b""));
    let domain = place.domain("app");
    let (first, second) = (place.shared(&domain, &one), place.shared(&domain, &two));
    let empty = place.shared(&domain, &none);
    assert_eq!(fs::read(empty.join("empty")).unwrap(), b"");
    let before = look(&second);
    let detach = UnmountFlags::default();
    ferrofs_linux::unmount(&first, detach).unwrap();
    let removed = domain.remove(domain.identify(&one).unwrap()).unwrap();
    assert_eq!(removed.stores, 0, "the second needs it");
    assert_eq!(domain.prune().unwrap(), 0, "both stores are in use");
    assert!(look(&second) == before);
    // Removed while it is mounted: the mount goes on.
    domain.remove(domain.identify(&two).unwrap()).unwrap();
    assert!(domain.stores().unwrap().is_empty());
    assert!(look(&second) == before);
    ferrofs_linux::unmount(&second, detach).unwrap();
    let mounted = || mountinfo::find_under(domain.run_folder()).unwrap().len();
    assert_eq!(mounted(), 2, "stores stay for the next");
    let again = place.shared(&domain, &two);
    assert!(look(&again) == before);
    ferrofs_linux::unmount(&again, detach).unwrap();
    assert!(domain.prune().unwrap() >= 2);
    assert_eq!(mounted(), 0);
    assert!(!domain.run_folder().exists());
}

#[test]
fn mounting_again_reads_nothing_from_the_device() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let image = place.image("one", |root| populate(root, 1));
    let domain = place.domain("app");
    let mount = place.shared(&domain, &image);
    let before = look(&mount);
    ferrofs_linux::unmount(&mount, UnmountFlags::default()).unwrap();
    let id = domain.identify(&image).unwrap();
    // Reading by the kernel in the name of this thread is counted in it.
    let read = || {
        let text = fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = text.lines().find(|line| line.starts_with("read_bytes")).unwrap();
        line.to_owned()
    };
    let count = read();
    domain.mount(id, &mount, MountFlags::default()).unwrap();
    assert!(look(&mount) == before);
    assert_eq!(read(), count);
}
