// SPDX-License-Identifier: MIT OR Apache-2.0
//! Naming an encoder: algorithm, level, window; from and to the text of an option.
//!
//! The text is that of `mkfs.erofs -z`, one entry of it: `lz4`, `lz4hc,9`, `zstd,level=3`,
//! `lzma,level=109,dictsize=65536`. The invariant: a [`Method`] prints as text that parses to it.

use core::error::Error;
use core::fmt;
use core::str::FromStr;

use crate::deflate::Deflate;
use crate::lz4::{Lz4Encoder, Lz4HcEncoder};
use crate::lzma::LzmaEncoder;
use crate::search::Search;
use crate::zstd::Zstd;
use crate::{Algorithm, EncodeError, FixedOutput};

/// Smallest LZMA dictionary in bytes (format.md §2.6).
pub const LZMA_DICT_SIZE_MIN: u32 = 4096;
/// Largest LZMA dictionary in bytes (format.md §2.6).
pub const LZMA_DICT_SIZE_MAX: u32 = 8 << 20;
/// Binary logarithm of the smallest Zstandard window (format.md §2.6).
pub const ZSTD_WINDOW_LOG_MIN: u8 = 10;
/// Binary logarithm of the largest Zstandard window (format.md §2.6).
pub const ZSTD_WINDOW_LOG_MAX: u8 = 20;

const LZ4HC_LEVEL_DEFAULT: u8 = 9;
const LZMA_LEVEL_DEFAULT: u8 = 6;
const DEFLATE_LEVEL_DEFAULT: u8 = 6;
const ZSTD_LEVEL_DEFAULT: u8 = 3;

/// An encoder's name and options.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// LZ4, the fast compressor.
    Lz4,
    /// LZ4, the strong compressor.
    Lz4Hc {
        /// 1 to 12.
        level: u8,
    },
    /// MicroLZMA.
    Lzma {
        /// 0 to 9.
        level: u8,
        /// Slower, and sometimes smaller, than the level alone. Written as level 100 to 109.
        extreme: bool,
        /// Dictionary in bytes, [`LZMA_DICT_SIZE_MIN`] to [`LZMA_DICT_SIZE_MAX`]. If not given,
        /// [`resolve`](Self::resolve) derives it from the size of the output.
        dict_size: Option<u32>,
    },
    /// DEFLATE.
    Deflate {
        /// 1 to 12.
        level: u8,
    },
    /// Zstandard.
    Zstd {
        /// 1 to 22.
        level: u8,
        /// Binary logarithm of the window, [`ZSTD_WINDOW_LOG_MIN`] to [`ZSTD_WINDOW_LOG_MAX`]. If
        /// not given, [`resolve`](Self::resolve) derives it from the size of the output.
        window_log: Option<u8>,
    },
}

