// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images read on demand, in a domain that has much of them: bytes are counted at the origin.

use super::{Domain, MECHANISMS, assert_same};
use ferrofs_tests::origin::{Content, Origin};
use std::path::PathBuf;

#[test]
fn an_image_read_on_demand_fetches_only_what_is_new() {
    for mechanism in MECHANISMS {
        for digests in ["--inode-digest", ""] {
            let Some(domain) = Domain::by(mechanism, "lazy") else { continue };
            fetch(domain, digests);
        }
    }
}

/// `digests`: whether the image that is here says what it has.
fn fetch(mut domain: Domain, digests: &str) {
    let tree = domain.scratch.tree();
    let mut random = fastrand::Rng::with_seed(5);
    let big: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000_000).collect();
    let new: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(300_000).collect();
    std::fs::write(tree.join("dir/big"), &big).unwrap();
    let other = domain.copy("other");
    std::fs::write(other.join("dir/new"), &new).unwrap();
    let folder = domain.scratch.path("www");
    std::fs::create_dir(&folder).unwrap();
    let a = domain.image(&tree, "a.erofs", &format!("-z lz4 -C 64K {digests}"));
    let b = domain.image(&other, "www/b.erofs", "-z zstd -C 64K --inode-digest --digests");
    let one = domain.mount(&a, "");
    assert_same(&tree, &one);
    let origin = Origin::start(Content::Folder(folder)).unwrap();
    let cache = domain.scratch.path("cache");
    let target = domain.scratch.path("mnt-lazy");
    std::fs::create_dir(&target).unwrap();
    let url = PathBuf::from(origin.url("/b.erofs"));
    let options = format!("--insecure --cache-dir {}", cache.display());
    domain.mount_on(&url, &target, &options);
    assert!(std::fs::read(target.join("dir/big")).unwrap() == big);
    assert!(std::fs::read(target.join("dir/new")).unwrap() == new);
    assert_same(&other, &target);
    let sent = origin.ledger().bytes_sent();
    assert!(sent < 1_200_000, "{sent} bytes were fetched");
    let size = b.metadata().unwrap().len();
    assert!(size > 3_000_000);
}

/// New files between others that the domain has, read in the order in which they lie: what comes along
/// with them must not bring the rest.
#[test]
fn what_lies_beside_new_content_is_not_fetched() {
    let Some(mut domain) = Domain::by("passthrough", "beside") else { return };
    let tree = domain.scratch.tree();
    let mut random = fastrand::Rng::with_seed(6);
    let names: Vec<String> = (0..400).map(|number| format!("dir/part{number:03}")).collect();
    let mut bytes = vec![0; 60_000];
    for name in &names {
        random.fill(&mut bytes);
        std::fs::write(tree.join(name), &bytes).unwrap();
    }
    let other = domain.copy("other");
    for name in names.iter().step_by(20) {
        random.fill(&mut bytes);
        std::fs::write(other.join(name), &bytes).unwrap();
    }
    let folder = domain.scratch.path("www");
    std::fs::create_dir(&folder).unwrap();
    let a = domain.image(&tree, "a.erofs", "--inode-digest");
    let options = "--inode-digest --digests --no-inline-tails";
    let size = domain.image(&other, "www/b.erofs", options).metadata().unwrap().len();
    domain.mount(&a, "");
    let origin = Origin::start(Content::Folder(folder)).unwrap();
    let target = domain.scratch.path("mnt-lazy");
    std::fs::create_dir(&target).unwrap();
    let cache = domain.scratch.path("cache");
    let options = format!("--insecure --cache-dir {}", cache.display());
    domain.mount_on(&PathBuf::from(origin.url("/b.erofs")), &target, &options);
    for name in &names {
        let (expected, found) = (std::fs::read(other.join(name)), std::fs::read(target.join(name)));
        assert!(expected.unwrap() == found.unwrap(), "{name}");
    }
    // 20 new files of up to three groups of 64 KiB, a quarter of that for guesses, and 2 MiB.
    let sent = origin.ledger().bytes_sent();
    assert!(sent < 20 * 3 * (64 << 10) * 5 / 4 + (2 << 20), "{sent} bytes of {size} were fetched");
}
