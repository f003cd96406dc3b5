// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of reading an image: who is at fault, where, and the number that shows it.

use crate::Space;
use ferrofs_codec::DecodeError;
use ferrofs_format::{FormatError, Nid};
use std::{fmt, io};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Where in an image something is wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The inode, if one is known.
    pub nid: Option<Nid>,
    /// Metadata space of `offset`; `None` when `offset` is one of file content.
    pub space: Option<Space>,
    /// Byte offset in `space` or in the file's content.
    pub offset: Option<u64>,
}

impl Place {
    /// A place in a metadata space.
    #[must_use]
    pub const fn meta(space: Space, offset: u64) -> Self {
        Self { nid: None, space: Some(space), offset: Some(offset) }
    }

    /// A byte of a file's content.
    #[must_use]
    pub const fn content(nid: Nid, offset: u64) -> Self {
        Self { nid: Some(nid), space: None, offset: Some(offset) }
    }

    /// An inode as a whole.
    #[must_use]
    pub const fn inode(nid: Nid) -> Self {
        Self { nid: Some(nid), space: None, offset: None }
    }

    /// The same place, with the inode that it belongs to.
    #[must_use]
    pub const fn of(self, nid: Nid) -> Self {
        Self { nid: Some(nid), ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nid {
            Some(nid) => write!(f, "nid {nid}")?,
            None => f.write_str("image")?,
        }
        match (self.space, self.offset) {
            (Some(space), Some(offset)) => write!(f, ", {space} offset {offset:#x}"),
            (None, Some(offset)) => write!(f, ", file offset {offset}"),
            _ => Ok(()),
        }
    }
}

/// Why something could not be read. Cheap to clone, so that all who wait for one pcluster get it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The device or file below failed: the image may be fine.
    Io {
        /// Device: 0 is the primary one.
        device: u16,
        /// Byte offset on the device.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// What the system said.
        kind: io::ErrorKind,
        /// Its error number, if any.
        errno: Option<i32>,
    },
    /// The image breaks a rule of the format.
    Corrupt {
        /// Where.
        place: Place,
        /// The rule.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
    /// A compressed pcluster does not decode.
    Undecodable {
        /// Where: the file offset of the extent.
        place: Place,
        /// Byte address of the pcluster on its device or in its metadata space.
        address: u64,
        /// What the decoder said.
        source: DecodeError,
    },
    /// The image uses something that is not known here.
    Unsupported {
        /// Where.
        place: Place,
        /// The feature.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
    /// No such name.
    NotFound,
    /// A directory was needed.
    NotDirectory {
        /// The inode that is none.
        nid: Nid,
    },
    /// The call does not go with the inode's type, such as reading the target of a file.
    WrongType {
        /// The inode.
        nid: Nid,
        /// What was asked.
        what: &'static str,
    },
    /// Devices were given, but not as many as the image has.
    DeviceCount {
        /// Extra devices of the image.
        expected: u16,
        /// Extra devices given.
        given: usize,
    },
}

impl Error {
    /// Puts an error of the format crate in its place.
    pub(crate) fn format(error: FormatError, place: Place) -> Self {
        match error {
            FormatError::Unsupported { what, value } => Self::Unsupported { place, what, value },
            FormatError::Truncated { what, have, .. } => Self::Corrupt { place, what, value: have },
            FormatError::Corrupt { what, value } | FormatError::DoesNotFit { what, value } => {
                Self::Corrupt { place, what, value }
            }
            _ => Self::Corrupt { place, what: "unknown defect", value: 0 },
        }
    }

    pub(crate) fn io(device: u16, offset: u64, len: usize, error: &io::Error) -> Self {
        Self::Io {
            device,
            offset,
            len: ferrofs_format::num::u64_from_usize(len),
            kind: error.kind(),
            errno: error.raw_os_error(),
        }
    }

    pub(crate) const fn corrupt(place: Place, what: &'static str, value: u64) -> Self {
        Self::Corrupt { place, what, value }
    }

    /// Adds the inode to an error that lacks one.
    #[must_use]
    pub fn with_nid(mut self, nid: Nid) -> Self {
        if let Self::Corrupt { place, .. }
        | Self::Undecodable { place, .. }
        | Self::Unsupported { place, .. } = &mut self
        {
            place.nid.get_or_insert(nid);
        }
        self
    }

    /// Whether the image itself is at fault (as opposed to the device, or the question).
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Undecodable { .. })
    }

