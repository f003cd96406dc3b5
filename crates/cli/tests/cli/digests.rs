// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digest tables of images at URLs.

use crate::{Scratch, command, run};
use ferrofs_tests::origin::{Content, Fault, Origin};
use std::path::{Path, PathBuf};

/// An image with its table, served, and a folder to work in.
struct Served {
    scratch: Scratch,
    origin: Origin,
    table: Vec<u8>,
    pin: String,
}

impl Served {
    fn new() -> Self {
        let scratch = Scratch::new();
        let image = scratch.path("www/image.erofs");
        std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        run("build {} -o {} -z lz4", &[&scratch.tree(), &image]).ok();
        let line = run("digests {}", &[&image]).ok();
        let pin = line.split_whitespace().next().unwrap().to_owned();
        let table = PathBuf::from(format!("{}.digests", image.display()));
        let bytes = std::fs::read(&table).unwrap();
        // It is to be made anew.
        std::fs::remove_file(table).unwrap();
        std::fs::create_dir(scratch.path("here")).unwrap();
        let origin = Origin::start(Content::Folder(scratch.path("www"))).unwrap();
        Self { scratch, origin, table: bytes, pin }
    }

    fn here(&self) -> PathBuf {
        self.scratch.path("here")
    }

    /// `ferrofs digests URL WORDS` in a folder of its own; its status and its output.
    fn digests(&self, words: &[&str]) -> (bool, String) {
        let mut command = command(&["digests".as_ref()]);
        command.current_dir(self.here()).arg(self.origin.url("/image.erofs")).args(words);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn names(&self) -> Vec<String> {
        names(&self.here())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_table_of_a_url_is_that_of_the_file() {
    let served = Served::new();
    let (done, text) = served.digests(&[]);
    assert!(done && text.contains(&served.pin) && text.contains("/image.erofs"), "{text}");
    assert_eq!(served.names(), ["image.erofs.digests"]);
    let table = std::fs::read(served.here().join("image.erofs.digests")).unwrap();
    assert!(table == served.table, "the copy of the metadata is the same, too");
    // And by JSON, over it.
    let (done, text) = served.digests(&["--json", "-q"]);
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(done && rows[0]["pin"] == served.pin.as_str(), "{text}");
    assert_eq!(rows[0]["table"], "image.erofs.digests");
}

#[test]
fn a_url_is_compared_with_a_pin() {
    let served = Served::new();
    let (done, text) = served.digests(&["--check", &served.pin]);
    assert!(done, "{text}");
    let other = format!("sha256:{}", "0".repeat(64));
    let (done, text) = served.digests(&["--check", &other]);
    assert!(!done && text.contains("its pin is sha256:"), "{text}");
    assert_eq!(served.names(), [""; 0], "nothing is written");
}

#[test]
fn a_broken_answer_is_gone_on_with_and_none_leaves_nothing() {
    let served = Served::new();
    // The first bytes, then the image.
    served.origin.next(vec![]);
    served.origin.next(vec![Fault::Cut(10_000)]);
    let (done, text) = served.digests(&["--check", &served.pin]);
    assert!(done, "{text}");
    std::fs::remove_file(served.scratch.path("www/image.erofs")).unwrap();
    let (done, text) = served.digests(&[]);
    assert!(!done && text.contains("404"), "{text}");
    assert_eq!(served.names(), [""; 0]);
}
