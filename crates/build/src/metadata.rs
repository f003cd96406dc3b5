// SPDX-License-Identifier: MIT OR Apache-2.0
//! The metadata phase: a place for every inode, then their bytes in the order of the places.
//!
//! The root lies in front of the data, right behind the header: its number is then small, as the
//! superblock needs, although numbers count from the image's first byte. All else lies behind the
//! data: the pool of shared xattrs, the directories' inodes and the whole blocks of their entries,
//! all other inodes with their xattrs, indexes and inline tails, then the whole blocks of symlinks
//! that do not fit beside their inodes; each in the plan's order, but that gaps are filled. So the
//! way to every file is one short run, which on-demand readers take at once; reading all metadata
//! is one run over the disk, and nothing has to be kept in memory but places.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ferrofs_format::dirent::DirPacker;
use ferrofs_format::inode::{self, InodeRecord, Layout, Mtime};
use ferrofs_format::{BlockBits, FormatError, Nid, limits, xattr};
use ferrofs_tree::{Content, FileType, InodeId, Tree};

use crate::chunk::ChunkRules;
use crate::layout::{Packer, Shape};
use crate::output::Output;
use crate::pipeline::{Body, Written};
use crate::plan::Plan;
use crate::report::BuildReport;
use crate::spool::Piece;
use crate::xattr::Late;
use crate::{BuildOptions, Error, Result};

/// Bytes written at once.
const BUFFER_SIZE: usize = 1 << 20;

/// Everything the phase needs.
pub(crate) struct Metadata<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) options: &'a BuildOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) written: &'a Written,
    /// Value of the seal of the blob.
    pub(crate) sealed: Option<&'a [u8]>,
    pub(crate) image: &'a Output,
    pub(crate) compact_layout: Layout,
    /// First byte of the root's inode, which [`root_place`] chose.
    pub(crate) root_at: u64,
}

/// Places the root behind the `header_end`; gives its first byte and the one behind all of it.
pub(crate) fn root_place(
    tree: &Tree,
    options: &BuildOptions,
    plan: &Plan,
    header_end: u64,
) -> (u64, u64) {
    let bits = options.block_bits;
    let mut dots = DirPacker::new(bits.size_usize());
    for_each_entry(tree, InodeId::ROOT, |name, _| dots.push(name.len()));
    let split = split_own(tree, plan, bits, InodeId::ROOT, dots.size(), false);
    let head = plan.body_len(tree, InodeId::ROOT, split.size);
    let mut packer = Packer::new(bits, header_end);
    let at = packer.place(Shape { head, tail: split.tail, together: false });
    (at, packer.end())
}

/// What the superblock has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    pub(crate) xattr_block: u32,
    pub(crate) root: Nid,
    /// Blocks of the image.
    pub(crate) blocks: u32,
    /// Some inode has chunks.
    pub(crate) chunks: bool,
    /// Some inode is compressed.
    pub(crate) compressed: bool,
    /// Checksum over the zone's bytes.
    pub(crate) digest: u32,
}

/// Where everything is.
struct Places {
    /// First byte of each inode, by inode.
    inodes: Vec<u64>,
    /// First byte of each inode's own blocks; meaningful where there are some.
    blocks: Vec<u64>,
    pool: u64,
    xattr_base: u64,
    end: u64,
}

impl Places {
    fn nid(&self, id: InodeId) -> Nid {
        Nid(self.inodes[id.index()] / limits::INODE_SLOT)
    }
}

/// How an inode's content is divided.
#[derive(Clone, Copy, Debug)]
struct Split {
    size: u64,
    layout: Layout,
    /// Bytes behind the xattrs: padding, then indexes or chunks.
    area: u64,
    /// Inline tail.
    tail: u64,
    /// Whole blocks of directories and symlinks.
    blocks: u64,
    together: bool,
}

