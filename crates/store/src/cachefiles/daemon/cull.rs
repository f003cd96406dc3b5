// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes room in a kernel's cache while it asks for that.
//!
//! The kernel takes a name in the working directory of the process, so this is for a process that
//! needs none otherwise. It deletes what has been unused for longest; the kernel refuses what is
//! in use.

use super::super::Command;
use super::Device;
use rustix::io::Errno;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// One working directory a process.
static DIRECTORY: Mutex<()> = Mutex::new(());

/// Culls the cache in one folder.
#[derive(Debug)]
pub struct Culler {
    cache: PathBuf,
}

impl Culler {
    /// For the cache whose `dir` is this.
    pub fn new(dir: &Path) -> Self {
        Self { cache: dir.join("cache") }
    }

    /// Deletes objects until the device asks for no more, or none is left; how many. Changes the
    /// working directory.
    pub fn cull(&self, device: &dyn Device) -> io::Result<usize> {
        let mut found = Vec::new();
        collect(&self.cache, 0, &mut found)?;
        found.sort();
        let guard = DIRECTORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut culled = 0;
        for (_, path) in found {
            if !device.wait(std::time::Duration::ZERO)?.culling {
                break;
            }
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            std::env::set_current_dir(folder)?;
            match device.command(&Command::Cull(name.as_bytes().to_vec()).text()) {
                Ok(()) => culled += 1,
                Err(error) => match Errno::from_io_error(&error) {
                    // In use, or gone by itself.
                    Some(Errno::BUSY | Errno::NOENT | Errno::STALE | Errno::INVAL) => {}
                    _ => return Err(error),
                },
            }
        }
        drop(guard);
        Ok(culled)
    }
}

/// All files at most three folders deep: volume, hash, object.
fn collect(folder: &Path, depth: u8, found: &mut Vec<(SystemTime, PathBuf)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < 3 {
            collect(&entry.path(), depth + 1, found)?;
        } else if kind.is_file() {
            // One that is gone meanwhile needs no culling.
            if let Ok(accessed) = entry.metadata().and_then(|meta| meta.accessed()) {
                found.push((accessed, entry.path()));
            }
        }
    }
    Ok(())
}
