// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel lets be changed of its own EROFS mounts: mount options, and files in
//! `/sys/fs/erofs`.
//!
//! Invariant: options that are not named stay as they are; what cannot be told for sure to be this
//! mount's is not touched.

use super::message::Change;
use super::place::Place;
use crate::settings::EngineSettings;
use crate::{Error, Result};
use ferrofs_engine::{OnChange, Strategy};
use ferrofs_linux::mountinfo::MountEntry;
use ferrofs_linux::{Parameter, mountinfo};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/sys/fs/erofs";

/// Options of EROFS that a change must name again, lest the kernel go back to its defaults.
const LASTING: [&str; 8] = [
    "user_xattr",
    "nouser_xattr",
    "acl",
    "noacl",
    "cache_strategy",
    "dax",
    "directio",
    "inode_share",
];

/// An EROFS mount by the kernel.
#[derive(Debug)]
pub struct KernelMount {
    place: Place,
}

impl KernelMount {
    pub(crate) const fn new(place: Place) -> Self {
        Self { place }
    }

    pub(crate) fn mount_options(&self) -> &str {
        &self.place.entry.options
    }

    /// Settings in force, as far as the kernel tells.
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for option in self.place.entry.super_options.split(',') {
            let (name, value) = option.split_once('=').unwrap_or((option, "on"));
            found.push((name.to_owned(), value.to_owned()));
        }
        let text = self.file("sync_decompress").ok().and_then(|p| std::fs::read_to_string(p).ok());
        if let Some(text) = text {
            let name = match text.trim() {
                "0" => "auto",
                "1" => "always",
                "2" => "never",
                other => other,
            };
            found.push((String::from("sync_decompress"), name.to_owned()));
        }
        found
    }

    /// Changes settings: those of ours that the kernel has too.
    pub fn set(&self, changes: &[Change]) -> Result<()> {
        self.change(changes, &[])
    }

    /// Changes settings and mount options of EROFS.
    pub(crate) fn change(
        &self,
        changes: &[Change],
        options: &[(String, Option<String>)],
    ) -> Result<()> {
        let given =
            EngineSettings::of_changes(changes).map_err(|message| Error::Refused { message })?;
        let EngineSettings { strategy, sync, on_change, .. } = given;
        let refuse = |what: &str, why| Err(Error::NotByKernel { what: what.to_owned(), why });
        if strategy == Some(Strategy::Split) {
            return refuse("cache_strategy=split", "it has disabled, readahead and readaround");
        }
        if on_change.is_some_and(|change| change != OnChange::Keep) {
            return refuse("on_change", "it keeps what is cached; drop_caches 1 flushes it");
        }
        let known = EngineSettings { strategy, sync, on_change, ..EngineSettings::default() };
        if given != known {
            let why = "it lets cache_strategy and sync_decompress be changed";
            let name = changes.iter().map(|change| change.name.as_str());
            let name = name
                .into_iter()
                .find(|name| !matches!(*name, "cache_strategy" | "sync_decompress" | "on_change"));
            return refuse(name.unwrap_or_default(), why);
        }
        let mut options = options.to_vec();
        if let Some(strategy) = strategy {
            options.push((String::from("cache_strategy"), Some(strategy.to_string())));
        }
        // Looked for before anything is changed.
        let sync_file = match sync {
            Some(sync) => Some((sync, self.file("sync_decompress")?)),
            None => None,
        };
        if !options.is_empty() {
            self.reconfigure(&options)?;
        }
        match sync_file {
            Some((sync, file)) => write(&file, &(sync as u8).to_string()),
            None => Ok(()),
        }
    }

    /// Drops what the kernel keeps for EROFS: 1 encoded data, 2 its working memory, 3 both. File
    /// data in the page cache is dropped by `/proc/sys/vm/drop_caches` only.
    pub fn drop_caches(&self, what: u8) -> Result<()> {
        write(&self.file("drop_caches")?, &what.to_string())
    }

    /// The error for what only FUSE mounts can do.
    #[must_use]
    pub fn lacks(&self, what: &str) -> Error {
        let why = "only mounts by FUSE can do that";
        Error::NotByKernel { what: what.to_owned(), why }
    }

    fn reconfigure(&self, changes: &[(String, Option<String>)]) -> Result<()> {
        let merged = merge(&self.place.entry.super_options, changes);
        let parameters: Vec<_> = merged
            .iter()
            .map(|(name, value)| match value {
                Some(value) => Parameter::Value(name, value.into()),
                None => Parameter::Flag(name),
            })
            .collect();
        Ok(ferrofs_linux::reconfigure(&self.place.entry.target, &parameters)?)
    }

    /// A file of this mount in `/sys/fs/erofs`.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let io = |error| Error::Io { doing: "look into /sys/fs/erofs", error };
        let mounts = mountinfo::read().map_err(io)?;
        let folders = std::fs::read_dir(FOLDER).map_err(io)?;
        let folders: Vec<String> =
            folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let folder = folder_of(&self.place.entry, &mounts, &folders).ok_or_else(|| {
            let why = "it does not tell which of several is this one in /sys/fs/erofs";
            Error::NotByKernel { what: name.to_owned(), why }
        })?;
        Ok(Path::new(FOLDER).join(folder).join(name))
    }
}

