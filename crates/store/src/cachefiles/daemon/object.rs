// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object that the daemon holds: its blob, its descriptor, and what is being filled.

use super::super::{ProvidedBlob, ProviderError};
use super::ObjectFile;
use super::buffer::{BUFFER_LEN, Buffer, PAGE};
use crate::Demand;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(super) struct Held {
    blob: Arc<dyn ProvidedBlob>,
    pub(super) file: Box<dyn ObjectFile>,
    /// Ranges that threads fill now.
    flights: Mutex<Vec<Arc<Flight>>>,
    landed: Condvar,
}

#[derive(Debug)]
struct Flight {
    range: Range<u64>,
    /// Set under the lock of `flights`.
    good: std::sync::OnceLock<bool>,
}

/// Ends a flight, also if its thread panics.
struct Landing<'a> {
    held: &'a Held,
    flight: Arc<Flight>,
    good: bool,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.held.lock();
        flights.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
        // Nobody else sets it.
        let _ = self.flight.good.set(self.good);
        drop(flights);
        self.held.landed.notify_all();
    }
}

impl Held {
    pub(super) fn new(blob: Arc<dyn ProvidedBlob>, file: Box<dyn ObjectFile>) -> Self {
        Self { blob, file, flights: Mutex::default(), landed: Condvar::new() }
    }

    /// Fetches a range and writes it; bytes written. Who finds another at it waits for that one.
    pub(super) fn fill(
        &self,
        range: Range<u64>,
        buffer: &mut Buffer,
        demand: &Demand,
    ) -> Result<u64, ProviderError> {
        let size = self.blob.size();
        let pages = size.checked_next_multiple_of(PAGE as u64).unwrap_or(size);
        if range.start >= pages {
            let what = format!("offset {} is past the end at {size}", range.start);
            return Err(ProviderError::new(Errno::INVAL, what));
        }
        let wanted = Self::align(range.start..range.end.min(pages));
        let mut flights = self.lock();
        loop {
            let other = flights.iter().find(|other| overlap(&other.range, &wanted)).cloned();
            let Some(other) = other else { break };
            while other.good.get().is_none() {
                flights = self.landed.wait(flights).unwrap_or_else(PoisonError::into_inner);
            }
            let all = other.range.start <= wanted.start && wanted.end <= other.range.end;
            if all && other.good.get() == Some(&true) {
                return Ok(0);
            }
        }
        // What a provider adds may meet what others fetch: then it is left out.
        let reach = Self::align(self.blob.reach(wanted.clone()));
        let more = reach.start <= wanted.start && wanted.end <= reach.end && reach.end <= pages;
        let free = !flights.iter().any(|other| overlap(&other.range, &reach));
        let range = if more && free { reach } else { wanted };
        let flight = Arc::new(Flight { range: range.clone(), good: std::sync::OnceLock::new() });
        flights.push(Arc::clone(&flight));
        drop(flights);
        let mut landing = Landing { held: self, flight, good: false };
        self.copy(range.clone(), buffer, demand)?;
        landing.good = true;
        Ok(range.end - range.start)
    }

    fn copy(
        &self,
        range: Range<u64>,
        buffer: &mut Buffer,
        demand: &Demand,
    ) -> Result<(), ProviderError> {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(BUFFER_LEN, |len| len.min(BUFFER_LEN));
            let pages = &mut buffer.pages()[..len];
            let here = usize::try_from(self.blob.size().saturating_sub(at)).unwrap_or(len).min(len);
            let (bytes, tail) = pages.split_at_mut(here);
            self.blob.read_exact_at(bytes, at, demand)?;
            tail.fill(0);
            self.write(pages, at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn write(&self, mut bytes: &[u8], mut at: u64) -> Result<(), ProviderError> {
        while !bytes.is_empty() {
            let error = |errno, what| {
                let len = bytes.len();
                ProviderError::new(errno, format!("writing {len} bytes at {at}: {what}"))
            };
            let done = self.file.write_at(bytes, at).map_err(|failed| {
                let errno = failed.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
                error(errno, failed.to_string())
            })?;
            // What is left must be aligned again.
            let done = done - done % PAGE;
            bytes = bytes.get(done..).filter(|_| done > 0).ok_or_else(|| {
                error(Errno::NOSPC, String::from("the cache took less than a page"))
            })?;
            at += done as u64;
        }
        Ok(())
    }

    /// Whole pages around a range.
    fn align(range: Range<u64>) -> Range<u64> {
        let page = PAGE as u64;
        let end = range.end.checked_next_multiple_of(page).unwrap_or(range.end);
        range.start - range.start % page..end
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
