// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digests, and the one that is written down for people.

use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// Bytes of a digest, of either algorithm.
pub type Digest = [u8; 32];

/// How bytes are digested.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Algorithm {
    /// BLAKE3, unkeyed, 32 bytes.
    #[default]
    Blake3,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Blake3 => *blake3::hash(bytes).as_bytes(),
            Self::Sha256 => sha2::Sha256::digest(bytes).into(),
        }
    }

    /// As in the header of a table.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Blake3 => 1,
            Self::Sha256 => 2,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Blake3),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// As in a pin.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// The digest that stands for a whole table, and so for a whole blob: `blake3:HEX`, `sha256:HEX`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what it is written as")]
pub struct Pin {
    /// Which algorithm, of the pin and of all digests in the table.
    pub algorithm: Algorithm,
    /// Of header and top.
    pub digest: Digest,
}

impl Pin {
    /// The digest in lower-case hexadecimal digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        self.digest.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let (name, hex) = text.split_once(':').ok_or(PinError)?;
        let algorithm = match name {
            "blake3" => Algorithm::Blake3,
            "sha256" => Algorithm::Sha256,
            _ => return Err(PinError),
        };
        let hex = hex.as_bytes();
        let mut digest = [0; 32];
        if hex.len() != 64 {
            return Err(PinError);
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            // Lower case only: one digest has one name, which also names folders.
            let nibble = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(PinError),
            };
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self { algorithm, digest })
    }
}

/// Not `blake3:` or `sha256:` with 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct PinError;

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pin is blake3: or sha256: with 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for PinError {}
