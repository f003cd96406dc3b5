// SPDX-License-Identifier: MIT OR Apache-2.0
//! From file offsets to extents. format.md §4, §7, §9 to §12, §14.
//!
//! A [`FileMap`] is what is known of an inode's layout after its headers were read and checked; it
//! is small and can be kept. A [`MapCursor`] walks it, reading indexes as it goes.
//!
//! Invariant: the extents that a cursor gives cover the file without gap or overlap; each begins
//! where the one before ended.

mod chunk;
mod flat;
mod index;
mod records;

use crate::meta::Page;
use crate::{DeviceAddress, Error, Image, Inode, Place, Result, Space};
use chunk::ChunkMap;
use ferrofs_codec::Algorithm;
use ferrofs_format::Nid;
use ferrofs_format::inode::Layout;
use ferrofs_format::lcluster::header::{Advise, HEADER_LEN, MapFields, MapHeader};
use ferrofs_format::num::{round_up, u64_from_usize, usize_from_u64};
use flat::FlatMap;
use index::{IndexMap, Window};
use records::RecordMap;

/// Where encoded bytes lie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Location {
    /// On a device.
    Device(DeviceAddress),
    /// In a metadata space (inline pclusters).
    Meta {
        /// The space.
        space: Space,
        /// Byte offset in it.
        offset: u64,
    },
}

/// How the bytes of a pcluster become the bytes of a file. format.md §13.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Encoding {
    /// Stored from the first byte on.
    Shifted,
    /// Stored rotated: the byte of file offset p lies at block offset p mod block size.
    Interlaced,
    /// Compressed.
    Compressed(Algorithm),
}

/// A pcluster: encoded bytes that decode to (at least) one extent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Pcluster {
    /// Where its bytes lie.
    pub location: Location,
    /// How many they are, at most 1 MiB.
    pub len: u32,
    /// How they are encoded.
    pub encoding: Encoding,
    /// It decodes to more than the extent uses.
    pub partial: bool,
}

/// What an extent is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Zeros.
    Hole,
    /// Bytes as they are on a device.
    Plain(DeviceAddress),
    /// Bytes as they are in a metadata space (inline tails).
    Inline {
        /// The space.
        space: Space,
        /// Byte offset in it.
        offset: u64,
    },
    /// A pcluster.
    Pcluster(Pcluster),
    /// Content of the packed inode from this offset on.
    Fragment {
        /// Byte offset in the packed inode's content.
        offset: u64,
    },
}

/// A run of file bytes with one source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// First file offset.
    pub start: u64,
    /// Bytes; never 0, at most 12 MiB for pclusters.
    pub len: u64,
    /// Where they come from.
    pub source: Source,
}

impl Extent {
    /// First file offset behind the extent.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether bytes have to be decoded (rather than copied) to get the extent.
    #[must_use]
    pub const fn is_encoded(&self) -> bool {
        matches!(self.source, Source::Pcluster(_))
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Empty,
    Flat(FlatMap),
    Chunk(ChunkMap),
    WholeFragment { offset: u64 },
    Index(IndexMap),
    Records(RecordMap),
}

/// The layout of one inode's content.
#[derive(Clone, Debug)]
pub struct FileMap {
    nid: Nid,
    size: u64,
    kind: Kind,
}

impl FileMap {
    /// The inode.
    #[must_use]
    pub const fn nid(&self) -> Nid {
        self.nid
    }

    /// Bytes of content.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether part of the content lies in the packed inode.
    #[must_use]
    pub fn has_fragment(&self) -> bool {
        match &self.kind {
            Kind::WholeFragment { .. } => true,
            Kind::Index(map) => map.has_fragment(),
            Kind::Records(map) => map.has_fragment(),
            Kind::Empty | Kind::Flat(_) | Kind::Chunk(_) => false,
        }
    }

