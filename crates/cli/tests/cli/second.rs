// SPDX-License-Identifier: MIT OR Apache-2.0
//! What images on a server send of themselves: to mounts beside others that have much of them, and of
//! their metadata. Bytes are counted at the origin.

use crate::share::Domain;
use crate::{Scratch, run};
use ferrofs_tests::origin::{Content, Origin};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Begins a copy behind a table.
const COPY: &[u8] = b"frfscopy";

/// An image of a tree in a folder of its own, with its table; and its pin.
fn published(tree: &Path, image: &Path, options: &str) -> String {
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    let words = format!("build {{}} -o {{}} --json --digests {options}");
    let built: serde_json::Value = serde_json::from_str(&run(&words, &[tree, image]).ok()).unwrap();
    built["pin"].as_str().unwrap().to_owned()
}

fn table(image: &Path) -> PathBuf {
    PathBuf::from(format!("{}.digests", image.display()))
}

/// Fills a folder with many small files, whose metadata is the most of them.
fn many_small(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for number in 0..1500 {
        std::fs::write(folder.join(format!("small{number:05}")), format!("{number}\n")).unwrap();
    }
}

fn random_files(tree: &Path, names: &[String], random: &mut fastrand::Rng) {
    let mut bytes = vec![0; 60_000];
    for name in names {
        random.fill(&mut bytes);
        std::fs::write(tree.join(name), &bytes).unwrap();
    }
}

/// One file of twenty is new to the domain. Of the image come its bytes, in few requests, and of the
/// rest hardly anything: metadata comes compressed.
#[test]
fn the_second_image_sends_what_is_new_and_five_percent() {
    let Some(mut domain) = Domain::by("passthrough", "second") else { return };
    let tree = domain.scratch.tree();
    many_small(&tree.join("many"));
    let mut random = fastrand::Rng::with_seed(7);
    let names: Vec<String> = (0..400).map(|number| format!("dir/part{number:03}")).collect();
    random_files(&tree, &names, &mut random);
    let other = domain.copy("other");
    let new: Vec<String> = names.iter().step_by(20).cloned().collect();
    random_files(&other, &new, &mut random);
    let a = domain.image(&tree, "a.erofs", "--inode-digest");
    let b = domain.scratch.path("www/b.erofs");
    let pin = published(&other, &b, "--inode-digest --no-inline-tails");
    domain.mount(&a, "");
    let origin = Origin::start(Content::Folder(domain.scratch.path("www"))).unwrap();
    let target = domain.scratch.path("mnt-lazy");
    std::fs::create_dir(&target).unwrap();
    let cache = domain.scratch.path("cache");
    let options = format!("--pin {pin} --cache-dir {}", cache.display());
    domain.mount_on(&PathBuf::from(origin.url("/b.erofs")), &target, &options);
    run("diff --no-times {} {}", &[&other, &target]).ok();
    for name in &names {
        let (expected, found) = (std::fs::read(other.join(name)), std::fs::read(target.join(name)));
        assert!(expected.unwrap() == found.unwrap(), "{name}");
    }
    let ledger = origin.ledger();
    let content = new.len() as u64 * 60_000_u64.next_multiple_of(4096);
    let sent = ledger.bytes_sent_of("/b.erofs");
    // Besides: the superblock, and what of metadata is not in the copy.
    assert!(sent >= content && sent * 100 <= content * 105, "{sent} bytes for {content}");
    let requests = ledger.entries().iter().filter(|entry| entry.target == "/b.erofs").count();
    assert!(requests < 100, "{requests} requests for {} files", new.len());
    let size = b.metadata().unwrap().len();
    assert!(size > content * 15, "{size}");
    // Digests of all of the image, at most, and the copy.
    let digests = ledger.bytes_sent_of("/b.erofs.digests");
    assert!(digests <= table(&b).metadata().unwrap().len(), "{digests}");
}

