// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manners of erofs-utils' programs, so that scripts written for them work.
//!
//! Called by one of their names (or with it as the first word: `ferrofs mkfs.erofs ...`) the command
//! takes that program's options. Invariant: every option of erofs-utils 1.9.3 is known; it works, or
//! means nothing here (how much to print), or is refused by its name. What users read of the output
//! has their words; see the modules.

mod dump;
mod fsck;
mod fuse;
mod getopt;
mod mkfs;
mod mount;

use crate::errors::{self, Advice};
use crate::interrupt;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The release whose options are taken.
pub(crate) const VERSION: &str = "1.9.3";

/// A program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tool {
    Mkfs,
    Fsck,
    Dump,
    Fuse,
    Mount,
}

impl Tool {
    fn from_name(name: &OsStr) -> Option<Self> {
        Some(match name.to_str()? {
            "mkfs.erofs" => Self::Mkfs,
            "fsck.erofs" => Self::Fsck,
            "dump.erofs" => Self::Dump,
            "erofsfuse" => Self::Fuse,
            "mount.erofs" | "mount.erofs.ferrofs" => Self::Mount,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Mkfs => "mkfs.erofs",
            Self::Fsck => "fsck.erofs",
            Self::Dump => "dump.erofs",
            Self::Fuse => "erofsfuse",
            Self::Mount => "mount.erofs",
        }
    }

    /// Runs the program with the words behind its name; gives its exit code.
    pub(crate) fn run(self, words: &[OsString]) -> u8 {
        let result = match self {
            Self::Mkfs => mkfs::run(words),
            Self::Fsck => fsck::run(words),
            Self::Dump => dump::run(words),
            Self::Fuse => fuse::run(words),
            Self::Mount => mount::run(words),
        };
        match result {
            Ok(code) => code,
            Err(error) if errors::is_broken_pipe(&error) => 0,
            Err(error) => {
                errors::print(self.name(), &error);
                interrupt::code().unwrap_or(1)
            }
        }
    }

    /// `NAME (erofs-utils) 1.9.3`, as scripts look for it, and who it really is.
    fn print_version(self, capability: &str) {
        println!("{} (erofs-utils) {VERSION}", self.name());
        println!("by ferrofs {}, with the options of erofs-utils", env!("CARGO_PKG_VERSION"));
        println!("available {capability}: lz4, lz4hc, lzma, deflate, libdeflate, zstd");
    }
}

/// The program that the command line asks for, and the words for it.
pub(crate) fn find(words: &[OsString]) -> Option<(Tool, &[OsString])> {
    let (called, rest) = words.split_first()?;
    if let Some(tool) = Path::new(called).file_name().and_then(Tool::from_name) {
        return Some((tool, rest));
    }
    let (first, rest) = rest.split_first()?;
    Tool::from_name(first).map(|tool| (tool, rest))
}

/// An option of erofs-utils that does not work here yet.
fn unsupported(option: &str) -> anyhow::Error {
    Advice::error(
        format!("{option} is not supported yet"),
        "leave it out, or use the program of erofs-utils for this image",
    )
}

/// A wrong command line.
fn usage(tool: Tool, message: impl Into<String>) -> anyhow::Error {
    Advice::error(message, format!("{} --help shows the options", tool.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_either_name() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
        for (text, expected) in [
            ("/usr/bin/mkfs.erofs a b", Some((Tool::Mkfs, 2))),
            ("ferrofs fsck.erofs -p x", Some((Tool::Fsck, 2))),
            ("erofsfuse", Some((Tool::Fuse, 0))),
            ("/sbin/mount.erofs.ferrofs a", Some((Tool::Mount, 1))),
            ("ferrofs ls mkfs.erofs", None),
            ("ferrofs", None),
        ] {
            let words = words(text);
            assert_eq!(find(&words).map(|(tool, rest)| (tool, rest.len())), expected, "{text}");
        }
    }
}
