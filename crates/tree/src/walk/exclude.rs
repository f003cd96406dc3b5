// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaving entries out by path or pattern, with the meaning of mkfs.erofs' `--exclude-path` and
//! `--exclude-regex`: both are compared with the path relative to the source root, without a slash
//! in front; a path must be equal, a pattern may match any part; a directory that is left out takes
//! everything below it along.

use core::fmt;
use std::collections::HashSet;

use regex::bytes::{Regex, RegexBuilder};

/// What to leave out.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    paths: HashSet<Vec<u8>>,
    patterns: Vec<Regex>,
}

/// A pattern that is no regular expression.
#[derive(Clone, Debug)]
pub struct PatternError(regex::Error);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for PatternError {}

impl Exclude {
    /// Leaves out this path. Slashes around it, and `./` in front, do not matter.
    pub fn path(&mut self, path: &[u8]) {
        let mut path = path;
        while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
            path = rest;
        }
        while let Some(rest) = path.strip_suffix(b"/") {
            path = rest;
        }
        self.paths.insert(path.to_vec());
    }

    /// Leaves out what this extended regular expression matches anywhere in the path.
    pub fn regex(&mut self, pattern: &str) -> Result<(), PatternError> {
        // Names are bytes, not characters, and may hold newlines.
        let mut builder = RegexBuilder::new(pattern);
        builder.unicode(false).dot_matches_new_line(true);
        self.patterns.push(builder.build().map_err(PatternError)?);
        Ok(())
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.paths.contains(path) || self.patterns.iter().any(|pattern| pattern.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_equal_and_patterns_match_a_part() {
        let mut exclude = Exclude::default();
        exclude.path(b"./a/b/");
        exclude.path(b"/top");
        exclude.regex(r"\.o$").unwrap();
        for (path, matches) in [
            (&b"a/b"[..], true),
            (b"a/b/c", false),
            (b"x/a/b", false),
            (b"top", true),
            (b"src/x.o", true),
            (b"src/x.out", false),
            (b"\xff\n.o", true),
        ] {
            assert_eq!(exclude.matches(path), matches, "{path:?}");
        }
        assert!(exclude.regex("(").is_err());
    }
}
