// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths and names as an image has them: bytes, of which most are UTF-8.

use serde::{Serialize, Serializer};
use std::fmt::{self, Write};

/// Bytes of a path or name. Shown and serialized as text; control characters, backslashes and what
/// is not UTF-8 become `\xNN`, so that different bytes never look the same.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RawPath(pub Vec<u8>);

impl RawPath {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A path of the image, absolute and without needless slashes and `.`.
    #[must_use]
    pub fn normal(path: &[u8]) -> Self {
        let mut names = vec![];
        for name in path.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    names.pop();
                }
                _ => names.push(name),
            }
        }
        Self([b"/", names.join(&b'/').as_slice()].concat())
    }

    /// `name` below this path.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + name.len() + 1);
        bytes.extend_from_slice(&self.0);
        if bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }
}

impl From<&[u8]> for RawPath {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Display for RawPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RawPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_unambiguous() {
        for (bytes, text) in [
            (&b"/etc/a b"[..], "/etc/a b"),
            (b"a\nb", "a\\x0ab"),
            (b"a\\x0ab", "a\\x5cx0ab"),
            (b"\xff\xc3\xa4", "\\xff\u{e4}"),
        ] {
            assert_eq!(RawPath::from(bytes).to_string(), text);
        }
        assert_eq!(RawPath::normal(b"a//./b/../c/").as_bytes(), b"/a/c");
        assert_eq!(RawPath::normal(b"").as_bytes(), b"/");
        assert_eq!(RawPath::from(&b"/"[..]).join(b"x").as_bytes(), b"/x");
        assert_eq!(RawPath::from(&b"/a"[..]).join(b"x").as_bytes(), b"/a/x");
    }
}
