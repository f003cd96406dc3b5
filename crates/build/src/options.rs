// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an image is to be built.

use core::num::NonZeroUsize;

use ferrofs_codec::Method;
use ferrofs_format::xattr::{InodeDigest, LongPrefix};
use ferrofs_format::{BlockBits, limits};
use ferrofs_tree::{InodeId, Tree};
use regex::bytes::Regex;

use crate::index::IndexRules;
use crate::{Error, OptionProblem, Result};

/// Options of a build. The default is an uncompressed image that every kernel mounts.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..BuildOptions::default()`")]
pub struct BuildOptions {
    /// Block size; 4096 mounts everywhere.
    pub block_bits: BlockBits,
    /// Compresses regular files.
    pub compression: Option<Compression>,
    /// Other pcluster sizes for files whose path matches; the first that does counts.
    pub hints: Vec<PclusterHint>,
    /// Paths from the tree's root, without a slash in front: their inodes and data come first, in
    /// this order, so that what is read first lies together. Those that do not exist are counted.
    pub first: Vec<Vec<u8>>,
    /// Stores regular files as chunks, equal ones once. Not together with compression.
    pub chunks: Option<Chunks>,
    /// Smaller files are not looked at for holes, and stored like any other.
    pub holes_from: u64,
    /// Ends of regular files that fill no block are stored beside their inodes.
    pub inline_tails: bool,
    /// Size of inodes.
    pub inode_form: InodeForm,
    /// Files may lose their modification times for the sake of smaller inodes.
    pub ignore_mtime: bool,
    /// Extended attributes; `None` leaves them out.
    pub xattrs: Option<XattrOptions>,
    /// Stores the SHA-256 of each regular file's content in an attribute of this full name (usually
    /// [`BuildOptions::DIGEST_NAME`]), by which kernels since 7.0 share the page cache of equal
    /// files. Attributes of the tree that have this name are left out. format.md §6.5.
    pub inode_digest: Option<Vec<u8>>,
    /// Volume name, at most 15 bytes without NUL.
    pub volume_name: Vec<u8>,
    /// UUID.
    pub uuid: Uuid,
    /// Writes the superblock's checksum.
    pub checksum: bool,
    /// Time of the build: the epoch that small inodes count from. Without it the most frequent
    /// modification time of the tree serves, which makes the most inodes small.
    pub build_time: Option<i64>,
    /// Threads that read and compress.
    pub workers: NonZeroUsize,
    /// Bytes of file data that may be in memory at a time.
    pub memory: u64,
    /// Flushes the image to the disk before it gets its name.
    pub sync: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            block_bits: BlockBits::DEFAULT,
            compression: None,
            hints: Vec::new(),
            first: Vec::new(),
            chunks: None,
            holes_from: crate::sparse::SIZE_MIN,
            inline_tails: true,
            inode_form: InodeForm::Auto,
            ignore_mtime: false,
            xattrs: Some(XattrOptions::default()),
            inode_digest: None,
            volume_name: Vec::new(),
            uuid: Uuid::Auto,
            checksum: true,
            build_time: None,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            memory: 256 << 20,
            sync: false,
        }
    }
}

/// How regular files are compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the three choices the format offers")]
pub struct Compression {
    /// Codec and level.
    pub method: Method,
    /// Bytes of one compressed unit: a multiple of the block size, at most 1 MiB and 2047 blocks.
    pub pcluster_size: u32,
    /// Writes 8-byte indexes instead of compact ones.
    pub legacy_indexes: bool,
}

/// The pcluster size of some files.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "which files, and what of them")]
pub struct PclusterHint {
    /// Which files: matched anywhere in the path from the tree's root, without a slash in front.
    pub pattern: Regex,
    /// Bytes, with the limits of [`Compression::pcluster_size`]; 0 leaves them uncompressed.
    pub pcluster_size: u32,
}

/// How chunks are stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the two choices the format offers")]
pub struct Chunks {
    /// Bytes of a chunk: a power of two from the block size to [`Chunks::SIZE_MAX`].
    pub size: u32,
    /// How addresses are stored.
    pub entries: ChunkEntries,
}

impl Chunks {
    /// A worker holds a whole chunk in memory.
    pub const SIZE_MAX: u32 = 64 << 20;
}

/// How addresses of chunks are stored.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum ChunkEntries {
    /// 4 bytes each if the data is in the image, else 8.
    #[default]
    Auto,
    /// 4 bytes each; data on another device is found through the unified address space.
    Map,
    /// 8 bytes each, with a device number.
    Indexes,
}

