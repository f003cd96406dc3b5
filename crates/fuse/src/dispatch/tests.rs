// SPDX-License-Identifier: MIT OR Apache-2.0

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;
use crate::abi::{AttrOut, Dirent, EntryOut, InHeader, ReadIn, StatfsOut, opcode as code};
use crate::fs::{Attr, DirEntry, FileKind, StatFs};

/// Node 1 has entries; node 2 is a file of 10,000 bytes; node 3 panics; node 4 lies about its
/// length; node 5 is a link with a NUL in it; node 6 is a directory with a bad name.
#[derive(Default)]
struct Toy {
    forgotten: AtomicU64,
}

const SIZE: u64 = 10_000;

impl ReadOnlyFs for Toy {
    fn lookup(&self, _parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        match name {
            b"file" => Ok(Entry { node: 2, attr: self.getattr(2)? }),
            b"zero" => Ok(Entry { node: 0, attr: Attr::default() }),
            b"locked" => Err(Errno::ACCES),
            _ => Err(Errno::NOENT),
        }
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        assert_ne!(node, 3, "a bug of the file system");
        let mode = if node == 1 { 0o040_755 } else { 0o100_644 };
        Ok(Attr { ino: node + 100, size: SIZE, mode, ..Attr::default() })
    }

    fn readlink(&self, node: u64, target: &mut Vec<u8>) -> Result<(), Errno> {
        match node {
            5 => target.extend_from_slice(b"a\0b"),
            6 => target.resize(5000, b'x'),
            _ => target.extend_from_slice(b"target"),
        }
        Ok(())
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        assert!(buf.len() >= read.len + SPARE_LEN);
        let len = SIZE.saturating_sub(read.offset).min(read.len as u64) as usize;
        for (byte, at) in buf[..len].iter_mut().zip(read.offset..) {
            *byte = at as u8;
        }
        buf[read.len..].fill(0xee);
        Ok(if read.node == 4 { len / 2 } else { len })
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let names: &[&[u8]] =
            if node == 6 { &[b"good", b"b/d"] } else { &[b".", b"..", b"one", b"two", b"three"] };
        for (name, number) in names.iter().zip(1_u64..) {
            let kind = FileKind::Regular;
            let entry = DirEntry { node: 2, ino: number, cookie: number, kind, name };
            if number > cookie && !sink(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn getxattr(&self, _node: u64, name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        if name != b"user.x" {
            return Err(Errno::NODATA);
        }
        value.extend_from_slice(b"value");
        Ok(())
    }

    fn listxattr(&self, _node: u64, names: &mut Vec<u8>) -> Result<(), Errno> {
        names.extend_from_slice(b"user.x\0");
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { blocks: 77, name_max: 255, ..StatFs::default() })
    }

    fn lseek(&self, _node: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        match whence {
            Whence::Data if offset < SIZE => Ok(offset),
            Whence::Hole if offset < SIZE => Ok(SIZE),
            _ => Err(Errno::NXIO),
        }
    }

    fn forget(&self, _node: u64, count: u64) {
        self.forgotten.fetch_add(count.min(1000), Ordering::SeqCst);
    }
}

fn policy(no_open: bool) -> Policy {
    let valid = Validity::from(Duration::from_secs(9));
    Policy {
        entry_valid: valid,
        attr_valid: valid,
        negative_valid: valid,
        no_open,
        no_opendir: no_open,
        open_flags: crate::abi::FOPEN_KEEP_CACHE,
        reply_max: 1 << 20,
    }
}

struct Fixture {
    fs: Arc<Toy>,
    dispatcher: Dispatcher,
    scratch: Scratch,
}

impl Fixture {
    fn new() -> Self {
        let fs = Arc::new(Toy::default());
        let shared: Arc<dyn ReadOnlyFs> = Arc::clone(&fs) as _;
        let dispatcher = Dispatcher::new(shared, policy(true));
        Self { fs, dispatcher, scratch: Scratch::default() }
    }

    /// The answer as the kernel gets it: the error (positive) or the body.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        self.send(&message(opcode, node, body))
    }

    fn send(&mut self, message: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        let answer = self.dispatcher.handle(message, &mut self.scratch)?;
        let body = answer.body(&self.scratch).to_vec();
        assert_eq!(answer.header.len as usize, 16 + body.len());
        assert!(answer.header.error <= 0 && answer.header.error > -512);
        assert!(answer.header.error == 0 || body.is_empty());
        Some(if answer.header.error == 0 { Ok(body) } else { Err(-answer.header.error) })
    }

    fn ok(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.ask(opcode, node, body).expect("an answer").expect("no error")
    }

    fn err(&mut self, opcode: u32, node: u64, body: &[u8]) -> Errno {
        Errno::new(self.ask(opcode, node, body).expect("an answer").expect_err("an error"))
    }
}

fn message(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let len = (size_of::<InHeader>() + body.len()) as u32;
    let header = InHeader { len, opcode, unique: 42, nodeid, ..InHeader::default() };
    [header.as_bytes(), body].concat()
}

fn read_in(offset: u64, size: u32) -> Vec<u8> {
    ReadIn { offset, size, ..ReadIn::default() }.as_bytes().to_vec()
}

/// The arguments of GETXATTR and LISTXATTR.
fn xattr_in(size: u32, name: &[u8]) -> Vec<u8> {
    [&size.to_ne_bytes()[..], &[0; 4], name].concat()
}

fn seek_in(offset: u64, whence: u32) -> Vec<u8> {
    [&[0; 8][..], &offset.to_ne_bytes(), &whence.to_ne_bytes(), &[0; 4]].concat()
}

#[test]
fn names_are_looked_up() {
    let mut fixture = Fixture::new();
    let entry = EntryOut::read_from_bytes(&fixture.ok(code::LOOKUP, 1, b"file\0")).unwrap();
    assert_eq!((entry.nodeid, entry.attr.ino, entry.entry_valid), (2, 102, 9));
    let none = EntryOut::read_from_bytes(&fixture.ok(code::LOOKUP, 1, b"none\0")).unwrap();
    assert_eq!((none.nodeid, none.entry_valid), (0, 9));
    assert_eq!(fixture.err(code::LOOKUP, 1, b"locked\0"), Errno::ACCES);
    assert_eq!(fixture.err(code::LOOKUP, 1, b"zero\0"), Errno::IO);
    for bad in [&b""[..], b"file", b"\0", b"a\0b\0", b"a\0\0"] {
        assert_eq!(fixture.err(code::LOOKUP, 1, bad), Errno::PROTO, "{bad:?}");
    }
}

#[test]
fn attributes_and_sizes() {
    let mut fixture = Fixture::new();
    let attr = AttrOut::read_from_bytes(&fixture.ok(code::GETATTR, 2, &[0; 16])).unwrap();
    assert_eq!((attr.attr.ino, attr.attr.size, attr.attr_valid), (102, SIZE, 9));
    let stat = StatfsOut::read_from_bytes(&fixture.ok(code::STATFS, 1, &[])).unwrap();
    assert_eq!((stat.blocks, stat.namelen), (77, 255));
}

#[test]
fn reads_at_odd_places() {
    let mut fixture = Fixture::new();
    for (offset, size, len) in [
        (0, 1, 1),
        (1, 4095, 4095),
        (9_999, 4096, 1),
        (10_000, 10, 0),
        (u64::MAX, 10, 0),
        (5, 0, 0),
    ] {
        let bytes = fixture.ok(code::READ, 2, &read_in(offset, size));
        assert_eq!(bytes.len(), len, "{offset} {size}");
        assert!(bytes.iter().zip(offset..).all(|(byte, at)| *byte == at as u8));
    }
    // The kernel would take a cut answer for the end of the file.
    assert_eq!(fixture.err(code::READ, 2, &read_in(0, (1 << 20) + 1)), Errno::INVAL);
    assert_eq!(fixture.err(code::READ, 4, &read_in(0, 4096)), Errno::IO);
    assert_eq!(fixture.ok(code::READ, 2, &read_in(20_000, 1 << 20)).len(), 0);
    assert_eq!(fixture.err(code::READ, 2, &[0; 39]), Errno::PROTO);
}

#[test]
fn links_and_attributes() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.ok(code::READLINK, 2, &[]), b"target");
    assert_eq!(fixture.err(code::READLINK, 5, &[]), Errno::UCLEAN);
    assert_eq!(fixture.err(code::READLINK, 6, &[]), Errno::NAMETOOLONG);
    let get = |size, name| xattr_in(size, name);
    assert_eq!(fixture.ok(code::GETXATTR, 2, &get(100, b"user.x\0")), b"value");
    assert_eq!(fixture.ok(code::GETXATTR, 2, &get(5, b"user.x\0")), b"value");
    assert_eq!(fixture.ok(code::GETXATTR, 2, &get(0, b"user.x\0"))[..4], 5_u32.to_ne_bytes());
    assert_eq!(fixture.err(code::GETXATTR, 2, &get(4, b"user.x\0")), Errno::RANGE);
    assert_eq!(fixture.err(code::GETXATTR, 2, &get(4, b"user.y\0")), Errno::NODATA);
    assert_eq!(fixture.err(code::GETXATTR, 2, &get(4, b"")), Errno::PROTO);
    assert_eq!(fixture.ok(code::LISTXATTR, 2, &xattr_in(7, b"")), b"user.x\0");
    assert_eq!(fixture.err(code::LISTXATTR, 2, &xattr_in(6, b"")), Errno::RANGE);
    assert_eq!(fixture.ok(code::LSEEK, 2, &seek_in(5, SEEK_DATA)), 5_u64.to_ne_bytes());
    assert_eq!(fixture.ok(code::LSEEK, 2, &seek_in(5, SEEK_HOLE)), SIZE.to_ne_bytes());
    assert_eq!(fixture.err(code::LSEEK, 2, &seek_in(SIZE, SEEK_DATA)), Errno::NXIO);
    assert_eq!(fixture.err(code::LSEEK, 2, &seek_in(0, 2)), Errno::INVAL);
}

