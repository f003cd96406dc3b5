// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong with a source: every variant names the path.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Why a source could not become a tree, or its content could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    Io {
        /// What was tried, as a verb: "open", "read".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The source is not what it was when it was walked.
    Changed {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: Change,
    },
    /// The source root is not a directory.
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// A name that cannot be stored: empty, too long, with a slash or NUL, or a dot name.
    Name {
        /// Directory and name.
        path: PathBuf,
    },
    /// Two entries of one directory have the same name.
    Duplicate {
        /// Directory and name.
        path: PathBuf,
    },
    /// A directory that has two parents, or none.
    Shape {
        /// One of its paths.
        path: PathBuf,
    },
    /// More inodes, entries or name bytes than 32 bits count.
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// Several of the above.
    Several {
        /// The first ones, in the order in which they were met.
        errors: Vec<Self>,
        /// How many more there were.
        more: u64,
    },
}

/// What changed about a file since the walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Another file has taken its name.
    Identity,
    /// Its size.
    Size {
        /// When it was walked.
        walked: u64,
        /// Now.
        now: u64,
    },
    /// Its modification time.
    Time,
    /// It ends before the size that was walked.
    Truncated {
        /// Where reading ended.
        at: u64,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), error: error.into() }
    }

    /// The single errors, whether one or several.
    #[must_use]
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several { errors, .. } => errors,
            one => core::slice::from_ref(one),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}", path.display())
            }
            Self::Changed { path, what } => {
                write!(f, "{} changed while it was being read: {what}", path.display())
            }
            Self::NotADirectory { path } => write!(f, "{} is not a directory", path.display()),
            Self::Name { path } => {
                write!(f, "{}: this name cannot be stored in an image", path.display())
            }
            Self::Duplicate { path } => write!(f, "{}: this name occurs twice", path.display()),
            Self::Shape { path } => {
                write!(f, "{}: a directory needs exactly one parent", path.display())
            }
            Self::TooMany { what } => write!(f, "more than 2^32 {what}"),
            Self::Several { errors, more } => {
                for (index, error) in errors.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{error}")?;
                }
                if *more > 0 {
                    write!(f, "\nand {more} more")?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("another file has its name now"),
            Self::Size { walked, now } => write!(f, "it had {walked} bytes and has {now} now"),
            Self::Time => f.write_str("it was modified"),
            Self::Truncated { at } => write!(f, "it ends at byte {at} now"),
        }
    }
}
