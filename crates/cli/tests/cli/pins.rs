// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the data blobs of an image must be: by pins that are given, and by those in the image.

use crate::lazy::Mounted;
use crate::network::can_mount;
use crate::{Ended, Scratch, run};
use ferrofs_tests::origin::{Content, Origin};
use std::path::{Path, PathBuf};

/// A name too long for a tag: the image does not name its blob.
const LONG: &str = "a-blob-whose-name-is-longer-than-the-64-bytes-that-a-tag-may-have";

/// An image whose data is in a blob of its own.
struct Parts {
    scratch: Scratch,
    blob: &'static str,
    /// The image's.
    pin: String,
}

impl Parts {
    fn new(blob: &'static str, words: &str) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.path("www")).unwrap();
        let mut parts = Self { scratch, blob, pin: String::new() };
        let words = format!("build {{}} -o {{}} --blob {{}} --chunk-size 4K -q {words}");
        let (image, blob) = (parts.www("image.erofs"), parts.www(blob));
        let ended = run(&words, &[&parts.scratch.tree(), &image, &blob]);
        assert_eq!(ended.err.contains("--device"), parts.blob == LONG, "{}", ended.err);
        ended.ok();
        parts.pin = pin(&image);
        parts
    }

    fn www(&self, name: &str) -> PathBuf {
        self.scratch.path("www").join(name)
    }

    fn origin(&self) -> Origin {
        Origin::start(Content::Folder(self.scratch.path("www"))).unwrap()
    }

    fn mount(&self, method: &str, url: &str, words: &str) -> Ended {
        let target = self.scratch.path("mnt");
        std::fs::create_dir_all(&target).unwrap();
        let words = format!(
            "mount -q --method {method} -o soft=5 --cache-dir {{}} --pin {} {words} {url} {{}}",
            self.pin
        );
        run(&words, &[&self.scratch.path("cache"), &target])
    }

    fn reads_well(&self) {
        let mounted = Mounted(self.scratch.path("mnt"));
        // The root has an attribute more.
        run("diff --no-xattrs {} {}", &[&self.scratch.tree(), &mounted.0]).ok();
        run("umount {}", &[&mounted.0]).ok();
    }

    /// The blob becomes wrong, and nothing of it is in the cache.
    fn spoil(&self) {
        std::fs::remove_dir_all(self.scratch.path("cache")).unwrap();
        let name = self.www(self.blob);
        let bytes = std::fs::read(&name).unwrap();
        std::fs::write(&name, bytes.iter().map(|byte| !byte).collect::<Vec<_>>()).unwrap();
    }

    fn reads_nothing_wrong(&self) {
        let mounted = Mounted(self.scratch.path("mnt"));
        assert!(std::fs::read(mounted.0.join("dir/text")).is_err(), "wrong bytes were taken");
        run("umount {}", &[&mounted.0]).ok();
    }
}

/// Makes the digest table of a file.
fn pin(path: &Path) -> String {
    run("digests {}", &[path]).ok().split(' ').next().unwrap().to_owned()
}

/// What the root of a mounted image says of its blob.
fn told(root: &Path) -> String {
    let mut value = [0; 200];
    let count = rustix::fs::getxattr(root, c"trusted.ferrofs.pins", &mut value).unwrap();
    String::from_utf8(value[..count].to_vec()).unwrap()
}

#[test]
fn each_data_blob_has_its_pin() {
    if !can_mount() {
        return;
    }
    let zeros = format!("blake3:{}", "0".repeat(64));
    let parts = Parts::new(LONG, "");
    let pin_of_blob = pin(&parts.www(LONG));
    let origin = parts.origin();
    let (url, blob) = (origin.url("/image.erofs"), origin.url(&format!("/{LONG}")));
    for (words, expected) in [
        (String::new(), "--device URL"),
        (format!("--device {blob}"), "--pin-device 1=blake3:HEX"),
        (format!("--device {blob} --pin-device 2={pin_of_blob}"), "`2`"),
        (format!("--device {blob} --device {blob} --pin-device 1={pin_of_blob}"), "2 data blobs"),
        (format!("--device {blob} --pin-device 1={zeros}"), "digest"),
        (format!("--device {blob} --pin-device 1=blake3:12"), "no pin"),
        (format!("--device {blob} --pin-device {pin_of_blob}"), "TAG"),
        (format!("--device /data.blob --pin-device 1={pin_of_blob}"), "file:///PATH"),
    ] {
        let said = parts.mount("fuse", &url, &words).fails(1);
        assert!(said.contains(expected), "{words}: {said}");
    }
    parts.mount("fuse", &url, &format!("--device {blob} --pin-device 1={pin_of_blob}")).ok();
    parts.reads_well();

    let parts = Parts::new("data.blob", "");
    let pin_of_blob = pin(&parts.www("data.blob"));
    let origin = parts.origin();
    let url = origin.url("/image.erofs");
    let said = parts.mount("fuse", &url, "").fails(1);
    assert!(said.contains("--pin-device data.blob=blake3:HEX"), "{said}");
    let said = parts.mount("fuse", &url, &format!("--pin-device other={pin_of_blob}")).fails(1);
    assert!(said.contains("`other`") && said.contains("data.blob"), "{said}");
    let both = format!("--pin-device data.blob={pin_of_blob} --pin-device 1={zeros}");
    assert!(parts.mount("fuse", &url, &both).fails(1).contains("another pin"));
    let given = format!("--pin-device data.blob={pin_of_blob}");
    parts.mount("fuse", &url, &given).ok();
    parts.reads_well();
    parts.spoil();
    parts.mount("fuse", &url, &given).ok();
    parts.reads_nothing_wrong();
}

#[test]
fn an_image_has_the_pin_of_its_blob() {
    if !can_mount() {
        return;
    }
    let parts = Parts::new("data.blob", "--digests");
    let made = std::fs::read(parts.www("data.blob.digests")).unwrap();
    let pin_of_blob = pin(&parts.www("data.blob"));
    assert_eq!(made, std::fs::read(parts.www("data.blob.digests")).unwrap(), "the same table");
    let origin = parts.origin();
    let url = origin.url("/image.erofs");
    for method in ["fuse", "fuse-file"] {
        parts.mount(method, &url, "").ok();
        assert_eq!(told(&parts.scratch.path("mnt")), pin_of_blob);
        parts.reads_well();
    }
    // What is built of it has a blob and a pin of its own.
    parts.mount("fuse", &url, "").ok();
    let mounted = Mounted(parts.scratch.path("mnt"));
    let (copy, blob) = (parts.scratch.path("copy.erofs"), parts.scratch.path("copy.blob"));
    let words = "build {} -o {} --blob {} --chunk-size 8K --digests --exclude dir -q";
    run(words, &[&mounted.0, &copy, &blob]).ok();
    run("umount {}", &[&mounted.0]).ok();
    run("mount -q --fuse --device {} {} {}", &[&blob, &copy, &mounted.0]).ok();
    assert_eq!(told(&mounted.0), pin(&blob));
    assert_ne!(pin(&blob), pin_of_blob);
    run("umount {}", &[&mounted.0]).ok();
    // Who mounts it may know better.
    let zeros = format!("--pin-device 1=blake3:{}", "0".repeat(64));
    assert!(parts.mount("fuse", &url, &zeros).fails(1).contains("digest"));
    parts.spoil();
    parts.mount("fuse", &url, "").ok();
    parts.reads_nothing_wrong();
}