    /// The map header's fields, for tools; `None` for inodes without one.
    #[must_use]
    pub fn header(&self) -> Option<MapFields> {
        match &self.kind {
            Kind::Index(map) => Some(map.header()),
            Kind::Records(map) => Some(map.header()),
            _ => None,
        }
    }

    /// Logical size of a chunk; `None` for inodes that are not chunk-based.
    #[must_use]
    pub const fn chunk_size(&self) -> Option<u64> {
        match &self.kind {
            Kind::Chunk(map) => Some(map.chunk_size()),
            _ => None,
        }
    }

    /// Starts walking the map.
    #[must_use]
    pub const fn cursor<'a>(&'a self, image: &'a Image) -> MapCursor<'a> {
        let meta = MetaReader { image, page: None };
        MapCursor { map: self, meta, window: Window::EMPTY, ended: 0 }
    }
}

/// Walks a [`FileMap`]. Sequential use is cheap: decoded indexes are kept until others are needed.
#[derive(Debug)]
pub struct MapCursor<'a> {
    map: &'a FileMap,
    meta: MetaReader<'a>,
    window: Window,
    /// First offset behind the extent that was given last.
    ended: u64,
}

impl MapCursor<'_> {
    /// The extent that holds `offset`, which must be below the size.
    pub fn extent_at(&mut self, offset: u64) -> Result<Extent> {
        let map = self.map;
        if offset >= map.size {
            return Err(Error::corrupt(
                Place::content(map.nid, offset),
                "offset behind the end of the content",
                map.size,
            ));
        }
        let extent = match &map.kind {
            Kind::Empty => Extent { start: 0, len: map.size, source: Source::Hole },
            Kind::Flat(flat) => flat.extent_at(map, &self.meta, offset)?,
            Kind::Chunk(chunk) => chunk.extent_at(map, &mut self.meta, offset)?,
            Kind::WholeFragment { offset } => {
                Extent { start: 0, len: map.size, source: Source::Fragment { offset: *offset } }
            }
            Kind::Index(index) => index.extent_at(map, &mut self.meta, &mut self.window, offset)?,
            Kind::Records(records) => records.extent_at(map, &mut self.meta, offset)?,
        };
        self.check(&extent, offset)?;
        // A table that is not sorted gives an extent for every offset, but not the same one always.
        if offset == self.ended && extent.start != offset {
            return Err(Error::corrupt(
                Place::content(map.nid, offset),
                "extents overlap",
                extent.start,
            ));
        }
        self.ended = extent.end();
        Ok(extent)
    }

    /// What must hold of every extent, wherever it came from.
    fn check(&self, extent: &Extent, offset: u64) -> Result<()> {
        use ferrofs_format::limits::DECODED_SIZE_MAX;
        let place = Place::content(self.map.nid, extent.start);
        if extent.start > offset || extent.end() <= offset || extent.end() > self.map.size {
            return Err(Error::corrupt(place, "extents do not cover the file", offset));
        }
        match extent.source {
            Source::Fragment { offset } => {
                let end = offset.checked_add(extent.len);
                let packed = self.meta.image.space_len(Space::Packed);
                if end.is_none_or(|end| end > packed) {
                    return Err(Error::corrupt(
                        place,
                        "fragment lies behind the end of the packed inode",
                        offset,
                    ));
                }
            }
            Source::Pcluster(pcluster) => match pcluster.encoding {
                Encoding::Compressed(_) if extent.len > DECODED_SIZE_MAX => {
                    return Err(Error::corrupt(
                        place,
                        "extent decodes to more than 12 MiB",
                        extent.len,
                    ));
                }
                Encoding::Shifted | Encoding::Interlaced
                    if extent.len > u64::from(pcluster.len) =>
                {
                    return Err(Error::corrupt(
                        place,
                        "stored extent is longer than its pcluster",
                        extent.len,
                    ));
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

/// Reads small records of a metadata space, keeping the page at hand.
#[derive(Debug)]
pub(crate) struct MetaReader<'a> {
    pub(crate) image: &'a Image,
    page: Option<(Space, u64, Page)>,
}

impl MetaReader<'_> {
    /// Fills `buf` from `offset` of `space`.
    fn read(&mut self, space: Space, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some((held, start, page)) = &self.page
            && *held == space
            && let Some(within) = offset.checked_sub(*start)
        {
            let from = usize_from_u64(within);
            if let Some(bytes) = page.get(from..from.saturating_add(buf.len())) {
                buf.copy_from_slice(bytes);
                return Ok(());
            }
        }
        self.image.read_meta(space, offset, buf)?;
        let (start, page) = self.image.page(space, offset)?;
        self.page = Some((space, start, page));
        Ok(())
    }
}

/// Where the headers of a compressed or chunk inode begin, and what goes with them.
struct Head<'a> {
    image: &'a Image,
    inode: &'a Inode,
    place: Place,
}

impl Head<'_> {
    /// Body end rounded up to `unit`.
    fn aligned(&self, unit: u64) -> Result<u64> {
        round_up(self.inode.body_end(), unit).ok_or(Error::corrupt(
            self.place,
            "inode lies at an impossible offset",
            0,
        ))
    }
}

