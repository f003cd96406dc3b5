// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a tree holds, row by row: of an image through the library, or of a directory through the
//! kernel. Two manifests that are equal have the same names, bytes, attributes, links and xattrs.

use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Inode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// One path.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Row {
    path_hex: String,
    #[serde(rename = "type")]
    kind: String,
    mode: String,
    uid: u32,
    gid: u32,
    mtime_ns: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    nlink: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
}

impl Row {
    /// Bytes of content, of regular files.
    #[must_use]
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The exact path.
    ///
    /// # Panics
    /// If `path_hex` is not hexadecimal.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let digit = |byte: u8| (byte as char).to_digit(16).expect("hexadecimal path") as u8;
        self.path_hex
            .as_bytes()
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }
}

/// A tree.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Manifest {
    /// Rows by path.
    pub rows: BTreeMap<Vec<u8>, Row>,
}

impl Manifest {
    /// Reads everything in `image` through the library's plain read path.
    pub fn of_image(image: &Image) -> ferrofs_image::Result<Self> {
        // An odd size, so that reads begin inside blocks and extents.
        Self::of_image_with(image, 1_000_003, |inode| {
            let map = image.map(inode)?;
            Ok(move |offset, buf: &mut [u8]| image.read(&map, offset, buf))
        })
    }

    /// Reads everything in `image`, content in pieces of `step` bytes by the reader that `open`
    /// gives for a file.
    pub fn of_image_with<R>(
        image: &Image,
        step: usize,
        open: impl Fn(&Inode) -> ferrofs_image::Result<R>,
    ) -> ferrofs_image::Result<Self>
    where
        R: FnMut(u64, &mut [u8]) -> ferrofs_image::Result<usize>,
    {
        let mut rows = BTreeMap::new();
        let mut pending = vec![(b"/".to_vec(), image.inode(image.root())?)];
        while let Some((path, inode)) = pending.pop() {
            if inode.file_type == FileType::Directory {
                for entry in image.directory(&inode)?.entries()? {
                    if !entry.is_dot() {
                        let mut child = if path == b"/" { vec![] } else { path.clone() };
                        child.push(b'/');
                        child.extend_from_slice(&entry.name);
                        let inode = image.inode(entry.nid)?;
                        assert_eq!(entry.file_type, Some(inode.file_type), "{child:?}");
                        pending.push((child, inode));
                    }
                }
            }
            let mut row = image_row(image, &path, &inode)?;
            if inode.file_type == FileType::Regular {
                row.size = Some(inode.size);
                row.sha256 = Some(content_hash(open(&inode)?, step)?);
            }
            rows.insert(path, row);
        }
        Ok(Self { rows })
    }

    /// Reads everything under `root` through the kernel, as the caller sees it.
    pub fn of_directory(root: &Path) -> std::io::Result<Self> {
        let mut rows = BTreeMap::new();
        let mut pending = vec![b"/".to_vec()];
        while let Some(path) = pending.pop() {
            let at = root.join(OsStr::from_bytes(&path[1..]));
            let row = directory_row(&at, &path)?;
            if row.kind == "dir" {
                for entry in std::fs::read_dir(&at)? {
                    let mut child = if path == b"/" { vec![] } else { path.clone() };
                    child.push(b'/');
                    child.extend_from_slice(entry?.file_name().as_bytes());
                    pending.push(child);
                }
            }
            rows.insert(path, row);
        }
        Ok(Self { rows })
    }

    /// Every difference, one line each; empty when equal.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = vec![];
        for (path, row) in &self.rows {
            let name = String::from_utf8_lossy(path);
            match other.rows.get(path) {
                None => lines.push(format!("{name}: missing")),
                Some(found) if found != row => {
                    let (a, b) = (serde_json::to_string(row), serde_json::to_string(found));
                    lines.push(format!("{name}:\n  want {}\n  have {}", a.unwrap(), b.unwrap()));
                }
                Some(_) => {}
            }
        }
        for path in other.rows.keys().filter(|path| !self.rows.contains_key(*path)) {
            lines.push(format!("{}: not wanted", String::from_utf8_lossy(path)));
        }
        lines
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn image_row(image: &Image, path: &[u8], inode: &Inode) -> ferrofs_image::Result<Row> {
    let kind = match inode.file_type {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::CharDevice => "chr",
        FileType::BlockDevice => "blk",
        FileType::Fifo => "fifo",
        FileType::Socket => "sock",
        FileType::Symlink => "symlink",
    };
    let mut row = Row {
        path_hex: hex(path),
        kind: kind.into(),
        mode: format!("{:04o}", inode.mode & 0o7777),
        uid: inode.uid,
        gid: inode.gid,
        mtime_ns: i128::from(inode.mtime) * 1_000_000_000 + i128::from(inode.mtime_nsec),
        ..Row::default()
    };
    match inode.file_type {
        FileType::Symlink => row.target = Some(surrogate_escape(&image.readlink(inode)?)),
        FileType::CharDevice | FileType::BlockDevice => row.rdev = Some(inode.rdev()),
        FileType::Directory | FileType::Regular | FileType::Fifo | FileType::Socket => {}
    }
    if inode.file_type != FileType::Directory {
        row.nlink = Some(inode.nlink.into());
    }
    for xattr in image.xattrs(inode)?.into_iter().filter(|xattr| xattr.visible) {
        let found = image.xattr(inode, &xattr.name)?;
        assert_eq!(found.as_ref(), Some(&xattr.value), "lookup and list agree");
        row.xattrs.insert(String::from_utf8_lossy(&xattr.name).into(), hex(&xattr.value));
    }
    Ok(row)
}

fn content_hash(
    mut read: impl FnMut(u64, &mut [u8]) -> ferrofs_image::Result<usize>,
    step: usize,
) -> ferrofs_image::Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; step];
    let mut offset = 0;
    loop {
        let count = read(offset, &mut buf)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buf[..count]);
        offset += count as u64;
    }
}

fn directory_row(at: &Path, path: &[u8]) -> std::io::Result<Row> {
    let meta = std::fs::symlink_metadata(at)?;
    let kind = meta.file_type();
    let mut row = Row {
        path_hex: hex(path),
        mode: format!("{:04o}", meta.mode() & 0o7777),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        ..Row::default()
    };
    let mut name = "sock";
    if kind.is_dir() {
        name = "dir";
    } else if kind.is_file() {
        name = "file";
        row.size = Some(meta.size());
        row.sha256 = Some(file_hash(at)?);
    } else if kind.is_symlink() {
        name = "symlink";
        row.target = Some(surrogate_escape(&std::fs::read_link(at)?.into_os_string().into_vec()));
    } else if kind.is_char_device() || kind.is_block_device() {
        name = if kind.is_char_device() { "chr" } else { "blk" };
        let rdev = meta.rdev();
        row.rdev = Some((rustix::fs::major(rdev), rustix::fs::minor(rdev)));
    } else if kind.is_fifo() {
        name = "fifo";
    }
    row.kind = name.into();
    if !kind.is_dir() {
        row.nlink = Some(meta.nlink());
    }
    row.xattrs = directory_xattrs(at)?;
    Ok(row)
}

fn file_hash(at: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(at)?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buf)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buf[..count]);
    }
}

fn directory_xattrs(at: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(at, &mut names[..])?;
    let mut xattrs = BTreeMap::new();
    for name in names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(at, name, &mut value[..])?;
        xattrs.insert(String::from_utf8_lossy(name).into(), hex(&value[..len]));
    }
    Ok(xattrs)
}

/// Link targets of the golden tree are ASCII; others compare by their lossy form.
fn surrogate_escape(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into()
}