/// Size of inodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum InodeForm {
    /// 32 bytes where nothing is lost, else 64.
    #[default]
    Auto,
    /// 32 bytes; modification times are lost, and what else does not fit is an error.
    Compact,
    /// 64 bytes.
    Extended,
}

/// How extended attributes are stored.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..XattrOptions::default()`")]
pub struct XattrOptions {
    /// An attribute that more inodes than this have is stored once.
    pub shared_above: u64,
    /// Writes the filters that spare kernels the search for names.
    pub name_filter: bool,
    /// Full prefixes, such as `user.comment.`, that are stored once; the first that fits counts.
    pub prefixes: Vec<Vec<u8>>,
}

impl Default for XattrOptions {
    fn default() -> Self {
        Self { shared_above: 2, name_filter: true, prefixes: Vec::new() }
    }
}

/// The UUID of an image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Uuid {
    /// Derived from the content if a build time is given, else random.
    #[default]
    Auto,
    /// Random.
    Random,
    /// Derived from the content: equal images, equal UUIDs.
    Content,
    /// All zeros.
    Clear,
    /// This one.
    Given([u8; 16]),
}

impl Compression {
    pub(crate) fn rules(&self, options: &BuildOptions) -> IndexRules {
        let bits = options.block_bits;
        let big = options.pcluster_size_max(self) > bits.size();
        IndexRules::new(bits, big, self.legacy_indexes, self.method.algorithm().id())
    }
}

impl BuildOptions {
    /// The usual name of the attribute with a file's digest; it is hidden from mounts.
    pub const DIGEST_NAME: &'static [u8] = InodeDigest::NAME;

    pub(crate) fn check(&self) -> Result<()> {
        let problem = |problem| Err(Error::Options(problem));
        let block = self.block_bits.size();
        if let Some(compression) = &self.compression {
            if self.chunks.is_some() {
                return problem(OptionProblem::CompressedChunks);
            }
            let most = (limits::PCLUSTER_SIZE_MAX as u32)
                .min(block.saturating_mul(u32::from(limits::PCLUSTER_BLOCKS_MAX)));
            let hinted = self.hints.iter().map(|hint| hint.pcluster_size).filter(|&size| size > 0);
            for size in hinted.chain([compression.pcluster_size]) {
                if size < block || size > most || !size.is_multiple_of(block) {
                    return problem(OptionProblem::PclusterSize { size, block, most });
                }
            }
        }
        if let Some(chunks) = &self.chunks {
            let size = chunks.size;
            if !size.is_power_of_two() || size < block || size > Chunks::SIZE_MAX {
                return problem(OptionProblem::ChunkSize { size, block });
            }
        }
        if self.volume_name.len() > 15 || self.volume_name.contains(&0) {
            return problem(OptionProblem::VolumeName { len: self.volume_name.len() });
        }
        if let Some(xattrs) = &self.xattrs {
            let count = xattrs.prefixes.len() + usize::from(self.inode_digest.is_some());
            if count > limits::LONG_PREFIXES_MAX {
                return problem(OptionProblem::PrefixCount { count });
            }
            if let Some(bad) = xattrs.prefixes.iter().find(|p| p.is_empty() || p.len() > 255) {
                return problem(OptionProblem::PrefixLength { len: bad.len() });
            }
        }
        if let Some(name) = &self.inode_digest {
            let rest = LongPrefix::from_full(name).infix;
            if rest.is_empty() || rest.len() > limits::NAME_LEN_MAX || name.contains(&0) {
                return problem(OptionProblem::DigestName { len: name.len() });
            }
        }
        Ok(())
    }

    /// The largest pcluster that any file may have.
    pub(crate) fn pcluster_size_max(&self, compression: &Compression) -> u32 {
        let hinted = self.hints.iter().map(|hint| hint.pcluster_size);
        hinted.fold(compression.pcluster_size, u32::max)
    }

    /// Bytes of the pclusters of `file`; 0 if it is not to be compressed.
    pub(crate) fn pcluster_size(&self, tree: &Tree, file: InodeId) -> u32 {
        let Some(compression) = &self.compression else { return 0 };
        if self.hints.is_empty() {
            return compression.pcluster_size;
        }
        let path = tree.path(file);
        let hint = self.hints.iter().find(|hint| hint.pattern.is_match(&path));
        hint.map_or(compression.pcluster_size, |hint| hint.pcluster_size)
    }

    /// Files are cut into pieces of this size, each compressed on its own; part of what makes the
    /// image independent of the number of workers.
    pub(crate) fn segment_size(&self) -> u64 {
        self.chunks.map_or(SEGMENT_SIZE, |chunks| SEGMENT_SIZE.max(u64::from(chunks.size)))
    }
}

const SEGMENT_SIZE: u64 = 16 << 20;
