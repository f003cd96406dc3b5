// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages from the cache to the daemon, in both forms.
//!
//! Numbers are in the machine's order on a real device; every machine that this runs on is little
//! endian, and so is the socket. Invariant: what is parsed has the lengths that it says.

use std::fmt;
use std::ops::Range;

/// The longest message of the merged form, header and payload, in bytes.
pub const MESSAGE_MAX: usize = 1024;
/// The longest message of the original form.
pub const ORIGINAL_MESSAGE_MAX: usize = 512;
/// The longest key of a volume (without its NUL) or cookie.
pub const KEY_MAX: usize = 255;
/// Flag of the original form: the file system does not know the blob's size, the daemon must tell.
pub const WANT_CACHE_SIZE: u32 = 1;

/// Which form of the protocol.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol is history: there will be no third")]
pub enum Form {
    /// The series of March 2022: INIT and READ, answered by `cinit` and `cread`.
    Original,
    /// Linux 5.19 to 7.1: OPEN, CLOSE and READ, answered by `copen` and an ioctl.
    #[default]
    Merged,
}

impl Form {
    /// Bytes of a message's header.
    pub const fn header_len(self) -> usize {
        match self {
            Self::Original => 12,
            Self::Merged => 16,
        }
    }

    /// Bytes of the longest message: a buffer of that length never gets EMSGSIZE.
    pub const fn message_max(self) -> usize {
        match self {
            Self::Original => ORIGINAL_MESSAGE_MAX,
            Self::Merged => MESSAGE_MAX,
        }
    }
}

/// A request of the cache.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol's header")]
pub struct Message {
    /// The request's number, for its answer.
    pub id: u32,
    /// The object it is about. The original form has none (0 here): the descriptor tells.
    pub object: u32,
    /// What is wanted.
    pub body: Body,
}

/// What a message wants.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol's opcodes")]
pub enum Body {
    /// OPEN, or INIT: a blob is opened and its size wanted.
    Open(Open),
    /// CLOSE: the object is gone; no answer. Not in the original form.
    Close,
    /// READ: somebody waits for these bytes.
    Read(Read),
}

/// Payload of OPEN and INIT.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol's fields")]
pub struct Open {
    /// Key of the volume, without its NUL.
    pub volume: Vec<u8>,
    /// Key of the cookie: any bytes.
    pub cookie: Vec<u8>,
    /// Number of the anonymous descriptor in the daemon's table. Means nothing on a socket.
    pub fd: u32,
    /// [`WANT_CACHE_SIZE`] in the original form, 0 in the merged one.
    pub flags: u32,
}

/// Payload of READ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol's fields")]
pub struct Read {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// The descriptor of the INIT, in the original form; 0 in the merged one.
    pub fd: u32,
}

impl Read {
    /// The range; parsed messages have one.
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }
}

/// Why something is no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MessageError {
    /// Fewer bytes than its kind has.
    Short {
        /// Bytes that are there.
        len: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The header tells another length than was read.
    Length {
        /// What the header tells.
        said: u32,
        /// What is there.
        len: usize,
    },
    /// Longer than its form allows.
    Long(usize),
    /// An opcode that the form does not have.
    Opcode(u32),
    /// Keys that do not fill the payload, or are empty or too long.
    Keys {
        /// The volume key's length, with its NUL.
        volume: u32,
        /// The cookie key's.
        cookie: u32,
        /// Bytes of both.
        room: usize,
    },
    /// The volume key does not end in a NUL, or has one inside.
    Nul,
    /// A range that is empty or ends past the largest offset of a file.
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len, needed } => write!(f, "a message of {len} bytes needs {needed}"),
            Self::Length { said, len } => write!(f, "a message of {len} bytes says it has {said}"),
            Self::Long(len) => write!(f, "a message of {len} bytes is too long"),
            Self::Opcode(code) => write!(f, "unknown opcode {code}"),
            Self::Keys { volume, cookie, room } => {
                write!(f, "keys of {volume} and {cookie} bytes do not fit their {room} bytes")
            }
            Self::Nul => f.write_str("the volume key is no string with a NUL at its end"),
            Self::Range { offset, len } => write!(f, "no range: {len} bytes at {offset}"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Reads numbers one behind the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }
}