/// Ends of files lie among inodes, and of these all are wanted: what the domain has of them is taken from
/// there, and of the others hardly more comes than they hold.
#[test]
fn ends_of_files_that_the_domain_has_are_not_sent() {
    let Some(mut domain) = Domain::by("passthrough", "ends") else { return };
    let tree = domain.scratch.tree();
    let mut random = fastrand::Rng::with_seed(17);
    let mut bytes = vec![0; 3000];
    for number in 0..600 {
        random.fill(&mut bytes);
        std::fs::write(tree.join(format!("dir/end{number:03}")), &bytes).unwrap();
    }
    let other = domain.copy("other");
    let mut new = 0;
    for number in 200..230 {
        random.fill(&mut bytes);
        std::fs::write(other.join(format!("dir/end{number:03}")), &bytes).unwrap();
        new += bytes.len() as u64;
    }
    let a = domain.image(&tree, "a.erofs", "--inode-digest -z lz4");
    let b = domain.scratch.path("www/b.erofs");
    let pin = published(&other, &b, "--inode-digest");
    domain.mount(&a, "");
    let origin = Origin::start(Content::Folder(domain.scratch.path("www"))).unwrap();
    let target = domain.scratch.path("mnt-lazy");
    std::fs::create_dir(&target).unwrap();
    let options = format!("--pin {pin} --cache-dir {}", domain.scratch.path("cache").display());
    domain.mount_on(&PathBuf::from(origin.url("/b.erofs")), &target, &options);
    crate::share::assert_same(&other, &target);
    let sent = origin.ledger().bytes_sent();
    // Besides: digests, 600 inodes, and what else the tree has.
    assert!(sent >= new && sent < new + 300_000, "{sent} bytes for {new}");
    assert!(b.metadata().unwrap().len() > 600 * 3000);
}

/// What is sent of image and table until all names have been listed, by a mount beside another image.
fn listed(scratch: &Scratch, origin: &Origin, pin: &str, name: &str) -> Option<u64> {
    let mut domain = Domain::by("passthrough", name)?;
    let a = domain.image(&domain.scratch.tree(), "a.erofs", "--inode-digest");
    domain.mount(&a, "");
    origin.forget();
    let target = domain.scratch.path("mnt-lazy");
    std::fs::create_dir(&target).unwrap();
    let options = format!("--pin {pin} --cache-dir {}", domain.scratch.path("cache").display());
    domain.mount_on(&PathBuf::from(origin.url("/image.erofs")), &target, &options);
    run("diff --no-times {} {}", &[&scratch.tree(), &target]).ok();
    Some(origin.ledger().bytes_sent())
}

#[test]
fn metadata_comes_compressed_and_only_if_it_is_right() {
    let scratch = Scratch::new();
    many_small(&scratch.tree().join("many"));
    let image = scratch.path("www/image.erofs");
    let pin = published(&scratch.tree(), &image, "-T 1000 --inode-digest");
    let origin = Origin::start(Content::Folder(scratch.path("www"))).unwrap();
    let Some(with) = listed(&scratch, &origin, &pin, "with") else { return };
    let whole = std::fs::read(table(&image)).unwrap();
    let at = whole.windows(COPY.len()).position(|bytes| bytes == COPY).unwrap();
    // No copy: all is had from the image.
    std::fs::write(table(&image), &whole[..at]).unwrap();
    let without = listed(&scratch, &origin, &pin, "without").unwrap();
    assert!(with + 50_000 < without, "{with} bytes with a copy, {without} without");
    // One that is cut off, and one of bytes that are no copy.
    std::fs::write(table(&image), &whole[..whole.len() - 100]).unwrap();
    listed(&scratch, &origin, &pin, "cut").unwrap();
    let mut wrong = whole.clone();
    wrong[at + 40..].fill(0x55);
    std::fs::write(table(&image), &wrong).unwrap();
    listed(&scratch, &origin, &pin, "wrong").unwrap();
    // The copy of another image, which has as many bytes: its names are believed by nobody.
    let other = scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(scratch.tree()).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("many") {
            let copied = Command::new("cp").arg("-a").arg(&path).arg(&other).status();
            assert!(copied.unwrap().success());
        }
    }
    std::fs::create_dir(other.join("many")).unwrap();
    for number in 0..1500 {
        let name = format!("other{number:05}");
        std::fs::write(other.join("many").join(name), format!("{number}\n")).unwrap();
    }
    let foreign = scratch.path("foreign/image.erofs");
    published(&other, &foreign, "-T 1000 --inode-digest");
    assert_eq!(foreign.metadata().unwrap().len(), image.metadata().unwrap().len());
    let lie = std::fs::read(table(&foreign)).unwrap();
    let from = lie.windows(COPY.len()).position(|bytes| bytes == COPY).unwrap();
    std::fs::write(table(&image), [&whole[..at], &lie[from..]].concat()).unwrap();
    listed(&scratch, &origin, &pin, "lie").unwrap();
}