impl Metadata<'_> {
    fn bits(&self) -> BlockBits {
        self.options.block_bits
    }

    /// Places and writes everything from byte `start` on.
    pub(crate) fn run(&self, start: u64, report: &mut BuildReport) -> Result<Zone> {
        let places = self.places(start)?;
        let chunk_rules = self.chunk_rules(places.end);
        let mut by_place = self.plan.order.clone();
        by_place.sort_unstable_by_key(|id| places.inodes[id.index()]);
        let mut stream = Stream::new(self.image, start, self.plan.derived_uuid);
        let mut zone = Zone {
            xattr_block: (places.xattr_base >> self.bits().bits()) as u32,
            root: places.nid(InodeId::ROOT),
            blocks: (places.end >> self.bits().bits()) as u32,
            chunks: false,
            compressed: false,
            digest: 0,
        };
        let mut pool_due = !self.plan.xattrs.pool.is_empty();
        let mut blocks_due = self.block_owners(&places).into_iter().peekable();
        let (mut scratch, mut root) = (Vec::new(), Vec::new());
        for &id in &by_place {
            let at = places.inodes[id.index()];
            if pool_due && at > places.pool && id != InodeId::ROOT {
                self.emit_pool(&places, &mut stream)?;
                pool_due = false;
            }
            while let Some(owner) =
                blocks_due.next_if(|owner| places.blocks[owner.index()] < at && id != InodeId::ROOT)
            {
                self.emit_blocks(owner, &places, &mut stream)?;
            }
            scratch.clear();
            self.emit_inode(id, &places, chunk_rules, &mut scratch, report)
                .map_err(|error| self.name(id, error))?;
            if id == InodeId::ROOT {
                self.image.write_at(&scratch, at)?;
                root.clone_from(&scratch);
            } else {
                stream.put(at, &scratch)?;
            }
            match self.written.bodies[id.index()] {
                Body::Chunks { .. } => zone.chunks = true,
                Body::Compressed { .. } => zone.compressed = true,
                _ => {}
            }
        }
        if pool_due {
            self.emit_pool(&places, &mut stream)?;
        }
        for owner in blocks_due {
            self.emit_blocks(owner, &places, &mut stream)?;
        }
        stream.pad_to(places.end);
        zone.digest = crc32c::crc32c_append(stream.finish()?, &root);
        report.metadata_bytes = places.end - start;
        Ok(zone)
    }

    /// Puts the path to errors that do not know it.
    fn name(&self, id: InodeId, error: Error) -> Error {
        match error {
            Error::Format(error) => {
                let path = PathBuf::from(OsStr::from_bytes(&self.tree.path(id)));
                Error::File { path, error }
            }
            error => error,
        }
    }

    fn chunk_rules(&self, image_end: u64) -> ChunkRules {
        let entries = self.options.chunks.map(|chunks| chunks.entries).unwrap_or_default();
        let unified =
            (self.written.blob_blocks > 0).then_some((image_end >> self.bits().bits()) as u32);
        ChunkRules::new(entries, unified)
    }

    fn places(&self, start: u64) -> Result<Places> {
        let bits = self.bits();
        let mut packer = Packer::new(bits, start);
        let mut inodes = vec![0; self.tree.len()];
        let mut blocks = vec![0; self.tree.len()];
        let head = self.plan.xattrs.pool.len() as u64;
        let pool = packer.place(Shape { head, ..Shape::default() });
        for directories in [true, false] {
            let is_of_kind = |id: &InodeId| {
                matches!(self.tree.content(*id), Content::Directory(_)) == directories
            };
            let mut own_blocks = 0u64;
            for &id in self.plan.order.iter().filter(|id| is_of_kind(id)) {
                let split = self.split(id);
                inodes[id.index()] = if id == InodeId::ROOT {
                    self.root_at
                } else {
                    packer.place(self.shape(id, split))
                };
                blocks[id.index()] = own_blocks << bits.bits();
                own_blocks += split.blocks;
            }
            let blocks_at = packer.place_blocks(own_blocks);
            for &id in self.plan.order.iter().filter(|id| is_of_kind(id)) {
                blocks[id.index()] += blocks_at;
            }
        }
        let end = packer.end().next_multiple_of(bits.size_u64());
        if end >> bits.bits() >= u64::from(u32::MAX) {
            let what = "image without 48-bit addresses (blocks)";
            return Err(FormatError::DoesNotFit { what, value: end >> bits.bits() }.into());
        }
        let xattr_base = bits.round_down(pool);
        Ok(Places { inodes, blocks, pool, xattr_base, end })
    }

    fn shape(&self, id: InodeId, split: Split) -> Shape {
        let head = self.plan.body_len(self.tree, id, split.size) + split.area;
        Shape { head, tail: split.tail, together: split.together }
    }

    fn split(&self, id: InodeId) -> Split {
        let none = Split {
            size: 0,
            layout: Layout::FlatPlain,
            area: 0,
            tail: 0,
            blocks: 0,
            together: false,
        };
        match self.tree.content(id) {
            Content::Directory(_) => {
                split_own(self.tree, self.plan, self.bits(), id, self.packer(id).size(), false)
            }
            Content::Symlink(target) => {
                split_own(self.tree, self.plan, self.bits(), id, target.len() as u64, true)
            }
            Content::File { size, .. } => self.split_file(id, size),
            _ => none,
        }
    }

    fn split_file(&self, id: InodeId, size: u64) -> Split {
        let body = self.plan.body_len(self.tree, id, size);
        let plain =
            Split { size, layout: Layout::FlatPlain, area: 0, tail: 0, blocks: 0, together: false };
        match self.written.bodies[id.index()] {
            Body::None => plain,
            Body::Flat { tail, .. } if tail.len == 0 => plain,
            Body::Flat { tail, .. } => {
                Split { layout: Layout::FlatInline, tail: u64::from(tail.len), ..plain }
            }
            Body::Compressed { index, .. } => {
                let padding = body.next_multiple_of(8) - body;
                let area = padding + u64::from(index.len);
                Split { layout: self.compact_layout, area, ..plain }
            }
            Body::Chunks { blocks, .. } => {
                let (len, unit) = self.chunk_rules(0).area(u64::from(blocks.len / 4));
                let area = body.next_multiple_of(unit) - body + len;
                Split { layout: Layout::Chunk, area, ..plain }
            }
        }
    }

    fn packer(&self, id: InodeId) -> DirPacker {
        let mut packer = DirPacker::new(self.bits().size_usize());
        for_each_entry(self.tree, id, |name, _| packer.push(name.len()));
        packer
    }

    fn emit_pool(&self, places: &Places, stream: &mut Stream<'_>) -> Result<()> {
        stream.put(places.pool, &self.plan.xattrs.pool)
    }

    fn emit_inode(
        &self,
        id: InodeId,
        places: &Places,
        chunk_rules: ChunkRules,
        out: &mut Vec<u8>,
        report: &mut BuildReport,
    ) -> Result<()> {
        let split = self.split(id);
        let record = self.record(id, split, places, chunk_rules)?;
        if !record.is_extended() {
            report.compact_inodes += 1;
        }
        record.emit(out)?;
        let first_id = ((places.pool - places.xattr_base) / 4) as u32;
        let digest = self.written.digests.get(&id);
        let late = Late { digest, sealed: self.sealed };
        self.plan.xattrs.emit_body(self.tree, id, first_id, late, out)?;
        let align = |out: &mut Vec<u8>, unit| out.resize(out.len().next_multiple_of(unit), 0);
        match self.written.bodies[id.index()] {
            Body::Compressed { index, .. } => {
                align(out, 8);
                self.written.spool.read(index, out)?;
            }
            Body::Chunks { bits, blocks } => {
                align(out, chunk_rules.area(1).1 as usize);
                let mut list = Vec::new();
                self.written.spool.read(blocks, &mut list)?;
                chunk_rules.emit(bits, &list, out)?;
            }
            Body::Flat { tail, .. } if split.tail > 0 => self.written.spool.read(tail, out)?,
            _ => {}
        }
        if split.tail > 0 {
            match self.tree.content(id) {
                Content::Directory(_) => {
                    let content = self.directory(id, places)?;
                    out.extend_from_slice(&content[content.len() - split.tail as usize..]);
                }
                Content::Symlink(target) => out.extend_from_slice(target),
                _ => {}
            }
        }
        Ok(())
    }

    fn record(
        &self,
        id: InodeId,
        split: Split,
        places: &Places,
        chunk_rules: ChunkRules,
    ) -> Result<InodeRecord> {
        let inode = self.tree.inode(id);
        let metadata = inode.metadata();
        let extended = self.plan.extended(self.tree, id, split.size);
        if extended && self.plan.form == crate::InodeForm::Compact {
            let what = "compact inode (size, owner or link count)";
            return Err(FormatError::DoesNotFit { what, value: split.size }.into());
        }
        let start = |block: Option<u32>| InodeRecord::split_start(block.map(u64::from), extended);
        let own = (places.blocks[id.index()] >> self.bits().bits()) as u32;
        let (u, u_high) = match (self.tree.content(id), self.written.bodies[id.index()]) {
            (Content::Device { major, minor, .. }, _) => (InodeRecord::rdev_word(major, minor)?, 0),
            (Content::Fifo | Content::Socket, _) => (0, 0),
            (_, Body::Compressed { blocks, .. }) => (blocks, 0),
            (_, Body::Chunks { bits, .. }) => (u32::from(chunk_rules.format(bits).emit()), 0),
            (_, Body::Flat { start: block, .. }) => start(block)?,
            _ => start((split.blocks > 0).then_some(own))?,
        };
        let file_type = file_type(inode.file_type());
        let xattr_len = self.plan.xattrs.body_len(self.tree, id) as usize;
        Ok(InodeRecord {
            layout: split.layout,
            dot_omitted: false,
            xattr_icount: xattr::icount(xattr_len)?,
            mode: file_type.mode_bits() | metadata.permissions & 0o7777,
            file_type,
            size: split.size,
            mtime: if extended {
                Mtime::Full {
                    seconds: metadata.mtime.seconds,
                    nanoseconds: metadata.mtime.nanoseconds,
                }
            } else {
                Mtime::Delta(0)
            },
            u,
            u_high,
            // A number for programs that cannot take 64 bits.
            ino: places.nid(id).0 as u32,
            uid: metadata.uid,
            gid: metadata.gid,
            nlink: inode.nlink(),
        })
    }

    /// Content of a directory.
    fn directory(&self, id: InodeId, places: &Places) -> Result<Vec<u8>> {
        let mut entries = Vec::new();
        for_each_entry(self.tree, id, |name, target| {
            let kind = file_type(self.tree.inode(target).file_type());
            entries.push((name, places.nid(target), kind));
        });
        let mut content = Vec::new();
        self.packer(id).emit(entries, &mut content)?;
        Ok(content)
    }

    /// Who has whole blocks of its own, in the order of the places.
    fn block_owners(&self, places: &Places) -> Vec<InodeId> {
        let has_blocks = |id: &InodeId| self.split(*id).blocks > 0;
        let mut owners: Vec<_> = self.plan.order.iter().copied().filter(has_blocks).collect();
        owners.sort_unstable_by_key(|id| places.blocks[id.index()]);
        owners
    }

    /// Whole blocks of a directory or symlink.
    fn emit_blocks(&self, id: InodeId, places: &Places, stream: &mut Stream<'_>) -> Result<()> {
        let split = self.split(id);
        let at = places.blocks[id.index()];
        let whole = (split.size - split.tail) as usize;
        match self.tree.content(id) {
            Content::Directory(_) => stream.put(at, &self.directory(id, places)?[..whole]),
            Content::Symlink(target) => stream.put(at, &target[..whole]),
            _ => Ok(()),
        }
    }
}

