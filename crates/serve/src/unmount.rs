// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmounting, whoever mounted.

use crate::control::Recorder;
use crate::{Error, Result};
use ferrofs_linux::{MountError, MountStep, UnmountFlags, mountinfo};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The set-user-ID helpers of FUSE, newest first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

const EPERM: i32 = 1;

/// Unmounts what is mounted on `target`; `lazy` detaches it even if it is in use. FUSE mounts can be
/// unmounted by their owner without root. If a trace is recorded there it is written when this returns
/// (or, with `lazy`, when nobody uses the mount any more).
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let place = resolve(target)?;
    let fail = |error| Error::Io { doing: "read the list of mounts", error };
    let Some(entry) = mountinfo::find(&place).map_err(fail)? else {
        return Err(Error::NotMounted { path: target.to_owned() });
    };
    let fuse = entry.fs_type == "fuse" || entry.fs_type.starts_with("fuse.");
    let recorder = if lazy { None } else { Recorder::of(&place, &entry) };
    match ferrofs_linux::unmount(&place, UnmountFlags { lazy, force: false }) {
        Err(error) if fuse && error.errno == EPERM => by_helper(&place, lazy, error)?,
        other => other?,
    }
    if let Some(recorder) = recorder {
        recorder.wait();
    }
    Ok(())
}

/// The absolute path without symbolic links. The mount itself is not asked: it may be dead.
pub(crate) fn resolve(target: &Path) -> Result<PathBuf> {
    let fail = |error| Error::Open { path: target.to_owned(), error };
    // Not by its metadata: for those of the mount's root its server may be asked, which may be stopped,
    // and nobody who waits for it can unmount it.
    let is_link = std::fs::read_link(target).is_ok();
    let absolute = std::path::absolute(target).map_err(fail)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if !is_link => {
            Ok(parent.canonicalize().map_err(fail)?.join(name))
        }
        _ => absolute.canonicalize().map_err(fail),
    }
}

fn by_helper(place: &Path, lazy: bool, denied: MountError) -> Result<()> {
    for helper in HELPERS {
        let mut command = Command::new(helper);
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        match command.arg("--").arg(place).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let error = io::Error::other(text);
                return Err(Error::Io { doing: "unmount by fusermount", error });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Io { doing: "run fusermount", error }),
        }
    }
    debug_assert_eq!(denied.step, MountStep::Unmount);
    Err(Error::Mount(denied))
}
