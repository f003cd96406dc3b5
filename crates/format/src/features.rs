// SPDX-License-Identifier: MIT OR Apache-2.0
//! Feature words of the superblock. format.md §2.2, §2.3.

macro_rules! feature_word {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $flag:ident = $bit:expr, $label:expr;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$doc])* pub const $flag: Self = Self($bit);)*

            /// Whether every bit of `other` is set.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Sets the bits of `other`.
            pub const fn insert(&mut self, other: Self) {
                self.0 |= other.0;
            }

            /// Names of the bits that are set, lowest first; unknown bits have none.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$(($bit, $label),)*]
                    .into_iter()
                    .filter_map(move |(bit, label): (u32, &'static str)| {
                        (self.0 & bit != 0).then_some(label)
                    })
            }

            /// Bits that this version does not know.
            #[must_use]
            pub const fn unknown(self) -> u32 {
                self.0 & !(0 $(| $bit)*)
            }
        }
    };
}

feature_word! {
    /// Features that a reader may ignore.
    CompatFeatures {
        /// The superblock checksum is valid.
        SB_CHKSUM = 0x01, "sb_csum";
        /// Timestamps are modification times.
        MTIME = 0x02, "mtime";
        /// Name filters in xattr headers are valid.
        XATTR_FILTER = 0x04, "xattr_filter";
        /// Shared xattrs live in the metabox content.
        SHARED_EA_IN_METABOX = 0x08, "shared_ea_in_metabox";
        /// The long-prefix table lies on the primary device.
        PLAIN_XATTR_PFX = 0x10, "plain_xattr_pfx";
        /// Inode digest xattrs are valid.
        ISHARE_XATTRS = 0x20, "ishare_xattrs";
    }
}

feature_word! {
    /// Features that a reader must know to read the image.
    IncompatFeatures {
        /// LZ4 pclusters are right-aligned.
        LZ4_0PADDING = 0x001, "0padding";
        /// Compression configuration records follow the superblock; big pclusters.
        COMPR_CFGS = 0x002, "compr_cfgs";
        /// Chunk-based inodes.
        CHUNKED_FILE = 0x004, "chunked_file";
        /// Device table, or HEAD2 lclusters (the bit is shared).
        DEVICE_TABLE = 0x008, "device_table";
        /// Inline pclusters.
        ZTAILPACKING = 0x010, "ztailpacking";
        /// Packed inode with fragments, or deduplicated pclusters (the bit is shared).
        FRAGMENTS = 0x020, "fragments";
        /// Long xattr name prefixes.
        XATTR_PREFIXES = 0x040, "xattr_prefixes";
        /// 48-bit addresses and encoded extents.
        BIT48 = 0x080, "48bit";
        /// Metabox inode.
        METABOX = 0x100, "metabox";
    }
}
