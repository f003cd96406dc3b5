// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receives bytes, verifies them, and only then lets go of them.

use super::BlobInner;
use super::hand::Hand;
use crate::cache::Reserved;
use crate::flight::Lead;
use crate::map::{GRAIN, GROUP};
use crate::stats::count;
use crate::{Digests, FetchContext, Priority, Ranges, Sink, SinkStop, Table, TableError};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Bytes that are collected before they are verified and written, unless a group is larger.
const BUFFER: u64 = 128 << 10;
/// Digests are taken for so many bytes at once, when everything streams.
const DIGESTS_AHEAD: u64 = 4 << 20;

/// A reader waits for so many bytes before those it wants, and no longer.
const WAIT_BYTES: u64 = 1 << 20;

/// Where verified bytes go.
pub(super) enum Target<'a, 'b> {
    /// Into the cache: what of them the lead has claimed, into the room that was found for them; and
    /// to the reader who waits for them.
    Cache(&'a Lead<'a>, &'a Reserved<'a>, Option<&'a mut Hand<'b>>),
    /// To one reader: the bytes of the range, from its start on.
    Memory(&'a mut [u8]),
}

/// What the bytes must be.
pub(super) enum Known {
    /// There is no table.
    Nothing,
    /// Digests of what comes next.
    Here(Digests),
    /// Another thread takes them.
    Coming(Receiver<Result<Digests, TableError>>),
    /// To be taken when needed.
    Later,
}

/// Why a sink stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// It has all.
    Done,
    /// The source sends everything, and this sink wants a part.
    Whole,
    /// A reader waits for this grain, which would come too late.
    Aside(u64),
    /// Wrong bytes, or no digests.
    Table(TableError),
    /// The cache's file cannot take them.
    Write(io::Error),
    /// The blob of the source has another size.
    Size(u64),
}

pub(super) struct FillSink<'a, 'b> {
    pub(super) blob: &'a BlobInner,
    pub(super) table: Option<Arc<Table>>,
    pub(super) target: Target<'a, 'b>,
    /// Of whole grains of the table.
    pub(super) range: Range<u64>,
    pub(super) known: Known,
    pub(super) context: FetchContext,
    pub(super) stop: Option<Stop>,
    /// Bytes from `at` of the blob on, of which `filled` have come.
    pub(super) buffer: Vec<u8>,
    pub(super) at: u64,
    pub(super) filled: usize,
    /// Bytes that are thrown away before `at`.
    pub(super) skip: u64,
}

impl<'a, 'b> FillSink<'a, 'b> {
    pub(super) fn new(
        blob: &'a BlobInner,
        table: Option<Arc<Table>>,
        target: Target<'a, 'b>,
        range: Range<u64>,
        known: Known,
        context: FetchContext,
    ) -> Self {
        let group = table.as_ref().map_or(GROUP, |table| table.layout().geometry().group_len());
        let len = BUFFER.max(group).min((range.end - range.start).max(GRAIN)) as usize;
        let mut buffer = blob.cache.buffers.take();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let at = range.start;
        Self {
            blob,
            table,
            target,
            range,
            known,
            context,
            stop: None,
            buffer,
            at,
            filled: 0,
            skip: 0,
        }
    }

    fn group(&self) -> u64 {
        self.table.as_ref().map_or(GROUP, |table| table.layout().geometry().group_len())
    }

    fn end(&mut self, stop: Stop) -> Result<(), SinkStop> {
        self.stop = Some(stop);
        Err(SinkStop)
    }

    /// Takes the digests of what begins at `at`.
    fn learn(&mut self) -> Result<(), TableError> {
        let Some(table) = &self.table else { return Ok(()) };
        if let Known::Here(digests) = &self.known
            && digests.range().contains(&self.at)
        {
            return Ok(());
        }
        let known = std::mem::replace(&mut self.known, Known::Later);
        if let Known::Coming(receiver) = known
            && let Ok(digests) = receiver.recv()
        {
            self.known = Known::Here(digests?);
            return Ok(());
        }
        let group = table.layout().geometry().group_len();
        let ahead = DIGESTS_AHEAD.max(group);
        let end = (self.at / group * group).saturating_add(ahead).min(self.range.end);
        self.known = Known::Here(table.digests(self.at..end, &self.context)?);
        Ok(())
    }