/// Names and cookies of an answer to READDIR or READDIRPLUS, with node ids for the latter.
fn entries(mut bytes: &[u8], plus: bool) -> Vec<(String, u64, u64)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let node = if plus {
            let (entry, rest) = EntryOut::read_from_prefix(bytes).unwrap();
            bytes = rest;
            entry.nodeid
        } else {
            0
        };
        let (entry, rest) = Dirent::read_from_prefix(bytes).unwrap();
        let len = entry.namelen as usize;
        let name = String::from_utf8(rest[..len].to_vec()).unwrap();
        all.push((name, entry.off, node));
        bytes = &rest[len.next_multiple_of(8)..];
    }
    all
}

#[test]
fn directories_in_parts() {
    let mut fixture = Fixture::new();
    for (opcode, plus) in [(code::READDIR, false), (code::READDIRPLUS, true)] {
        for size in [200, 320, 4096] {
            let mut cookie = 0;
            let mut all = Vec::new();
            loop {
                let bytes = fixture.ok(opcode, 1, &read_in(cookie, size));
                assert!(bytes.len() <= size as usize);
                let part = entries(&bytes, plus);
                let Some(last) = part.last() else { break };
                cookie = last.1;
                all.extend(part);
            }
            let names: Vec<_> = all.iter().map(|entry| entry.0.as_str()).collect();
            assert_eq!(names, [".", "..", "one", "two", "three"]);
            let nodes: Vec<_> = all.iter().map(|entry| entry.2).collect();
            assert_eq!(nodes, if plus { [0, 0, 2, 2, 2] } else { [0; 5] });
        }
    }
    // No bytes would mean the end, and there is more.
    assert_eq!(fixture.err(code::READDIR, 1, &read_in(0, 10)), Errno::INVAL);
    let bytes = fixture.ok(code::READDIR, 6, &read_in(0, 4096));
    assert_eq!(entries(&bytes, false).len(), 1);
    assert_eq!(fixture.err(code::READDIR, 6, &read_in(1, 4096)), Errno::UCLEAN);
}

