// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended attributes: the body behind an inode, entries, the name filter and long prefixes.
//! format.md §6.

use crate::num::{bytes_at, u16_at, u32_at, u64_from_usize};
use crate::{FormatError, Result, limits};
use alloc::vec::Vec;
use xxhash_rust::xxh32::Xxh32;

/// Bytes of the body's header.
pub const HEADER_LEN: usize = 12;
/// Set in a name index that refers to the long-prefix table.
pub const LONG_PREFIX_FLAG: u8 = 0x80;
/// Seed of the name filter's hash.
const FILTER_SEED: u32 = 0x25BB_E08F;

/// Names that stand for the built-in indexes; index 0 is "no prefix", 5 has no handler in Linux.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (5, b"lustre."),
    (6, b"security."),
];

/// The prefix of a built-in index; `None` for unknown ones. Index 0 has the empty prefix.
#[must_use]
pub fn base_prefix(index: u8) -> Option<&'static [u8]> {
    if index == 0 {
        return Some(b"");
    }
    PREFIXES.iter().find(|(i, _)| *i == index).map(|(_, prefix)| *prefix)
}

/// Splits a full name into built-in index and rest. Names without a known prefix get index 0.
#[must_use]
pub fn split_name(name: &[u8]) -> (u8, &[u8]) {
    for (index, prefix) in PREFIXES {
        // The two ACL names are complete; a longer name that begins so is none of them.
        let complete = index == 2 || index == 3;
        match name.strip_prefix(prefix) {
            Some(rest) if !complete || rest.is_empty() => return (index, rest),
            _ => {}
        }
    }
    (0, name)
}

/// The bit that a name clears in the filter word: hash of the name without its base prefix.
#[must_use]
pub fn filter_bit(base_index: u8, infix: &[u8], name: &[u8]) -> u32 {
    let mut hash = Xxh32::new(FILTER_SEED.wrapping_add(u32::from(base_index)));
    hash.update(infix);
    hash.update(name);
    1 << (hash.digest() & 31)
}

/// One entry, inline or shared. Name is what is stored behind the prefix that `index` names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XattrEntry<'a> {
    /// Prefix: built-in, or [`LONG_PREFIX_FLAG`] and a number in the long-prefix table.
    pub index: u8,
    /// Rest of the name.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
}

impl<'a> XattrEntry<'a> {
    /// Bytes of the fixed part.
    pub const HEADER_LEN: usize = 4;
    /// Bytes that hold any entry.
    pub const LEN_MAX: usize = 4 + 255 + 65535 + 3;

    /// Parses the entry at the start of `bytes`; returns it and the bytes it takes with padding.
    /// The padding of the very last entry may be cut off.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize)> {
        let [name_len, index] = bytes_at(bytes, 0, "xattr entry")?;
        let value_len = usize::from(u16_at(bytes, 2, "xattr entry")?);
        let value_at = usize::from(name_len).saturating_add(Self::HEADER_LEN);
        let end = value_at.saturating_add(value_len);
        let truncated = FormatError::Truncated {
            what: "xattr entry",
            needed: u64_from_usize(end),
            have: u64_from_usize(bytes.len()),
        };
        let name = bytes.get(Self::HEADER_LEN..value_at).ok_or(truncated)?;
        let value = bytes.get(value_at..end).ok_or(truncated)?;
        Ok((Self { index, name, value }, padded(end)))
    }

    /// Bytes the entry that begins with `header` takes, padding included.
    pub fn len_from_header(header: &[u8]) -> Result<usize> {
        let [name_len] = bytes_at::<1>(header, 0, "xattr entry")?;
        let value_len = usize::from(u16_at(header, 2, "xattr entry")?);
        Ok(padded(value_len.saturating_add(usize::from(name_len)).saturating_add(4)))
    }

    /// Bytes the entry takes, padding included.
    #[must_use]
    pub const fn emitted_len(&self) -> usize {
        padded(self.name.len().saturating_add(self.value.len()).saturating_add(4))
    }

    /// Appends the entry with its padding.
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<()> {
        let name_len = u8::try_from(self.name.len()).map_err(|_| FormatError::DoesNotFit {
            what: "xattr name",
            value: u64_from_usize(self.name.len()),
        })?;
        let value_len = u16::try_from(self.value.len()).map_err(|_| FormatError::DoesNotFit {
            what: "xattr value",
            value: u64_from_usize(self.value.len()),
        })?;
        let end = out.len().saturating_add(self.emitted_len());
        out.extend_from_slice(&[name_len, self.index]);
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(self.name);
        out.extend_from_slice(self.value);
        out.resize(end, 0);
        Ok(())
    }

    /// A zero word: padding that `--root-xattr-isize` leaves; to be skipped.
    #[must_use]
    pub const fn is_padding(&self) -> bool {
        self.index == 0 && self.name.is_empty() && self.value.is_empty()
    }
}