    /// Gives on what can be verified of the buffer.
    fn drain(&mut self) -> Result<(), SinkStop> {
        let come = self.at + self.filled as u64;
        let group = self.group();
        let end = if come >= self.range.end { self.range.end } else { come / group * group };
        let mut done = 0;
        while self.at < end {
            if let Err(error) = self.learn() {
                return self.end(Stop::Table(error));
            }
            let mut piece_end = end;
            if let Known::Here(digests) = &self.known {
                piece_end = end.min(digests.range().end);
                let piece = &self.buffer[done..done + (piece_end - self.at) as usize];
                if let Err(error) = digests.verify(self.at, piece) {
                    count(&self.blob.counters.verification_failures, 1);
                    return self.end(Stop::Table(error));
                }
            }
            let len = (piece_end - self.at) as usize;
            if let Err(error) = self.give(done, len) {
                return self.end(Stop::Write(error));
            }
            done += len;
            self.at = piece_end;
        }
        if done > 0 {
            self.buffer.copy_within(done..self.filled, 0);
            self.filled -= done;
        }
        if self.at >= self.range.end {
            return self.end(Stop::Done);
        }
        match self.aside() {
            Some(grain) => self.end(Stop::Aside(grain)),
            None => Ok(()),
        }
    }

    /// The grain for which a reader had better ask itself than wait for this.
    fn aside(&self) -> Option<u64> {
        let Target::Cache(lead, ..) = &self.target else { return None };
        // Who sends only everything is not to begin anew.
        if self.context.priority == Priority::Demand || self.blob.origin.ranges() != Ranges::Yes {
            return None;
        }
        lead.wanted().filter(|grain| grain * GRAIN > self.at.saturating_add(WAIT_BYTES))
    }

    /// Verified bytes: `len` at `from` of the buffer, `at` of the blob.
    fn give(&mut self, from: usize, len: usize) -> io::Result<()> {
        let bytes = &self.buffer[from..from + len];
        let range = self.at..self.at + len as u64;
        match &mut self.target {
            Target::Cache(lead, room, hand) => {
                self.blob.keep((lead, room), &range, bytes)?;
                if let Some(hand) = hand {
                    hand.take(range.start, bytes);
                }
                Ok(())
            }
            Target::Memory(target) => {
                let start = (self.at - self.range.start) as usize;
                target[start..start + len].copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

impl Sink for FillSink<'_, '_> {
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop> {
        if let Some(total) = total
            && total != self.blob.size
        {
            return self.end(Stop::Size(total));
        }
        self.skip = self.range.start.saturating_sub(offset);
        if self.skip > 0 && matches!(self.target, Target::Cache(..)) {
            return self.end(Stop::Whole);
        }
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        if self.skip > 0 {
            let len = self.skip.min(self.buffer.len() as u64) as usize;
            return &mut self.buffer[..len];
        }
        let left = (self.range.end - self.at) as usize;
        let end = self.buffer.len().min(left.max(self.filled + 1));
        &mut self.buffer[self.filled..end]
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        crate::stats::count(&self.blob.counters.fetched_bytes, count as u64);
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(count as u64);
            return Ok(());
        }
        self.filled += count;
        let come = self.at + self.filled as u64;
        // Half a buffer at least is worth a call; a reader waits for no more than a buffer.
        if come >= self.range.end || self.filled == self.buffer.len() {
            return self.drain();
        }
        Ok(())
    }
}

impl Drop for FillSink<'_, '_> {
    fn drop(&mut self) {
        self.blob.cache.buffers.give(std::mem::take(&mut self.buffer));
    }
}
