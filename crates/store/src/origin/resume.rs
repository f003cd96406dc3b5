// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sink that makes one transfer of many attempts.

use super::{Ranges, Served};
use crate::{Demand, FetchError, FetchErrorKind, Limits, RangeSource, Sink, SinkStop};
use std::ops::Range;

/// Between sources, which begin anew, and the receiver, which does not.
pub(super) struct Resume<'a> {
    sink: &'a mut dyn Sink,
    limits: &'a Limits,
    demand: &'a Demand,
    /// What was asked for.
    range: Range<u64>,
    /// The blob may be shorter than the range.
    head: bool,
    /// The next byte that the receiver gets; `None` before it was told where it begins.
    position: Option<u64>,
    /// Everything is coming, not a range.
    is_whole: bool,
    /// The blob's size, as a source told.
    total: Option<u64>,
    /// The receiver wants no more.
    is_stopped: bool,
    // Of the attempt:
    asked: u64,
    began: bool,
    /// Bytes that come again before those that are wanted.
    skip: u64,
    received: u64,
    ranges: Option<Ranges>,
    wrong: Option<(FetchErrorKind, String)>,
    scratch: Vec<u8>,
}

impl<'a> Resume<'a> {
    pub(super) fn new(
        range: Range<u64>,
        sink: &'a mut dyn Sink,
        limits: &'a Limits,
        demand: &'a Demand,
    ) -> Self {
        Self {
            sink,
            limits,
            demand,
            asked: range.start,
            range,
            head: false,
            position: None,
            is_whole: false,
            total: None,
            is_stopped: false,
            began: false,
            skip: 0,
            received: 0,
            ranges: None,
            wrong: None,
            scratch: vec![],
        }
    }

    /// Whether the blob may be shorter than the range.
    pub(super) fn of_head(self, head: bool) -> Self {
        Self { head, ..self }
    }

    /// The next byte that the receiver gets.
    pub(super) fn position(&self) -> u64 {
        self.position.unwrap_or(0)
    }

    /// Bytes that came in this attempt, wanted or not.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// What this attempt has taught of its source.
    pub(super) const fn ranges(&self) -> Option<Ranges> {
        self.ranges
    }

    /// Where the transfer ends.
    fn end(&self) -> u64 {
        match self.total {
            Some(total) if self.is_whole => total,
            _ => self.range.end,
        }
    }

    /// Begins an attempt: what is to be asked for.
    pub(super) fn attempt(&mut self) -> Range<u64> {
        (self.began, self.skip, self.received) = (false, 0, 0);
        (self.ranges, self.wrong) = (None, None);
        self.asked = self.position.unwrap_or(self.range.start);
        self.asked..self.end().max(self.asked + 1)
    }

    /// What the attempt came to; `Ok`: the transfer is complete, or the receiver has enough.
    pub(super) fn outcome(
        &mut self,
        source: &dyn RangeSource,
        result: Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        if let Some((kind, what)) = self.wrong.take() {
            return Err(FetchError::new(kind, format!("{}: {what}", source.describe())));
        }
        let complete = self.position.is_some_and(|position| position >= self.end());
        if self.is_stopped || complete {
            return Ok(());
        }
        result?;
        if self.is_whole && self.total.is_none() && self.position() >= self.range.end {
            // The end of everything, told by the source alone.
            return Ok(());
        }
        let what = format!(
            "{}: the answer ended at byte {} of {}..{}",
            source.describe(),
            self.position(),
            self.range.start,
            self.end()
        );
        Err(FetchError::new(FetchErrorKind::Length, what))
    }

    pub(super) fn served(&self, sources: u64) -> Served {
        Served { sources, whole: self.is_whole, stopped: self.is_stopped, end: self.position() }
    }

    fn refuse(&mut self, kind: FetchErrorKind, what: String) -> Result<(), SinkStop> {
        self.wrong = Some((kind, what));
        Err(SinkStop)
    }
}

impl Sink for Resume<'_> {
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop> {
        if self.began {
            return self.refuse(FetchErrorKind::Protocol, "an attempt that began twice".into());
        }
        self.began = true;
        if offset != self.asked && offset != 0 {
            let what = format!("began at byte {offset}, not at {}", self.asked);
            return self.refuse(FetchErrorKind::Protocol, what);
        }
        if let (Some(known), Some(told)) = (self.total, total)
            && known != told
        {
            let what = format!("{told} bytes, and {known} before");
            return self.refuse(FetchErrorKind::Changed, what);
        }
        if let Some(total) = total.filter(|_| self.head && self.range.start == 0) {
            self.range.end = self.range.end.min(total);
        }
        if total.is_some_and(|total| total < self.range.end) {
            let what = format!("{} bytes, too few for {:?}", total.unwrap_or(0), self.range);
            return self.refuse(FetchErrorKind::Changed, what);
        }
        self.total = self.total.or(total);
        if self.asked != 0 {
            self.ranges = Some(if offset == 0 { Ranges::No } else { Ranges::Yes });
        }
        if let Some(position) = self.position {
            self.skip = position - offset;
            return Ok(());
        }
        self.is_whole = offset != self.asked;
        self.position = Some(offset);
        self.is_stopped = self.sink.begin(offset, total).is_err();
        if self.is_stopped { Err(SinkStop) } else { Ok(()) }
    }

    fn room(&mut self) -> &mut [u8] {
        let max = self.limits.piece_max(self.demand.priority_now()).unwrap_or(usize::MAX);
        if self.skip > 0 {
            let len = self.skip.min(64 << 10) as usize;
            self.scratch.resize(64 << 10, 0);
            return &mut self.scratch[..len.min(max)];
        }
        let room = self.sink.room();
        let len = room.len().min(max);
        &mut room[..len]
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        let bytes = count as u64;
        self.received += bytes;
        if !self.began {
            return self.refuse(FetchErrorKind::Protocol, "bytes before their place".into());
        }
        self.limits.take(bytes, self.demand);
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(bytes);
        } else {
            let position = self.position().saturating_add(bytes);
            self.position = Some(position);
            // Further than asked: it has sent everything from the start.
            if !self.is_whole && position > self.range.end {
                self.is_whole = true;
                self.ranges = Some(Ranges::No);
            }
            if self.sink.filled(count).is_err() {
                self.is_stopped = true;
                return Err(SinkStop);
            }
        }
        if self.demand.is_cancelled() {
            let cancelled = "cancelled".to_owned();
            return self.refuse(FetchErrorKind::Deadline, cancelled);
        }
        Ok(())
    }
}
