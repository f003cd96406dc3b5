// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use ferrofs_image::DeviceAddress;

fn key(offset: u64) -> Key {
    Key {
        location: Location::Device(DeviceAddress { device: 0, offset }),
        len: 4096,
        encoding: Encoding::Compressed(Algorithm::Lz4),
    }
}

fn total(caches: &Caches) -> u64 {
    let usage = caches.usage();
    usage.extents + usage.pages + usage.encoded
}

fn decoded(caches: &Caches, len: usize, fill: u8) -> Arc<Decoded> {
    let mut decoded = caches.buffer(len, 0);
    decoded.bytes_mut().fill(fill);
    Arc::new(decoded)
}

#[test]
fn stays_below_its_limit_and_shrinks() {
    let caches = Caches::new(4 << 20, Strategy::Split);
    for index in 0..1000 {
        let decoded = decoded(&caches, 50_000, 1);
        decoded.touch(&(4096..8192));
        caches.keep_extent(key(index * 4096), decoded);
        caches.keep_encoded(key(index * 4096), Arc::new(caches.raw(4096)));
        assert!(total(&caches) <= 4 << 20, "{:?}", caches.usage());
    }
    assert!(total(&caches) > 2 << 20, "{:?}", caches.usage());
    caches.set_limit(1_000_000, Strategy::Split);
    assert!(total(&caches) <= 1_000_000, "{:?}", caches.usage());
    caches.set_limit(8 << 20, Strategy::Split);
    caches.drop_encoded();
    assert_eq!(caches.usage().encoded, 0);
    caches.drop_decoded();
    assert_eq!(total(&caches), 0);
}

#[test]
fn nothing_is_kept_without_a_budget() {
    let caches = Caches::new(0, Strategy::Split);
    caches.keep_extent(key(0), decoded(&caches, 5000, 1));
    caches.keep_encoded(key(0), Arc::new(caches.raw(4096)));
    caches.note_miss(&key(0), 0, &(0..10), true);
    assert_eq!(total(&caches), 0);
    assert!(caches.find(&key(0), 0, &(0..10)).is_none());
}

#[test]
fn a_short_prefix_is_not_enough() {
    let caches = Caches::new(1 << 20, Strategy::Disabled);
    caches.keep_extent(key(0), decoded(&caches, 100, 1));
    assert!(caches.find(&key(0), 0, &(50..100)).is_some());
    assert!(caches.find(&key(0), 0, &(50..101)).is_none());
}

/// Of a pcluster one file has more than another; the page in which the shorter one ends is in the middle
/// of the other.
#[test]
fn a_short_page_in_the_middle_is_not_enough() {
    let caches = Caches::new(1 << 20, Strategy::Split);
    for (len, page) in [(PAGE + 1000, 1), (PAGE * 3, 2)] {
        let key = PageKey { extent: key(0), phase: 0, page };
        caches.keep_page(key, &decoded(&caches, len, 1));
    }
    let wanted = PAGE + 500..PAGE * 2 + 100;
    assert!(caches.find(&key(0), 0, &wanted).is_none());
    assert!(caches.find(&key(0), 0, &(PAGE + 500..PAGE + 1000)).is_some());
    assert!(caches.find(&key(0), 0, &(PAGE * 2..PAGE * 3)).is_some());
}

#[test]
fn hot_pages_outlive_their_extent() {
    let caches = Caches::new(1 << 20, Strategy::Disabled);
    // What comes into an empty cache stays longest.
    for index in 1..20 {
        caches.keep_extent(key(index * 4096), decoded(&caches, 100_000, 1));
    }
    let first = decoded(&caches, 100_000, 7);
    first.touch(&(8000..9000));
    caches.keep_extent(key(0), first);
    for index in 20..100 {
        caches.keep_extent(key(index * 4096), decoded(&caches, 100_000, 1));
    }
    assert!(caches.find(&key(0), 0, &(0..100)).is_none(), "the extent is gone");
    let hit = caches.find(&key(0), 0, &(8000..9000)).unwrap();
    let mut out = vec![0; 1000];
    let _ = hit.copy(&(8000..9000), |at, bytes| out[at..at + bytes.len()].copy_from_slice(bytes));
    assert!(out.iter().all(|&byte| byte == 7));
    assert!(caches.find(&key(0), 3, &(8000..9000)).is_none(), "pages are cut elsewhere");
}

#[test]
fn a_scan_does_not_sweep_the_hot_set() {
    let caches = Caches::new(8 << 20, Strategy::Disabled);
    let hot = |index: u64| key(index << 30);
    for round in 0..4 {
        for index in 0..20 {
            if caches.find(&hot(index), 0, &(0..4096)).is_none() {
                assert!(round < 3, "warm by now");
                caches.keep_extent(hot(index), decoded(&caches, 100_000, 2));
            }
        }
    }
    for index in 1..2000 {
        caches.keep_extent(key(index * 4096), decoded(&caches, 100_000, 1));
    }
    let left = (0..20).filter(|&index| caches.extents.peek(&hot(index)).is_some()).count();
    assert!(left >= 15, "{left} of 20 left");
}
