// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reader's side: volumes, objects, and reads that wait for the daemon.

use super::Emulator;
use super::files::Files;
use super::state::{State, Waiter};
use crate::{Cancel, Demand};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Unit of requests: a page.
const PAGE: u64 = 4096;
/// How often a wait that can be cancelled looks whether it was.
const LOOK: Duration = Duration::from_millis(20);

/// Why a reader got nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReadError {
    /// No daemon has bound the cache yet.
    Unbound,
    /// The daemon that served it is gone.
    Dead,
    /// There is no room for another object.
    Full,
    /// The daemon has said that it is done, and nothing is there.
    Missing {
        /// The first byte that is not.
        offset: u64,
    },
    /// The deadline has passed.
    Deadline,
    /// The reader was cancelled.
    Cancelled,
    /// A key that the protocol cannot carry.
    Key,
    /// Past the end.
    Range {
        /// First byte.
        offset: u64,
        /// Bytes of the blob.
        size: u64,
    },
    /// The daemon's answer, or a failure of the cache's files.
    Errno(Errno),
}

impl ReadError {
    /// For those who know nothing but error numbers.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unbound => Errno::NOBUFS,
            Self::Dead | Self::Missing { .. } => Errno::IO,
            Self::Full => Errno::NOSPC,
            Self::Deadline => Errno::TIMEDOUT,
            Self::Cancelled => Errno::INTR,
            Self::Key | Self::Range { .. } => Errno::INVAL,
            Self::Errno(errno) => errno,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound => f.write_str("no daemon serves the cache: start `ferrofs cached`"),
            Self::Dead => f.write_str("the daemon that served the cache is gone"),
            Self::Full => f.write_str("the cache has no room for another object"),
            Self::Missing { offset } => {
                write!(f, "the daemon could not get the bytes at offset {offset}")
            }
            Self::Deadline => f.write_str("the daemon has not answered in time"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Key => f.write_str("a key is empty, longer than 255 bytes or has a NUL"),
            Self::Range { offset, size } => write!(f, "offset {offset} is past the end at {size}"),
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from(*errno)),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(super::errno_of(&error))
    }
}

/// All blobs of one file system, or of one domain.
#[derive(Clone, Debug)]
pub struct Volume {
    emulator: Emulator,
    key: Vec<u8>,
}

impl Volume {
    pub(super) fn new(emulator: Emulator, key: &[u8]) -> Result<Self, ReadError> {
        check_key(key)?;
        if key.contains(&0) {
            return Err(ReadError::Key);
        }
        Ok(Self { emulator, key: key.to_vec() })
    }

    /// Opens a blob: asks the daemon for it, unless somebody has it open, and waits.
    pub fn cookie(&self, key: &[u8], demand: &Demand) -> Result<Object, ReadError> {
        check_key(key)?;
        let emulator = &self.emulator;
        let pair = (self.key.clone(), key.to_vec());
        let mut state = emulator.lock();
        let joined = state.join(&pair);
        let (id, name) = if let Some(found) = joined {
            found
        } else {
            let name: Arc<str> = Files::name(&self.key, key).into();
            (state.add(pair, &name)?, name)
        };
        // From here on the drop of this guard undoes it.
        let user = User { emulator: emulator.clone(), id };
        drop(state);
        let file = emulator.inner.files.object(&name)?;
        let mut state = emulator.lock();
        if let Some(waiter) = state.ask_open(id)? {
            emulator.publish(&mut state);
            let (after, result) = wait(state, &waiter, &Limits::new(demand));
            state = after;
            if let Err(error) = result {
                drop(state);
                return Err(error);
            }
        }
        let size = state.size(id).ok_or(ReadError::Dead);
        drop(state);
        Ok(Object { size: size?, file, user })
    }
}

fn check_key(key: &[u8]) -> Result<(), ReadError> {
    if (1..=super::super::KEY_MAX).contains(&key.len()) { Ok(()) } else { Err(ReadError::Key) }
}

/// One use of an object.
#[derive(Debug)]
struct User {
    emulator: Emulator,
    id: u32,
}

impl Drop for User {
    fn drop(&mut self) {
        let mut state = self.emulator.lock();
        state.leave(self.id);
        self.emulator.publish(&mut state);
    }
}

