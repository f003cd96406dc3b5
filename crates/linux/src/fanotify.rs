// SPDX-License-Identifier: MIT OR Apache-2.0
//! Being asked before a file's content is read (`FAN_PRE_ACCESS`, Linux 6.14 and later).
//!
//! Refuses to know what is in files and who fills them. Invariants: what comes from the kernel is
//! parsed as bytes; every event gets its answer, or its descriptor to whoever will answer it; a
//! reader whose event got no answer waits, and reads whatever is there once the last descriptor of
//! the group is closed: whoever holds a group must take care of that.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `FAN_CLASS_PRE_CONTENT`, and closed on exec, and never waiting.
const INIT_FLAGS: u32 = 0x8 | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
const PRE_ACCESS: u64 = 0x0010_0000;
const VERSION: u8 = 3;
const METADATA_LEN: usize = 24;
const INFO_HEADER_LEN: usize = 4;
const INFO_RANGE: u8 = 6;
const INFO_RANGE_LEN: usize = 24;
const ALLOW: u32 = 0x01;
const DENY: u32 = 0x02;
/// Numbers that a refusal may carry; readers see EIO whatever it is.
const ERRNO_SHIFT: u32 = 24;

/// A group: what was marked in it asks before it is read. Clones of the descriptor are the same
/// group.
#[derive(Debug)]
pub struct PreAccess(OwnedFd);

/// Somebody wants to read.
#[derive(Debug)]
pub struct ReadEvent {
    /// The file, open without events of its own.
    pub file: OwnedFd,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted; 0: the kernel does not tell.
    pub len: u64,
    /// The process.
    pub pid: i32,
}

/// An answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "read it, or do not")]
pub enum Verdict {
    /// What is there is to be read.
    Allow,
    /// An error is to be given.
    Deny,
}

impl PreAccess {
    /// Makes a group. EINVAL: the kernel is older than 6.14; EPERM: not root.
    pub fn new() -> io::Result<Self> {
        let event_flags = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as u32;
        // SAFETY: takes two numbers and gives a descriptor or an error.
        let fd = unsafe { libc::fanotify_init(INIT_FLAGS, event_flags) };
        Self::of(fd)
    }

    fn of(fd: RawFd) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes over a descriptor that another process has kept.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Has a file ask from now on: those who open it later. EOPNOTSUPP: its file system cannot
    /// (tmpfs, overlay).
    pub fn mark(&self, path: &Path) -> io::Result<()> {
        self.change_mark(libc::FAN_MARK_ADD, path)
    }

    /// Has a marked file ask no longer.
    pub fn unmark(&self, path: &Path) -> io::Result<()> {
        self.change_mark(libc::FAN_MARK_REMOVE, path)
    }

