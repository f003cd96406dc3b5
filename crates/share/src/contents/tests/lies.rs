// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that lie about their contents, and stores that were damaged.

use std::fs::{self, OpenOptions};

use ferrofs_build::BuildOptions;
use ferrofs_linux::{MountFlags, UnmountFlags};
use sha2::{Digest, Sha256};

use super::place::{Place, file, unable};
use crate::contents::{ContentStore, Input, StoreOptions};

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
    // Deleted: the mount has it still.
    fs::rename(&store, place.path("deleted")).unwrap();
    assert!(domain.mount(id, &place.target(), MountFlags::default()).is_err());
    assert!(fs::read(mount.join("text")).unwrap() == text);
    fs::rename(place.path("deleted"), &store).unwrap();
    // Cut off, or longer: no new mounts.
    let backing = OpenOptions::new().write(true).open(&store).unwrap();
    let len = backing.metadata().unwrap().len();
    for wrong in [len - 1, len / 2, 4096, 0, len + 4096] {
        backing.set_len(wrong).unwrap();
        let error = domain.mount(id, &place.target(), MountFlags::default()).unwrap_err();
        println!("{wrong} of {len} bytes: {error}");
    }
    ferrofs_linux::unmount(&mount, UnmountFlags::default()).unwrap();
}
