// SPDX-License-Identifier: MIT OR Apache-2.0
//! One file "f" in memory, to measure what the server itself costs.
//!
//! `memfs DIRECTORY [SIZE_MIB [THREADS_MAX [clone]]]`; ends when unmounted.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, FileKind, ReadOnlyFs, ReadRequest, Session, SessionConfig, StatFs,
};

const FILE: u64 = 2;

struct OneFile {
    data: Vec<u8>,
}

impl OneFile {
    fn attr(&self, node: u64) -> Attr {
        let (mode, size, nlink) =
            if node == FILE { (0o100_644, self.data.len() as u64, 1) } else { (0o040_755, 0, 2) };
        Attr { ino: node, size, blocks: size / 512, mode, nlink, blksize: 4096, ..Attr::default() }
    }
}

impl ReadOnlyFs for OneFile {
    fn lookup(&self, _parent: u64, name: &[u8]) -> Result<Entry, Errno> {
        if name == b"f" {
            Ok(Entry { node: FILE, attr: self.attr(FILE) })
        } else {
            Err(Errno::NOENT)
        }
    }

    fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        Ok(self.attr(node))
    }

    fn readlink(&self, _node: u64, _target: &mut Vec<u8>) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        let start = usize::try_from(read.offset).map_err(|_| Errno::INVAL)?;
        let rest = self.data.get(start..).unwrap_or_default();
        let len = rest.len().min(read.len);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn readdir(
        &self,
        _node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let entries: [(&[u8], u64, FileKind); 3] = [
            (b".", 1, FileKind::Directory),
            (b"..", 1, FileKind::Directory),
            (b"f", FILE, FileKind::Regular),
        ];
        for (index, &(name, node, kind)) in (0_u64..).zip(&entries) {
            let entry = DirEntry { node, ino: node, cookie: index + 1, kind, name };
            if index >= cookie && !sink(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { block_size: 4096, fragment_size: 4096, name_max: 255, ..StatFs::default() })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let target = PathBuf::from(arguments.next().ok_or("usage: memfs DIRECTORY [MIB [THREADS]]")?);
    let mut number = |default: usize| match arguments.next() {
        Some(text) => text.to_string_lossy().parse(),
        None => Ok(default),
    };
    let size = number(1024)? << 20;
    let mut config =
        SessionConfig { attr_timeout: std::time::Duration::ZERO, ..Default::default() };
    config.threads_max = number(config.threads_max)?;
    config.clone_fd = arguments.next().is_some();
    let data = (0..size / 8).flat_map(|word| (word * 8).to_le_bytes()).collect();
    let session = Session::mount(Arc::new(OneFile { data }), &target, config)?;
    println!("{:?} {:?}", session.how(), session.negotiated());
    println!("{:?}", session.run()?);
    Ok(())
}
