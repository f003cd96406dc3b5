// SPDX-License-Identifier: MIT OR Apache-2.0
//! A link of a given delay and rate, shared by all connections of an origin; and waits that end
//! when the origin stops.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Delay before each answer, and bytes a second for all answers together.
#[derive(Debug)]
pub struct Link {
    delay: Duration,
    bytes_per_s: Option<u64>,
    /// When the link has sent all that was handed to it.
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    /// No delay, no limit.
    pub fn unlimited() -> Self {
        Self::new(Duration::ZERO, None)
    }

    /// `delay` before each answer, and `bytes_per_s` for all bodies together.
    pub fn new(delay: Duration, bytes_per_s: Option<u64>) -> Self {
        Self { delay, bytes_per_s: bytes_per_s.filter(|rate| *rate > 0), free_at: Mutex::default() }
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    pub(super) fn is_limited(&self) -> bool {
        self.bytes_per_s.is_some()
    }

    /// Books `len` bytes; they have arrived after the returned time.
    pub(super) fn book(&self, len: u64) -> Duration {
        let Some(rate) = self.bytes_per_s else { return Duration::ZERO };
        let now = Instant::now();
        let mut free_at = lock(&self.free_at);
        let start = free_at.map_or(now, |at| at.max(now));
        let end = start + Duration::from_secs_f64(len as f64 / rate as f64);
        *free_at = Some(end);
        end - now
    }
}

/// Set once; whoever sleeps on it wakes.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn set(&self) {
        *lock(&self.set) = true;
        self.changed.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *lock(&self.set)
    }

    /// Sleeps; an error if the origin stopped meanwhile.
    pub(super) fn sleep(&self, time: Duration) -> std::io::Result<()> {
        if time.is_zero() {
            return Ok(());
        }
        let (set, _) = self
            .changed
            .wait_timeout_while(lock(&self.set), time, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        if *set { Err(std::io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}
