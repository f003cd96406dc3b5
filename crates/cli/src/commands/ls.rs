// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ls`.

use crate::args::LsArgs;
use crate::json::Array;
use crate::output::{Out, mode_text};
use crate::time;
use anyhow::Context;
use ferrofs_check::RawPath;
use ferrofs_format::inode::FileType;
use ferrofs_image::{Image, Inode, Nid};
use serde::Serialize;
use std::collections::HashSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// One entry as JSON; names as text, see [`RawPath`].
#[derive(Serialize)]
pub(crate) struct Row {
    path: RawPath,
    nid: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<RawPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

/// The word for a type.
pub(crate) const fn kind_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::CharDevice => "character-device",
        FileType::BlockDevice => "block-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Symlink => "symlink",
    }
}

/// Major and minor number, of device nodes only.
pub(crate) const fn device_of(inode: &Inode) -> Option<(u32, u32)> {
    match inode.file_type {
        FileType::CharDevice | FileType::BlockDevice => Some(inode.rdev()),
        _ => None,
    }
}

impl Row {
    pub(crate) fn new(image: &Image, path: RawPath, inode: &Inode) -> anyhow::Result<Self> {
        let target = match inode.file_type {
            FileType::Symlink => Some(RawPath(image.readlink(inode)?)),
            _ => None,
        };
        Ok(Self {
            path,
            nid: inode.nid.0,
            kind: kind_name(inode.file_type),
            mode: format!("{:04o}", inode.mode & 0o7777),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime: inode.mtime,
            mtime_nsec: inode.mtime_nsec,
            target,
            device: device_of(inode),
        })
    }
}

struct Lister<'a> {
    image: &'a Image,
    args: &'a LsArgs,
    out: Out,
    array: Option<Array>,
}

pub(crate) fn run(args: &LsArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let inode = super::resolve(&image, &args.path)?;
    let mut out = Out::new();
    let array = args.json.then(|| Array::begin(&mut out)).transpose()?;
    let mut lister = Lister { image: &image, args, out, array };
    let mut path = vec![b'/'];
    for name in args.path.as_os_str().as_bytes().split(|&byte| byte == b'/') {
        if !matches!(name, b"" | b".") {
            path = RawPath(path).join(name).0;
        }
    }
    if inode.file_type == FileType::Directory {
        lister.directories(path, inode)?;
    } else {
        lister.show(args.path.as_os_str().as_bytes(), RawPath(path), &inode)?;
    }
    if let Some(array) = lister.array {
        array.end(&mut lister.out)?;
    }
    lister.out.flush()?;
    Ok(0)
}

impl Lister<'_> {
    /// Lists a directory, and what is below it if that is wanted.
    fn directories(&mut self, path: Vec<u8>, inode: Inode) -> anyhow::Result<()> {
        let mut seen: HashSet<Nid> = HashSet::from([inode.nid]);
        let mut pending = vec![(path, inode)];
        while let Some((path, inode)) = pending.pop() {
            let shown = RawPath(path.clone());
            let directory = self.image.directory(&inode).with_context(|| shown.to_string())?;
            let mut below = Vec::new();
            for entry in directory.cursor() {
                let entry = entry.with_context(|| shown.to_string())?;
                if entry.is_dot() {
                    continue;
                }
                let child_path = shown.join(&entry.name);
                let child =
                    self.image.inode(entry.nid).with_context(|| child_path.to_string())?;
                let label = if self.args.recursive { &child_path.0 } else { &entry.name };
                self.show(label, child_path.clone(), &child)?;
                if self.args.recursive && child.file_type == FileType::Directory {
                    // A directory with two names would never end, or be listed for ever.
                    if !seen.insert(child.nid) {
                        anyhow::bail!("{child_path}: corrupt image: a directory with two names");
                    }
                    below.push((child_path.0, child));
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn show(&mut self, label: &[u8], path: RawPath, inode: &Inode) -> anyhow::Result<()> {
        let context = path.clone();
        let row = || Row::new(self.image, path, inode).with_context(|| context.to_string());
        if let Some(array) = &mut self.array {
            array.push(&mut self.out, &row()?)?;
            return Ok(());
        }
        if self.args.long {
            let row = row()?;
            let size = match row.device {
                Some((major, minor)) => format!("{major}, {minor}"),
                None => row.size.to_string(),
            };
            write!(
                self.out,
                "{} {:>4} {:>5} {:>5} {size:>11} {} ",
                mode_text(inode.file_type.letter(), inode.mode),
                row.nlink,
                row.uid,
                row.gid,
                time::show(row.mtime)
            )?;
            self.out.write_name(label)?;
            if let Some(target) = row.target {
                write!(self.out, " -> ")?;
                self.out.write_name(&target.0)?;
            }
        } else {
            self.out.write_name(label)?;
        }
        writeln!(self.out)?;
        Ok(())
    }
}