impl Image {
    /// Reads and checks the layout of an inode's content. Only types with content have any: for
    /// device nodes, FIFOs and sockets the map is empty.
    pub fn map(&self, inode: &Inode) -> Result<FileMap> {
        use ferrofs_format::inode::FileType as T;
        let nid = inode.nid;
        if !matches!(inode.file_type, T::Regular | T::Directory | T::Symlink) {
            return Ok(FileMap { nid, size: 0, kind: Kind::Empty });
        }
        let head =
            Head { image: self, inode, place: Place::meta(inode.space, inode.offset).of(nid) };
        let kind = if inode.size == 0 {
            Kind::Empty
        } else {
            match inode.layout() {
                Layout::FlatPlain | Layout::FlatInline => Kind::Flat(FlatMap::new(&head)?),
                Layout::Chunk => Kind::Chunk(ChunkMap::new(&head)?),
                Layout::CompressedFull | Layout::CompressedCompact => compressed(&head)?,
            }
        };
        Ok(FileMap { nid, size: inode.size, kind })
    }
}

fn compressed(head: &Head<'_>) -> Result<Kind> {
    let at = head.aligned(8)?;
    let mut bytes = [0; HEADER_LEN];
    let nid = head.inode.nid;
    head.image.read_meta(head.inode.space, at, &mut bytes).map_err(|error| error.with_nid(nid))?;
    let parsed = MapHeader::parse(&bytes).map_err(|error| Error::format(error, head.place))?;
    match parsed {
        MapHeader::WholeFragment { offset } => Ok(Kind::WholeFragment { offset }),
        MapHeader::Map(fields)
            if head.inode.layout() == Layout::CompressedFull
                && fields.advise.has(Advise::EXTENTS) =>
        {
            RecordMap::new(head, fields, at).map(Kind::Records)
        }
        MapHeader::Map(fields) => IndexMap::new(head, fields, at).map(Kind::Index),
    }
}

/// An algorithm id of the image, declared in its superblock.
fn algorithm(image: &Image, id: u8, place: Place) -> Result<Algorithm> {
    let algorithm = Algorithm::from_id(id).ok_or(Error::Unsupported {
        place,
        what: "compression algorithm",
        value: u64::from(id),
    })?;
    // Ancient LZ4 images declare nothing at all. format.md §2.6, §13.1.
    let ancient = algorithm == Algorithm::Lz4 && !image.superblock().may_be_compressed();
    if !image.compression().declares(id) && !ancient {
        return Err(Error::corrupt(
            place,
            "compression algorithm is not declared in the superblock",
            u64::from(id),
        ));
    }
    Ok(algorithm)
}

const _: () = assert!(u64_from_usize(HEADER_LEN) == 8);