impl Message {
    /// Parses one message: all of `bytes`.
    pub fn parse(form: Form, bytes: &[u8]) -> Result<Self, MessageError> {
        let header = form.header_len();
        let short = |needed| MessageError::Short { len: bytes.len(), needed };
        if bytes.len() > form.message_max() {
            return Err(MessageError::Long(bytes.len()));
        }
        let mut fields = Fields(bytes);
        let id = fields.u32().ok_or(short(header))?;
        let opcode = fields.u32().ok_or(short(header))?;
        let said = fields.u32().ok_or(short(header))?;
        let object = match form {
            Form::Original => 0,
            Form::Merged => fields.u32().ok_or(short(header))?,
        };
        if said as usize != bytes.len() {
            return Err(MessageError::Length { said, len: bytes.len() });
        }
        let body = match (form, opcode) {
            (_, 0) => Body::Open(
                Open::parse(fields).map_err(|error| error.unwrap_or(short(header + 16)))?,
            ),
            (Form::Merged, 1) if fields.0.is_empty() => Body::Close,
            (Form::Merged, 1) => return Err(MessageError::Length { said, len: header }),
            (Form::Original, 1) | (Form::Merged, 2) => Body::Read(Read::parse(form, fields)?),
            (_, other) => return Err(MessageError::Opcode(other)),
        };
        Ok(Self { id, object, body })
    }

    /// Its bytes. Fails for keys or ranges that no parser would take, and for a CLOSE in the
    /// original form.
    pub fn encode(&self, form: Form) -> Result<Vec<u8>, MessageError> {
        let mut bytes = Vec::with_capacity(64);
        let opcode = match (form, &self.body) {
            (_, Body::Open(_)) => 0_u32,
            (Form::Merged, Body::Close) | (Form::Original, Body::Read(_)) => 1,
            (Form::Merged, Body::Read(_)) => 2,
            (Form::Original, Body::Close) => return Err(MessageError::Opcode(1)),
        };
        for word in [self.id, opcode, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        if form == Form::Merged {
            bytes.extend_from_slice(&self.object.to_le_bytes());
        }
        match &self.body {
            Body::Open(open) => open.encode(&mut bytes)?,
            Body::Close => {}
            Body::Read(read) => read.encode(form, &mut bytes)?,
        }
        if bytes.len() > form.message_max() {
            return Err(MessageError::Long(bytes.len()));
        }
        let len = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        Ok(bytes)
    }
}

impl Open {
    /// `None` as an error: too short for its fixed fields.
    fn parse(mut fields: Fields<'_>) -> Result<Self, Option<MessageError>> {
        let volume_len = fields.u32().ok_or(None)?;
        let cookie_len = fields.u32().ok_or(None)?;
        let fd = fields.u32().ok_or(None)?;
        let flags = fields.u32().ok_or(None)?;
        let keys = fields.0;
        let wrong = MessageError::Keys { volume: volume_len, cookie: cookie_len, room: keys.len() };
        let sum = u64::from(volume_len) + u64::from(cookie_len);
        if sum != keys.len() as u64 {
            return Err(Some(wrong));
        }
        let (volume, cookie) = keys.split_at_checked(volume_len as usize).ok_or(Some(wrong))?;
        let (last, volume) = volume.split_last().ok_or(Some(wrong))?;
        if *last != 0 || volume.contains(&0) {
            return Err(Some(MessageError::Nul));
        }
        check_keys(volume, cookie)?;
        Ok(Self { volume: volume.to_vec(), cookie: cookie.to_vec(), fd, flags })
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), MessageError> {
        check_keys(&self.volume, &self.cookie)?;
        if self.volume.contains(&0) {
            return Err(MessageError::Nul);
        }
        let volume_len = self.volume.len() as u32 + 1;
        for word in [volume_len, self.cookie.len() as u32, self.fd, self.flags] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.volume);
        bytes.push(0);
        bytes.extend_from_slice(&self.cookie);
        Ok(())
    }
}