/// The xattr body of an inode.
#[derive(Clone, Copy, Debug)]
pub struct XattrBody<'a> {
    /// Name filter: a set bit says "certainly absent".
    pub filter: u32,
    shared: &'a [u8],
    inline: &'a [u8],
}

impl<'a> XattrBody<'a> {
    /// Parses a whole body (its length comes from the inode). An empty slice is "no xattrs".
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self { filter: u32::MAX, shared: &[], inline: &[] });
        }
        if bytes.len() <= HEADER_LEN {
            // i_xattr_icount 1: a header and nothing else. format.md §6.1.
            return Err(FormatError::Unsupported {
                what: "xattr body without entries",
                value: u64_from_usize(bytes.len()),
            });
        }
        let filter = u32_at(bytes, 0, "xattr header")?;
        let [count] = bytes_at::<1>(bytes, 4, "xattr header")?;
        let rest = bytes.get(HEADER_LEN..).unwrap_or(&[]);
        let (shared, inline) = rest.split_at_checked(usize::from(count).saturating_mul(4)).ok_or(
            FormatError::corrupt("more shared xattrs than the body holds", u64::from(count)),
        )?;
        Ok(Self { filter, shared, inline })
    }

    /// Shared xattr ids, in order.
    pub fn shared_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.shared.chunks_exact(4).filter_map(|id| id.try_into().ok().map(u32::from_le_bytes))
    }

    /// Inline entries, in order; an error ends the iteration.
    pub fn inline_entries(&self) -> impl Iterator<Item = Result<XattrEntry<'a>>> + use<'a> {
        let mut rest = self.inline;
        core::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                match XattrEntry::parse(rest) {
                    Ok((entry, len)) => {
                        rest = rest.get(len..).unwrap_or(&[]);
                        if !entry.is_padding() {
                            return Some(Ok(entry));
                        }
                    }
                    Err(error) => {
                        rest = &[];
                        return Some(Err(error));
                    }
                }
            }
        })
    }

    /// Emits a body. `i_xattr_icount` is derived by [`icount`] from the emitted length.
    pub fn emit(
        filter: u32,
        shared: &[u32],
        inline: &[XattrEntry<'_>],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let count = u8::try_from(shared.len()).map_err(|_| FormatError::DoesNotFit {
            what: "shared xattr count",
            value: u64_from_usize(shared.len()),
        })?;
        out.extend_from_slice(&filter.to_le_bytes());
        out.extend_from_slice(&[count, 0, 0, 0, 0, 0, 0, 0]);
        for id in shared {
            out.extend_from_slice(&id.to_le_bytes());
        }
        inline.iter().try_for_each(|entry| entry.emit(out))
    }
}

/// `i_xattr_icount` for a body of `len` bytes (0, or at least 16 and a multiple of 4).
pub fn icount(len: usize) -> Result<u16> {
    if len == 0 {
        return Ok(0);
    }
    let words = len.saturating_sub(HEADER_LEN).checked_div(4).unwrap_or(0).saturating_add(1);
    u16::try_from(words)
        .map_err(|_| FormatError::DoesNotFit { what: "xattr body", value: u64_from_usize(len) })
}

/// Digest of a regular file's whole content, as the inode-digest attribute holds it. format.md §6.5.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum InodeDigest {
    /// SHA-256.
    Sha256([u8; 32]),
}

impl InodeDigest {
    /// Bytes of the attribute's value.
    pub const LEN: usize = 7 + 32;
    /// The attribute's usual name: hidden from mounts.
    pub const NAME: &'static [u8] = b"erofs.fingerprint.v1";
    const SHA256: &'static [u8] = b"sha256:";

    /// Parses the attribute's value; `None` if its length or its algorithm is not known.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let digest = value.strip_prefix(Self::SHA256)?;
        digest.try_into().ok().map(Self::Sha256)
    }

    /// The digest itself.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Sha256(bytes) => bytes,
        }
    }

    /// The attribute's value.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        [Self::SHA256, self.bytes()].concat()
    }
}

/// One record of the long-prefix table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LongPrefix {
    /// Built-in index it extends; 0 = none, the name is hidden from the VFS.
    pub base_index: u8,
    /// What follows the built-in prefix.
    pub infix: Vec<u8>,
}

impl LongPrefix {
    /// Splits a full prefix such as `user.long.` as given on a command line.
    #[must_use]
    pub fn from_full(prefix: &[u8]) -> Self {
        let (base_index, infix) = split_name(prefix);
        Self { base_index, infix: infix.to_vec() }
    }

