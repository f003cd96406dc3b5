// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first bytes of a blob that is new to the cache, fetched while its digest table is opened: a
//! round trip less before an image can be looked at.
//!
//! Invariant: they are a gift. They are kept only if they verify; if anything is wrong with them
//! nobody hears of it, and they are fetched again by who needs them.

use super::{BlobSpec, TableSpec};
use crate::blob::BlobInner;
use crate::table::gather::gather_head;
use crate::{Demand, FetchContext};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than this is not held in memory.
const LEN_MAX: u64 = 1 << 20;
/// Longer than this they are not waited for: whoever needs them asks again, and can tell what is wrong.
const TIME: Duration = Duration::from_secs(20);
/// Less than this is no whole group, of which digests come with the table's head.
const LEN_MIN: u64 = 64 << 10;

/// Bytes that are under way.
#[derive(Debug)]
pub(super) struct Head(JoinHandle<Option<Vec<u8>>>);

impl Head {
    /// Begins to fetch, if that is wanted and the bytes can be verified.
    pub(super) fn begin(spec: &BlobSpec, demand: &Demand, start: Instant) -> Option<Self> {
        let len = spec.head_len.min(LEN_MAX);
        if len < LEN_MIN || !matches!(spec.table, TableSpec::Pinned { .. }) {
            return None;
        }
        let origin = spec.origin.clone();
        let context = FetchContext {
            deadline: [demand.until(start), start.checked_add(TIME)].into_iter().flatten().min(),
            priority: demand.priority,
            ..FetchContext::default()
        };
        let work = move || gather_head(&origin, len, &context).ok().map(|head| head.bytes);
        std::thread::Builder::new().name(String::from("head")).spawn(work).ok().map(Self)
    }

    /// Waits for the bytes, opens the table meanwhile if that was not done, and keeps what is right.
    pub(super) fn end(self, blob: &Arc<BlobInner>, demand: &Demand, start: Instant) {
        let table = blob.table(demand, start);
        let bytes = self.0.join();
        if let (Ok(Some(table)), Ok(Some(bytes))) = (table, bytes) {
            blob.give(&table, &bytes);
        }
    }
}