/// Both have 1 to [`KEY_MAX`] bytes.
fn check_keys(volume: &[u8], cookie: &[u8]) -> Result<(), MessageError> {
    let good = 1..=KEY_MAX;
    if good.contains(&volume.len()) && good.contains(&cookie.len()) {
        return Ok(());
    }
    let len = |key: &[u8]| u32::try_from(key.len()).unwrap_or(u32::MAX);
    let room = volume.len().saturating_add(cookie.len());
    Err(MessageError::Keys { volume: len(volume).saturating_add(1), cookie: len(cookie), room })
}

impl Read {
    fn parse(form: Form, mut fields: Fields<'_>) -> Result<Self, MessageError> {
        let len = fields.0.len();
        // The original structure ends in a u32 behind two u64: with or without what C adds to it.
        let fits = match form {
            Form::Original => len == 20 || len == 24,
            Form::Merged => len == 16,
        };
        let needed = if form == Form::Original { 20 } else { 16 };
        let short = MessageError::Short { len, needed };
        if !fits {
            return Err(short);
        }
        let offset = fields.u64().ok_or(short)?;
        let len = fields.u64().ok_or(short)?;
        let fd = match form {
            Form::Original => fields.u32().ok_or(short)?,
            Form::Merged => 0,
        };
        Self { offset, len, fd }.checked()
    }

    fn checked(self) -> Result<Self, MessageError> {
        let wrong = MessageError::Range { offset: self.offset, len: self.len };
        let end = self.offset.checked_add(self.len).ok_or(wrong)?;
        if self.len == 0 || i64::try_from(end).is_err() {
            return Err(wrong);
        }
        Ok(self)
    }

    fn encode(&self, form: Form, bytes: &mut Vec<u8>) -> Result<(), MessageError> {
        self.checked()?;
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        if form == Form::Original {
            bytes.extend_from_slice(&self.fd.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that Linux 6.1 sends for `mount -o fsid=plain`, written down by hand.
    #[test]
    fn an_open_of_the_kernel_is_understood() {
        let mut bytes = vec![7, 0, 0, 0, 0, 0, 0, 0, 49, 0, 0, 0, 3, 0, 0, 0];
        bytes.extend_from_slice(&[12, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(b"erofs,plain\0plain");
        let parsed = Message::parse(Form::Merged, &bytes).unwrap();
        assert_eq!((parsed.id, parsed.object), (7, 3));
        let Body::Open(open) = &parsed.body else { panic!() };
        assert_eq!(
            (&*open.volume, &*open.cookie, open.fd),
            (&b"erofs,plain"[..], &b"plain"[..], 9)
        );
        assert_eq!(parsed.encode(Form::Merged).unwrap(), bytes);
        bytes[43] = b'x'; // the NUL
        assert_eq!(Message::parse(Form::Merged, &bytes), Err(MessageError::Nul));
    }

    fn message() -> impl Strategy<Value = (Form, Message)> {
        let key = || proptest::collection::vec(1_u8..=255, 1..100);
        let open = (key(), key(), any::<u32>(), any::<u32>())
            .prop_map(|(volume, cookie, fd, flags)| Body::Open(Open { volume, cookie, fd, flags }));
        let read = (0..1_u64 << 62, 1..1_u64 << 40)
            .prop_map(|(offset, len)| Body::Read(Read { offset, len, fd: 0 }));
        let body = prop_oneof![open, Just(Body::Close), read];
        (any::<bool>(), any::<u32>(), any::<u32>(), body).prop_map(|(merged, id, object, body)| {
            if merged || body == Body::Close {
                (Form::Merged, Message { id, object, body })
            } else {
                (Form::Original, Message { id, object: 0, body })
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_understood((form, message) in message()) {
            let bytes = message.encode(form).unwrap();
            prop_assert_eq!(Message::parse(form, &bytes).unwrap(), message);
            for len in 0..bytes.len() {
                prop_assert!(Message::parse(form, &bytes[..len]).is_err());
            }
        }

        #[test]
        fn anything_is_refused_or_the_same_again(bytes in proptest::collection::vec(0_u8..4, 0..80)) {
            for form in [Form::Original, Form::Merged] {
                if let Ok(message) = Message::parse(form, &bytes) {
                    let again = message.encode(form).unwrap();
                    prop_assert_eq!(Message::parse(form, &again).unwrap(), message);
                }
            }
        }
    }
}
