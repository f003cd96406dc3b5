// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ls` and `stat` show, and the extents of a file, as rows.

use crate::{Error, RawPath, Result};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Encoding, Extent, Image, Inode, Location, Nid, Source, Space};
use serde::Serialize;
use std::ops::ControlFlow;

/// One entry of a listing.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Path in the image.
    pub path: RawPath,
    /// Inode.
    pub nid: u64,
    /// Type: `file`, `dir`, `chr`, `blk`, `fifo`, `sock` or `symlink`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// POSIX mode with type bits.
    pub mode: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds.
    pub mtime_nsec: u32,
    /// Major and minor number of a device node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdev: Option<(u32, u32)>,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<RawPath>,
}

/// The name of a file type, as in [`Listing::kind`].
#[must_use]
pub const fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::CharDevice => "chr",
        FileType::BlockDevice => "blk",
        FileType::Fifo => "fifo",
        FileType::Socket => "sock",
        FileType::Symlink => "symlink",
    }
}

impl Listing {
    /// The row of an inode.
    pub fn of(image: &Image, path: RawPath, inode: &Inode) -> ferrofs_image::Result<Self> {
        let is_device = matches!(inode.file_type, FileType::CharDevice | FileType::BlockDevice);
        let target = match inode.file_type {
            FileType::Symlink => Some(RawPath(image.readlink(inode)?)),
            _ => None,
        };
        Ok(Self {
            path,
            nid: inode.nid.0,
            kind: type_name(inode.file_type),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime: inode.mtime,
            mtime_nsec: inode.mtime_nsec,
            rdev: is_device.then(|| inode.rdev()),
            target,
        })
    }
}

