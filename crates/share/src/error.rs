// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a job of this crate could not be done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a job could not be done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An image.
    Image(ferrofs_image::Error),
    /// A part of an image.
    ImagePath {
        /// The path inside the image.
        path: PathBuf,
        /// What is wrong with it.
        source: ferrofs_image::Error,
    },
    /// A file of this machine.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of several images.
    In {
        /// What the caller calls it.
        name: String,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Memory that the system does not give.
    Memory(io::Error),
    /// The job was cancelled.
    Cancelled,
}

impl Error {
    pub(crate) fn image_path(path: &[u8], source: ferrofs_image::Error) -> Self {
        Self::ImagePath { path: PathBuf::from(OsStr::from_bytes(path)), source }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl From<ferrofs_image::Error> for Error {
    fn from(error: ferrofs_image::Error) -> Self {
        Self::Image(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names come from images: nothing of them may reach a terminal as it is.
        let text = |path: &Path| path.to_string_lossy().escape_debug().to_string();
        match self {
            Self::Image(error) => error.fmt(f),
            Self::ImagePath { path, source } => write!(f, "{}: {source}", text(path)),
            Self::Io { path, source } => write!(f, "{}: {source}", text(path)),
            Self::In { name, source } => write!(f, "{name}: {source}"),
            Self::Memory(source) => write!(f, "no memory for pages: {source}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Image(error) | Self::ImagePath { source: error, .. } => Some(error),
            Self::Io { source, .. } | Self::Memory(source) => Some(source),
            Self::In { source, .. } => source.source(),
            Self::Cancelled => None,
        }
    }
}