impl Method {
    /// Parses the text of an option: a name, then `,LEVEL`, `,level=LEVEL` or `,dictsize=BYTES`.
    ///
    /// Names are `lz4`, `lz4hc`, `lzma`, `deflate` (or `libdeflate`) and `zstd`.
    pub fn parse(text: &str) -> Result<Self, ParseMethodError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let options = Options::parse(parts)?;
        let method = match name {
            "lz4" => {
                options.no_level()?;
                options.no_dict_size()?;
                Self::Lz4
            }
            "lz4hc" => {
                options.no_dict_size()?;
                // The library takes level 0 for its default.
                let level = match options.level(LZ4HC_LEVEL_DEFAULT, 0, 12)? {
                    0 => LZ4HC_LEVEL_DEFAULT,
                    level => level,
                };
                Self::Lz4Hc { level }
            }
            "lzma" => {
                let (level, extreme) = match options.level(LZMA_LEVEL_DEFAULT, 0, 109)? {
                    level @ 0..=9 => (level, false),
                    level @ 100.. => (level - 100, true),
                    level => return Err(ParseMethodError::Level { level: level.into(), max: 9 }),
                };
                let dict_size = options.dict_size;
                if let Some(size) = dict_size
                    && !(LZMA_DICT_SIZE_MIN..=LZMA_DICT_SIZE_MAX).contains(&size)
                {
                    return Err(ParseMethodError::DictSize { size: size.into() });
                }
                Self::Lzma { level, extreme, dict_size }
            }
            "deflate" | "libdeflate" => {
                // DEFLATE has one window; asking for it by name is no mistake.
                if options.dict_size != Some(32 << 10) {
                    options.no_dict_size()?;
                }
                Self::Deflate { level: options.level(DEFLATE_LEVEL_DEFAULT, 1, 12)? }
            }
            "zstd" => {
                // The library takes level 0 for its default.
                let level = match options.level(ZSTD_LEVEL_DEFAULT, 0, 22)? {
                    0 => ZSTD_LEVEL_DEFAULT,
                    level => level,
                };
                Self::Zstd { level, window_log: options.window_log()? }
            }
            _ => return Err(ParseMethodError::Name),
        };
        Ok(method)
    }

    /// The algorithm a reader needs.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Lz4 | Self::Lz4Hc { .. } => Algorithm::Lz4,
            Self::Lzma { .. } => Algorithm::Lzma,
            Self::Deflate { .. } => Algorithm::Deflate,
            Self::Zstd { .. } => Algorithm::Zstd,
        }
    }

    /// Settles the windows left open, for outputs of at most `output_max` bytes: four times that
    /// for LZMA, eight times for Zstandard, at least 32 KiB, at most what the format allows.
    ///
    /// A larger window costs readers memory and hardly saves space, since no pcluster refers to
    /// another's bytes.
    #[must_use]
    pub fn resolve(self, output_max: usize) -> Self {
        let output_max = output_max.clamp(4096, 1 << 24).next_power_of_two() as u32;
        match self {
            Self::Lzma { level, extreme, dict_size: None } => {
                let dict_size = Some((output_max * 4).clamp(32 << 10, LZMA_DICT_SIZE_MAX));
                Self::Lzma { level, extreme, dict_size }
            }
            Self::Zstd { level, window_log: None } => {
                let window_log = (output_max.trailing_zeros() as u8 + 3).min(ZSTD_WINDOW_LOG_MAX);
                Self::Zstd { level, window_log: Some(window_log) }
            }
            settled => settled,
        }
    }

    /// The window in bytes, for the image's configuration record (format.md §2.6): LZ4's largest
    /// distance, LZMA's dictionary, DEFLATE's window, Zstandard's largest window. What is not
    /// settled (see [`resolve`](Self::resolve)) counts as the largest the format allows.
    pub fn window_size(&self) -> u32 {
        match *self {
            Self::Lz4 | Self::Lz4Hc { .. } => 65_535,
            Self::Lzma { dict_size, .. } => dict_size.unwrap_or(LZMA_DICT_SIZE_MAX),
            Self::Deflate { .. } => 32 << 10,
            Self::Zstd { window_log, .. } => {
                1_u32.checked_shl(window_log.unwrap_or(ZSTD_WINDOW_LOG_MAX).into()).unwrap_or(0)
            }
        }
    }

    /// Makes the encoder. Windows not settled are the largest the format allows.
    pub fn encoder(&self) -> Result<Box<dyn FixedOutput>, EncodeError> {
        Ok(match *self {
            Self::Lz4 => Box::new(Lz4Encoder::default()),
            Self::Lz4Hc { level } => Box::new(Lz4HcEncoder::new(level)?),
            Self::Lzma { level, extreme, .. } => {
                Box::new(LzmaEncoder::new(level, extreme, self.window_size())?)
            }
            Self::Deflate { level } => Box::new(Search::new(Deflate::new(level)?)),
            Self::Zstd { level, window_log } => {
                let window_log = window_log.unwrap_or(ZSTD_WINDOW_LOG_MAX);
                Box::new(Search::new(Zstd::new(level, window_log)?))
            }
        })
    }
}

