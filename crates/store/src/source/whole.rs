// SPDX-License-Identifier: MIT OR Apache-2.0
//! All bytes of a blob elsewhere, in order, for who reads it once and keeps nothing.
//!
//! Invariant: what is read are the blob's bytes from 0 on, each once, or it ends with an error; no more
//! than a few MiB of them are in memory at a time.

use crate::{Demand, FetchError, FetchErrorKind, Origin, Sink, SinkStop};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Bytes of one request: what is tried again, and how long it may take, goes by that.
const STEP: u64 = 8 << 20;
/// Bytes that are handed over at once, and pieces that wait for their reader.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;
/// A step may take so long, and a second for so many bytes of it.
const PATIENCE: Duration = Duration::from_secs(60);
const RATE_MIN: u64 = 64 << 10;

type Piece = io::Result<Vec<u8>>;

/// A blob's bytes as they come.
#[derive(Debug)]
pub struct WholeRead {
    size: u64,
    pieces: Receiver<Piece>,
    now: Vec<u8>,
    at: usize,
    left: u64,
}

impl WholeRead {
    /// Asks for the size, and begins to fetch in a thread of its own.
    pub fn begin(origin: Origin) -> io::Result<Self> {
        let size = origin.identity(&Demand::soft(PATIENCE)).map_err(io::Error::other)?.size;
        let (sender, pieces) = sync_channel(PIECES);
        let work = move || bring(&origin, size, &sender);
        std::thread::Builder::new().name(String::from("whole")).spawn(work)?;
        Ok(Self { size, pieces, now: Vec::new(), at: 0, left: size })
    }

    /// Bytes of the blob.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

impl Read for WholeRead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.now.len() {
            if self.left == 0 {
                return Ok(0);
            }
            let next = self.pieces.recv().map_err(|_| io::ErrorKind::UnexpectedEof)?;
            (self.now, self.at) = (next?, 0);
        }
        let rest = self.now.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buf.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buf[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Fetches from the first to the last byte.
fn bring(origin: &Origin, size: u64, pieces: &SyncSender<Piece>) {
    let mut sink = WholeSink {
        size,
        at: 0,
        skip: 0,
        takes_whole: false,
        is_whole: false,
        is_other: false,
        is_left: false,
        room: vec![0; PIECE],
        filled: 0,
        pieces,
    };
    while sink.at < size && !sink.is_left {
        // A server without ranges sends everything once more, and only once more.
        let (start, end) =
            if sink.takes_whole { (0, size) } else { (sink.at, size.min(sink.at + STEP)) };
        let patience = PATIENCE + Duration::from_secs((end - start) / RATE_MIN);
        let result = origin.fetch(start..end, &mut sink, &Demand::soft(patience), false);
        let went_on = std::mem::take(&mut sink.is_whole) && !sink.takes_whole;
        let result = match result {
            Ok(_) if went_on => {
                sink.takes_whole = true;
                Ok(())
            }
            Ok(_) if sink.at >= end || sink.is_left => Ok(()),
            Ok(_) => {
                let what = if sink.is_other { "has another size now" } else { "ended too early" };
                Err(FetchError::new(FetchErrorKind::Changed, what))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            // Who reads may have left.
            let _ = pieces.send(Err(io::Error::other(error)));
            return;
        }
    }
}

struct WholeSink<'a> {
    size: u64,
    /// The next byte that is wanted; what is in the room comes before it.
    at: u64,
    /// Bytes that are thrown away before that.
    skip: u64,
    /// Everything was asked for, since the server does nothing else.
    takes_whole: bool,
    /// The server has sent everything though a part was asked for.
    is_whole: bool,
    is_other: bool,
    /// Nobody reads any more.
    is_left: bool,
    room: Vec<u8>,
    filled: usize,
    pieces: &'a SyncSender<Piece>,
}

impl Sink for WholeSink<'_> {
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop> {
        self.is_other = total.is_some_and(|total| total != self.size) || offset > self.at;
        self.is_whole = offset < self.at && !self.takes_whole;
        if self.is_other || self.is_whole {
            return Err(SinkStop);
        }
        self.skip = self.at - offset;
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        let end = match usize::try_from(self.skip) {
            Ok(0) => self.room.len(),
            skip => skip.map_or(self.room.len(), |skip| self.room.len().min(self.filled + skip)),
        };
        &mut self.room[self.filled..end]
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        if self.skip > 0 {
            self.skip -= count as u64;
            return Ok(());
        }
        self.filled += count;
        self.at += count as u64;
        if self.filled == self.room.len() || self.at >= self.size {
            let mut piece = std::mem::replace(&mut self.room, vec![0; PIECE]);
            piece.truncate(std::mem::take(&mut self.filled));
            self.is_left = self.pieces.send(Ok(piece)).is_err();
        }
        if self.is_left || self.at >= self.size { Err(SinkStop) } else { Ok(()) }
    }
}
