// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sink that keeps one range in memory, whatever more the source gives.

use crate::{FetchContext, FetchError, FetchErrorKind, RangeSource, Sink, SinkStop};
use std::ops::Range;

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) bytes: Vec<u8>,
    /// Bytes of what they are a part of, if the source told it with them.
    pub(crate) total: Option<u64>,
}

/// Fetches a range into memory, which grows as bytes come.
pub(crate) fn gather(
    source: &dyn RangeSource,
    range: Range<u64>,
    context: &FetchContext,
) -> Result<Gathered, FetchError> {
    let mut sink = Gather::new(range.clone());
    source.fetch(range.clone(), &mut sink, context)?;
    if sink.kept.len() as u64 != range.end - range.start {
        let found = sink.kept.len();
        let what = format!("{}: {found} bytes of {range:?}", source.describe());
        return Err(FetchError::new(FetchErrorKind::Length, what));
    }
    Ok(Gathered { bytes: sink.kept, total: sink.total })
}

/// Fetches the first bytes of something whose size is not known: so many, or all that there are if
/// the source tells how many that is.
pub(crate) fn gather_head(
    source: &dyn RangeSource,
    len: u64,
    context: &FetchContext,
) -> Result<Gathered, FetchError> {
    let mut sink = Gather::new(0..len);
    source.fetch(0..len, &mut sink, &FetchContext { head: true, ..context.clone() })?;
    let whole = sink.range.end;
    if sink.kept.len() as u64 != whole {
        let what = format!("{}: {} bytes of {whole}", source.describe(), sink.kept.len());
        return Err(FetchError::new(FetchErrorKind::Length, what));
    }
    Ok(Gathered { bytes: sink.kept, total: sink.total })
}

const ROOM_LEN: usize = 64 << 10;

struct Gather {
    range: Range<u64>,
    /// Where the next byte is in the table.
    at: u64,
    kept: Vec<u8>,
    room: Vec<u8>,
    total: Option<u64>,
}

impl Gather {
    fn new(range: Range<u64>) -> Self {
        Self { range, at: 0, kept: vec![], room: vec![0; ROOM_LEN], total: None }
    }
}

impl Sink for Gather {
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop> {
        self.at = offset;
        self.kept.clear();
        self.total = total;
        if self.range.start == 0
            && let Some(total) = total
        {
            self.range.end = self.range.end.min(total);
        }
        // Later than the start: it can never become whole.
        if offset > self.range.start { Err(SinkStop) } else { Ok(()) }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        let bytes = &self.room[..count];
        let skip = self.range.start.saturating_sub(self.at).min(count as u64) as usize;
        let wanted = (self.range.end - self.range.start) as usize - self.kept.len();
        self.kept.extend(bytes[skip..].iter().take(wanted));
        self.at += count as u64;
        if self.at >= self.range.end { Err(SinkStop) } else { Ok(()) }
    }
}
