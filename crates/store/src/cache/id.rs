// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of blobs.

use crate::StoreError;
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What a blob's name is made of.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum BlobKind {
    /// The pin of its digest table: every byte is verified.
    Table,
    /// The SHA-256 of its bytes, which can be checked only when all are there.
    Sha256,
    /// The SHA-256 over where it is and its validator and size: nothing can be checked.
    Url,
}

impl BlobKind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Table, Self::Sha256, Self::Url];

    /// Its name, also of its folder.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Sha256 => "sha256",
            Self::Url => "url",
        }
    }
}

/// The name of a blob: a kind and 64 lowercase hexadecimal digits, so never a path. Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlobId {
    kind: BlobKind,
    hex: Arc<str>,
}

impl BlobId {
    /// Checks a name.
    pub fn new(kind: BlobKind, hex: &str) -> Result<Self, StoreError> {
        let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(good) {
            return Err(StoreError::BadId(hex.chars().take(100).collect()));
        }
        Ok(Self { kind, hex: hex.into() })
    }

    /// The name of a blob of a kind with this digest.
    #[must_use]
    pub fn from_digest(kind: BlobKind, digest: &[u8; 32]) -> Self {
        use fmt::Write as _;
        let hex = digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes all");
            hex
        });
        Self { kind, hex: hex.into() }
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> BlobKind {
        self.kind
    }

    /// The digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.hex)
    }
}

impl FromStr for BlobId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let bad = || StoreError::BadId(text.chars().take(100).collect());
        let (kind, hex) = text.split_once(':').ok_or_else(bad)?;
        let kind = BlobKind::ALL.into_iter().find(|known| known.as_str() == kind);
        Self::new(kind.ok_or_else(bad)?, hex)
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        let hex = "0123456789abcdef".repeat(4);
        let id: BlobId = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(id.to_string(), format!("sha256:{hex}"));
        let long = "a".repeat(65);
        let upper = "A".repeat(64);
        let dots = "../".repeat(22);
        for bad in ["", "sha256", "sha256:", "sha256:../../etc", "md5:00", &dots, &long, &upper] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad}");
            assert!(format!("table:{bad}").parse::<BlobId>().is_err(), "{bad}");
        }
        assert!("table:/etc/passwd".parse::<BlobId>().is_err());
        assert!(format!("table:{}\0", &hex[..63]).parse::<BlobId>().is_err());
    }
}
