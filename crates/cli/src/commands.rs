// SPDX-License-Identifier: MIT OR Apache-2.0
//! The subcommands: each opens what it needs, lets the crates below work, and shows the result.

pub(crate) mod build;
mod cache;
mod cached;
pub(crate) mod cat;
pub(crate) mod check;
mod ctl;
mod diff;
mod digests;
mod dump;
pub(crate) mod extract;
mod inspect;
mod ls;
pub(crate) mod mount;
mod share;
mod shell;
mod stat;
mod top;
pub(crate) mod trace;

use crate::args::{Command, ImageArgs};
use ferrofs_image::Image;
use ferrofs_serve::ImageFiles;

/// Runs a command; gives the exit code.
pub(crate) fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Build(args) => build::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Share(args) => share::run(&args),
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => Ok(mount::unmount(&args)),
        Command::Cache(args) => cache::run(&args),
        Command::Cached(args) => cached::run(&args),
        Command::Digests(args) => digests::run(&args),
        Command::Trace(args) => trace::run(args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { directory } => shell::man(&directory),
    }
}

impl ImageArgs {
    /// Where the image lies.
    pub(crate) fn files(&self) -> ImageFiles {
        ImageFiles {
            image: self.image.clone(),
            offset: self.place.offset,
            devices: self.place.device.clone(),
            ignore_checksum: self.place.ignore_checksum,
            ..ImageFiles::default()
        }
    }

    /// Opens the image, for its metadata.
    pub(crate) fn open(&self) -> anyhow::Result<Image> {
        Ok(self.files().open()?)
    }

    /// Opens the image, for its data.
    pub(crate) fn open_whole(&self) -> anyhow::Result<Image> {
        Ok(self.files().open_whole()?)
    }
}
