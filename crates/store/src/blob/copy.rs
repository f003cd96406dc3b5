// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking parts of a blob from the compressed copy behind its digest table.
//!
//! Invariant: a copy is a gift. Its bytes are verified before they are kept, like any others; if
//! anything is wrong with it the rest is left, and who needs bytes fetches them.

use super::{Blob, BlobInner};
use crate::flight::Lead;
use crate::map::{bytes_of, grains_of};
use crate::stats::count;
use crate::table::copy::CopyReader;
use crate::{Demand, FetchContext, Sink, SinkStop, Table};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Encoded bytes behind which readers are not to wait: they are told that a piece comes only if it is
/// among the first of so many.
const CLAIMED: u64 = 1 << 20;
const ROOM: usize = 64 << 10;

impl Blob {
    /// Fetches what the copy behind the digest table has, by one request; whether there is a copy.
    /// Those who miss bytes of it meanwhile wait for them.
    pub fn take_copy(&self, demand: &Demand) -> bool {
        let inner = &*self.inner;
        let start = Instant::now();
        let Ok(Some(table)) = inner.table(demand, start) else { return false };
        let Some(range) = table.copy() else { return false };
        let context = FetchContext {
            deadline: demand.until(start),
            priority: demand.priority,
            cancel: demand.cancel.clone(),
            ..FetchContext::default()
        };
        let mut sink = CopySink {
            blob: inner,
            table: &table,
            context: context.clone(),
            at: range.start,
            range: range.clone(),
            reader: CopyReader::new(inner.size),
            claims: None,
            room: vec![0; ROOM],
        };
        if let Err(error) = table.source().fetch(range, &mut sink, &context) {
            tracing::debug!(%error, "a copy was not fetched to its end");
        }
        true
    }
}

struct CopySink<'a> {
    blob: &'a BlobInner,
    table: &'a Arc<Table>,
    context: FetchContext,
    /// Of the table's file.
    range: Range<u64>,
    at: u64,
    reader: CopyReader,
    /// What is missing of the first pieces, claimed for them in their order.
    claims: Option<Vec<Lead<'a>>>,
    room: Vec<u8>,
}

impl<'a> CopySink<'a> {
    /// Claims what is missing of the pieces that will come soon.
    fn claim(&mut self) -> Result<(), SinkStop> {
        if self.claims.is_some() {
            return Ok(());
        }
        let Some(pieces) = self.reader.pieces().map_err(|_| SinkStop)? else { return Ok(()) };
        let mut claims = Vec::new();
        let mut left = CLAIMED.min(self.range.end - self.range.start);
        for piece in pieces {
            let Some(rest) = left.checked_sub(piece.encoded_len as u64) else { break };
            left = rest;
            let runs = self.blob.map.bits().runs(grains_of(&piece.range), false);
            claims.extend(runs.flat_map(|run| self.blob.flights.claim_free(run)));
        }
        self.claims = Some(claims);
        Ok(())
    }

    /// Keeps a piece, if it is what the table says.
    fn keep(&mut self, range: &Range<u64>, bytes: &[u8]) -> Result<(), SinkStop> {
        let blob: &'a BlobInner = self.blob;
        let digests = self.table.digests(range.clone(), &self.context).map_err(|_| SinkStop)?;
        if let Err(error) = digests.verify(range.start, bytes) {
            count(&blob.counters.verification_failures, 1);
            tracing::warn!(blob = %blob.id, %error, "a copy is wrong, and not used");
            return Err(SinkStop);
        }
        let claims = self.claims.get_or_insert_default();
        // They are in order, as the pieces are.
        let grains = grains_of(range);
        let behind = claims.iter().position(|lead| lead.range().start >= grains.end);
        let mut mine: Vec<Lead<'a>> = claims.drain(..behind.unwrap_or(claims.len())).collect();
        let runs: Vec<Range<u64>> = blob.map.bits().runs(grains, false).collect();
        // What others have claimed they fetch.
        mine.extend(runs.into_iter().flat_map(|run| blob.flights.claim_free(run)));
        for lead in &mine {
            let Ok(Some(_held)) = blob.files.try_grains(&blob.id, &lead.range()) else { continue };
            let part = bytes_of(&lead.range(), blob.size);
            let Some(room) = blob.cache.admit(part.end - part.start) else {
                return Err(SinkStop);
            };
            if let Err(error) = blob.keep((lead, &room), range, bytes) {
                if super::fetch::is_full(&error) {
                    blob.cache.is_full();
                }
                return Err(SinkStop);
            }
        }
        Ok(())
    }
}

impl Sink for CopySink<'_> {
    fn begin(&mut self, offset: u64, _total: Option<u64>) -> Result<(), SinkStop> {
        self.at = offset;
        // Who sends the whole table is not waited for.
        if offset == self.range.start { Ok(()) } else { Err(SinkStop) }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        crate::stats::count(&self.blob.counters.fetched_bytes, count as u64);
        self.at += count as u64;
        self.reader.push(&self.room[..count]);
        self.claim()?;
        while let Some((range, bytes)) = self.reader.next().map_err(|_| SinkStop)? {
            self.keep(&range, &bytes)?;
        }
        if self.at >= self.range.end || self.reader.is_over() { Err(SinkStop) } else { Ok(()) }
    }
}
