// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real binary, as users and scripts call it.

mod ahead;
mod bench;
mod build;
mod cached;
mod ctl;
mod dead;
mod digests;
mod estimate;
mod hard;
mod lazy;
mod look;
mod mount;
mod network;
mod personality;
mod pins;
mod published;
mod second;
mod share;
mod sight;
mod soak;
mod survive;
mod trace;

use ferrofs_tests::golden::Golden;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The binary.
const FERROFS: &str = env!("CARGO_BIN_EXE_ferrofs");

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("not killed"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output, of a command that must succeed.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// The messages, of a command that must end so.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self.err
    }
}

fn command(words: &[&OsStr]) -> Command {
    let mut command = Command::new(FERROFS);
    command.args(words).stdin(Stdio::null()).env_remove("SOURCE_DATE_EPOCH");
    command
}

fn run_os(words: &[&OsStr]) -> Ended {
    Ended::new(&command(words).output().expect("the binary runs"))
}

/// Runs the binary with words separated by spaces; `{}` stands for the next path.
fn run(line: &str, paths: &[&Path]) -> Ended {
    let mut paths = paths.iter();
    let words: Vec<std::ffi::OsString> = line
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once("{}") {
            Some((before, after)) => {
                let mut whole = std::ffi::OsString::from(before);
                whole.push(paths.next().expect("a path for each {}"));
                whole.push(after);
                whole
            }
            None => word.into(),
        })
        .collect();
    assert!(paths.next().is_none(), "a {{}} for each path");
    run_os(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

/// A folder with a small tree in it, removed at the end.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("dir/sub")).unwrap();
        let text = "all work and no play makes jack a dull boy\n".repeat(4000);
        std::fs::write(tree.join("dir/text"), &text).unwrap();
        std::fs::write(tree.join("small"), "small\n").unwrap();
        std::fs::write(tree.join("a name with spaces"), "x").unwrap();
        std::fs::write(tree.join("empty"), "").unwrap();
        std::fs::write(tree.join("dir/sub/skip.o"), "object").unwrap();
        std::fs::hard_link(tree.join("small"), tree.join("dir/again")).unwrap();
        std::os::unix::fs::symlink("dir/text", tree.join("link")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o751);
        std::fs::set_permissions(tree.join("dir"), mode).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// An image of the tree.
    fn image(&self, options: &str) -> PathBuf {
        let image = self.path("image.erofs");
        run(&format!("build {{}} -o {{}} -q {options}"), &[&self.tree(), &image]).ok();
        image
    }
}

fn golden() -> &'static Golden {
    static GOLDEN: OnceLock<Golden> = OnceLock::new();
    GOLDEN.get_or_init(Golden::unpack)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