    /// The error number that a file system returns for it; the one table for FUSE and all else.
    #[must_use]
    pub fn errno(&self) -> i32 {
        const ENOENT: i32 = 2;
        const EIO: i32 = 5;
        const ENOMEM: i32 = 12;
        const ENOTDIR: i32 = 20;
        const EINVAL: i32 = 22;
        const EOPNOTSUPP: i32 = 95;
        const EUCLEAN: i32 = 117;
        match self {
            // The caller sees EIO for anything but "no memory": a source's ENOENT or EACCES is not
            // the answer to a read of a file that exists in the image.
            Self::Io { kind: io::ErrorKind::OutOfMemory, .. } => ENOMEM,
            Self::Io { .. } => EIO,
            Self::Corrupt { .. } | Self::Undecodable { .. } => EUCLEAN,
            Self::Unsupported { .. } => EOPNOTSUPP,
            Self::NotFound => ENOENT,
            Self::NotDirectory { .. } => ENOTDIR,
            Self::WrongType { .. } | Self::DeviceCount { .. } => EINVAL,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { device, offset, len, kind, errno } => {
                write!(f, "cannot read {len} bytes at {offset:#x} of device {device}: ")?;
                match errno {
                    Some(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
                    None => kind.fmt(f),
                }
            }
            Self::Corrupt { place, what, value } => {
                write!(f, "corrupt image: {what} (value {value:#x}; {place})")
            }
            Self::Undecodable { place, address, source } => {
                write!(f, "corrupt image: pcluster at {address:#x}: {source} ({place})")
            }
            Self::Unsupported { place, what, value } => {
                write!(f, "unsupported {what} (value {value:#x}; {place})")
            }
            Self::NotFound => f.write_str("no such file or directory"),
            Self::NotDirectory { nid } => write!(f, "not a directory (nid {nid})"),
            Self::WrongType { nid, what } => write!(f, "{what} (nid {nid})"),
            Self::DeviceCount { expected, given } => write!(
                f,
                "the image has {expected} extra devices, {given} were given; \
                 give all of them in order, or none for a flat image"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Undecodable { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { kind, .. } => *kind,
            Error::NotFound => io::ErrorKind::NotFound,
            Error::NotDirectory { .. } => io::ErrorKind::NotADirectory,
            Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            Error::WrongType { .. } | Error::DeviceCount { .. } => io::ErrorKind::InvalidInput,
            Error::Corrupt { .. } | Error::Undecodable { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_table() {
        let place = Place::default();
        let io = |kind| Error::Io { device: 0, offset: 0, len: 0, kind, errno: Some(2) };
        for (error, errno) in [
            (io(io::ErrorKind::NotFound), 5),
            (io(io::ErrorKind::OutOfMemory), 12),
            (Error::corrupt(place, "x", 0), 117),
            (Error::Unsupported { place, what: "x", value: 0 }, 95),
            (Error::NotFound, 2),
            (Error::NotDirectory { nid: Nid(1) }, 20),
        ] {
            assert_eq!(error.errno(), errno, "{error}");
        }
    }

    #[test]
    fn places_read_as_sentences() {
        let error = Error::corrupt(Place::meta(Space::Primary, 0x500), "rule", 7).with_nid(Nid(3));
        assert_eq!(
            error.to_string(),
            "corrupt image: rule (value 0x7; nid 3, primary device offset 0x500)"
        );
    }
}
