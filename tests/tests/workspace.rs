// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of the workspace that no compiler keeps: the direction of dependencies (ARCHITECTURE.md),
//! size of files, licence lines, ASCII, no unfinished work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Floors of ARCHITECTURE.md: a crate depends on lower floors only.
const FLOORS: [(&str, u8); 14] = [
    ("ferrofs-format", 0),
    ("ferrofs-codec", 0),
    ("ferrofs-linux", 0),
    ("ferrofs-oci", 0),
    ("ferrofs-image", 1),
    ("ferrofs-fuse", 1),
    ("ferrofs-engine", 2),
    ("ferrofs-tree", 2),
    ("ferrofs-store", 2),
    ("ferrofs-build", 3),
    ("ferrofs-check", 3),
    ("ferrofs-serve", 3),
    ("ferrofs-share", 4),
    ("ferrofs-cli", 5),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

#[test]
fn crates_depend_downwards() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let floors = BTreeMap::from(FLOORS);
    let mut seen = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        // Tests are above everything.
        if name == "ferrofs-tests" || name == "ferrofs-model" {
            continue;
        }
        let floor = floors.get(name).unwrap_or_else(|| panic!("{name} has no floor"));
        seen += 1;
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let below = dependency["name"].as_str().expect("a name");
            if below.starts_with("ferrofs-") && dependency["kind"].is_null() {
                assert!(floors[below] < *floor, "{name} must not depend on {below}");
            }
        }
    }
    assert_eq!(seen, floors.len(), "a crate of ARCHITECTURE.md is missing");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "corpus") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn sources_are_tidy() {
    let mut files = vec![];
    for folder in ["crates", "tests", "fuzz"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100);
    // Words put together here, so that this file does not hold them.
    let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["todo", "!("].concat()];
    let mut failures = vec![];
    for path in files {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let name = path.strip_prefix(root()).expect("inside").display();
        if !text.starts_with("// SPDX-License-Identifier: MIT OR Apache-2.0\n") {
            failures.push(format!("{name}: no licence line"));
        }
        if !text.is_ascii() {
            let line = text.lines().position(|line| !line.is_ascii()).unwrap_or(0) + 1;
            // Section signs refer to docs/format.md; names in tests may be of any script.
            let other = text.chars().any(|c| !c.is_ascii() && c != '\u{a7}');
            if other {
                failures.push(format!("{name}:{line}: not ASCII"));
            }
        }
        let is_test = name.to_string().contains("test");
        if text.lines().count() > 1000 && !is_test {
            failures.push(format!("{name}: over 1000 lines"));
        }
        for word in &unfinished {
            if text.contains(word.as_str()) {
                failures.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
