// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request in, one answer out: calls the file system for an operation.
//!
//! Makes no system call and knows no transport. Invariants: a request that wants an answer gets
//! exactly one; an answer is never longer than the kernel asked for; a panic of the file system
//! becomes `EIO`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use crate::abi::{
    EntryOut, FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FOPEN_PASSTHROUGH, GetxattrOut, LseekOut, OpenOut,
    OutHeader, SEEK_DATA, SEEK_HOLE,
};
use crate::buffer::{PageBuffer, Room};
use crate::fs::{Entry, Errno, OpenAs, ReadOnlyFs, ReadRequest, SPARE_LEN, Whence};
use crate::reply::{self, DirWriter, Validity};
use crate::request::{ForgetItems, Operation, Request, header, is_unanswered};

/// The longest target of a symbolic link, in bytes (one page with its NUL, as Linux has it).
const TARGET_MAX: usize = 4095;
/// The largest value of an attribute and the longest list of names, in bytes, as Linux has them.
const XATTR_MAX: usize = 65536;

/// How answers are made; fixed at INIT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) entry_valid: Validity,
    pub(crate) attr_valid: Validity,
    pub(crate) negative_valid: Validity,
    /// Answer opens with "not implemented", upon which the kernel does without them.
    pub(crate) no_open: bool,
    pub(crate) no_opendir: bool,
    /// How files are opened.
    pub(crate) open_flags: u32,
    /// Largest answer in bytes.
    pub(crate) reply_max: u32,
}

/// Where answers are made; one for each thread, reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch<R = PageBuffer> {
    /// For file data and directories.
    pub(crate) pages: R,
    /// For everything else.
    pub(crate) bytes: Vec<u8>,
}

/// Where in the scratch an answer's body is.
#[derive(Clone, Copy, Debug)]
enum Body {
    Empty,
    Pages(usize),
    Bytes,
}

/// An answer, its body still in the scratch it was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) header: OutHeader,
    body: Body,
}

impl Answer {
    pub(crate) fn error(unique: u64, error: Errno) -> Self {
        let len = size_of::<OutHeader>() as u32;
        // The number is between 1 and 511.
        let error = error.raw().saturating_neg();
        Self { header: OutHeader { len, error, unique }, body: Body::Empty }
    }

