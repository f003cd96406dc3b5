// SPDX-License-Identifier: MIT OR Apache-2.0

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::abi::{AttrOut, ReadIn};
use crate::dispatch::Policy;
use crate::fs::{Attr, DirEntry, Entry, ReadOnlyFs, ReadRequest, SPARE_LEN, StatFs};
use crate::reply::Validity;

const PAYLOAD: usize = 65536;

/// Every node is a file full of its own number; every name is a node.
struct Files;

impl ReadOnlyFs for Files {
    fn lookup(&self, _parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        Ok(Entry { node: name.len() as u64, attr: Attr::default() })
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        Ok(Attr { ino: node, size: 100_000, ..Attr::default() })
    }

    fn readlink(&self, _node: u64, target: &mut Vec<u8>) -> Result<(), Errno> {
        target.extend_from_slice(b"target");
        Ok(())
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        assert!(buf.len() >= read.len + SPARE_LEN);
        let len = 100_000_u64.saturating_sub(read.offset).min(read.len as u64) as usize;
        buf[..len].fill(read.node as u8);
        buf[read.len..].fill(0xee);
        Ok(len)
    }

    fn readdir(
        &self,
        _node: u64,
        _cookie: u64,
        _sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn getxattr(&self, _node: u64, _name: &[u8], value: &mut Vec<u8>) -> Result<(), Errno> {
        value.resize(PAYLOAD, 1);
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::default())
    }
}

fn dispatcher() -> Dispatcher {
    let valid = Validity::from(Duration::ZERO);
    let policy = Policy {
        entry_valid: valid,
        attr_valid: valid,
        negative_valid: valid,
        no_open: true,
        no_opendir: true,
        open_flags: crate::abi::FOPEN_KEEP_CACHE,
        reply_max: PAYLOAD as u32,
    };
    Dispatcher::new(Arc::new(Files), policy)
}

/// What the kernel finds: commit id, header and body.
fn answer(head: &mut [u8], payload: &mut [u8]) -> (u64, OutHeader, Vec<u8>) {
    let buffers = Buffers { head, payload };
    let commit_id = Answerer::default().answer(&dispatcher(), buffers);
    let (headers, _) = RingHeaders::read_from_prefix(head).unwrap();
    let (header, _) = OutHeader::read_from_prefix(headers.in_out.as_bytes()).unwrap();
    assert_eq!(headers.entry.commit_id, commit_id);
    let body = payload[..PAYLOAD][..headers.entry.payload_len as usize].to_vec();
    assert!(header.error <= 0 && header.error > -512);
    assert_eq!(header.len as usize, 16 + body.len());
    assert!(header.error == 0 || body.is_empty());
    (commit_id, header, body)
}

fn request(opcode: u32, nodeid: u64, operation: &[u8], payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let len = (size_of::<InHeader>() + operation.len() + payload.len()) as u32;
    let header = InHeader { len, opcode, unique: 42, nodeid, ..InHeader::default() };
    let mut headers = RingHeaders::default();
    headers.in_out.as_mut_bytes()[..40].copy_from_slice(header.as_bytes());
    headers.operation.as_mut_bytes()[..operation.len()].copy_from_slice(operation);
    headers.entry.commit_id = 42;
    headers.entry.payload_len = payload.len() as u32;
    let mut room = vec![0; PAYLOAD + SPARE_LEN];
    room[..payload.len()].copy_from_slice(payload);
    let mut head = vec![0; 4096];
    head[..288].copy_from_slice(headers.as_bytes());
    (head, room)
}

#[test]
fn answers_stand_where_the_request_was() {
    let read = ReadIn { offset: 99_000, size: 4096, ..ReadIn::default() };
    let (mut head, mut room) = request(opcode::READ, 7, read.as_bytes(), &[]);
    let (commit_id, header, body) = answer(&mut head, &mut room);
    assert_eq!((commit_id, header.unique, header.error), (42, 42, 0));
    assert_eq!(body, vec![7; 1000]);
    let (mut head, mut room) = request(opcode::GETATTR, 9, &[0; 16], &[]);
    let (attr, _) = AttrOut::read_from_prefix(&answer(&mut head, &mut room).2).unwrap();
    assert_eq!(attr.attr.ino, 9);
    let (mut head, mut room) = request(opcode::LOOKUP, 1, &[], b"four\0");
    assert_eq!(answer(&mut head, &mut room).2[..8], 4_u64.to_ne_bytes());
    let whole = [&(PAYLOAD as u32).to_ne_bytes()[..], &[0; 4]].concat();
    let (mut head, mut room) = request(opcode::GETXATTR, 1, &whole, b"user.x\0");
    assert_eq!(answer(&mut head, &mut room).2.len(), PAYLOAD);
    // What wants no answer goes back all the same.
    let (mut head, mut room) = request(opcode::NOTIFY_REPLY, 1, &[0; 40], &[]);
    assert_eq!(answer(&mut head, &mut room).1.error, 0);
}

#[test]
fn lengths_that_lie_are_refused() {
    for (len, payload_len, error) in [
        (40 + 16, 0, 0),
        (39, 0, Errno::PROTO.raw()),
        (40 + 16, 17, Errno::PROTO.raw()),
        (40 + 129, 0, Errno::PROTO.raw()),
        (8000, u32::MAX, Errno::PROTO.raw()),
        (u32::MAX, 0, Errno::ROFS.raw()),
    ] {
        let (mut head, mut room) = request(opcode::GETATTR, 9, &[0; 16], &[]);
        head[..4].copy_from_slice(&u32::to_ne_bytes(len));
        head[272..276].copy_from_slice(&payload_len.to_ne_bytes());
        assert_eq!(answer(&mut head, &mut room).1.error, -error, "{len} {payload_len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_get_a_sound_answer(
        bytes in proptest::collection::vec(any::<u8>(), 288),
        opcode in 0_u32..60,
        len in 0_u32..400,
        payload_len in prop_oneof![0_u32..300, any::<u32>()],
        wild: bool,
    ) {
        let mut head = vec![0; 4096];
        head[..288].copy_from_slice(&bytes);
        if !wild {
            head[..4].copy_from_slice(&len.to_ne_bytes());
            head[4..8].copy_from_slice(&opcode.to_ne_bytes());
            head[272..276].copy_from_slice(&payload_len.to_ne_bytes());
        }
        answer(&mut head, &mut vec![0x61; PAYLOAD + SPARE_LEN]);
    }
}
