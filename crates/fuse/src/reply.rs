// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers to bytes for the kernel.
//!
//! Makes no system call. Invariant: what leaves here is something the kernel accepts; values that
//! it would take for something else (a name with a slash, too many nanoseconds) do not pass.

use std::time::Duration;

use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::abi::{AttrOut, Dirent, EntryOut, StatfsOut, WireAttr};
use crate::fs::{Attr, DirEntry, Entry, Errno, StatFs, Timestamp};

/// The longest name a directory entry may have, in bytes.
const NAME_MAX: usize = 255;

/// How long the kernel may trust an answer, in the form of the protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    seconds: u64,
    nanoseconds: u32,
}

impl From<Duration> for Validity {
    fn from(duration: Duration) -> Self {
        // More seconds than this the kernel counts as for ever anyway; less cannot overflow there.
        let seconds = duration.as_secs().min(u64::from(u32::MAX));
        Self { seconds, nanoseconds: duration.subsec_nanos() }
    }
}

pub(crate) fn wire_attr(attr: &Attr) -> WireAttr {
    let nanoseconds = |time: Timestamp| time.nanoseconds.min(999_999_999);
    WireAttr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.seconds.cast_unsigned(),
        mtime: attr.mtime.seconds.cast_unsigned(),
        ctime: attr.ctime.seconds.cast_unsigned(),
        atimensec: nanoseconds(attr.atime),
        mtimensec: nanoseconds(attr.mtime),
        ctimensec: nanoseconds(attr.ctime),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(crate) fn attr_out(attr: &Attr, valid: Validity) -> AttrOut {
    AttrOut {
        attr_valid: valid.seconds,
        attr_valid_nsec: valid.nanoseconds,
        dummy: 0,
        attr: wire_attr(attr),
    }
}

pub(crate) fn entry_out(entry: &Entry, entry_valid: Validity, attr_valid: Validity) -> EntryOut {
    EntryOut {
        nodeid: entry.node,
        generation: 0,
        entry_valid: entry_valid.seconds,
        entry_valid_nsec: entry_valid.nanoseconds,
        attr_valid: attr_valid.seconds,
        attr_valid_nsec: attr_valid.nanoseconds,
        attr: wire_attr(&entry.attr),
    }
}

/// "There is no such name", to be remembered for `valid`.
pub(crate) fn negative_entry(valid: Validity) -> EntryOut {
    EntryOut {
        entry_valid: valid.seconds,
        entry_valid_nsec: valid.nanoseconds,
        ..EntryOut::new_zeroed()
    }
}

pub(crate) fn statfs_out(stat: &StatFs) -> StatfsOut {
    StatfsOut {
        blocks: stat.blocks,
        bfree: stat.blocks_free,
        bavail: stat.blocks_available,
        files: stat.files,
        ffree: stat.files_free,
        bsize: stat.block_size,
        namelen: stat.name_max,
        frsize: stat.fragment_size,
        padding: 0,
        spare: [0; 6],
    }
}

/// Fills a buffer with directory entries.
#[derive(Debug)]
pub(crate) struct DirWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> DirWriter<'a> {
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether an entry of a name this long still fits.
    pub(crate) fn fits(&self, name_len: usize, plus: bool) -> bool {
        entry_len(name_len, plus) <= self.buf.len().saturating_sub(self.len)
    }

    /// Appends an entry, with attributes if `plus` is given. False if it does not fit.
    pub(crate) fn push(
        &mut self,
        entry: &DirEntry<'_>,
        plus: Option<&EntryOut>,
    ) -> Result<bool, Errno> {
        check_name(entry.name)?;
        if !self.fits(entry.name.len(), plus.is_some()) {
            return Ok(false);
        }
        if let Some(plus) = plus {
            self.put(plus);
        }
        let namelen = u32::try_from(entry.name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let kind = u32::from(entry.kind as u8);
        self.put(&Dirent { ino: entry.ino, off: entry.cookie, namelen, kind });
        self.put(entry.name);
        let padding = entry.name.len().next_multiple_of(8).abs_diff(entry.name.len());
        self.put(&[0_u8; 8][..padding]);
        Ok(true)
    }

    /// Appends bytes whose room `push` has checked.
    fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, value: &T) {
        let bytes = value.as_bytes();
        let room = self.buf.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len()));
        if let Some(room) = room {
            room.copy_from_slice(bytes);
            self.len = self.len.saturating_add(bytes.len());
        }
    }
}

/// Bytes that a directory entry takes.
fn entry_len(name_len: usize, plus: bool) -> usize {
    let attributes = if plus { size_of::<EntryOut>() } else { 0 };
    name_len.next_multiple_of(8).saturating_add(size_of::<Dirent>()).saturating_add(attributes)
}

/// Whether the kernel can be given this name. It would fail the whole directory for one that it
/// cannot take, or, worse, take it for a path.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/'))
    {
        return Err(Errno::UCLEAN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileKind;

    fn entry(name: &[u8]) -> DirEntry<'_> {
        DirEntry { node: 5, ino: 6, cookie: 7, kind: FileKind::Regular, name }
    }

    #[test]
    fn entries_are_padded_and_stop_when_full() {
        let mut buf = [0xff_u8; 100];
        let mut writer = DirWriter::new(&mut buf);
        assert_eq!(writer.push(&entry(b"abc"), None), Ok(true));
        assert_eq!(writer.len(), 32);
        assert_eq!(writer.push(&entry(b"12345678"), None), Ok(true));
        assert_eq!(writer.len(), 64);
        assert_eq!(writer.push(&entry(b"123456789"), None), Ok(false));
        assert_eq!(writer.push(&entry(b"x"), None), Ok(true));
        assert_eq!(writer.len(), 96);
        assert_eq!(buf[0..8], 6_u64.to_ne_bytes());
        assert_eq!(buf[8..16], 7_u64.to_ne_bytes());
        assert_eq!(buf[16..20], 3_u32.to_ne_bytes());
        assert_eq!(buf[20..24], 8_u32.to_ne_bytes());
        assert_eq!(&buf[24..32], b"abc\0\0\0\0\0");
        assert_eq!(buf[96..], [0xff; 4]);
    }

    #[test]
    fn names_the_kernel_would_misread_are_refused() {
        let long = [b'a'; 256];
        for name in [&b""[..], b"a/b", b"a\0", &long] {
            let mut buf = [0; 512];
            assert_eq!(DirWriter::new(&mut buf).push(&entry(name), None), Err(Errno::UCLEAN));
        }
    }

    #[test]
    fn endless_validity_stays_in_range() {
        let validity = Validity::from(Duration::MAX);
        assert_eq!(validity.seconds, u64::from(u32::MAX));
        assert!(validity.nanoseconds < 1_000_000_000);
    }
}
