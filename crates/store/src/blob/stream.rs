// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once, from a source that gives no parts.

use super::BlobInner;
use super::fetch::is_full;
use super::sink::{Stop, Target};
use crate::{Demand, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a claim of everything waits for who fetches parts.
const PAUSE: Duration = Duration::from_millis(2);

impl BlobInner {
    /// Sees to it that everything is being fetched, by one thread of this process.
    pub(super) fn stream(
        this: &Arc<Self>,
        demand: &Demand,
        start: Instant,
    ) -> Result<(), StoreError> {
        if this.streaming.load(Ordering::SeqCst) {
            return Ok(());
        }
        if this.cache.admit(this.size).is_none() {
            return Err(this.no_space(this.size));
        }
        Self::begin_stream(this, demand.after(start, Instant::now()));
        Ok(())
    }

    /// Begins to fetch everything in a thread of its own, so that who misses a part near the start
    /// need not wait for the end. Who waits joins the flight; if it fails, tries again.
    pub(super) fn begin_stream(this: &Arc<Self>, demand: Demand) {
        if this.streaming.swap(true, Ordering::SeqCst) {
            return;
        }
        let blob = Arc::clone(this);
        let (sender, claimed) = std::sync::mpsc::channel::<()>();
        let spawned = std::thread::Builder::new().name("ferrofs-stream".into()).spawn(move || {
            let ended = Ended(&blob);
            let start = Instant::now();
            if let Err(error) = blob.take_all(&demand, start, sender) {
                blob.cache.note(&error);
            }
            drop(ended);
        });
        match spawned {
            // Until it has its claim, or has failed: then the caller finds it in the flights.
            Ok(_) => drop(claimed.recv_timeout(Duration::from_secs(1))),
            Err(_) => this.streaming.store(false, Ordering::SeqCst),
        }
    }

    fn take_all(
        &self,
        demand: &Demand,
        start: Instant,
        claimed: std::sync::mpsc::Sender<()>,
    ) -> Result<(), StoreError> {
        let count = self.map.bits().count();
        let lead = loop {
            if let Some(lead) = self.flights.claim_whole(0..count) {
                break lead;
            }
            self.check(demand, start, 0)?;
            std::thread::sleep(PAUSE);
        };
        drop(claimed);
        let _held = loop {
            let Some(first) = self.map.bits().find(0..count, false) else { return Ok(()) };
            if let Some(held) = self.hold(&(0..count), first, demand, start)? {
                break held;
            }
        };
        if self.map.bits().all(0..count) {
            return Ok(());
        }
        let table = self.table(demand, start)?;
        let Some(room) = self.cache.admit(self.size) else {
            return Err(self.no_space(self.size));
        };
        let stop = self.transfer(
            Target::Cache(&lead, &room, None),
            &(0..self.size),
            table.as_ref(),
            demand,
            start,
        )?;
        debug_assert!(!matches!(&stop, Stop::Write(error) if is_full(error)));
        Ok(())
    }
}

struct Ended<'a>(&'a BlobInner);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.streaming.store(false, Ordering::SeqCst);
    }
}