/// The name of a mount's folder: the block device's, or `erofs-N` for one backed by a file, where
/// nothing tells the number. If there is only one it must be that.
fn folder_of<'a>(
    entry: &MountEntry,
    mounts: &[MountEntry],
    folders: &'a [String],
) -> Option<&'a String> {
    if entry.device.0 != 0 {
        let device = entry.source.canonicalize().unwrap_or_else(|_| entry.source.clone());
        let name = device.file_name()?.to_str()?;
        return folders.iter().find(|folder| *folder == name);
    }
    let of_files = mounts.iter().filter(|mount| mount.fs_type == "erofs" && mount.device.0 == 0);
    let devices: HashSet<_> = of_files.map(|mount| mount.device).collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut named =
        folders.iter().filter(|folder| folder.strip_prefix("erofs-").is_some_and(is_number));
    let first = named.next()?;
    (devices.len() == 1 && named.next().is_none()).then_some(first)
}

/// The options in force with changes.
fn merge(in_force: &str, changes: &[(String, Option<String>)]) -> Vec<(String, Option<String>)> {
    let base = |name: &str| name.strip_prefix("no").unwrap_or(name).to_owned();
    let mut merged: Vec<(String, Option<String>)> = in_force
        .split(',')
        .map(|option| match option.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (option.to_owned(), None),
        })
        .filter(|(name, _)| LASTING.contains(&name.as_str()))
        .filter(|(name, _)| changes.iter().all(|(change, _)| base(change) != base(name)))
        .collect();
    merged.extend_from_slice(changes);
    merged
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| {
        let text = format!("{}: {error}", file.display());
        Error::Io { doing: "write", error: io::Error::new(error.kind(), text) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_named_stay() {
        let change = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let merged = merge(
            "ro,user_xattr,noacl,cache_strategy=readaround,fsoffset=4096",
            &[change("cache_strategy", Some("disabled")), change("acl", None)],
        );
        let expected = [
            change("user_xattr", None),
            change("cache_strategy", Some("disabled")),
            change("acl", None),
        ];
        assert_eq!(merged, expected);
    }

    #[test]
    fn folders_are_told_for_sure_or_not_at_all() {
        let line = |id: u32, device: &str, source: &str| {
            format!("{id} 1 {device} / /m ro - erofs {source} ro\n")
        };
        let parse = |text: String| mountinfo::parse(text.as_bytes());
        let names = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| String::from(*name)).collect()
        };
        let block = parse(line(1, "7:3", "/dev/none/loop3"));
        let folders = names(&["features", "loop3", "erofs-1"]);
        assert_eq!(folder_of(&block[0], &block, &folders).unwrap(), "loop3");
        let file = parse(line(1, "0:40", "/i") + &line(2, "0:40", "/i"));
        assert_eq!(folder_of(&file[0], &file, &folders).unwrap(), "erofs-1");
        let two = parse(line(1, "0:40", "/i") + &line(2, "0:41", "/j"));
        assert_eq!(folder_of(&two[0], &two, &folders), None);
        let folders = names(&["erofs-1", "erofs-2"]);
        assert_eq!(folder_of(&file[0], &file, &folders), None, "one is in another namespace");
    }
}
