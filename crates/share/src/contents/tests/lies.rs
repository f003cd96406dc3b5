// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that lie about their contents, and stores that were damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use ferrofs_build::BuildOptions;
use ferrofs_linux::{MountFlags, UnmountFlags};
use sha2::{Digest, Sha256};

use super::place::{Place, file, unable};
use crate::contents::{ContentStore, Input, StoreOptions, guard};

const GOOD: &[u8] = b"what the good image has in its file";
const EVIL: &[u8] = b"what the evil image puts in its place";

/// An image with a file `f` of `content`, whose digest is replaced by `claim`.
fn claiming(place: &Place, name: &str, content: &[u8], claim: &[u8; 39]) -> Input {
    let inode_digest = Some(BuildOptions::DIGEST_NAME.to_vec());
    let options = BuildOptions { inode_digest, checksum: false, ..BuildOptions::default() };
    let input = place.image_with(name, &options, |root| file(root, "f", content));
    let mut bytes = fs::read(&input.image).unwrap();
    let truth = [&b"sha256:"[..], &Sha256::digest(content)].concat();
    let at = bytes.windows(truth.len()).position(|part| part == truth).unwrap();
    bytes[at..at + claim.len()].copy_from_slice(claim);
    fs::write(&input.image, bytes).unwrap();
    input
}

fn claim(scheme: [u8; 7], digest: &[u8]) -> [u8; 39] {
    [&scheme[..], digest].concat().try_into().unwrap()
}

fn domain(place: &Place, name: &str, trust_digests: bool) -> ContentStore {
    let options = StoreOptions { trust_digests, ..StoreOptions::default() };
    ContentStore::open(&place.share, name, options).unwrap()
}

#[test]
fn lies_change_nothing_for_others() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let digest = |content: &[u8]| Sha256::digest(content).to_vec();
    let good = claiming(&place, "good", GOOD, &claim(*b"sha256:", &digest(GOOD)));
    let lies = [
        claiming(&place, "poison", EVIL, &claim(*b"sha256:", &digest(GOOD))),
        claiming(&place, "algorithm", EVIL, &claim(*b"sha999:", &digest(GOOD))),
        claiming(&place, "nonsense", EVIL, &[0; 39]),
    ];
    for (number, lie) in lies.iter().enumerate() {
        for order in [[&good, lie], [lie, &good]] {
            for trust in [false, true] {
                let name = format!("d{number}-{}-{trust}", order[0].image == good.image);
                let domain = domain(&place, &name, trust);
                let mounts = order.map(|input| place.shared(&domain, input));
                for (input, mount) in order.iter().zip(&mounts) {
                    let expected = if input.image == good.image { GOOD } else { EVIL };
                    assert_eq!(fs::read(mount.join("f")).unwrap(), expected, "{name}");
                }
            }
        }
    }
}

/// Who is trusted and lies about equal sizes is believed, and shows what he claims; others do not
/// notice.
#[test]
fn trusted_lies_harm_the_liar() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let evil = &EVIL[..GOOD.len()];
    let claim = claim(*b"sha256:", &Sha256::digest(GOOD));
    let good = place.image("good", |root| file(root, "f", GOOD));
    let lie = claiming(&place, "lie", evil, &claim);
    for (trust, expected) in [(true, GOOD), (false, evil)] {
        let domain = domain(&place, &format!("d{trust}"), trust);
        let mounts = [&good, &lie].map(|input| place.shared(&domain, input));
        assert_eq!(fs::read(mounts[0].join("f")).unwrap(), GOOD);
        assert_eq!(fs::read(mounts[1].join("f")).unwrap(), expected);
    }
}

#[test]
fn damaged_stores_are_not_mounted() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let text = b"many words that compress well ".repeat(20_000);
    let noise: Vec<u8> = (0..200_000u32).flat_map(|n| Sha256::digest(n.to_le_bytes())).collect();
    let image = place.image("one", |root| {
        file(root, "text", &text);
        file(root, "noise", &noise[..3_000_000]);
    });
    let domain = place.domain("app");
    let mount = place.shared(&domain, &image);
    let id = domain.identify(&image).unwrap();
    let store = domain.store_path(domain.stores().unwrap()[0]);
    // As root who means it.
    guard::release(&store).unwrap();
    // Deleted: the mount has it still.
    fs::rename(&store, place.path("deleted")).unwrap();
    assert!(domain.mount(id, &place.target(), MountFlags::default()).is_err());
    assert!(fs::read(mount.join("text")).unwrap() == text);
    fs::rename(place.path("deleted"), &store).unwrap();
    // Cut off, or longer: no new mounts.
    let backing = OpenOptions::new().write(true).open(&store).unwrap();
    let len = backing.metadata().unwrap().len();
    for wrong in [len - 1, len / 2, 4096, 0, len + 4096] {
        guard::release(&store).unwrap();
        backing.set_len(wrong).unwrap();
        let error = domain.mount(id, &place.target(), MountFlags::default()).unwrap_err();
        println!("{wrong} of {len} bytes: {error}");
    }
    ferrofs_linux::unmount(&mount, UnmountFlags::default()).unwrap();
}

/// What the kernel would show zeros for, were it gone, cannot go.
#[test]
fn what_is_mounted_cannot_be_cut_off() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let noise: Vec<u8> = (0..100_000u32).flat_map(|n| Sha256::digest(n.to_le_bytes())).collect();
    let image = place.image("one", |root| file(root, "noise", &noise));
    let domain = place.domain("app");
    let id = domain.add(&image).unwrap().image;
    let files = [domain.store_path(domain.stores().unwrap()[0]), domain.image_path(id)];
    // Somebody may have had them open before they were mounted.
    let open = |path| OpenOptions::new().write(true).open(path).unwrap();
    let early = files.each_ref().map(open);
    let mount = place.shared(&domain, &image);
    if !domain.is_guarded(id).unwrap() {
        println!("skipped: the file system has no immutable files");
        return;
    }
    for (path, early) in files.iter().zip(&early) {
        let denied = |result: std::io::Result<()>| {
            let error = result.expect_err(&format!("{}", path.display()));
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        };
        denied(early.set_len(8192));
        denied(early.write_all_at(b"other", 4096));
        denied(OpenOptions::new().write(true).truncate(true).open(path).map(|_| ()));
        denied(fs::remove_file(path));
        denied(fs::rename(path, place.path("elsewhere")));
    }
    assert!(fs::read(mount.join("noise")).unwrap() == noise);
    // As long as the store is mounted, which is longer than the image is.
    assert_eq!(domain.prune().unwrap(), 0);
    assert!(domain.is_guarded(id).unwrap());
    ferrofs_linux::unmount(&mount, UnmountFlags::default()).unwrap();
    assert!(domain.is_guarded(id).unwrap());
    assert_eq!(domain.prune().unwrap(), 1);
    assert!(!domain.is_guarded(id).unwrap());
    for path in &files {
        fs::remove_file(path).unwrap();
    }
}

/// Removing an image that is mounted leaves its mount what it was.
#[test]
fn guarded_images_can_be_removed() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let image = place.image("one", |root| file(root, "f", GOOD));
    let domain = place.domain("app");
    let mount = place.shared(&domain, &image);
    domain.remove(domain.identify(&image).unwrap()).unwrap();
    assert!(domain.stores().unwrap().is_empty() && domain.images().unwrap().is_empty());
    assert_eq!(fs::read(mount.join("f")).unwrap(), GOOD);
}
