// SPDX-License-Identifier: MIT OR Apache-2.0
//! The head of a table: header and top, verified against the pin.

use super::layout::HEADER_LEN;
use super::{Layout, PAGE_LEN, Pin, TableError};

/// A verified head: the layout, and the digest of each page.
#[derive(Clone, Debug)]
pub struct Head {
    pin: Pin,
    layout: Layout,
    /// Header and top, as they were hashed.
    bytes: Box<[u8]>,
}

impl Head {
    /// Takes header and top if they are the pinned ones, and nothing more.
    pub fn parse(pin: &Pin, bytes: &[u8]) -> Result<Self, TableError> {
        let layout = Layout::parse(bytes)?;
        let (expected, found) = (layout.head_len(), bytes.len() as u64);
        if expected != found {
            return Err(TableError::Length { expected, found });
        }
        // The header names an algorithm, the pin decides on it.
        let digest = pin.algorithm.digest(bytes);
        if digest != pin.digest {
            let found = Pin { algorithm: pin.algorithm, digest };
            return Err(TableError::Pin { expected: *pin, found });
        }
        if layout.geometry().algorithm != pin.algorithm {
            return Err(TableError::Algorithm(layout.geometry().algorithm.code()));
        }
        Ok(Self { pin: *pin, layout, bytes: bytes.into() })
    }

    /// What it was verified against.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// The shape of the table.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Header and top.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `bytes` are the page of this number.
    pub fn verify_page(&self, page: u64, bytes: &[u8]) -> Result<(), TableError> {
        let wrong = TableError::Page(u32::try_from(page).unwrap_or(u32::MAX));
        let digest: Option<&[u8; 32]> = usize::try_from(page)
            .ok()
            .and_then(|page| page.checked_mul(32)?.checked_add(HEADER_LEN))
            .and_then(|start| self.bytes.get(start..)?.first_chunk());
        match digest {
            Some(digest)
                if bytes.len() == PAGE_LEN && self.pin.algorithm.digest(bytes) == *digest =>
            {
                Ok(())
            }
            _ => Err(wrong),
        }
    }
}