#[test]
fn nothing_can_be_changed() {
    let mut fixture = Fixture::new();
    for opcode in [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51] {
        assert_eq!(fixture.err(opcode, 1, &[]), Errno::ROFS, "{opcode}");
    }
    for opcode in [0, 7, 20, 25, 31, 34, 37, 39, 40, 48, 50, 52, 99, u32::MAX] {
        assert_eq!(fixture.err(opcode, 1, &[0; 64]), Errno::NOSYS, "{opcode}");
    }
    assert_eq!(fixture.err(code::INIT, 0, &[0; 64]), Errno::IO);
}

#[test]
fn opens_with_and_without_messages() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.err(code::OPEN, 2, &[0; 8]), Errno::NOSYS);
    assert_eq!(fixture.err(code::OPENDIR, 1, &[0; 8]), Errno::NOSYS);
    fixture.dispatcher = Dispatcher::new(Arc::clone(&fixture.fs) as _, policy(false));
    let open = OpenOut::read_from_bytes(&fixture.ok(code::OPEN, 2, &[0; 8])).unwrap();
    assert_eq!(open.open_flags, FOPEN_KEEP_CACHE);
    let open = OpenOut::read_from_bytes(&fixture.ok(code::OPENDIR, 1, &[0; 8])).unwrap();
    assert_eq!(open.open_flags, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
    assert!(fixture.ok(code::RELEASE, 2, &[0; 24]).is_empty());
}