    /// Parses the record at the start of `bytes`; returns it and the bytes up to the next one.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let len = usize::from(u16_at(bytes, 0, "long xattr prefix")?);
        if len == 0 || len > 256 {
            return Err(FormatError::corrupt("length of a long xattr prefix", u64_from_usize(len)));
        }
        let end = len.saturating_add(2);
        let record = bytes.get(2..end).ok_or(FormatError::Truncated {
            what: "long xattr prefix",
            needed: u64_from_usize(end),
            have: u64_from_usize(bytes.len()),
        })?;
        let (base, infix) = record.split_at_checked(1).unwrap_or((&[], &[]));
        let base_index = base.first().copied().unwrap_or(0);
        Ok((Self { base_index, infix: infix.to_vec() }, padded(end)))
    }

    /// Appends the record, padded to four bytes.
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<()> {
        let len = self.infix.len().saturating_add(1);
        if len > 256 {
            return Err(FormatError::DoesNotFit {
                what: "long xattr prefix",
                value: u64_from_usize(len),
            });
        }
        let end = out.len().saturating_add(padded(len.saturating_add(2)));
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.push(self.base_index);
        out.extend_from_slice(&self.infix);
        out.resize(end, 0);
        Ok(())
    }
}

const fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

const _: () = assert!(limits::XATTR_BODY_MAX == HEADER_LEN + 4 * 65534);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn filter_bits_match_the_documented_hashes() {
        // format.md §6.3.
        let table: [(u8, &[u8], u32); 7] = [
            (1, b"k", 14),
            (2, b"", 30),
            (3, b"", 21),
            (6, b"selinux", 11),
            (6, b"capability", 29),
            (4, b"overlay.opaque", 20),
            (0, b"erofs.fingerprint.v1", 8),
        ];
        for (index, name, bit) in table {
            assert_eq!(filter_bit(index, b"", name), 1 << bit, "{index} {name:?}");
            let (infix, rest) = name.split_at(name.len() / 2);
            assert_eq!(filter_bit(index, infix, rest), 1 << bit);
        }
    }

    #[test]
    fn names_split_at_known_prefixes() {
        assert_eq!(split_name(b"user.a"), (1, &b"a"[..]));
        assert_eq!(split_name(b"system.posix_acl_access"), (2, &b""[..]));
        assert_eq!(split_name(b"system.posix_acl_accessX"), (0, &b"system.posix_acl_accessX"[..]));
        assert_eq!(split_name(b"security.capability"), (6, &b"capability"[..]));
        assert_eq!(split_name(b"odd"), (0, &b"odd"[..]));
        assert_eq!(base_prefix(4), Some(&b"trusted."[..]));
        assert_eq!(base_prefix(9), None);
    }

    #[test]
    fn worked_example_body() {
        let mut out = Vec::new();
        let entry = XattrEntry { index: 1, name: b"k", value: b"v1" };
        XattrBody::emit(!filter_bit(1, b"", b"k"), &[], &[entry], &mut out).unwrap();
        assert_eq!(
            out,
            [0xff, 0xbf, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, b'k', b'v', b'1', 0],
            "format.md §3.6"
        );
        assert_eq!(icount(out.len()).unwrap(), 3);
    }

    #[test]
    fn crafted_bodies_are_errors() {
        assert!(XattrBody::parse(&[0; 12]).is_err(), "icount 1");
        let mut body = vec![0; 16];
        body[4] = 200;
        assert!(XattrBody::parse(&body).is_err(), "shared count");
        let mut body = vec![0; 20];
        body[12..16].copy_from_slice(&[200, 1, 0, 0]);
        let parsed = XattrBody::parse(&body).unwrap();
        assert!(parsed.inline_entries().next().unwrap().is_err(), "entry overrun");
        assert!(LongPrefix::parse(&[0, 0, 0]).is_err());
    }

    #[test]
    fn digests_of_other_kinds_are_none() {
        let digest = InodeDigest::Sha256([9; 32]);
        let value = digest.emit();
        assert_eq!((value.len(), &value[..8]), (InodeDigest::LEN, &b"sha256:\x09"[..]));
        assert_eq!(InodeDigest::parse(&value), Some(digest));
        for bad in [&value[..38], &[&value[..], &[0]].concat(), &[9; 39], b"SHA256:", b""] {
            assert_eq!(InodeDigest::parse(bad), None);
        }
    }

    #[test]
    fn zero_words_are_skipped() {
        let mut out = Vec::new();
        let entry = XattrEntry { index: 4, name: b"note", value: b"" };
        XattrBody::emit(0, &[7, 9], &[entry], &mut out).unwrap();
        out.extend_from_slice(&[0; 40]);
        let body = XattrBody::parse(&out).unwrap();
        assert_eq!(body.shared_ids().collect::<Vec<_>>(), [7, 9]);
        assert_eq!(body.inline_entries().collect::<Vec<_>>(), [Ok(entry)]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(body) = XattrBody::parse(&bytes) {
                let _ = body.shared_ids().count();
                let _ = body.inline_entries().count();
            }
            let _ = LongPrefix::parse(&bytes);
        }

        #[test]
        fn long_prefixes_round_trip(base in 0u8..7, infix in proptest::collection::vec(any::<u8>(), 0..255)) {
            let prefix = LongPrefix { base_index: base, infix };
            let mut out = Vec::new();
            prefix.emit(&mut out).unwrap();
            prop_assert_eq!(LongPrefix::parse(&out).unwrap(), (prefix, out.len()));
        }
    }
}
