// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of format.md §19.2 and §19.3.

use super::{SAMPLE, check_error, open, read_all};
use ferrofs_image::Error;
use ferrofs_tests::craft::Crafted;
use ferrofs_tests::exercise::{Budget, exercise};

#[path = "rows/directories.rs"]
mod directories;
#[path = "rows/extents.rs"]
mod extents;
#[path = "rows/indexes.rs"]
mod indexes;
#[path = "rows/inodes.rs"]
mod inodes;
#[path = "rows/superblock.rs"]
mod superblock;

/// What must come of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// The kernel's EFSCORRUPTED or EIO.
    Corrupt,
    /// The kernel's EOPNOTSUPP or EINVAL.
    Unsupported,
    /// A stream that does not decode.
    Undecodable,
    /// Any of these, depending on what happens to lie there.
    Error,
    /// As if nothing had been changed.
    Same,
    /// Readable, with other content.
    Other,
}

/// Name, path that is affected (none: opening fails), the change, the result.
type Row = (&'static str, Option<&'static str>, fn(&mut Crafted), Is);

fn run(rows: &[Row]) {
    let sound = read_all(&SAMPLE).unwrap();
    for &(name, path, change, expected) in rows {
        let mut crafted = SAMPLE.clone();
        change(&mut crafted);
        assert!(crafted.bytes != SAMPLE.bytes, "{name}: nothing changed");
        let image = match open(crafted.bytes.clone()) {
            Ok(image) => image,
            Err(error) => {
                assert!(path.is_none(), "{name}: does not open: {error}");
                check_error(name, &error);
                assert!(matches(&error, expected), "{name}: {error:?} is not {expected:?}");
                continue;
            }
        };
        let path = path.unwrap_or_else(|| panic!("{name}: opens")).as_bytes();
        let found = exercise(&image, Budget::default());
        match (expected, found.error(path)) {
            (Is::Same | Is::Other, Some(error)) => panic!("{name}: {error}"),
            (Is::Same, None) => {
                assert!(found.files.get(path) == sound.files.get(path), "{name}: other content");
            }
            (Is::Other, None) => {
                assert!(found.files.contains_key(path), "{name}: nothing read");
                assert!(found.files[path] != sound.files[path], "{name}: same content");
            }
            (_, None) => panic!("{name}: no error"),
            (_, Some(error)) => {
                check_error(name, error);
                assert!(matches(error, expected), "{name}: {error:?} is not {expected:?}");
                let of_content = !name.contains("xattr") && !name.contains("shared");
                let read = of_content && found.files.contains_key(path);
                assert!(!read || path.is_empty(), "{name}: and content");
            }
        }
    }
}

fn matches(error: &Error, expected: Is) -> bool {
    match error {
        Error::Corrupt { .. } => matches!(expected, Is::Corrupt | Is::Error),
        Error::Unsupported { .. } => matches!(expected, Is::Unsupported | Is::Error),
        Error::Undecodable { .. } => matches!(expected, Is::Undecodable | Is::Error),
        _ => false,
    }
}

const BLOCK: usize = 512;

fn put16(crafted: &mut Crafted, offset: usize, value: u16) {
    crafted.put(offset, &value.to_le_bytes());
}

fn put32(crafted: &mut Crafted, offset: usize, value: u32) {
    crafted.put(offset, &value.to_le_bytes());
}

fn put64(crafted: &mut Crafted, offset: usize, value: u64) {
    crafted.put(offset, &value.to_le_bytes());
}

/// A superblock byte, with the checksum made right.
fn superblock(crafted: &mut Crafted, offset: usize, bytes: &[u8]) {
    crafted.put(1024 + offset, bytes);
    crafted.seal();
}

/// Full index number `index` of a file.
fn full(crafted: &Crafted, name: &str, index: usize) -> usize {
    crafted.at(&format!("{name}.map")) + 16 + 8 * index
}

/// First full index of a file that is no head.
fn nonhead(crafted: &Crafted, name: &str) -> usize {
    let heads = |index: &usize| crafted.bytes[full(crafted, name, *index)] & 3 == 2;
    full(crafted, name, (0..14).find(heads).expect("an extent of several lclusters"))
}

/// Where the names begin in the first block of `dir`.
fn first_nameoff(crafted: &Crafted) -> usize {
    let at = crafted.at("dir.data") + 8;
    usize::from(u16::from_le_bytes([crafted.bytes[at], crafted.bytes[at + 1]]))
}
