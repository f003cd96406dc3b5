// SPDX-License-Identifier: MIT OR Apache-2.0
//! Domains on the disk and mounted. The judge is a plain mount of the same image by the kernel.

mod lies;
mod mounted;
mod place;

use std::fs;

use super::Error;
use place::{Place, file, unable};

#[test]
fn equal_contents_are_stored_once_and_go_with_their_last_user() {
    let place = Place::new();
    let one = place.image("one", |root| {
        file(root, "a", b"only in one, and long enough to be there");
        file(root, "both", &vec![7; 100_000]);
        file(root, "again", &vec![7; 100_000]);
        file(root, "empty", b"");
    });
    let two = place.image("two", |root| {
        file(root, "deep/both", &vec![7; 100_000]);
        file(root, "b", b"only in two");
    });
    let domain = place.domain("app");
    let first = domain.add(&one).unwrap();
    assert_eq!((first.files, first.new_contents, first.new_bytes), (3, 2, 100_040));
    let second = domain.add(&two).unwrap();
    assert_eq!((second.files, second.new_contents, second.new_bytes), (2, 1, 11));
    assert!(domain.add(&two).unwrap().known);
    assert_eq!(domain.stores().unwrap().len(), 2);
    assert_eq!(domain.stores_of(first.image).unwrap().len(), 1);
    assert_eq!(domain.stores_of(second.image).unwrap().len(), 2);
    // The store of the first has what the second needs.
    assert_eq!(domain.remove(first.image).unwrap().stores, 0);
    assert!(matches!(domain.remove(first.image), Err(Error::Unknown { .. })));
    assert!(!domain.add(&one).unwrap().known);
    assert_eq!(domain.stores().unwrap().len(), 2, "all of it was there");
    assert_eq!(domain.remove(first.image).unwrap().stores, 0);
    assert_eq!(domain.remove(second.image).unwrap().stores, 2);
    assert!(domain.stores().unwrap().is_empty() && domain.images().unwrap().is_empty());
}

#[test]
fn adds_at_the_same_time_share() {
    let place = Place::new();
    let images: Vec<_> = (0..4)
        .map(|number| {
            place.image(&format!("image{number}"), |root| {
                file(root, "own", format!("of {number}").as_bytes());
                file(root, "common", &vec![9; 50_000]);
            })
        })
        .collect();
    let domain = place.domain("app");
    std::thread::scope(|scope| {
        for image in images.iter().chain(&images) {
            scope.spawn(|| domain.add(image).unwrap());
        }
    });
    assert_eq!(domain.images().unwrap().len(), 4);
    let lock = domain.lock().unwrap();
    assert_eq!(domain.contents(&lock).unwrap().len(), 5);
}

#[test]
fn what_a_crash_leaves_is_removed() {
    let place = Place::new();
    let image = place.image("one", |root| file(root, "a", b"content"));
    let domain = place.domain("app");
    let added = domain.add(&image).unwrap();
    // A file that was not finished, and a store whose image was never written.
    let stores = domain.folder().join("stores");
    let store = domain.store_path(domain.stores().unwrap()[0]);
    fs::write(stores.join("0123.new"), b"half").unwrap();
    fs::copy(&store, stores.join(format!("{}.erofs", "12".repeat(16)))).unwrap();
    let other = place.image("two", |root| file(root, "b", b"content"));
    assert_eq!(domain.add(&other).unwrap().new_contents, 0);
    assert_eq!(fs::read_dir(&stores).unwrap().count(), 1);
    assert_eq!(domain.remove(added.image).unwrap().stores, 0);
}

#[test]
fn names_of_domains_stay_in_their_folder() {
    let place = Place::new();
    for bad in ["", ".", "..", ".x", "a/b", "a b", &"x".repeat(65)] {
        let result = super::ContentStore::open(&place.share, bad, super::StoreOptions::default());
        assert!(matches!(result, Err(Error::Domain { .. })), "{bad:?}");
    }
}

#[test]
fn what_overlayfs_would_hide_is_refused_by_name() {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    let place = Place::new();
    let image = place.image("one", |root| {
        fs::create_dir(root.join("sub")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("sub/gone"), kind, mode, 0).unwrap();
    });
    let error = place.domain("app").add(&image).unwrap_err();
    assert!(error.to_string().starts_with("/sub/gone is a character device"), "{error}");
}