impl FromStr for Method {
    type Err = ParseMethodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Lz4 => f.write_str("lz4"),
            Self::Lz4Hc { level } => write!(f, "lz4hc,level={level}"),
            Self::Lzma { level, extreme, dict_size } => {
                let level = u32::from(level) + if extreme { 100 } else { 0 };
                write!(f, "lzma,level={level}")?;
                dict_size.map_or(Ok(()), |size| write!(f, ",dictsize={size}"))
            }
            Self::Deflate { level } => write!(f, "deflate,level={level}"),
            Self::Zstd { level, window_log } => {
                write!(f, "zstd,level={level}")?;
                window_log.map_or(Ok(()), |_| write!(f, ",dictsize={}", self.window_size()))
            }
        }
    }
}

/// Why a text does not name a [`Method`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ParseMethodError {
    /// No such algorithm.
    Name,
    /// No such option.
    Option,
    /// An option given twice.
    Repeated,
    /// A value that is not a number, or a much too large one.
    Number,
    /// A level the algorithm does not have.
    Level {
        /// The level asked for.
        level: u32,
        /// The highest there is.
        max: u8,
    },
    /// A level for an algorithm without levels.
    NoLevels,
    /// A dictionary (window) the algorithm or the format does not allow.
    DictSize {
        /// The size asked for, in bytes.
        size: u64,
    },
}

impl fmt::Display for ParseMethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "unknown compression algorithm (known: lz4, lz4hc, lzma, deflate, libdeflate, zstd)",
            ),
            Self::Option => f.write_str("unknown compression option (known: level=, dictsize=)"),
            Self::Repeated => f.write_str("compression option given twice"),
            Self::Number => f.write_str("compression option needs a number"),
            Self::Level { level, max } => {
                write!(f, "no compression level {level}, the highest is {max}")
            }
            Self::NoLevels => f.write_str("this compression algorithm has no levels"),
            Self::DictSize { size } => {
                write!(f, "dictionary of {size} bytes is not possible with this algorithm")
            }
        }
    }
}

impl Error for ParseMethodError {}

/// What follows the name, not yet checked against the algorithm.
#[derive(Debug, Default)]
struct Options {
    level: Option<u32>,
    dict_size: Option<u32>,
}

impl Options {
    fn parse<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, ParseMethodError> {
        let mut options = Self::default();
        for part in parts {
            let (field, value) = match part.split_once('=') {
                None => (&mut options.level, part),
                Some(("level", value)) => (&mut options.level, value),
                Some(("dictsize", value)) => (&mut options.dict_size, value),
                Some(_) => return Err(ParseMethodError::Option),
            };
            let number = value.parse().map_err(|_| ParseMethodError::Number)?;
            if field.replace(number).is_some() {
                return Err(ParseMethodError::Repeated);
            }
        }
        Ok(options)
    }

    fn no_level(&self) -> Result<(), ParseMethodError> {
        self.level.map_or(Ok(()), |_| Err(ParseMethodError::NoLevels))
    }

    fn no_dict_size(&self) -> Result<(), ParseMethodError> {
        self.dict_size.map_or(Ok(()), |size| Err(ParseMethodError::DictSize { size: size.into() }))
    }

    fn level(&self, default: u8, min: u8, max: u8) -> Result<u8, ParseMethodError> {
        let Some(level) = self.level else {
            return Ok(default);
        };
        match u8::try_from(level) {
            Ok(level) if (min..=max).contains(&level) => Ok(level),
            _ => Err(ParseMethodError::Level { level, max }),
        }
    }

