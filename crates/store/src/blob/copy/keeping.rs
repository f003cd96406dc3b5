// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping what came of a copy, where others fetch at the same time.
//!
//! Invariant: nothing is kept that was not verified, or that another has claimed.

use super::super::BlobInner;
use super::super::fetch::is_full;
use crate::flight::Lead;
use crate::map::{bytes_of, grains_of};
use crate::stats::count;
use crate::table::copy::Piece;
use crate::{FetchContext, SinkStop, Table};
use std::ops::Range;
use std::sync::Arc;

pub(super) struct Keeping<'a, 'b> {
    pub(super) blob: &'a BlobInner,
    pub(super) table: &'b Arc<Table>,
    pub(super) context: &'b FetchContext,
    /// What is missing of the first pieces, claimed for them in their order.
    pub(super) claims: Option<Vec<Lead<'a>>>,
}

impl<'a> Keeping<'a, '_> {
    /// Claims what is missing of pieces that will come soon, in their order.
    pub(super) fn claim<'p>(&mut self, pieces: impl Iterator<Item = &'p Piece>) {
        let blob = self.blob;
        let mut claims = Vec::new();
        for piece in pieces {
            let runs = blob.map.bits().runs(grains_of(&piece.range), false);
            claims.extend(runs.flat_map(|run| blob.flights.claim_free(run)));
        }
        self.claims = Some(claims);
    }

    /// Keeps a piece, if it is what the table says.
    pub(super) fn keep_whole(&mut self, range: &Range<u64>, bytes: &[u8]) -> Result<(), SinkStop> {
        if self.blob.map.bits().all(grains_of(range)) {
            return Ok(());
        }
        let digests = self.table.digests(range.clone(), self.context).map_err(|_| SinkStop)?;
        if let Err(error) = digests.verify(range.start, bytes) {
            return Err(self.is_wrong(&error));
        }
        self.keep(range, bytes, std::slice::from_ref(range))
    }

    /// Says that a copy is wrong.
    pub(super) fn is_wrong(&self, error: &dyn std::error::Error) -> SinkStop {
        count(&self.blob.counters.verification_failures, 1);
        tracing::warn!(blob = %self.blob.id, %error, "a copy is wrong, and not used");
        SinkStop
    }

    /// Keeps those parts of a piece, which were verified.
    pub(super) fn keep(
        &mut self,
        range: &Range<u64>,
        bytes: &[u8],
        good: &[Range<u64>],
    ) -> Result<(), SinkStop> {
        let blob = self.blob;
        let grains = grains_of(range);
        let claims = self.claims.get_or_insert_default();
        // They are in order, as the pieces are.
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
            for good in good {
                let from = (good.start - range.start) as usize;
                let to = (good.end - range.start) as usize;
                if let Err(error) = blob.keep((lead, &room), good, &bytes[from..to]) {
                    if is_full(&error) {
                        blob.cache.is_full();
                    }
                    return Err(SinkStop);
                }
            }
        }
        Ok(())
    }
}