/// Content that the metadata phase itself writes.
fn split_own(
    tree: &Tree,
    plan: &Plan,
    bits: BlockBits,
    id: InodeId,
    size: u64,
    together: bool,
) -> Split {
    let mut split = Split {
        size,
        layout: Layout::FlatPlain,
        area: 0,
        tail: 0,
        blocks: bits.blocks_for(size),
        together: false,
    };
    let tail = bits.offset_in_block(size);
    let shape = Shape { head: plan.body_len(tree, id, size), tail, together };
    // A long symlink is stored as a whole, which the oldest kernels follow too.
    if tail > 0 && shape.fits(bits) && !(together && split.blocks > 1) {
        split =
            Split { layout: Layout::FlatInline, tail, blocks: split.blocks - 1, together, ..split };
    }
    split
}

/// Entries of a directory in order, the two dots included.
fn for_each_entry<'t>(tree: &'t Tree, id: InodeId, mut each: impl FnMut(&'t [u8], InodeId)) {
    let parent = tree.inode(id).parent();
    let mut dots = [(&b"."[..], id), (b"..", parent)].into_iter().peekable();
    for entry in tree.entries(id) {
        let name = tree.entry_name(entry);
        while let Some((dot, target)) = dots.next_if(|(dot, _)| *dot < name) {
            each(dot, target);
        }
        each(name, entry.inode());
    }
    dots.for_each(|(dot, target)| each(dot, target));
}

