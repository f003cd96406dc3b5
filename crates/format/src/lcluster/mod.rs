// SPDX-License-Identifier: MIT OR Apache-2.0
//! How compressed inodes describe their extents. format.md §9 to §12.
//!
//! [`header`] is the map header, [`full`] and [`compact`] are the two encodings of lcluster
//! indexes, [`extents`] the encoded-extent records that need none.

pub mod compact;
pub mod extents;
pub mod full;
pub mod header;

use crate::{FormatError, Result};

/// Set in delta0 when it holds the blocks of a pcluster instead of a distance.
pub const BLOCK_COUNT_FLAG: u16 = 0x800;
/// Largest distance that delta0 (and delta1 of compact indexes) expresses; longer ones saturate.
pub const DELTA_MAX: u16 = 0x7FF;

/// What begins in an lcluster.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Head {
    /// Stored bytes.
    Plain,
    /// Compressed by the first algorithm of the header.
    Head1,
    /// Compressed by the second algorithm of the header.
    Head2,
}

impl Head {
    const fn type_bits(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Head1 => 1,
            Self::Head2 => 3,
        }
    }
}

/// One lcluster index, whichever way it is encoded. format.md §10.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lcluster {
    /// An extent begins here.
    Head {
        /// Its kind.
        head: Head,
        /// Where in the lcluster it begins.
        offset: u16,
        /// First block of its pcluster (or a dummy at EOF and for tails).
        block: u32,
        /// The pcluster decodes to more than the extent uses.
        partial: bool,
        /// The extent reads as zeros (Linux 7.2 and later).
        hole: bool,
    },
    /// The extent of an earlier lcluster goes on.
    NonHead {
        /// Distance back to the head, or blocks of the pcluster.
        back: Back,
        /// Distance forward to the next head.
        forward: u16,
    },
}

/// delta0 of a NONHEAD lcluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Back {
    /// Lclusters back to the head (saturated at [`DELTA_MAX`]).
    Distance(u16),
    /// CBLKCNT: blocks of the pcluster; only in the first NONHEAD behind a head.
    Blocks(u16),
}

impl Back {
    const fn parse(word: u16) -> Self {
        if word & BLOCK_COUNT_FLAG != 0 {
            Self::Blocks(word & !BLOCK_COUNT_FLAG)
        } else {
            Self::Distance(word)
        }
    }

    fn emit(self) -> Result<u16> {
        match self {
            Self::Distance(distance) => Ok(distance.min(DELTA_MAX)),
            Self::Blocks(blocks) if blocks <= DELTA_MAX => Ok(blocks | BLOCK_COUNT_FLAG),
            Self::Blocks(blocks) => Err(FormatError::DoesNotFit {
                what: "pcluster blocks of an lcluster index",
                value: u64::from(blocks),
            }),
        }
    }

    /// Lclusters to step back from here: a block count stands in the lcluster right behind the
    /// head.
    #[must_use]
    pub const fn steps(self) -> u16 {
        match self {
            Self::Distance(distance) => distance,
            Self::Blocks(_) => 1,
        }
    }
}
