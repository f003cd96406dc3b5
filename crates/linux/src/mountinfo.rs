// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of mounts, from `/proc/self/mountinfo`.
//!
//! Asks no mounted file system anything, so a dead one cannot hang it. Invariant: any bytes give
//! entries or are skipped; names come back unescaped.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MountEntry {
    /// Number of the mount.
    pub id: u64,
    /// Number of the mount it is on.
    pub parent: u64,
    /// Device number, major and minor: that of `st_dev` of its files.
    pub device: (u32, u32),
    /// The path within the file system that is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Attributes of the mount point, with commas between.
    pub options: String,
    /// Type of the file system, with its subtype, as `fuse.ferrofs`.
    pub fs_type: String,
    /// What is mounted, as its owner named it.
    pub source: PathBuf,
    /// Options of the file system, with commas between.
    pub super_options: String,
}

/// All mounts of this process's mount namespace, in the order of mounting within a directory.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount on top at exactly `target`, which must be an absolute path without symbolic links.
pub fn find(target: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|entry| entry.target == target))
}

/// The mounts at and below `path`, those on top first: the order in which to unmount them.
pub fn find_under(path: &Path) -> io::Result<Vec<MountEntry>> {
    let mut entries = read()?;
    entries.retain(|entry| entry.target.starts_with(path));
    entries.reverse();
    Ok(entries)
}

/// Parses the text of a `mountinfo` file. Lines that are none are skipped.
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = text(fields.next()?);
    // Any number of optional fields, ended by a dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = path(fields.next()?);
    let super_options = text(fields.next().unwrap_or_default());
    Some(MountEntry { id, parent, device, root, target, options, fs_type, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's escapes: a backslash and three octal digits for a byte.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\').then(|| tail.get(..3).and_then(octal)).flatten();
        if let (Some(byte), Some(tail)) = (escaped, tail.get(3..)) {
            bytes.push(byte);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields() {
        let line = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134c rw,noatime master:1 shared:2 - \
                     fuse.ferrofs /dev/ro\\011ot ro,user_id=0\n";
        let entries = parse(line);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.id, entry.parent, entry.device), (36, 35, (98, 0)));
        assert_eq!(entry.root, Path::new("/mnt1"));
        assert_eq!(entry.target, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.options, "rw,noatime");
        assert_eq!(entry.fs_type, "fuse.ferrofs");
        assert_eq!(entry.source, Path::new("/dev/ro\tot"));
        assert_eq!(entry.super_options, "ro,user_id=0");
    }

    #[test]
    fn incomplete_escapes_stay() {
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999\\"), b"\\999\\");
        assert_eq!(unescape(b"\\777"), b"\\777");
        assert_eq!(unescape(b"\\377"), [0xff]);
    }

    #[test]
    fn this_process_has_a_root_mount() {
        assert!(read().unwrap().iter().any(|entry| entry.target == Path::new("/")));
    }

    proptest! {
        #[test]
        fn any_bytes_parse(text: Vec<u8>) {
            parse(&text);
        }

        #[test]
        fn escapes_come_back(name in proptest::collection::vec(1_u8..=255, 0..40)) {
            let mut escaped = Vec::new();
            for &byte in &name {
                if b" \t\n\\".contains(&byte) {
                    escaped.extend(format!("\\{byte:03o}").bytes());
                } else {
                    escaped.push(byte);
                }
            }
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