fn file_type(kind: FileType) -> inode::FileType {
    match kind {
        FileType::Regular => inode::FileType::Regular,
        FileType::Directory => inode::FileType::Directory,
        FileType::Symlink => inode::FileType::Symlink,
        FileType::CharDevice => inode::FileType::CharDevice,
        FileType::BlockDevice => inode::FileType::BlockDevice,
        FileType::Fifo => inode::FileType::Fifo,
        FileType::Socket => inode::FileType::Socket,
    }
}

const _: () = assert!(size_of::<Piece>() == 16);

/// Writes ascending pieces with zeros between them.
struct Stream<'a> {
    image: &'a Output,
    /// Where the buffer begins.
    at: u64,
    buffer: Vec<u8>,
    digest: Option<u32>,
}

impl<'a> Stream<'a> {
    fn new(image: &'a Output, start: u64, digest: bool) -> Self {
        let buffer = Vec::with_capacity(BUFFER_SIZE * 2);
        Self { image, at: start, buffer, digest: digest.then_some(0) }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.pad_to(at);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_SIZE {
            self.flush()?;
        }
        Ok(())
    }

    fn pad_to(&mut self, at: u64) {
        let end = self.at + self.buffer.len() as u64;
        debug_assert!(at >= end, "{at} < {end}");
        // Gaps are smaller than a block.
        self.buffer.resize(self.buffer.len() + (at - end) as usize, 0);
    }

    fn flush(&mut self) -> Result<()> {
        self.image.write_at(&self.buffer, self.at)?;
        if let Some(digest) = &mut self.digest {
            *digest = crc32c::crc32c_append(*digest, &self.buffer);
        }
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<u32> {
        self.flush()?;
        Ok(self.digest.unwrap_or(0))
    }
}
