// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors for people: a line for each cause, then what may help.

use anyhow::Error;
use ferrofs_image::Error as ImageError;
use ferrofs_linux::{MountError, MountStep};
use ferrofs_serve::{Error as ServeError, SessionError};
use std::fmt;
use std::io;

/// An error of the command line itself, with advice.
#[derive(Debug)]
pub(crate) struct Advice {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Advice {
    /// An error with advice.
    pub(crate) fn error(message: impl Into<String>, help: impl Into<String>) -> Error {
        Error::new(Self { message: message.into(), help: help.into() })
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// Whether the reader of our output has gone away.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// The text: the first cause behind the program's name, the others below, and help.
pub(crate) fn render(program: &str, error: &Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let cause_text = cause.to_string();
        // Many an error quotes its cause already; the status of a helper that has said what is wrong
        // says nothing more.
        if last.contains(&cause_text) || cause_text.starts_with("exit status: ") {
            continue;
        }
        if text.is_empty() {
            text = format!("{program}: {cause_text}");
        } else {
            text.push_str("\n  because: ");
            text.push_str(&cause_text);
        }
        last = cause_text;
    }
    if let Some(help) = error.chain().find_map(help) {
        text.push_str("\nhelp: ");
        text.push_str(&help);
    }
    text
}

/// Prints an error.
pub(crate) fn print(program: &str, error: &Error) {
    eprintln!("{}", render(program, error));
}

fn help(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(advice) = cause.downcast_ref::<Advice>() {
        return Some(advice.help.clone());
    }
    let text = if let Some(error) = cause.downcast_ref::<ServeError>() {
        match error {
            ServeError::DevicesMissing { .. } => {
                "name each with --device FILE, in the order of the image's device table"
            }
            ServeError::KernelOnly { .. } => "leave the option out, and FUSE will do",
            ServeError::Kernel { .. } => "without --kernel, ferrofs falls back to FUSE",
            ServeError::NotMounted { .. } => "findmnt -t erofs,fuse.ferrofs lists such mounts",
            _ => return None,
        }
    } else if let Some(error) = cause.downcast_ref::<ImageError>() {
        match error {
            ImageError::DeviceCount { .. } => "see the devices with: ferrofs dump IMAGE",
            ImageError::NotFound => "ferrofs ls -R IMAGE lists what is there",
            ImageError::Corrupt { place, .. }
                if place.nid.is_none() && place.offset == Some(1024) =>
            {
                "is it an EROFS image? If it begins inside the file, say where with --offset"
            }
            error if error.is_corruption() => "ferrofs check IMAGE finds all that is wrong with it",
            _ => return None,
        }
    } else if let Some(ferrofs_check::Error::NotEmpty { .. }) = cause.downcast_ref() {
        "name another directory with -C, or replace what exists with --overwrite"
    } else if let Some(error) = cause.downcast_ref::<MountError>() {
        mount_help(error)?
    } else if let Some(error) = cause.downcast_ref::<SessionError>() {
        match error {
            SessionError::NoHelper(_) => "install the package fuse3, or run as root",
            SessionError::Helper { message, .. } if message.contains("/dev/fuse: Permission") => {
                "everybody must be able to open /dev/fuse for this: chmod 666 /dev/fuse, as root"
            }
            SessionError::Helper { message, .. } if message.contains("user_allow_other") => {
                "put user_allow_other into /etc/fuse.conf, or leave --allow-other out"
            }
            _ => return None,
        }
    } else if let Some(error) = cause.downcast_ref::<ferrofs_tree::Error>() {
        match error {
            ferrofs_tree::Error::Changed { .. } => {
                "stop what writes there, or build from a snapshot"
            }
            ferrofs_tree::Error::Io { error, .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                "run as a user who may read all of it, or leave it out with --exclude"
            }
            _ => return None,
        }
    } else {
        return None;
    };
    Some(String::from(text))
}

fn mount_help(error: &MountError) -> Option<&'static str> {
    const EPERM: i32 = 1;
    const EBUSY: i32 = 16;
    const ENOTCONN: i32 = 107;
    Some(match (error.step, error.errno) {
        (MountStep::Unmount, EBUSY) => {
            "fuser -vm DIR shows who uses it; ferrofs umount --lazy detaches it all the same"
        }
        (MountStep::Target, ENOTCONN) => "ferrofs umount --lazy DIR",
        (MountStep::Type | MountStep::Mount | MountStep::Create, EPERM) => {
            "run it as root; or without --kernel, since FUSE works without root"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_line_once() {
        let io = io::Error::other("the disk burns");
        let error = Error::new(io).context("cannot read x: the disk burns").context("no image");
        assert_eq!(
            render("ferrofs", &error),
            "ferrofs: no image\n  because: cannot read x: the disk burns"
        );
        let error = Advice::error("no", "yes").context("outer");
        assert_eq!(render("p", &error), "p: outer\n  because: no\nhelp: yes");
    }

    #[test]
    fn a_reader_gone_is_recognised() {
        let error = Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("else")));
    }
}
