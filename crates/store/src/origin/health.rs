// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of one source: whether it is worth asking now.

use super::{OriginConfig, Ranges};
use crate::FetchErrorKind;
use std::time::{Duration, Instant};

/// Failures are forgotten by half in so many seconds.
const HALF_LIFE_SECONDS: f64 = 30.0;
/// How often those look again who wait for another's probe.
const PROBE_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) ranges: Ranges,
    /// Failures in a row.
    failures: u32,
    /// Times in a row that the breaker opened.
    opens: u32,
    /// While the breaker is open, and after that until a probe succeeds.
    open_until: Option<Instant>,
    is_probing: bool,
    /// The server wants to be left alone until then.
    not_before: Option<Instant>,
    /// Decaying count of failures, as of a moment.
    penalty: Option<(f64, Instant)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Readiness {
    Ready,
    In(Duration),
}

impl Health {
    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        let later = [self.open_until, self.not_before].into_iter().flatten().max();
        match later {
            Some(later) if later > now => Readiness::In(later - now),
            _ if self.open_until.is_some() && self.is_probing => Readiness::In(PROBE_POLL),
            _ => Readiness::Ready,
        }
    }

    /// Failures of late, for the order of sources: small differences are none.
    pub(super) fn penalty(&self, now: Instant) -> u32 {
        self.decayed(now).round() as u32
    }

    fn decayed(&self, now: Instant) -> f64 {
        self.penalty.map_or(0.0, |(value, at)| {
            let age = now.saturating_duration_since(at).as_secs_f64();
            value * (-age / HALF_LIFE_SECONDS).exp2()
        })
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| until > now)
    }

    /// An attempt begins.
    pub(super) const fn begin(&mut self, _now: Instant) {
        self.is_probing = self.open_until.is_some();
    }

    /// An attempt that had begun was not made.
    pub(super) const fn abandoned(&mut self) {
        self.is_probing = false;
    }

    pub(super) const fn succeeded(&mut self, _now: Instant) {
        self.failures = 0;
        self.opens = 0;
        self.open_until = None;
        self.is_probing = false;
        self.not_before = None;
    }

    /// Whether the breaker opened.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        kind: FetchErrorKind,
        config: &OriginConfig,
    ) -> bool {
        let was_probe = std::mem::take(&mut self.is_probing);
        if !super::may_pass(kind) {
            // It answered, and means it: there is nothing broken.
            self.open_until = None;
            self.failures = 0;
            if kind == FetchErrorKind::NoRanges {
                self.ranges = Ranges::No;
            }
            return false;
        }
        self.penalty = Some((self.decayed(now) + 1.0, now));
        self.failures = self.failures.saturating_add(1);
        if let FetchErrorKind::Busy(Some(time)) = kind {
            self.not_before = now.checked_add(time.min(config.retry_after_max));
        }
        let opens = was_probe || self.failures >= config.breaker_failures.max(1);
        if opens {
            self.open(now, config);
        }
        opens
    }

    /// Leaves the source alone for a while.
    pub(super) fn open(&mut self, now: Instant, config: &OriginConfig) {
        let time = config.breaker_min.saturating_mul(1 << self.opens.min(16));
        self.open_until = now.checked_add(time.min(config.breaker_max));
        self.opens = self.opens.saturating_add(1);
        self.penalty = Some((self.decayed(now) + 1.0, now));
    }
}