    fn window_log(&self) -> Result<Option<u8>, ParseMethodError> {
        let Some(size) = self.dict_size else {
            return Ok(None);
        };
        let log = size.trailing_zeros() as u8;
        if size.is_power_of_two() && (ZSTD_WINDOW_LOG_MIN..=ZSTD_WINDOW_LOG_MAX).contains(&log) {
            Ok(Some(log))
        } else {
            Err(ParseMethodError::DictSize { size: size.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_canonical_form() {
        for (text, canonical) in [
            ("lz4", "lz4"),
            ("lz4hc", "lz4hc,level=9"),
            ("lz4hc,0", "lz4hc,level=9"),
            ("lz4hc,12", "lz4hc,level=12"),
            ("lz4hc,level=1", "lz4hc,level=1"),
            ("lzma", "lzma,level=6"),
            ("lzma,0", "lzma,level=0"),
            ("lzma,109", "lzma,level=109"),
            ("lzma,dictsize=65536,level=6", "lzma,level=6,dictsize=65536"),
            ("lzma,level=6,dictsize=5000", "lzma,level=6,dictsize=5000"),
            ("deflate", "deflate,level=6"),
            ("libdeflate,level=12", "deflate,level=12"),
            ("deflate,1,dictsize=32768", "deflate,level=1"),
            ("zstd", "zstd,level=3"),
            ("zstd,0", "zstd,level=3"),
            ("zstd,22,dictsize=1048576", "zstd,level=22,dictsize=1048576"),
            ("zstd,dictsize=1024", "zstd,level=3,dictsize=1024"),
        ] {
            let method = Method::parse(text).unwrap();
            assert_eq!(method.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(method));
            let _ = method.encoder().unwrap();
        }
    }

    #[test]
    fn refused_texts() {
        use ParseMethodError as E;
        for (text, error) in [
            ("", E::Name),
            ("lzo", E::Name),
            ("LZ4", E::Name),
            ("lz4,1", E::NoLevels),
            ("lz4,dictsize=65536", E::DictSize { size: 65_536 }),
            ("lz4hc,13", E::Level { level: 13, max: 12 }),
            ("lz4hc,300", E::Level { level: 300, max: 12 }),
            ("lz4hc,", E::Number),
            ("lz4hc,-1", E::Number),
            ("lz4hc,9,9", E::Repeated),
            ("lz4hc,level=9,level=9", E::Repeated),
            ("lz4hc,speed=9", E::Option),
            ("lzma,10", E::Level { level: 10, max: 9 }),
            ("lzma,99", E::Level { level: 99, max: 9 }),
            ("lzma,dictsize=4095", E::DictSize { size: 4095 }),
            ("lzma,dictsize=8388609", E::DictSize { size: 8_388_609 }),
            ("deflate,0", E::Level { level: 0, max: 12 }),
            ("deflate,dictsize=65536", E::DictSize { size: 65_536 }),
            ("zstd,23", E::Level { level: 23, max: 22 }),
            ("zstd,dictsize=512", E::DictSize { size: 512 }),
            ("zstd,dictsize=1000", E::DictSize { size: 1000 }),
            ("zstd,dictsize=2097152", E::DictSize { size: 2_097_152 }),
            ("zstd,dictsize=0", E::DictSize { size: 0 }),
        ] {
            assert_eq!(Method::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn out_of_range_options_are_errors_not_panics() {
        for method in [
            Method::Lz4Hc { level: 0 },
            Method::Lz4Hc { level: 13 },
            Method::Lzma { level: 10, extreme: false, dict_size: None },
            Method::Lzma { level: 6, extreme: false, dict_size: Some(1) },
            Method::Lzma { level: 255, extreme: true, dict_size: Some(u32::MAX) },
            Method::Deflate { level: 0 },
            Method::Deflate { level: 13 },
            Method::Zstd { level: 0, window_log: None },
            Method::Zstd { level: 3, window_log: Some(9) },
            Method::Zstd { level: 3, window_log: Some(255) },
        ] {
            let algorithm = method.algorithm();
            assert_eq!(method.encoder().unwrap_err(), EncodeError::Options { algorithm });
        }
    }

    #[test]
    fn windows_follow_the_output() {
        let window = |text: &str, size| Method::parse(text).unwrap().resolve(size).window_size();
        assert_eq!(window("zstd", 4096), 32 << 10);
        assert_eq!(window("zstd", 65_536), 512 << 10);
        assert_eq!(window("zstd", 1 << 20), 1 << 20);
        assert_eq!(window("lzma", 4096), 32 << 10);
        assert_eq!(window("lzma", 65_536), 256 << 10);
        assert_eq!(window("lzma", usize::MAX), 8 << 20);
        assert_eq!(window("lzma,dictsize=5000", 65_536), 5000);
        assert_eq!(window("deflate", 65_536), 32 << 10);
        assert_eq!(window("lz4hc", 65_536), 65_535);
    }
}
