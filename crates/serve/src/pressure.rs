// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory to use when the machine is short of it.
//!
//! A controller without clock and system: it is told what is so, and says what limit to set.
//! Invariants: the limit is never above what was configured; under lasting pressure it falls to the
//! floor within seconds; without pressure it comes back slowly, so that it does not swing.

use std::time::Duration;

/// The least that is kept under pressure: without any, each page read decodes a whole pcluster.
const FLOOR: u64 = 4 << 20;
/// Between steps.
pub(crate) const STEP_TIME: Duration = Duration::from_secs(1);
/// Steps without pressure before the limit begins to grow again.
const CALM_STEPS: u32 = 10;
/// Part of the configured limit by which it grows each step.
const GROWTH: u64 = 16;

/// The limit of the caches under changing pressure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controller {
    configured: u64,
    limit: u64,
    calm: u32,
}

impl Controller {
    pub(crate) const fn new(configured: u64) -> Self {
        Self { configured, limit: configured, calm: 0 }
    }

    /// One step, about each second: the limit to set. `configured` is what the owner wants now.
    pub(crate) fn step(&mut self, configured: u64, pressed: bool) -> u64 {
        if configured != self.configured {
            // The owner has spoken; what pressure there is will show again.
            *self = Self::new(configured);
        }
        if pressed {
            self.calm = 0;
            let less = self.limit / 4 * 3;
            self.limit = less.max(FLOOR).min(self.configured);
        } else if self.limit < self.configured {
            self.calm = self.calm.saturating_add(1);
            if self.calm > CALM_STEPS {
                let more = (self.configured / GROWTH).max(1);
                self.limit = self.limit.saturating_add(more).min(self.configured);
            }
        }
        self.limit
    }

    /// Whether steps are needed even if nothing happens.
    pub(crate) const fn is_reduced(&self) -> bool {
        self.limit < self.configured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_falls_fast_and_grows_slowly() {
        let mut controller = Controller::new(64 * MIB);
        assert_eq!(controller.step(64 * MIB, false), 64 * MIB);
        assert_eq!(controller.step(64 * MIB, true), 48 * MIB);
        let steps = (0..100).take_while(|_| controller.step(64 * MIB, true) > FLOOR).count();
        assert!(steps < 12, "{steps}");
        assert_eq!(controller.step(64 * MIB, true), FLOOR);
        for _ in 0..CALM_STEPS {
            assert_eq!(controller.step(64 * MIB, false), FLOOR);
        }
        let mut last = FLOOR;
        let mut steps = 0;
        while controller.is_reduced() {
            let limit = controller.step(64 * MIB, false);
            assert!(limit > last && limit - last <= 4 * MIB);
            last = limit;
            steps += 1;
        }
        assert_eq!((last, steps), (64 * MIB, 15));
        // One bad second in between, and it waits again.
        controller.step(64 * MIB, true);
        let low = controller.step(64 * MIB, true);
        controller.step(64 * MIB, false);
        controller.step(64 * MIB, true);
        assert!(controller.step(64 * MIB, false) < low);
    }

    #[test]
    fn what_is_configured_is_never_passed() {
        for configured in [0, 1, MIB, FLOOR, 5 * MIB, u64::MAX] {
            let mut controller = Controller::new(configured);
            for step in 0..100 {
                assert!(controller.step(configured, step % 7 == 0) <= configured);
            }
        }
        let mut controller = Controller::new(100 * MIB);
        controller.step(100 * MIB, true);
        assert_eq!(controller.step(10 * MIB, false), 10 * MIB);
        assert_eq!(controller.step(200 * MIB, false), 200 * MIB);
    }
}