    pub(crate) fn body<'a, R: Room>(&self, scratch: &'a Scratch<R>) -> &'a [u8] {
        match self.body {
            Body::Empty => &[],
            Body::Pages(len) => scratch.pages.bytes(len),
            Body::Bytes => &scratch.bytes,
        }
    }

    /// Has the body at the start of the pages, wherever it was made. Returns its length, or an
    /// error if there is not room enough.
    pub(crate) fn settle<R: Room>(&self, scratch: &mut Scratch<R>) -> Result<usize, Errno> {
        match self.body {
            Body::Empty => Ok(0),
            Body::Pages(len) => Ok(len),
            Body::Bytes => {
                let Scratch { pages, bytes } = scratch;
                let room = pages.get(bytes.len());
                if room.len() != bytes.len() {
                    return Err(Errno::TOO_BIG);
                }
                room.copy_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }
}

/// Gives every request its answer.
pub(crate) struct Dispatcher {
    fs: Arc<dyn ReadOnlyFs>,
    policy: Policy,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Dispatcher {
    pub(crate) fn new(fs: Arc<dyn ReadOnlyFs>, policy: Policy) -> Self {
        Self { fs, policy }
    }

    pub(crate) fn fs(&self) -> &dyn ReadOnlyFs {
        &*self.fs
    }

    /// Answers one message. None where the protocol wants no answer, or the message is so short
    /// that it names nobody to answer.
    pub(crate) fn handle<R: Room>(
        &self,
        message: &[u8],
        scratch: &mut Scratch<R>,
    ) -> Option<Answer> {
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(malformed) => {
                tracing::warn!(%malformed, "refused a FUSE request");
                let (header, _) = header(message).ok()?;
                let silent = is_unanswered(header.opcode);
                return (!silent).then(|| Answer::error(header.unique, Errno::PROTO));
            }
        };
        // The scratch holds bytes only, and whatever a panic leaves in it is written anew.
        let work = AssertUnwindSafe(|| self.serve(&request, scratch));
        let result = catch_unwind(work).unwrap_or_else(|_| {
            tracing::error!(node = request.node, "the file system panicked; answered EIO");
            match request.operation {
                Operation::Forget { .. }
                | Operation::BatchForget { .. }
                | Operation::Interrupt
                | Operation::NotifyReply => Ok(None),
                _ => Err(Errno::IO),
            }
        });
        match result {
            Ok(None) => None,
            Ok(Some(body)) => Some(Self::answer(request.unique, body, scratch)),
            Err(error) => Some(Answer::error(request.unique, error)),
        }
    }

    fn answer<R: Room>(unique: u64, body: Body, scratch: &Scratch<R>) -> Answer {
        let draft = Answer { header: OutHeader { len: 0, error: 0, unique }, body };
        let len = draft.body(scratch).len().saturating_add(size_of::<OutHeader>());
        match u32::try_from(len) {
            Ok(len) => Answer { header: OutHeader { len, error: 0, unique }, body },
            Err(_) => Answer::error(unique, Errno::IO),
        }
    }

    fn serve<R: Room>(
        &self,
        request: &Request<'_>,
        scratch: &mut Scratch<R>,
    ) -> Result<Option<Body>, Errno> {
        let node = request.node;
        match &request.operation {
            Operation::Forget { count } => {
                self.fs.forget(node, *count);
                return Ok(None);
            }
            Operation::BatchForget { items } => {
                self.batch_forget(items);
                return Ok(None);
            }
            // Allowed to be ignored: the interrupted request is answered when it is done.
            Operation::Interrupt | Operation::NotifyReply => return Ok(None),
            _ => {}
        }
        match &request.operation {
            Operation::Lookup { name } => self.lookup(node, name, scratch),
            Operation::Getattr => {
                let attr = self.fs.getattr(node)?;
                Ok(put(scratch, &reply::attr_out(&attr, self.policy.attr_valid)))
            }
            Operation::Readlink => self.readlink(node, scratch),
            Operation::Open => self.open(node, scratch),
            Operation::Opendir => self.opendir(scratch),
            Operation::Read { offset, size, direct } => {
                let read = ReadRequest {
                    direct: *direct,
                    ..ReadRequest::new(node, *offset, *size as usize)
                };
                self.read(&read, scratch)
            }
            Operation::Readdir { cookie, size, plus } => {
                self.readdir(node, *cookie, *size, *plus, scratch)
            }
            Operation::Release => {
                self.fs.release(node);
                Ok(Body::Empty)
            }
            Operation::Releasedir | Operation::Destroy => Ok(Body::Empty),
            Operation::Statfs => Ok(put(scratch, &reply::statfs_out(&self.fs.statfs()?))),
            Operation::Getxattr { name, size } => {
                scratch.bytes.clear();
                self.fs.getxattr(node, name, &mut scratch.bytes)?;
                sized(*size, scratch)
            }
            Operation::Listxattr { size } => {
                scratch.bytes.clear();
                self.fs.listxattr(node, &mut scratch.bytes)?;
                sized(*size, scratch)
            }
            Operation::Lseek { offset, whence } => self.lseek(node, *offset, *whence, scratch),
            Operation::Modify => Err(Errno::ROFS),
            // A second INIT: the session's first request was one already.
            Operation::Init { .. } => Err(Errno::IO),
            Operation::Forget { .. }
            | Operation::BatchForget { .. }
            | Operation::Interrupt
            | Operation::NotifyReply
            | Operation::Unknown => Err(Errno::NOSYS),
        }
        .map(Some)
    }

    fn batch_forget(&self, items: &ForgetItems<'_>) {
        for item in items.clone() {
            self.fs.forget(item.nodeid, item.nlookup);
        }
    }

    fn lookup<R: Room>(
        &self,
        parent: u64,
        name: &[u8],
        scratch: &mut Scratch<R>,
    ) -> Result<Body, Errno> {
        let Policy { entry_valid, attr_valid, negative_valid, .. } = self.policy;
        match self.fs.lookup(parent, name) {
            Ok(entry) if entry.node == 0 => Err(Errno::IO),
            Ok(entry) => Ok(put(scratch, &reply::entry_out(&entry, entry_valid, attr_valid))),
            Err(Errno::NOENT) => Ok(put(scratch, &reply::negative_entry(negative_valid))),
            Err(error) => Err(error),
        }
    }

    fn readlink<R: Room>(&self, node: u64, scratch: &mut Scratch<R>) -> Result<Body, Errno> {
        scratch.bytes.clear();
        self.fs.readlink(node, &mut scratch.bytes)?;
        if scratch.bytes.len() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        // The kernel would end the target at a NUL and so follow another link than the image has.
        if scratch.bytes.is_empty() || scratch.bytes.contains(&0) {
            return Err(Errno::UCLEAN);
        }
        Ok(Body::Bytes)
    }

    fn open<R: Room>(&self, node: u64, scratch: &mut Scratch<R>) -> Result<Body, Errno> {
        if self.policy.no_open {
            return Err(Errno::NOSYS);
        }
        let (open_flags, backing_id) = match self.fs.open(node)? {
            OpenAs::Itself => (self.policy.open_flags, 0),
            OpenAs::Backing(id) => (FOPEN_PASSTHROUGH, id),
        };
        Ok(put(scratch, &OpenOut { fh: 0, open_flags, backing_id }))
    }

    fn opendir<R: Room>(&self, scratch: &mut Scratch<R>) -> Result<Body, Errno> {
        if self.policy.no_opendir {
            return Err(Errno::NOSYS);
        }
        let open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
        Ok(put(scratch, &OpenOut { fh: 0, open_flags, backing_id: 0 }))
    }

    fn read<R: Room>(&self, read: &ReadRequest, scratch: &mut Scratch<R>) -> Result<Body, Errno> {
        // Not cut to the maximum: the kernel would take the shorter answer for the file's end.
        if read.len > self.policy.reply_max as usize {
            return Err(Errno::INVAL);
        }
        let wanted = read.len.saturating_add(SPARE_LEN);
        let buf = scratch.pages.get(wanted);
        if buf.len() < wanted {
            return Err(Errno::NOMEM);
        }
        let done = self.fs.read(read, buf)?;
        if done < read.len {
            // Worth a second look, for the kernel shows the rest as the end of the file.
            let end = self.fs.getattr(read.node)?.size;
            let expected = end.saturating_sub(read.offset).min(read.len as u64);
            if done as u64 != expected {
                tracing::error!(?read, done, expected, "short read");
                return Err(Errno::IO);
            }
        } else if done > read.len {
            return Err(Errno::IO);
        }
        Ok(Body::Pages(done))
    }

    fn readdir<R: Room>(
        &self,
        node: u64,
        cookie: u64,
        size: u32,
        plus: bool,
        scratch: &mut Scratch<R>,
    ) -> Result<Body, Errno> {
        // A shorter answer than asked for is allowed here: the kernel comes back for more.
        let wanted = size.min(self.policy.reply_max) as usize;
        let buf = scratch.pages.get(wanted);
        let mut writer = DirWriter::new(buf);
        let mut failed = None;
        let mut full = false;
        let with_attributes = plus && self.fs.wants_attributes(node, cookie);
        self.fs.readdir(node, cookie, &mut |entry| {
            if !writer.fits(entry.name.len(), plus) {
                full = true;
                return false;
            }
            let attributes = plus.then(|| {
                if with_attributes { self.entry_attributes(entry) } else { EntryOut::default() }
            });
            match writer.push(entry, attributes.as_ref()) {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!(node, ino = entry.ino, "a directory entry has a bad name");
                    failed = Some(error);
                    false
                }
            }
        })?;
        let len = writer.len();
        match failed {
            // Entries before the bad one are delivered; the next call starts at it and fails.
            Some(error) if len == 0 => Err(error),
            // No bytes at all would mean the end of the directory.
            None if len == 0 && full => Err(Errno::INVAL),
            _ => Ok(Body::Pages(len)),
        }
    }

    /// The attributes that go with a directory entry. All zeros, by which the kernel does without,
    /// for "." and ".." and where they cannot be had: the error belongs to whoever asks for them.
    fn entry_attributes(&self, entry: &crate::fs::DirEntry<'_>) -> EntryOut {
        let Policy { entry_valid, attr_valid, .. } = self.policy;
        if matches!(entry.name, b"." | b"..") || entry.node == 0 {
            return EntryOut::default();
        }
        self.fs.getattr(entry.node).map_or_else(
            |_| EntryOut::default(),
            |attr| reply::entry_out(&Entry { node: entry.node, attr }, entry_valid, attr_valid),
        )
    }

    fn lseek<R: Room>(
        &self,
        node: u64,
        offset: u64,
        whence: u32,
        scratch: &mut Scratch<R>,
    ) -> Result<Body, Errno> {
        let whence = match whence {
            SEEK_DATA => Whence::Data,
            SEEK_HOLE => Whence::Hole,
            _ => return Err(Errno::INVAL),
        };
        let offset = self.fs.lseek(node, offset, whence)?;
        Ok(put(scratch, &LseekOut { offset }))
    }
}

/// Makes a fixed structure the answer.
fn put<R, T: IntoBytes + Immutable>(scratch: &mut Scratch<R>, value: &T) -> Body {
    scratch.bytes.clear();
    scratch.bytes.extend_from_slice(value.as_bytes());
    Body::Bytes
}

/// The answer to a request for an attribute: its length if the caller has room for nothing, the
/// bytes if they fit, else `ERANGE`.
fn sized<R>(size: u32, scratch: &mut Scratch<R>) -> Result<Body, Errno> {
    let len = scratch.bytes.len();
    if len > XATTR_MAX {
        return Err(Errno::TOO_BIG);
    }
    let len = u32::try_from(len).map_err(|_| Errno::TOO_BIG)?;
    if size == 0 {
        Ok(put(scratch, &GetxattrOut { size: len, padding: 0 }))
    } else if len > size {
        Err(Errno::RANGE)
    } else {
        Ok(Body::Bytes)
    }
}

#[cfg(test)]
mod tests;
