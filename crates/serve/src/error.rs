// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a mount could not be made or ended.

use ferrofs_fuse::SessionError;
use ferrofs_linux::MountError;
use ferrofs_store::{FetchError, StoreError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a mount could not be made or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened.
    Open {
        /// The image or device.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The image cannot be read.
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        error: ferrofs_image::Error,
    },
    /// Part of the image's data is on devices that were not given.
    DevicesMissing {
        /// The image.
        path: PathBuf,
        /// How many.
        count: u16,
    },
    /// A mount option that is not known, or not for this kind of mount.
    Option {
        /// As it was given.
        option: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An option needs a mount by the kernel, which is not possible.
    KernelOnly {
        /// The option.
        option: String,
        /// Why the kernel cannot mount.
        reason: String,
    },
    /// The kernel refused to mount, for a reason that is known.
    Kernel {
        /// The reason.
        reason: String,
        /// What the kernel said.
        error: MountError,
    },
    /// The kernel cannot mount the image, which was not tried.
    Obstacle {
        /// Why.
        reason: String,
    },
    /// The kernel would read what is not there without asking, or it cannot be told whether.
    WouldNotAsk {
        /// What was seen.
        what: String,
    },
    /// Others use a blob that the kernel is to read by itself.
    CacheInUse,
    /// The kernel refused to mount or unmount.
    Mount(MountError),
    /// FUSE does not work.
    Session(SessionError),
    /// Nothing is mounted there.
    NotMounted {
        /// The path given.
        path: PathBuf,
    },
    /// The mount is neither of our FUSE server nor of the kernel's EROFS.
    NotOurs {
        /// The path given.
        path: PathBuf,
        /// Type of the file system there.
        fs_type: String,
    },
    /// A FUSE mount whose server cannot be talked to.
    NoServer {
        /// The path given.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The server's answer is that it will not.
    Refused {
        /// Its words.
        message: String,
    },
    /// The server's answer makes no sense, or speaks of another version.
    Answer,
    /// Mounts by the kernel do not have that.
    NotByKernel {
        /// What was asked.
        what: String,
        /// Why not, or what there is instead.
        why: &'static str,
    },
    /// An image that is read on demand, or a blob of it, cannot be opened.
    Store(StoreError),
    /// Something remote cannot be found.
    Fetch(FetchError),
    /// Not the pin of a digest table.
    Pin {
        /// As it was given.
        text: String,
    },
    /// A pin of a data blob that the image does not have.
    DevicePin {
        /// The tag or number that was given.
        name: String,
        /// The tags of the image.
        tags: Vec<String>,
    },
    /// Two pins of the same data blob.
    DevicePins {
        /// The tag or number that was given.
        name: String,
    },
    /// More places of data blobs than the image has.
    DeviceCount {
        /// So many were given.
        given: usize,
        /// So many there are.
        count: usize,
    },
    /// A data blob that the image does not name, and nobody else has.
    DeviceUnnamed {
        /// Its number in the image, from 1.
        number: usize,
    },
    /// A data blob has no digest table that is known.
    DeviceUnverified {
        /// Where it is.
        source: String,
        /// Its tag or number in the image.
        name: String,
    },
    /// A mount lost its workers and was given up.
    GivenUp {
        /// Why no other one took over.
        why: &'static str,
    },
    /// A domain has had as many images as can be numbered.
    DomainFull,
    /// Something else of the system.
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        Self::Mount(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, error } => write!(f, "cannot open {}: {error}", path.display()),
            Self::Image { path, error } => write!(f, "{}: {error}", path.display()),
            Self::DevicesMissing { path, count } => write!(
                f,
                "{}: its data is on {count} extra device{}, which must be given",
                path.display(),
                if *count == 1 { "" } else { "s" }
            ),
            Self::Option { option, what } => write!(f, "mount option {option}: {what}"),
            Self::KernelOnly { option, reason } => {
                write!(f, "mount option {option}: only the kernel has it, but {reason}")
            }
            Self::WouldNotAsk { what } => write!(
                f,
                "a mount by fanotify could give zeros here: {what}; use --method fuse-file"
            ),
            Self::CacheInUse => f.write_str(
                "a mount by fanotify must have the image's blob for itself, and another mount uses it: \
                 unmount that, take another cache folder (--cache-dir), or use --method fuse-file",
            ),
            Self::Obstacle { reason } | Self::Kernel { reason, .. } => {
                write!(f, "the kernel cannot mount it: {reason}")
            }
            Self::Mount(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            Self::NotMounted { path } => write!(f, "nothing is mounted on {}", path.display()),
            Self::NotOurs { path, fs_type } => write!(
                f,
                "{} is on a file system of type {fs_type}, which is no EROFS mount",
                path.display()
            ),
            Self::NoServer { path, error } => {
                write!(f, "cannot talk to the server of {}: {error}", path.display())
            }
            Self::Refused { message } => f.write_str(message),
            Self::Answer => f.write_str("the server's answer makes no sense"),
            Self::NotByKernel { what, why } => {
                write!(f, "{what}: the kernel has mounted this image; {why}")
            }
            Self::Store(error) => error.fmt(f),
            Self::Fetch(error) => error.fmt(f),
            Self::Pin { text } => write!(f, "`{text}` is no pin of a digest table (blake3:HEX)"),
            Self::DevicePin { name, tags } => write!(
                f,
                "a pin is given for the data blob `{name}`, and the image has {}",
                match &**tags {
                    [] => String::from("none"),
                    tags => format!("{}: {}", tags.len(), shorten(tags)),
                }
            ),
            Self::DevicePins { name } => {
                write!(f, "another pin is given for the data blob `{name}`, too")
            }
            Self::DeviceCount { given, count } => {
                write!(f, "{given} data blobs are named by --device, and the image has {count}")
            }
            Self::DeviceUnnamed { number } => write!(
                f,
                "the image does not name its data blob {number}: say where it is (--device URL, for each \
                 data blob in the order of the image's device table)"
            ),
            Self::DeviceUnverified { source, name } => write!(
                f,
                "{source} is a data blob of the image and has no digest table that is known, so its \
                 bytes cannot be verified; give the pin of its table (--pin-device {name}=blake3:HEX), \
                 or say --insecure"
            ),
            Self::DomainFull => f.write_str(
                "the domain has had 65,534 images, which is all it can number: unmount them and begin anew",
            ),
            Self::GivenUp { why } => write!(f, "the mount is given up: {why}"),
            Self::Io { doing, error } => write!(f, "cannot {doing}: {error}"),
        }
    }
}

/// The first ones of names: an image may have thousands.
fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { error, .. } | Self::Io { error, .. } | Self::NoServer { error, .. } => {
                Some(error)
            }
            Self::Image { error, .. } => Some(error),
            Self::Mount(error) | Self::Kernel { error, .. } => Some(error),
            Self::Session(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Fetch(error) => Some(error),
            Self::DevicesMissing { .. }
            | Self::Obstacle { .. }
            | Self::WouldNotAsk { .. }
            | Self::CacheInUse
            | Self::Option { .. }
            | Self::KernelOnly { .. }
            | Self::NotOurs { .. }
            | Self::Refused { .. }
            | Self::Answer
            | Self::DomainFull
            | Self::GivenUp { .. }
            | Self::Pin { .. }
            | Self::DevicePin { .. }
            | Self::DevicePins { .. }
            | Self::DeviceCount { .. }
            | Self::DeviceUnnamed { .. }
            | Self::DeviceUnverified { .. }
            | Self::NotByKernel { .. }
            | Self::NotMounted { .. } => None,
        }
    }
}
