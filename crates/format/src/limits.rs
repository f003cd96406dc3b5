// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every limit of the format in one place. format.md §19.1.

/// Smallest block size exponent (512 bytes).
pub const BLOCK_BITS_MIN: u8 = 9;
/// Largest block size exponent (64 KiB).
pub const BLOCK_BITS_MAX: u8 = 16;
/// Byte offset of the superblock on the primary device, for every block size.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Encoded bytes of one pcluster.
pub const PCLUSTER_SIZE_MAX: u64 = 1 << 20;
/// Decoded bytes of one pcluster.
pub const DECODED_SIZE_MAX: u64 = 12 << 20;
/// Blocks of one pcluster that CBLKCNT can express (11 bits).
pub const PCLUSTER_BLOCKS_MAX: u16 = 2047;
/// Block addresses end here.
pub const BLOCK_ADDRESS_END: u64 = 1 << 48;
/// Bytes of a file name.
pub const NAME_LEN_MAX: usize = 255;
/// Bytes of a symlink target.
pub const SYMLINK_LEN_MAX: u64 = 4095;
/// Shared xattr ids in one inode (u8 count).
pub const SHARED_XATTRS_MAX: usize = 255;
/// Largest xattr body: 12 + 4 * 65534 bytes.
pub const XATTR_BODY_MAX: usize = 12 + 4 * 65534;
/// Long xattr name prefixes in one image.
pub const LONG_PREFIXES_MAX: usize = 128;
/// Largest window of MicroLZMA.
pub const LZMA_DICT_MAX: u32 = 8 << 20;
/// Smallest window of MicroLZMA.
pub const LZMA_DICT_MIN: u32 = 4096;
/// Largest window of Zstandard as a power of two (1 MiB).
pub const ZSTD_WINDOW_LOG_MAX: u8 = 20;
/// Chunk size exponent above the block size exponent.
pub const CHUNK_BITS_MAX: u8 = 31;
/// Inode slots are this many bytes.
pub const INODE_SLOT: u64 = 32;
/// Sizes of files end here (exclusive).
pub const FILE_SIZE_END: u64 = 1 << 63;