    fn change_mark(&self, change: libc::c_uint, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a string that ends with a zero and lives over the call; the rest are
        // numbers and an open descriptor.
        let done = unsafe {
            libc::fanotify_mark(
                self.0.as_raw_fd(),
                change,
                PRE_ACCESS,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// What waits for an answer and was not taken yet. Does not wait.
    pub fn take(&self, events: &mut Vec<ReadEvent>) -> io::Result<()> {
        let mut buf = [0; 4096];
        match rustix::io::read(&self.0, &mut buf) {
            Ok(len) => parse(
                buf.get(..len).unwrap_or_default(),
                |fd| {
                    // SAFETY: the kernel has just opened it for this process and told the number once.
                    unsafe { OwnedFd::from_raw_fd(fd) }
                },
                events,
            ),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Answers an event.
    pub fn answer(&self, event: &ReadEvent, verdict: Verdict) -> io::Result<()> {
        self.answer_number(event.file.as_raw_fd(), verdict)
    }

    /// Refuses all events that a process took who is gone, whose numbers were below `end`. Numbers
    /// that stand for no event are passed over.
    pub fn refuse_below(&self, end: RawFd) {
        for number in 0..end {
            // That there is no such event is the rule here.
            let _ = self.answer_number(number, Verdict::Deny);
        }
    }

    fn answer_number(&self, number: RawFd, verdict: Verdict) -> io::Result<()> {
        let response = match verdict {
            Verdict::Allow => ALLOW,
            Verdict::Deny => DENY | (libc::EIO as u32) << ERRNO_SHIFT,
        };
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&number.to_ne_bytes());
        bytes[4..].copy_from_slice(&response.to_ne_bytes());
        match rustix::io::write(&self.0, &bytes) {
            Ok(_) => Ok(()),
            // Without the number it is a refusal as good.
            Err(rustix::io::Errno::INVAL) if verdict == Verdict::Deny => {
                bytes[4..].copy_from_slice(&DENY.to_ne_bytes());
                Ok(rustix::io::write(&self.0, &bytes).map(|_| ())?)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for PreAccess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Bytes `at..at + N` of `bytes`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Events out of what a read has given. `own` takes a number that the kernel says is a new
/// descriptor of ours.
fn parse(
    mut bytes: &[u8],
    mut own: impl FnMut(RawFd) -> OwnedFd,
    events: &mut Vec<ReadEvent>,
) -> io::Result<()> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    while !bytes.is_empty() {
        let len = u32::from_ne_bytes(array(bytes, 0).ok_or_else(bad)?) as usize;
        let event = bytes.get(..len).filter(|event| event.len() >= METADATA_LEN);
        let event = event.ok_or_else(bad)?;
        bytes = bytes.get(len..).unwrap_or_default();
        let number = i32::from_ne_bytes(array(event, 16).ok_or_else(bad)?);
        // Owned first, so that it is closed whatever else is wrong with the event.
        let file = (number >= 0).then(|| own(number));
        let version = event.get(4).copied();
        let head = u16::from_ne_bytes(array(event, 6).ok_or_else(bad)?);
        let mask = u64::from_ne_bytes(array(event, 8).ok_or_else(bad)?);
        let pid = i32::from_ne_bytes(array(event, 20).ok_or_else(bad)?);
        if version != Some(VERSION) {
            return Err(bad());
        }
        // A queue that ran over has no file; it cannot be with a limit on readers as it is.
        let Some(file) = file else { continue };
        if mask & PRE_ACCESS == 0 {
            return Err(bad());
        }
        let range = range(event.get(head.into()..).unwrap_or_default());
        let (offset, len) = range.unwrap_or_default();
        events.push(ReadEvent { file, offset, len, pid });
    }
    Ok(())
}

/// Offset and length out of the records behind an event's head.
fn range(mut records: &[u8]) -> Option<(u64, u64)> {
    loop {
        let kind = *records.first()?;
        let len = usize::from(u16::from_ne_bytes(array(records, 2)?));
        if kind == INFO_RANGE && len >= INFO_RANGE_LEN {
            let number = |at| array(records, at).map(u64::from_ne_bytes);
            return Some((number(8)?, number(16)?));
        }
        records = records.get(len.max(INFO_HEADER_LEN)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;

    fn event(number: i32, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = METADATA_LEN + records.len();
        bytes.extend_from_slice(&(len as u32).to_ne_bytes());
        bytes.extend_from_slice(&[VERSION, 0]);
        bytes.extend_from_slice(&(METADATA_LEN as u16).to_ne_bytes());
        bytes.extend_from_slice(&PRE_ACCESS.to_ne_bytes());
        bytes.extend_from_slice(&number.to_ne_bytes());
        bytes.extend_from_slice(&77_i32.to_ne_bytes());
        bytes.extend_from_slice(records);
        bytes
    }

    fn range_record(offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![INFO_RANGE, 0];
        bytes.extend_from_slice(&(INFO_RANGE_LEN as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&offset.to_ne_bytes());
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes
    }

    fn some_file(_: RawFd) -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn events_are_understood() {
        let mut bytes = event(5, &range_record(8192, 4096));
        // Another kind of record in front, and an event without a range.
        bytes
            .extend(event(6, &[&[1, 0, 8, 0, 9, 9, 9, 9][..], &range_record(0, 1 << 40)].concat()));
        bytes.extend(event(7, &[]));
        let mut events = Vec::new();
        parse(&bytes, some_file, &mut events).unwrap();
        let found: Vec<_> = events.iter().map(|e| (e.offset, e.len, e.pid)).collect();
        assert_eq!(found, [(8192, 4096, 77), (0, 1 << 40, 77), (0, 0, 77)]);
    }

    #[test]
    fn every_descriptor_is_owned_even_if_the_rest_is_nonsense() {
        let mut bytes = event(5, &range_record(0, 1));
        bytes[4] = 9;
        let mut owned = 0;
        let own = |number| {
            owned += 1;
            some_file(number)
        };
        assert!(parse(&bytes, own, &mut Vec::new()).is_err());
        assert_eq!(owned, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_give_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, some_file, &mut Vec::new());
        }
    }

    #[test]
    fn whoever_reads_waits_for_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let group = match PreAccess::new() {
            Ok(group) => group,
            Err(error) => return println!("skipped: no groups before content: {error}"),
        };
        if let Err(error) = group.mark(&path) {
            return println!("skipped: no marks on this file system: {error}");
        }
        for verdict in [Verdict::Allow, Verdict::Deny] {
            let name = path.clone();
            let reader = std::thread::spawn(move || std::fs::read(name));
            let mut events = Vec::new();
            while !reader.is_finished() {
                group.take(&mut events).unwrap();
                for event in events.drain(..) {
                    assert!(event.offset <= 8192, "{event:?}");
                    group.answer(&event, verdict).unwrap();
                }
            }
            let read = reader.join().unwrap();
            assert_eq!(read.is_ok(), verdict == Verdict::Allow, "{read:?}");
        }
    }
}