#[test]
fn some_want_no_answer() {
    let mut fixture = Fixture::new();
    assert!(fixture.ask(code::FORGET, 2, &3_u64.to_ne_bytes()).is_none());
    let batch = |count: u64, items: usize| {
        let mut bytes = count.to_ne_bytes().to_vec();
        bytes.extend((0..items).flat_map(|_| [2_u64.to_ne_bytes(), 5_u64.to_ne_bytes()].concat()));
        bytes
    };
    assert!(fixture.ask(code::BATCH_FORGET, 0, &batch(2, 3)).is_none());
    assert_eq!(fixture.fs.forgotten.load(Ordering::SeqCst), 13);
    // A count that lies is refused as a whole, in silence.
    assert!(fixture.ask(code::BATCH_FORGET, 0, &batch(4, 3)).is_none());
    assert!(fixture.ask(code::BATCH_FORGET, 0, &batch(u64::from(u32::MAX), 3)).is_none());
    assert!(fixture.ask(code::FORGET, 2, &[0; 7]).is_none());
    assert!(fixture.ask(code::INTERRUPT, 0, &[0; 8]).is_none());
    assert_eq!(fixture.fs.forgotten.load(Ordering::SeqCst), 13);
}

#[test]
fn lengths_that_lie_are_refused() {
    let mut fixture = Fixture::new();
    let good = message(code::GETATTR, 2, &[0; 16]);
    assert!(fixture.send(&good[..39]).is_none());
    assert!(fixture.send(&[]).is_none());
    let mut long = good.clone();
    long.push(0);
    assert_eq!(fixture.send(&long), Some(Err(Errno::PROTO.raw())));
    assert_eq!(fixture.send(&good[..50]), Some(Err(Errno::PROTO.raw())));
    // More extensions than bytes.
    let mut extended = good;
    extended[36..38].copy_from_slice(&3_u16.to_ne_bytes());
    assert_eq!(fixture.send(&extended), Some(Err(Errno::PROTO.raw())));
    extended[36..38].copy_from_slice(&2_u16.to_ne_bytes());
    assert!(matches!(fixture.send(&extended), Some(Ok(_))));
}

#[test]
fn a_panic_is_an_error_and_the_session_goes_on() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.err(code::GETATTR, 3, &[0; 16]), Errno::IO);
    assert!(!fixture.ok(code::GETATTR, 2, &[0; 16]).is_empty());
}

fn unanswered(message: &[u8]) -> bool {
    header(message).map_or(true, |(header, _)| is_unanswered(header.opcode))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_bytes_get_one_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let answered = Fixture::new().send(&bytes).is_some();
        prop_assert_eq!(answered, !unanswered(&bytes));
    }

    /// Well-formed headers, so that the operations are reached.
    #[test]
    fn any_arguments_get_one_answer_or_none(
        opcode in 0_u32..60,
        node in prop_oneof![Just(1_u64), Just(2), Just(4), 5_u64..8, any::<u64>()],
        mut body in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 0..160),
        name: bool,
    ) {
        prop_assume!(node != 3 && node != u64::MAX && node < u64::MAX - 100);
        if name {
            body.push(0);
        }
        let mut fixture = Fixture::new();
        let bytes = message(opcode, node, &body);
        let answer = fixture.send(&bytes);
        prop_assert_eq!(answer.is_some(), !unanswered(&bytes));
        if let Some(Ok(body)) = answer {
            prop_assert!(body.len() <= 1 << 20);
        }
    }
}
