// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share estimate`, and its page as a browser draws it.

use super::{Scratch, run};
use std::path::Path;
use std::process::{Command, Stdio};

/// Two images of trees that share much, in different encodings.
fn pair() -> (Scratch, std::path::PathBuf, std::path::PathBuf) {
    let scratch = Scratch::new();
    let mut random = fastrand::Rng::with_seed(11);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(600_000).collect();
    let tree = scratch.tree();
    std::fs::write(tree.join("big"), &noise).unwrap();
    let (a, b) = (scratch.path("a.erofs"), scratch.path("b.erofs"));
    run("build {} -o {} -q", &[&tree, &a]).ok();
    std::fs::write(tree.join("big"), [b"new", noise.as_slice()].concat()).unwrap();
    run("build {} -o {} -q -z lz4 -C 64K", &[&tree, &b]).ok();
    (scratch, a, b)
}

fn estimate(words: &str, paths: &[&Path]) -> serde_json::Value {
    let json = run(&format!("share estimate --json {words}"), paths).ok();
    serde_json::from_str(&json).unwrap()
}

fn added(found: &serde_json::Value, method: &str) -> u64 {
    let rows = found["methods"].as_array().unwrap();
    let row = rows.iter().find(|row| row["method"] == method).unwrap();
    row["added_bytes"][1].as_u64().unwrap()
}

#[test]
fn an_estimate_tells_what_the_second_image_costs() {
    let (scratch, a, b) = pair();
    let found = estimate("{} {}", &[&a, &b]);
    assert_eq!(added(&found, "whole"), 602_112, "the changed file");
    assert_eq!(added(&found, "page4k"), 602_112, "all is shifted");
    assert!(added(&found, "cdc4k") < 60_000, "{found}");
    assert_eq!(found["trees"][0]["files"], 5, "{found}");
    let of_tree = estimate("{} {} -j 1", &[&a, &scratch.tree()]);
    assert_eq!(of_tree["methods"], found["methods"], "an image is its tree");
    let text = run("share estimate {} {}", &[&a, &b]).ok();
    assert!(text.contains("whole files") && text.contains("+ image 2"), "{text}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let (scratch, a, b) = pair();
    let broken = scratch.path("broken.erofs");
    let bytes = std::fs::read(&b).unwrap();
    std::fs::write(&broken, &bytes[..4096]).unwrap();
    let message = run("share estimate {} {}", &[&a, &broken]).fails(1);
    assert!(message.contains("broken.erofs: /"), "{message}");
    run("share estimate {}", &[&scratch.path("missing")]).fails(1);
    run("share estimate", &[]).fails(1);
}

/// The page's markup after a browser has read it, and a picture of it.
fn browse(page: &Path, folder: &Path, picture: &Path) -> Option<String> {
    let browser = |words: &[String]| {
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .args(["--force-device-scale-factor=1", "--window-size=1100,900"])
            .arg(format!("--user-data-dir={}", folder.display()))
            .args(words)
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null());
        command.output()
    };
    let Ok(output) = browser(&[String::from("--dump-dom")]) else {
        println!("skipped: chromium is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    browser(&[format!("--screenshot={}", picture.display())]).unwrap();
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The value of an attribute of each bar of a method, in order.
fn bars(page: &str, method: &str, attribute: &str) -> Vec<f64> {
    let bar = format!("<rect class=\"{method}\"");
    let values = page.split(&bar).skip(1).map(|rest| {
        let (_, rest) = rest.split_once(&format!(" {attribute}=\"")).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    });
    values.collect()
}

#[test]
fn a_browser_draws_the_estimate() {
    let (scratch, a, b) = pair();
    let (page, picture) = (scratch.path("page.html"), scratch.path("page.png"));
    run("share estimate {} {} --html {}", &[&a, &b, &page]).ok();
    look(&scratch, &page, &picture, [&a, &b]);
}

#[test]
fn a_browser_draws_what_an_image_saves_with_another() {
    let (scratch, a, b) = pair();
    let (page, picture) = (scratch.path("page.html"), scratch.path("page.png"));
    run("inspect --html {} {} {}", &[&page, &a, &b]).ok();
    look(&scratch, &page, &picture, [&a, &b]);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("map of device 0") && text.contains("<h2>What sharing would save</h2>"));
    let alone = run("inspect --html - {}", &[&a]).ok();
    assert!(!alone.contains("sharing"), "{alone}");
    assert!(run("inspect {} {}", &[&a, &b]).fails(1).contains("--html"));
    let missing = scratch.path("missing");
    assert!(run("inspect --html - {} {}", &[&a, &missing]).fails(1).contains("missing"));
}

/// Has a browser draw the page, and compares the bars with the figures.
fn look(scratch: &Scratch, page: &Path, picture: &Path, [a, b]: [&Path; 2]) {
    let text = std::fs::read_to_string(page).unwrap();
    assert!(!text.contains("http") && !text.contains("<script"), "it needs nothing but itself");
    let found = estimate("{} {}", &[a, b]);
    let Some(drawn) = browse(page, &scratch.path("profile"), picture) else { return };
    let unit = bars(&drawn, "none", "width").iter().sum::<f64>();
    assert!((unit - 640.0).abs() < 0.1, "the longest bar fills the chart: {unit}");
    for row in found["methods"].as_array().unwrap() {
        let method = row["method"].as_str().unwrap();
        let total = found["methods"][0]["unique_bytes"].as_f64().unwrap();
        let added = row["added_bytes"].as_array().unwrap();
        let widths = bars(&drawn, method, "width");
        assert_eq!(widths.len(), added.len(), "{method}");
        for (width, bytes) in widths.iter().zip(added) {
            let share = bytes.as_f64().unwrap() / total;
            assert!((width / unit - share).abs() < 0.001, "{method}: {width} of {unit}, {share}");
        }
        let starts = bars(&drawn, method, "x");
        assert!((starts[1] - starts[0] - widths[0]).abs() < 0.1, "{method}: side by side");
    }
    let picture = std::fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{}", picture.len());
}
