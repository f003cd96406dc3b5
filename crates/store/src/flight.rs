// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who fetches what now: of several threads that miss the same grains, one fetches them.
//!
//! It refuses to know how. Invariant: the ranges of the flights that are under way do not overlap,
//! and a flight ends with its guard, also when its thread panics; whoever waited looks for itself.

use crate::Urgent;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The flights of one blob.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<Vec<Arc<Flight>>>);

#[derive(Debug)]
pub(crate) struct Flight {
    /// Grains.
    range: Range<u64>,
    state: Mutex<State>,
    changed: Condvar,
    /// Set by readers who wait.
    urgent: Urgent,
}

#[derive(Debug, Default)]
struct State {
    waiting: u32,
    /// Counts what was published: who waits sees whether something happened since it looked.
    progress: u64,
    over: bool,
    /// The first grain that a reader waits for.
    wanted: Option<u64>,
}

/// What became of a wish to fetch a range.
#[derive(Debug)]
pub(crate) enum Claim<'a> {
    /// It is the caller's, or a part of it from its start on.
    Lead(Lead<'a>),
    /// Somebody else fetches its start.
    Join(Join),
}

/// The right to fetch a range, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    flights: &'a Flights,
    flight: Arc<Flight>,
}

/// Another's flight.
#[derive(Debug)]
pub(crate) struct Join {
    flight: Arc<Flight>,
    seen: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flight {
    fn new(range: Range<u64>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { range, state, changed, urgent: Urgent::default() })
    }
}

impl Flights {
    /// Claims `range` (grains, not empty) as far as no other flight is in the way; if one has its
    /// `first` grain, joins that. The claim begins where the last flight before `first` ends.
    pub(crate) fn claim(&self, range: Range<u64>, first: u64) -> Claim<'_> {
        let mut flights = lock(&self.0);
        let mut claimed = range;
        for flight in flights.iter() {
            if flight.range.contains(&first) {
                let seen = lock(&flight.state).progress;
                return Claim::Join(Join { flight: Arc::clone(flight), seen });
            }
            if flight.range.end <= first {
                claimed.start = claimed.start.max(flight.range.end);
            } else {
                claimed.end = claimed.end.min(flight.range.start);
            }
        }
        let flight = Flight::new(claimed);
        flights.push(Arc::clone(&flight));
        Claim::Lead(Lead { flights: self, flight })
    }

    /// Claims what of `range` no other flight has.
    pub(crate) fn claim_free(&self, range: Range<u64>) -> Vec<Lead<'_>> {
        let mut flights = lock(&self.0);
        let mut taken: Vec<Range<u64>> =
            flights.iter().map(|flight| flight.range.clone()).collect();
        taken.sort_unstable_by_key(|range| range.start);
        taken.push(range.end..u64::MAX);
        let (mut at, mut leads) = (range.start, Vec::new());
        for other in taken {
            let end = other.start.min(range.end);
            if at < end {
                let flight = Flight::new(at..end);
                flights.push(Arc::clone(&flight));
                leads.push(Lead { flights: self, flight });
            }
            at = at.max(other.end);
        }
        leads
    }

    /// Claims all of `range` or nothing.
    pub(crate) fn claim_whole(&self, range: Range<u64>) -> Option<Lead<'_>> {
        let mut flights = lock(&self.0);
        let busy = flights
            .iter()
            .any(|flight| flight.range.start < range.end && range.start < flight.range.end);
        if busy {
            return None;
        }
        let flight = Flight::new(range);
        flights.push(Arc::clone(&flight));
        Some(Lead { flights: self, flight })
    }
}

impl Lead<'_> {
    /// The grains.
    pub(crate) fn range(&self) -> Range<u64> {
        self.flight.range.clone()
    }

    /// Says when readers wait for it.
    pub(crate) fn urgent(&self) -> Urgent {
        self.flight.urgent.clone()
    }

    /// The first grain that a reader waits for, if one does.
    pub(crate) fn wanted(&self) -> Option<u64> {
        if self.flight.urgent.is_set() { lock(&self.flight.state).wanted } else { None }
    }

    /// Wakes who waits: some grains are there.
    pub(crate) fn publish(&self) {
        let mut state = lock(&self.flight.state);
        state.progress += 1;
        if state.waiting > 0 {
            self.flight.changed.notify_all();
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        lock(&self.flights.0).retain(|flight| !Arc::ptr_eq(flight, &self.flight));
        let mut state = lock(&self.flight.state);
        state.over = true;
        if state.waiting > 0 {
            self.flight.changed.notify_all();
        }
    }
}

impl Join {
    /// A reader waits for this grain.
    pub(crate) fn want(&self, grain: u64) {
        let mut state = lock(&self.flight.state);
        state.wanted = Some(state.wanted.map_or(grain, |wanted| wanted.min(grain)));
        drop(state);
        self.flight.urgent.set();
    }

    /// Waits until something was published since the claim or the last wait, the flight is over, or
    /// `time` is gone; whether the flight goes on.
    pub(crate) fn wait(&mut self, time: Duration) -> bool {
        let mut state = lock(&self.flight.state);
        state.waiting += 1;
        let seen = self.seen;
        let (mut state, _) = self
            .flight
            .changed
            .wait_timeout_while(state, time, |state| !state.over && state.progress == seen)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        self.seen = state.progress;
        !state.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(claim: Claim<'_>) -> Lead<'_> {
        match claim {
            Claim::Lead(lead) => lead,
            Claim::Join(join) => panic!("{join:?}"),
        }
    }

    #[test]
    fn ranges_do_not_overlap() {
        let flights = Flights::default();
        let middle = lead(flights.claim(10..20, 10));
        assert_eq!(lead(flights.claim(0..30, 5)).range(), 0..10);
        assert_eq!(lead(flights.claim(0..30, 25)).range(), 20..30);
        assert!(matches!(flights.claim(0..30, 15), Claim::Join(_)));
        assert!(flights.claim_whole(0..30).is_none());
        assert!(flights.claim_whole(20..30).is_some());
        drop(middle);
        assert_eq!(lead(flights.claim(0..30, 15)).range(), 0..30);
    }

    #[test]
    fn what_is_free_is_between_the_others() {
        let flights = Flights::default();
        let _late = lead(flights.claim(20..25, 20));
        let _early = lead(flights.claim(3..10, 3));
        let free = flights.claim_free(5..30);
        let ranges: Vec<_> = free.iter().map(Lead::range).collect();
        assert_eq!(ranges, [10..20, 25..30]);
        assert!(flights.claim_free(4..30).is_empty());
        drop(free);
        assert_eq!(flights.claim_free(12..18).len(), 1);
    }

    #[test]
    fn who_waits_is_woken_by_a_panic() {
        let flights = Flights::default();
        std::thread::scope(|scope| {
            let lead = lead(flights.claim(0..1, 0));
            let Claim::Join(mut join) = flights.claim(0..1, 0) else { panic!("led twice") };
            let leader = scope.spawn(move || {
                let _lead = lead;
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(!join.wait(Duration::from_secs(60)));
            assert!(leader.join().is_err());
        });
    }

    #[test]
    fn progress_before_the_wait_is_seen() {
        let flights = Flights::default();
        let lead = lead(flights.claim(0..2, 0));
        let Claim::Join(mut join) = flights.claim(0..2, 1) else { panic!("led twice") };
        lead.publish();
        assert!(join.wait(Duration::from_secs(60)));
        assert!(join.wait(Duration::ZERO), "still under way");
    }
}
