// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparing trees: an image equals what was extracted of it, and each change shows as itself.

use ferrofs_check::{
    Attribute, Context, DiffOptions, DiffReport, Difference, ExtractOptions, Side, Status, diff,
    extract,
};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, OpenOptions};
use ferrofs_tests::craft::{Craft, text};
use ferrofs_tests::everything::everything;
use ferrofs_tests::golden::Golden;
use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;

fn engine(bytes: Vec<u8>) -> Engine {
    Engine::new(Arc::new(Image::open(bytes).unwrap()), EngineConfig::default())
}

fn all(a: Side<'_>, b: Side<'_>, options: &DiffOptions) -> (Vec<Difference>, DiffReport) {
    let mut found = vec![];
    let context = Context { workers: 2, ..Context::default() };
    let report = diff(a, b, options, context, |difference| {
        found.push(difference);
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!(report.differences, found.len() as u64);
    (found, report)
}

#[test]
fn an_image_equals_itself_and_what_was_extracted() {
    let root = rustix::process::geteuid().is_root();
    let golden = Golden::unpack();
    let options = DiffOptions { owner: root, ..DiffOptions::default() };
    for name in golden.names().into_iter().step_by(7) {
        let devices = golden.devices(&name).into_iter();
        let open = devices.fold(OpenOptions::new(), |options, device| {
            options.device(File::open(device).unwrap())
        });
        let image = Arc::new(open.open(File::open(golden.image(&name)).unwrap()).unwrap());
        let engine = Engine::new(image, EngineConfig::default());
        let (found, report) = all(Side::Image(&engine), Side::Image(&engine), &options);
        assert_eq!(found, [], "{name}");
        assert!(report.is_equal() && report.compared > 20);
        if !root {
            println!("skipped: comparing an extracted tree needs root to extract it whole");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("tree");
        let options = ExtractOptions::default();
        assert!(extract(&engine, &target, &options, Context::default()).unwrap().is_clean());
        let (found, _) =
            all(Side::Image(&engine), Side::Directory(&target), &DiffOptions::default());
        assert_eq!(found, [], "{name}");
    }
}

fn pick<T>(second: bool, a: T, b: T) -> T {
    if second { b } else { a }
}

/// What differs between two images that have a file of each kind of difference.
#[test]
fn every_change_shows_as_itself() {
    const R: FileType = FileType::Regular;
    let make = |second: bool| {
        let mut craft = Craft::new(9);
        let mut content = text(3000, 1);
        if second {
            content[2500] ^= 1;
        }
        craft.flat("content", &content, 0, &[]);
        craft.flat("same", b"same", 4, &[]);
        craft.flat("size", pick(second, &b"abc"[..], b"abcd"), pick(second, 3, 4), &[]);
        craft.flat_of("target", FileType::Symlink, pick(second, b"x", b"y"), 1, &[]);
        craft.node("rdev", FileType::CharDevice, pick(second, 0x105, 0x106));
        craft.node("type", pick(second, FileType::Fifo, FileType::Socket), 0);
        craft.node(pick(second, "only-a", "only-b"), FileType::Fifo, 0);
        let body = ferrofs_tests::craft::xattr_body(&[], &[(1, b"k", pick(second, b"1", b"2"))]);
        craft.flat("xattr", b"x", 1, &body);
        let inner = craft.flat(".inner", b"x", 1, &[]);
        craft.directory("dir", &[(pick(second, "p", "q"), inner, R)]);
        let mut crafted = craft.finish();
        if second {
            let at = crafted.at("same");
            crafted.put(at + 12, &[9, 0, 0, 0]); // Time.
            crafted.put(at + 24, &[5, 0, 6, 0]); // Owners.
            crafted.put(at + 4, &(R.mode_bits() | 0o600).to_le_bytes());
        }
        crafted.seal();
        engine(crafted.bytes)
    };
    let (a, b) = (make(false), make(true));
    let (found, report) = all(Side::Image(&a), Side::Image(&b), &DiffOptions::default());
    let mut lines = vec![];
    for difference in &found {
        match &difference.status {
            Status::Changed { changes } => {
                lines.extend(
                    changes.iter().map(|c| format!("{} {:?}", difference.path, c.attribute)),
                );
            }
            other => lines.push(format!("{} {other:?}", difference.path)),
        }
    }
    let want = [
        "/content Content",
        "/dir/p OnlyA",
        "/dir/q OnlyB",
        "/only-a OnlyA",
        "/only-b OnlyB",
        "/rdev Rdev",
        "/same Mode",
        "/same Uid",
        "/same Gid",
        "/same Mtime",
        "/size Size",
        "/target Target",
        "/type Type",
        "/xattr Xattr",
    ];
    assert_eq!(lines, want);
    assert!(!report.is_equal());
    let options = DiffOptions {
        content: false,
        mtime: false,
        owner: false,
        mode: false,
        xattrs: false,
        ..DiffOptions::default()
    };
    let (found, _) = all(Side::Image(&a), Side::Image(&b), &options);
    assert_eq!(found.len(), 8, "{found:?}");
    let mut first = vec![];
    let context = Context::default();
    let report = diff(Side::Image(&a), Side::Image(&b), &options, context, |difference| {
        first.push(difference);
        ControlFlow::Break(())
    });
    assert!(!report.unwrap().complete);
    assert_eq!(first.len(), 1);
}

#[test]
fn hard_links_are_compared_as_links() {
    let make = |linked: bool| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "x").unwrap();
        if linked {
            std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        } else {
            std::fs::write(folder.path().join("b"), "x").unwrap();
        }
        folder
    };
    let (a, b) = (make(true), make(false));
    let options = DiffOptions { mtime: false, ..DiffOptions::default() };
    let sides = (Side::Directory(a.path()), Side::Directory(b.path()));
    let (found, _) = all(sides.0, sides.1, &options);
    let [Difference { path, status: Status::Changed { changes } }] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(path.as_bytes(), b"/b");
    assert_eq!(changes[0].attribute, Attribute::Links);
    let without = DiffOptions { links: false, ..options };
    assert_eq!(all(sides.0, sides.1, &without).0, []);
}

#[test]
fn damage_is_reported_and_the_rest_compared() {
    let mut crafted = everything(9);
    let at = crafted.at("full.data");
    crafted.put(at, &[0xFF; 2048]);
    let (a, b) = (engine(everything(9).bytes), engine(crafted.bytes));
    let (found, report) = all(Side::Image(&a), Side::Image(&b), &DiffOptions::default());
    assert!(report.complete);
    assert_eq!(report.failed, 1, "{found:?}");
    assert!(found.iter().any(|difference| difference.path.as_bytes() == b"/full"));
}