/// An open blob. Dropping the last one of a blob closes it.
#[derive(Debug)]
pub struct Object {
    size: u64,
    file: File,
    user: User,
}

impl Object {
    /// Bytes of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from `offset` on, all of it; asks the daemon for what is not there and waits.
    pub fn read_at(&self, buf: &mut [u8], offset: u64, demand: &Demand) -> Result<(), ReadError> {
        let wrong = ReadError::Range { offset, size: self.size };
        let end =
            offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size).ok_or(wrong)?;
        self.ensure(offset..end, demand)?;
        self.file.read_exact_at(buf, offset)?;
        // After a death the next daemon may have given the file to a blob of another size.
        self.alive()
    }

    /// Waits until a range is there.
    pub fn ensure(&self, range: Range<u64>, demand: &Demand) -> Result<(), ReadError> {
        if range.end > self.size {
            return Err(ReadError::Range { offset: range.end, size: self.size });
        }
        self.alive()?;
        let limits = Limits::new(demand);
        let mut asked: Option<u64> = None;
        let mut at = range.start;
        while let Some(hole) = self.hole(at..range.end)? {
            // A daemon may fill a part: what is asked for next begins further on, or it failed.
            if asked == Some(hole.start) {
                return Err(ReadError::Missing { offset: hole.start });
            }
            self.request(&hole, &limits)?;
            asked = Some(hole.start);
            at = hole.start.max(at);
        }
        Ok(())
    }

    fn alive(&self) -> Result<(), ReadError> {
        let dead = self.user.emulator.lock().is_dead(self.user.id);
        if dead { Err(ReadError::Dead) } else { Ok(()) }
    }

    /// Whether all of a range is there.
    pub fn is_present(&self, range: Range<u64>) -> Result<bool, ReadError> {
        Ok(self.hole(range)?.is_none())
    }

    /// The first hole of a range, as whole pages.
    fn hole(&self, range: Range<u64>) -> Result<Option<Range<u64>>, ReadError> {
        if range.is_empty() {
            return Ok(None);
        }
        // Of a page that is written in part all counts as there: it is asked for and answered whole.
        let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(range.start)) {
            Ok(hole) => hole,
            // Past the end of the file: nothing was written there.
            Err(Errno::NXIO) => range.start,
            Err(errno) => return Err(errno.into()),
        };
        if hole >= range.end {
            return Ok(None);
        }
        let start = hole - hole % PAGE;
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            Err(Errno::NXIO) => range.end,
            Err(errno) => return Err(errno.into()),
        };
        let max = self.user.emulator.inner.config.read_max.max(PAGE);
        let end = data.min(range.end).min(start.saturating_add(max));
        Ok(Some(start..end.next_multiple_of(PAGE)))
    }

    fn request(&self, hole: &Range<u64>, limits: &Limits<'_>) -> Result<(), ReadError> {
        let emulator = &self.user.emulator;
        let mut state = emulator.lock();
        let waiter = state.ask_read(self.user.id, hole, emulator.inner.config.failover)?;
        emulator.publish(&mut state);
        wait(state, &waiter, limits).1
    }
}

/// How long to wait.
struct Limits<'a> {
    until: Option<Instant>,
    cancel: Option<&'a Cancel>,
}

impl<'a> Limits<'a> {
    fn new(demand: &'a Demand) -> Self {
        Self { until: demand.until(Instant::now()), cancel: demand.cancel.as_ref() }
    }
}

/// Waits for an answer. A request that its waiter has left stays: another may have joined it.
fn wait<'a>(
    mut state: MutexGuard<'a, State>,
    waiter: &Waiter,
    limits: &Limits<'_>,
) -> (MutexGuard<'a, State>, Result<(), ReadError>) {
    loop {
        if let Some(result) = waiter.result() {
            return (state, result.map_err(ReadError::Errno));
        }
        if limits.cancel.is_some_and(Cancel::is_cancelled) {
            return (state, Err(ReadError::Cancelled));
        }
        let left = limits.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return (state, Err(ReadError::Deadline));
        }
        let pause = match (left, limits.cancel) {
            (Some(left), Some(_)) => Some(left.min(LOOK)),
            (None, Some(_)) => Some(LOOK),
            (left, None) => left,
        };
        state = match pause {
            None => waiter.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                let waited = waiter.wake.wait_timeout(state, pause);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
