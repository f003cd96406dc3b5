// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a job could not be done at all. What is wrong with single files is data in its report.

use crate::RawPath;
use std::{fmt, io};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a job could not begin or had to end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The image.
    Image(ferrofs_image::Error),
    /// A path of the image that was asked for.
    Path {
        /// The path.
        path: RawPath,
        /// What is wrong with it.
        source: ferrofs_image::Error,
    },
    /// The system below.
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: RawPath,
        /// What the system said.
        source: io::Error,
    },
    /// The target directory is not empty, and overwriting was not allowed.
    NotEmpty {
        /// The directory.
        path: RawPath,
    },
    /// The job was cancelled.
    Cancelled,
}

impl From<ferrofs_image::Error> for Error {
    fn from(error: ferrofs_image::Error) -> Self {
        Self::Image(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Path { path, source } => write!(f, "{path}: {source}"),
            Self::Io { doing, path, source } => write!(f, "cannot {doing} {path}: {source}"),
            Self::NotEmpty { path } => write!(f, "{path} is not empty"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Image(error) | Self::Path { source: error, .. } => Some(error),
            Self::Io { source, .. } => Some(source),
            Self::NotEmpty { .. } | Self::Cancelled => None,
        }
    }
}