/// Lists `path`: the entries of a directory in order, or the one file. With `recursive`, all below
/// too, each directory before what is in it. `visit` gets an error for each part that cannot be read
/// and ends the listing by breaking.
pub fn list(
    image: &Image,
    path: &[u8],
    recursive: bool,
    mut visit: impl FnMut(Result<Listing>) -> ControlFlow<()>,
) -> Result<()> {
    let top = RawPath::normal(path);
    let failed = |path: &RawPath| {
        let path = path.clone();
        move |source| Error::Path { path, source }
    };
    let inode = image.resolve(path).map_err(failed(&top))?;
    if inode.file_type != FileType::Directory {
        let row = Listing::of(image, top.clone(), &inode).map_err(failed(&top));
        let _ = visit(row);
        return Ok(());
    }
    let mut entered = crate::nidset::NidSet::default();
    entered.insert(inode.nid);
    let opened = image.directory(&inode).map_err(failed(&top))?;
    let mut stack = vec![(top, opened.cursor())];
    while let Some((path, cursor)) = stack.last_mut() {
        let entry = match cursor.next() {
            None => {
                stack.pop();
                continue;
            }
            Some(Err(error)) => {
                let error = failed(path)(error);
                stack.pop();
                if visit(Err(error)).is_break() {
                    return Ok(());
                }
                continue;
            }
            Some(Ok(entry)) if entry.is_dot() => continue,
            Some(Ok(entry)) => entry,
        };
        let path = path.join(&entry.name);
        let row = image
            .inode(entry.nid)
            .and_then(|inode| Listing::of(image, path.clone(), &inode).map(|row| (row, inode)));
        let below = match row {
            Err(error) => {
                if visit(Err(failed(&path)(error))).is_break() {
                    return Ok(());
                }
                continue;
            }
            Ok((row, inode)) => {
                if visit(Ok(row)).is_break() {
                    return Ok(());
                }
                recursive && inode.file_type == FileType::Directory && entered.insert(inode.nid)
            }
        };
        if below {
            let opened = image.inode(entry.nid).and_then(|inode| image.directory(&inode));
            match opened {
                Ok(directory) => stack.push((path, directory.cursor())),
                Err(error) => {
                    if visit(Err(failed(&path)(error))).is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

/// One extended attribute.
#[derive(Clone, Debug, Serialize)]
pub struct XattrRow {
    /// Full name.
    pub name: RawPath,
    /// Value.
    pub value: RawPath,
    /// Whether a mount shows it.
    pub visible: bool,
    /// Whether it is stored once for several inodes.
    pub shared: bool,
}

/// Everything about one inode.
#[derive(Clone, Debug, Serialize)]
pub struct Stat {
    /// What a listing shows.
    #[serde(flatten)]
    pub listing: Listing,
    /// Data layout.
    pub layout: &'static str,
    /// Whether the record is an extended one, of 64 bytes.
    pub extended: bool,
    /// Space that the record lies in: `primary device` or `metabox`.
    pub space: String,
    /// Byte offset of the record in that space.
    pub offset: u64,
    /// Serial number of the record.
    pub serial: u32,
    /// Inode number that a mount shows.
    pub ino: u64,
    /// Units of 512 bytes that the content takes.
    pub blocks_512: u64,
    /// Bytes of the xattr body.
    pub xattr_bytes: u32,
    /// Attributes.
    pub xattrs: Vec<XattrRow>,
}

/// Looks at one inode.
pub fn stat(image: &Image, path: RawPath, inode: &Inode) -> ferrofs_image::Result<Stat> {
    let xattrs = image.xattrs(inode)?.into_iter().map(|found| XattrRow {
        name: RawPath(found.name),
        value: RawPath(found.value),
        visible: found.visible,
        shared: found.shared,
    });
    Ok(Stat {
        listing: Listing::of(image, path, inode)?,
        layout: inode.layout().name(),
        extended: inode.record.is_extended(),
        space: inode.space().to_string(),
        offset: inode.offset(),
        serial: inode.record.ino,
        ino: inode.stat_ino(),
        blocks_512: inode.blocks_512(image),
        xattr_bytes: inode.record.xattr_len(),
        xattrs: xattrs.collect(),
    })
}

/// One extent of a file.
#[derive(Clone, Debug, Serialize)]
pub struct ExtentRow {
    /// First file offset.
    pub start: u64,
    /// Bytes of the file.
    pub len: u64,
    /// `hole`, `plain`, `inline`, `fragment`, `stored`, `interlaced`, or an algorithm.
    pub kind: &'static str,
    /// Device, for what lies on one.
    pub device: Option<u16>,
    /// Space, for what lies in metadata or the packed inode.
    pub space: Option<String>,
    /// Byte address on the device or in the space.
    pub address: Option<u64>,
    /// Bytes there.
    pub encoded_len: u64,
    /// The cluster decodes to more than this extent uses.
    pub partial: bool,
}

impl ExtentRow {
    /// The row of an extent.
    #[must_use]
    pub fn of(extent: &Extent) -> Self {
        let mut row = Self {
            start: extent.start,
            len: extent.len,
            kind: "hole",
            device: None,
            space: None,
            address: None,
            encoded_len: 0,
            partial: false,
        };
        match extent.source {
            Source::Hole => {}
            Source::Plain(at) => {
                row.kind = "plain";
                row.put(Location::Device(at), extent.len);
            }
            Source::Inline { space, offset } => {
                row.kind = "inline";
                row.put(Location::Meta { space, offset }, extent.len);
            }
            Source::Fragment { offset } => {
                row.kind = "fragment";
                row.put(Location::Meta { space: Space::Packed, offset }, extent.len);
            }
            Source::Pcluster(pcluster) => {
                row.kind = encoding_name(pcluster.encoding);
                row.partial = pcluster.partial;
                row.put(pcluster.location, u64::from(pcluster.len));
            }
        }
        row
    }

    fn put(&mut self, location: Location, len: u64) {
        self.encoded_len = len;
        match location {
            Location::Device(at) => {
                self.device = Some(at.device);
                self.address = Some(at.offset);
            }
            Location::Meta { space, offset } => {
                self.space = Some(space.to_string());
                self.address = Some(offset);
            }
        }
    }
}

/// The name of an encoding, as in [`ExtentRow::kind`].
#[must_use]
pub const fn encoding_name(encoding: Encoding) -> &'static str {
    use ferrofs_image::Algorithm as A;
    match encoding {
        Encoding::Shifted => "stored",
        Encoding::Interlaced => "interlaced",
        Encoding::Compressed(A::Lz4) => "lz4",
        Encoding::Compressed(A::Lzma) => "lzma",
        Encoding::Compressed(A::Deflate) => "deflate",
        Encoding::Compressed(A::Zstd) => "zstd",
    }
}

/// Gives `visit` the extents of an inode in order, neighbouring holes as one, until it breaks.
pub fn extents(
    image: &Image,
    inode: &Inode,
    mut visit: impl FnMut(ExtentRow) -> ControlFlow<()>,
) -> ferrofs_image::Result<()> {
    let map = image.map(inode)?;
    let mut cursor = map.cursor(image);
    let mut hole: Option<Extent> = None;
    let mut offset = 0;
    while offset < map.size() {
        let extent = cursor.extent_at(offset)?;
        offset = extent.end();
        if extent.source == Source::Hole {
            match &mut hole {
                Some(hole) => hole.len += extent.len,
                None => hole = Some(extent),
            }
            continue;
        }
        if let Some(hole) = hole.take()
            && visit(ExtentRow::of(&hole)).is_break()
        {
            return Ok(());
        }
        if visit(ExtentRow::of(&extent)).is_break() {
            return Ok(());
        }
    }
    if let Some(hole) = hole {
        let _ = visit(ExtentRow::of(&hole));
    }
    Ok(())
}

/// Finds the inode that a path names, or that a number is.
pub fn find(image: &Image, path: &[u8], nid: Option<u64>) -> Result<Inode> {
    let path = || RawPath::from(path);
    match nid {
        Some(nid) => image.inode(Nid(nid)),
        None => image.resolve(path().as_bytes()),
    }
    .map_err(|source| Error::Path { path: path(), source })
}
