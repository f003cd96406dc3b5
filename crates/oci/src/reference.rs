// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of images: `[host[:port]/]repository[:tag][@digest]`, and digests.

use crate::{Error, ErrorKind};
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;
use std::str::FromStr;

/// Longest repository name, by the specification's advice for host and name together.
const NAME_LEN_MAX: usize = 255;
/// Longest tag.
const TAG_LEN_MAX: usize = 128;

/// `sha256:HEX` or `sha512:HEX`. Only lower-case hexadecimal digits of the right number: safe in
/// paths.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest {
    text: String,
}

impl Digest {
    /// The tag of the index of what belongs to it, where nothing else keeps such a list.
    pub(crate) fn referrers_tag(&self) -> String {
        format!("{}-{}", self.algorithm(), self.hex())
    }

    /// Name of the algorithm.
    pub fn algorithm(&self) -> &str {
        self.text.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The SHA-256 of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { text: format!("sha256:{}", hex(&Sha256::digest(bytes))) }
    }

    /// Checks bytes.
    pub fn verify(&self, bytes: &[u8], place: &str) -> Result<(), Error> {
        let found = match self.algorithm() {
            "sha512" => hex(&Sha512::digest(bytes)),
            _ => hex(&Sha256::digest(bytes)),
        };
        if found == self.hex() {
            return Ok(());
        }
        let algorithm = self.algorithm();
        let what = format!("{place}: digest is {algorithm}:{found}, expected {self}");
        Err(Error::new(ErrorKind::Digest, what))
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let len = match text.split_once(':') {
            Some(("sha256", _)) => 64,
            Some(("sha512", _)) => 128,
            _ => return Err(Error::invalid("a digest that is neither sha256: nor sha512:")),
        };
        let digits = &text[7..];
        let fine = digits.len() == len
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !fine {
            return Err(Error::invalid(format!("a digest needs {len} lower-case hex digits")));
        }
        Ok(Self { text: text.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name of an image in a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all the parts that a reference has")]
pub struct Reference {
    /// `host[:port]`; `docker.io` if none was given.
    pub registry: String,
    /// `a/b/c`; `library/` is put before single names of Docker Hub.
    pub repository: String,
    /// Tag; `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest of the manifest.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The host that is connected to.
    pub fn host(&self) -> &str {
        if self.registry == "docker.io" { "registry-1.docker.io" } else { &self.registry }
    }

    /// What manifests are asked for by: the digest if there is one, or the tag.
    pub fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => &digest.text,
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fine = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    };
    fine && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Parts of lower-case letters and digits, with single separators (`.`, `_`, `__`, `-`...) inside.
fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |byte: Option<u8>| {
            byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(inner)
            && !part.contains("..")
    };
    text.len() <= NAME_LEN_MAX && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LEN_MAX
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|byte| first(byte) || b".-".contains(&byte))
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (registry, name) = match rest.split_once('/') {
            Some((host, name))
                if host.contains(['.', ':', '[']) || host == "localhost" || has_upper(host) =>
            {
                (host, name.to_owned())
            }
            _ => ("docker.io", rest.to_owned()),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other,
        };
        let official = registry == "docker.io" && !name.contains('/');
        let repository = if official { format!("library/{name}") } else { name };
        if !is_host(registry) || !is_repository(&repository) {
            let what = "not the name of an image ([host[:port]/]repository[:tag][@digest])";
            return Err(Error::invalid(format!("{}: {what}", crate::error::printable(text))));
        }
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            let what = format!("{}: the tag is no tag", crate::error::printable(text));
            return Err(Error::invalid(what));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry: registry.to_ascii_lowercase(), repository, tag, digest })
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("a/b:1.2", "docker.io/a/b:1.2".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("h:5000/a/b__c:T_1", "h:5000/a/b__c:T_1".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            (&format!("ghcr.io/a@{digest}"), format!("ghcr.io/a@{digest}")),
            (&format!("index.docker.io/a:t@{digest}"), format!("docker.io/library/a:t@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "/",
            "a//b",
            "A/b c",
            "a/../b",
            "h.x/../b",
            "h.x/a:",
            "h.x/a:-",
            "a@sha256:12",
            "a@md5:12",
            "h.x:0/a",
            "h.x:99999/a",
            "us:pw@h.x/a",
            "h.x/a?b",
            "h.x/%2e%2e/b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn digests_are_checked() {
        let digest = Digest::of(b"abc");
        assert_eq!(&digest.hex()[..8], "ba7816bf");
        assert!(digest.verify(b"abc", "x").is_ok());
        assert_eq!(digest.verify(b"abd", "x").unwrap_err().kind, ErrorKind::Digest);
        for bad in ["sha256:../../etc", "sha256:", "sha512:ab", ":", "sha256"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
