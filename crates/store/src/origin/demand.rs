// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long somebody is willing to wait, and the clock by which that is told.

use crate::Priority;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a reader waits for bytes that cannot be fetched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "as mounts know it: hard and soft")]
pub enum Deadline {
    /// Until they come, or the reader is cancelled.
    #[default]
    Hard,
    /// So long, then the read fails.
    Soft(Duration),
}

/// Who wants bytes, and how much.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Demand::default()`")]
pub struct Demand {
    /// How long failures may be retried.
    pub deadline: Deadline,
    /// Who waits.
    pub priority: Priority,
    /// Ends the wait early, whatever the deadline.
    pub cancel: Option<Cancel>,
    /// Set while it is under way by a reader who waits for the same bytes: what nobody waited for is
    /// a reader's then.
    pub urgent: Option<Urgent>,
}

/// Says that somebody waits now. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Urgent(Arc<AtomicBool>);

impl Urgent {
    /// Somebody does.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody does.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Demand {
    /// Nobody waits: for background work, with one round of retries.
    pub fn prefetch() -> Self {
        Self {
            deadline: Deadline::Soft(Duration::from_secs(30)),
            priority: Priority::Prefetch,
            ..Self::default()
        }
    }

    /// As [`Demand::prefetch`], for what is known to be wanted.
    pub fn listed() -> Self {
        Self { priority: Priority::Listed, ..Self::prefetch() }
    }

    /// As [`Demand::prefetch`], for what a reader in sequence comes to next.
    pub fn ahead() -> Self {
        Self { priority: Priority::Ahead, ..Self::prefetch() }
    }

    /// Who waits now.
    pub fn priority_now(&self) -> Priority {
        match &self.urgent {
            Some(urgent) if urgent.is_set() => Priority::Demand,
            _ => self.priority,
        }
    }

    /// A reader that waits for so long.
    pub fn soft(patience: Duration) -> Self {
        Self { deadline: Deadline::Soft(patience), ..Self::default() }
    }

    /// When retries end, counted from `now`; `None`: never.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        match self.deadline {
            Deadline::Hard => None,
            // A patience that the clock cannot hold is one without end.
            Deadline::Soft(patience) => now.checked_add(patience),
        }
    }

    /// The same demand from `now` on, if it began at `start`: what is left of its patience.
    #[must_use]
    pub fn after(&self, start: Instant, now: Instant) -> Self {
        let mut rest = self.clone();
        if let Deadline::Soft(patience) = self.deadline {
            let gone = now.saturating_duration_since(start);
            rest.deadline = Deadline::Soft(patience.saturating_sub(gone));
        }
        rest
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// Whether what has failed is not to be tried again.
    pub fn has_ended_retries(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::has_ended_retries)
    }
}

/// A switch that ends waits. Clones are the same switch.
#[derive(Clone, Default)]
pub struct Cancel(Arc<(Mutex<Waits>, Condvar)>);

/// Which waits go on.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Waits {
    #[default]
    All,
    /// Only those for something that has not failed.
    Hopeful,
    None,
}

impl Cancel {
    /// A switch that is off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all waits under it, now and later.
    pub fn cancel(&self) {
        self.set(Waits::None);
    }

    /// Ends the waits for what has failed once, and those that come to that later: who waits will not
    /// be there for long, but while all goes well it is served.
    pub fn end_retries(&self) {
        self.set(Waits::Hopeful);
    }

    fn set(&self, waits: Waits) {
        let mut now = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (*now).max(waits);
        drop(now);
        self.0.1.notify_all();
    }

    fn get(&self) -> Waits {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all waits are ended.
    pub fn is_cancelled(&self) -> bool {
        self.get() == Waits::None
    }

    /// Whether what has failed is not to be tried again.
    pub fn has_ended_retries(&self) -> bool {
        self.get() >= Waits::Hopeful
    }

    /// Waits for so long, or until it is switched further; whether all waits are ended.
    pub fn wait(&self, time: Duration) -> bool {
        let before = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *before;
        if known == Waits::None {
            return true;
        }
        let wait = self.0.1.wait_timeout_while(before, time, |now| *now == known);
        *wait.unwrap_or_else(PoisonError::into_inner).0 == Waits::None
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.get()).finish()
    }
}

/// Time, so that tests need none.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Instant;

    /// Waits for so long, or until `cancel` is switched further.
    fn sleep(&self, time: Duration, cancel: Option<&Cancel>);

    /// A number from 0 (inclusive) to 1 (exclusive), for jitter.
    fn random(&self) -> f64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a mark")]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration, cancel: Option<&Cancel>) {
        match cancel {
            Some(cancel) => {
                cancel.wait(time);
            }
            None => std::thread::sleep(time),
        }
    }

    fn random(&self) -> f64 {
        fastrand::f64()
    }
}
