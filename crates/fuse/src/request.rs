// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes from the kernel to an operation.
//!
//! Makes no system call and knows no file system. Invariant: any bytes at all give either an
//! operation whose parts lie within the message, or an error; nothing panics.

use std::fmt;

use rustix::fs::OFlags;
use zerocopy::FromBytes;

use crate::abi::{
    BatchForgetIn, ForgetIn, ForgetOne, GetxattrIn, InHeader, InitIn, LseekIn, ReadIn, opcode,
};

/// A request that is not one: shorter than its structure, a length that lies, a name without end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Malformed {
    /// Not even a header; there is nobody to answer.
    NoHeader { len: usize },
    /// The header's length is not that of the message.
    Length { declared: u32, received: usize },
    /// The arguments are shorter than the operation's structure.
    Short { opcode: u32, len: usize },
    /// A name without a NUL at its end, empty, or longer than a name may be.
    Name { opcode: u32 },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader { len } => write!(f, "message of {len} bytes has no header"),
            Self::Length { declared, received } => {
                write!(f, "message of {received} bytes says it has {declared}")
            }
            Self::Short { opcode, len } => {
                write!(f, "{len} bytes of arguments are too few for operation {opcode}")
            }
            Self::Name { opcode } => write!(f, "operation {opcode} with a bad name"),
        }
    }
}

/// What the kernel asks.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    Init {
        init: InitIn,
        flags2: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget {
        items: ForgetItems<'a>,
    },
    Getattr,
    Readlink,
    Open,
    Opendir,
    Read {
        offset: u64,
        size: u32,
        direct: bool,
    },
    Readdir {
        cookie: u64,
        size: u32,
        plus: bool,
    },
    Release,
    Releasedir,
    Statfs,
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    Interrupt,
    /// What we asked the kernel for.
    NotifyReply,
    Destroy,
    /// Would change something.
    Modify,
    /// Anything else.
    Unknown,
}

/// A parsed request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) operation: Operation<'a>,
}

/// The header of a message, if it has one.
pub(crate) fn header(message: &[u8]) -> Result<(InHeader, &[u8]), Malformed> {
    InHeader::read_from_prefix(message).map_err(|_| Malformed::NoHeader { len: message.len() })
}

/// Whether an operation is one that the protocol leaves without an answer.
pub(crate) fn is_unanswered(code: u32) -> bool {
    matches!(code, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT | opcode::NOTIFY_REPLY)
}

impl<'a> Request<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = header(message)?;
        if usize::try_from(header.len) != Ok(message.len()) {
            return Err(Malformed::Length { declared: header.len, received: message.len() });
        }
        // Extensions (7.38) follow the arguments, in units of eight bytes. Only creating
        // operations have any, but one must not be taken for an argument.
        let extensions = usize::from(header.total_extlen) * 8;
        let length = rest.len().checked_sub(extensions);
        let body = length.and_then(|length| rest.get(..length));
        let body = body.ok_or(Malformed::Short { opcode: header.opcode, len: rest.len() })?;
        let operation = Arguments { code: header.opcode, body }.operation()?;
        Ok(Self { unique: header.unique, node: header.nodeid, operation })
    }
}

/// The arguments of one operation.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    code: u32,
    body: &'a [u8],
}

impl<'a> Arguments<'a> {
    fn operation(self) -> Result<Operation<'a>, Malformed> {
        Ok(match self.code {
            opcode::INIT => {
                let (init, rest) = self.take::<InitIn>()?;
                let flags2 = u32::read_from_prefix(rest).map_or(0, |(flags2, _)| flags2);
                Operation::Init { init, flags2 }
            }
            opcode::LOOKUP => Operation::Lookup { name: self.name(self.body)? },
            opcode::FORGET => Operation::Forget { count: self.take::<ForgetIn>()?.0.nlookup },
            opcode::BATCH_FORGET => self.batch_forget()?,
            opcode::GETATTR => Operation::Getattr,
            opcode::READLINK => Operation::Readlink,
            opcode::OPEN => Operation::Open,
            opcode::OPENDIR => Operation::Opendir,
            opcode::READ => {
                let read = self.take::<ReadIn>()?.0;
                let direct = read.flags & OFlags::DIRECT.bits() != 0;
                Operation::Read { offset: read.offset, size: read.size, direct }
            }
            opcode::READDIR | opcode::READDIRPLUS => {
                let read = self.take::<ReadIn>()?.0;
                let plus = self.code == opcode::READDIRPLUS;
                Operation::Readdir { cookie: read.offset, size: read.size, plus }
            }
            opcode::RELEASE => Operation::Release,
            opcode::RELEASEDIR => Operation::Releasedir,
            opcode::STATFS => Operation::Statfs,
            opcode::GETXATTR => {
                let (arguments, rest) = self.take::<GetxattrIn>()?;
                Operation::Getxattr { name: self.name(rest)?, size: arguments.size }
            }
            opcode::LISTXATTR => Operation::Listxattr { size: self.take::<GetxattrIn>()?.0.size },
            opcode::LSEEK => {
                let seek = self.take::<LseekIn>()?.0;
                Operation::Lseek { offset: seek.offset, whence: seek.whence }
            }
            opcode::INTERRUPT => Operation::Interrupt,
            opcode::NOTIFY_REPLY => Operation::NotifyReply,
            opcode::DESTROY => Operation::Destroy,
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
            | opcode::COPY_FILE_RANGE_64
            | opcode::TMPFILE => Operation::Modify,
            _ => Operation::Unknown,
        })
    }

    fn take<T: FromBytes>(self) -> Result<(T, &'a [u8]), Malformed> {
        T::read_from_prefix(self.body)
            .map_err(|_| Malformed::Short { opcode: self.code, len: self.body.len() })
    }

    /// The name at the start of `bytes`, which must end there with its only NUL.
    fn name(self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let end = bytes.iter().position(|&byte| byte == 0);
        match end.and_then(|end| Some((bytes.get(..end)?, end))) {
            Some((name, end)) if end != 0 && end.checked_add(1) == Some(bytes.len()) => Ok(name),
            _ => Err(Malformed::Name { opcode: self.code }),
        }
    }

    fn batch_forget(self) -> Result<Operation<'a>, Malformed> {
        let (batch, rest) = self.take::<BatchForgetIn>()?;
        let count = usize::try_from(batch.count).unwrap_or(usize::MAX);
        let wanted = count.checked_mul(size_of::<ForgetOne>());
        match wanted.and_then(|wanted| rest.get(..wanted)) {
            Some(rest) => Ok(Operation::BatchForget { items: ForgetItems { rest } }),
            None => Err(Malformed::Short { opcode: self.code, len: self.body.len() }),
        }
    }
}

/// The nodes of a BATCH_FORGET with their counts.
#[derive(Clone, Debug)]
pub(crate) struct ForgetItems<'a> {
    rest: &'a [u8],
}

impl Iterator for ForgetItems<'_> {
    type Item = ForgetOne;

    fn next(&mut self) -> Option<ForgetOne> {
        let (item, rest) = ForgetOne::read_from_prefix(self.rest).ok()?;
        self.rest = rest;
        Some(item)
    }
}
