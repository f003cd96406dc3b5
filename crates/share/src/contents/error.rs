// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why contents could not be shared.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ferrofs_linux::MountError;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why contents could not be shared.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// An image cannot be read.
    Image {
        /// The image.
        path: PathBuf,
        /// Why not.
        error: ferrofs_image::Error,
    },
    /// Its tree cannot be stored.
    Tree(ferrofs_tree::Error),
    /// A store or an image's metadata cannot be written.
    Build(ferrofs_build::Error),
    /// A mount failed.
    Mount(MountError),
    /// Domains have names of 1 to 64 letters, digits, `.`, `_` and `-`, with no dot in front.
    Domain {
        /// The name.
        name: String,
    },
    /// A character device 0:0, which overlayfs takes for a deleted file.
    Whiteout {
        /// Its path in the image.
        path: PathBuf,
    },
    /// The image is larger than the options allow.
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: u64,
    },
    /// The image refers to devices that were not given.
    DevicesMissing {
        /// The image.
        path: PathBuf,
    },
    /// A file of the domain's folder is not what was written there.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// What was copied is not what was hashed: the image changed meanwhile.
    Changed {
        /// The image.
        path: PathBuf,
    },
    /// No image of this name was added.
    Unknown {
        /// Its id.
        id: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), error: error.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, error } => {
                write!(f, "cannot {action} {}: {error}", path.display())
            }
            Self::Image { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Tree(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::Mount(error) => error.fmt(f),
            Self::Domain { name } => write!(
                f,
                "`{name}` is no name for a domain: 1 to 64 letters, digits, `.`, `_` and `-`, \
                 with no dot in front"
            ),
            Self::Whiteout { path } => write!(
                f,
                "/{} is a character device 0:0, which overlayfs does not show: the image cannot \
                 be shared this way",
                path.display()
            ),
            Self::TooLarge { what, value } => {
                write!(f, "the image is too large to be shared: {value} {what}")
            }
            Self::DevicesMissing { path } => {
                write!(f, "{} has data on devices that are not given", path.display())
            }
            Self::Damaged { path, what } => write!(f, "{}: {what}", path.display()),
            Self::Changed { path } => {
                write!(f, "{} changed while it was read", path.display())
            }
            Self::Unknown { id } => write!(f, "the domain has no image {id}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ferrofs_tree::Error> for Error {
    fn from(error: ferrofs_tree::Error) -> Self {
        Self::Tree(error)
    }
}

impl From<ferrofs_build::Error> for Error {
    fn from(error: ferrofs_build::Error) -> Self {
        Self::Build(error)
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        Self::Mount(error)
    }
}
