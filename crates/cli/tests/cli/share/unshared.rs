// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not shared, or only within one image, costs no more than in a mount of its own.

use super::{Domain, MECHANISMS, number};
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;

const FILES: usize = 300;

/// Files of one size, of which each three have the same content, all of one time.
fn content(file: usize) -> String {
    format!("{:04} is what three files have; ", file / 3).repeat(20)
}

fn mount_alike(domain: &mut Domain) -> std::path::PathBuf {
    let tree = domain.scratch.tree().join("dir");
    for file in 0..FILES {
        fs::write(tree.join(format!("f{file:04}")), content(file)).unwrap();
    }
    let image = domain.image(
        &domain.scratch.tree(),
        "a.erofs",
        "-z lz4 --timestamp 1700000000 --ignore-mtime",
    );
    domain.mount(&image, "").join("dir")
}

fn requests(target: &Path) -> u64 {
    counter(target, "requests")
}

fn counter(target: &Path, name: &str) -> u64 {
    let text = crate::run("ctl {} stats --json", &[target]).ok();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    found["fuse"][name].as_u64().unwrap_or_else(|| panic!("{name} in {found}"))
}

#[test]
fn small_files_are_compared_when_they_are_listed() {
    let Some(mut domain) = Domain::new("listed") else { return };
    let folder = mount_alike(&mut domain);
    let before = requests(&folder);
    let mut nodes = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), number(&entry.path()).1, "{entry:?}");
        if entry.file_name().to_string_lossy().starts_with('f') {
            nodes.push((entry.file_name(), entry.ino()));
        }
    }
    let asked = requests(&folder) - before;
    assert!(asked < FILES as u64 / 3, "{asked} requests for a listing");
    nodes.sort();
    assert_eq!(nodes.len(), FILES);
    for three in nodes.chunks(3) {
        assert!(three.iter().all(|(_, node)| *node == three[0].1), "{three:?}");
    }
    nodes.dedup_by_key(|(_, node)| *node);
    assert_eq!(nodes.len(), FILES / 3);
}

#[test]
fn files_of_a_domain_are_read_ahead() {
    let Some(mut domain) = Domain::new("ahead") else { return };
    let folder = mount_alike(&mut domain);
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let mut files = 0;
    for name in names {
        let Some(file) = name.to_str().and_then(|name| name.strip_prefix('f')?.parse().ok()) else {
            continue;
        };
        assert_eq!(fs::read_to_string(folder.join(&name)).unwrap(), content(file));
        files += 1;
    }
    assert_eq!(files, FILES);
    assert!(counter(&folder, "ahead_files") > 0);
}

#[test]
fn the_first_of_a_size_is_not_hashed() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "first") else { continue };
        let folder = mount_alike(&mut domain);
        let read = |file| {
            let name = format!("f{file:04}");
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), content(file));
        };
        let hashed = || domain.stats()["hashed_bytes"].as_u64().unwrap();
        read(10);
        assert_eq!(hashed(), 0, "{mechanism}");
        read(100);
        let two = 2 * content(0).len() as u64;
        assert_eq!(hashed(), two, "{mechanism}");
    }
}
