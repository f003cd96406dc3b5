// SPDX-License-Identifier: MIT OR Apache-2.0
//! One memory budget over several pools, moved to where it saves most.
//!
//! For each pool the balance remembers the names of what was evicted last, as far as it would have
//! been kept with a little more room (the *ghosts*). When such a thing is wanted again, the cost of
//! getting it back is what that room would have saved. After a while a step of the budget moves from
//! the pool where a little room saves least to that where it saves most.

use std::collections::{HashSet, VecDeque};

/// The pools.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PoolKind {
    /// Encoded bytes of pclusters.
    Encoded = 0,
    /// Decoded extents.
    Extents = 1,
    /// Pages of decoded extents.
    Pages = 2,
}

const POOLS: usize = 3;
/// Parts into which the budget is cut: the smallest share and the step.
const STEPS: u64 = 32;
/// Misses after which the shares are looked at.
const WINDOW: u32 = 256;
/// A pool that turned out to need what was taken from it is left alone for so many windows, twice
/// as many each time.
const HOLD_MAX: u32 = 64;

/// How a budget is divided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shares(pub(crate) [u64; POOLS]);

#[derive(Debug, Default)]
struct Ghosts {
    names: HashSet<u64>,
    order: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Ghosts {
    fn push(&mut self, name: u64, weight: u64, limit: u64) {
        if self.names.insert(name) {
            self.order.push_back((name, weight));
            self.bytes += weight;
        }
        while self.bytes > limit
            && let Some((name, weight)) = self.order.pop_front()
        {
            self.names.remove(&name);
            self.bytes -= weight;
        }
    }

    fn take(&mut self, name: u64) -> bool {
        // Its place in the order stays until its turn comes; that only shortens the memory a bit.
        self.names.remove(&name)
    }
}

#[derive(Debug)]
pub(crate) struct Balance {
    total: u64,
    shares: [u64; POOLS],
    /// Whether the pool of encoded bytes takes part.
    encoded_moves: bool,
    ghosts: [Ghosts; POOLS],
    gains: [u64; POOLS],
    shrunk: Option<usize>,
    hold: [u32; POOLS],
    patience: [u32; POOLS],
    misses: u32,
}

impl Balance {
    /// `encoded`: how much of `total` belongs to encoded bytes for good; `None` = find out.
    pub(crate) fn new(total: u64, encoded: Option<u64>) -> Self {
        let mut balance = Self {
            total,
            shares: [0; POOLS],
            encoded_moves: encoded.is_none(),
            ghosts: Default::default(),
            gains: [0; POOLS],
            shrunk: None,
            hold: [0; POOLS],
            patience: [1; POOLS],
            misses: 0,
        };
        balance.divide(encoded);
        balance
    }

    fn divide(&mut self, encoded: Option<u64>) {
        let encoded = encoded.unwrap_or(self.total / 2).min(self.total);
        let decoded = self.total - encoded;
        let pages = decoded / 8;
        self.shares = [encoded, decoded - pages, pages];
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) const fn shares(&self) -> Shares {
        Shares(self.shares)
    }

    /// Another budget, divided in the same proportion, or as [`Balance::new`] does if there was none.
    pub(crate) fn set_total(&mut self, total: u64, encoded: Option<u64>) -> Shares {
        if self.total == 0 {
            self.total = total;
            self.divide(encoded);
            return self.shares();
        }
        let part = |share: u64, of: u64, total: u64| {
            // Nothing of nothing is left alone.
            (u128::from(share) * u128::from(total) / u128::from(of.max(1))) as u64
        };
        let [old_encoded, old_extents, old_pages] = self.shares;
        let encoded = encoded.unwrap_or(part(old_encoded, self.total, total)).min(total);
        let decoded = total - encoded;
        let pages = part(old_pages, old_extents + old_pages, decoded);
        self.shares = [encoded, decoded - pages, pages];
        self.total = total;
        self.shares()
    }

    /// Something was evicted.
    pub(crate) fn evicted(&mut self, pool: PoolKind, name: u64, weight: u64) {
        let limit = self.total / (STEPS / 2);
        self.ghosts[pool as usize].push(name, weight, limit);
    }

    /// Something was wanted that its pool has not, and getting it costs `cost`.
    pub(crate) fn missed(&mut self, pool: PoolKind, name: u64, cost: u64) {
        if self.ghosts[pool as usize].take(name) {
            self.gains[pool as usize] = self.gains[pool as usize].saturating_add(cost);
        }
    }

    /// Counts a miss of any kind; new shares if they change.
    pub(crate) fn tick(&mut self) -> Option<Shares> {
        self.misses += 1;
        if self.misses < WINDOW {
            return None;
        }
        self.misses = 0;
        let gains = std::mem::take(&mut self.gains);
        for hold in &mut self.hold {
            *hold = hold.saturating_sub(1);
        }
        let first = usize::from(!self.encoded_moves);
        let best = (first..POOLS).max_by_key(|&pool| gains[pool])?;
        if gains[best] == 0 {
            return None;
        }
        if self.shrunk == Some(best) {
            self.patience[best] = (self.patience[best] * 2).min(HOLD_MAX);
            self.hold[best] = self.patience[best];
        }
        let step = (self.total / STEPS).max(1);
        let may_give = |&pool: &usize| {
            pool != best && self.hold[pool] == 0 && self.shares[pool] >= step.saturating_mul(2)
        };
        let worst = (first..POOLS).filter(may_give).min_by_key(|&pool| gains[pool])?;
        // Ten percent of difference would be noise.
        if gains[worst].saturating_add(gains[worst] / 4) >= gains[best] {
            return None;
        }
        self.shares[worst] -= step;
        self.shares[best] += step;
        self.shrunk = Some(worst);
        Some(self.shares())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_goes_where_it_saves_most_and_the_sum_stays() {
        let mut balance = Balance::new(3200, None);
        let mut name = 0;
        for _ in 0..WINDOW * 100 {
            name += 1;
            balance.evicted(PoolKind::Encoded, name, 10);
            balance.evicted(PoolKind::Pages, name, 10);
            balance.missed(PoolKind::Encoded, name, 100);
            balance.missed(PoolKind::Pages, name, 7);
            balance.tick();
            assert_eq!(balance.shares().0.iter().sum::<u64>(), 3200);
        }
        let Shares([encoded, extents, pages]) = balance.shares();
        assert!(encoded > 2800, "{encoded}");
        assert!(extents >= 100 && pages >= 100, "{extents} {pages}");
    }

    #[test]
    fn a_fixed_share_stays() {
        let mut balance = Balance::new(3200, Some(800));
        for name in 0..u64::from(WINDOW) * 100 {
            balance.evicted(PoolKind::Encoded, name, 10);
            balance.missed(PoolKind::Encoded, name, 100);
            balance.evicted(PoolKind::Pages, name, 10);
            balance.missed(PoolKind::Pages, name, 1);
            balance.tick();
        }
        let Shares([encoded, _, pages]) = balance.shares();
        assert_eq!(encoded, 800);
        assert!(pages > 2000, "{pages}");
    }

    #[test]
    fn what_was_forgotten_long_ago_does_not_count() {
        let mut balance = Balance::new(3200, None);
        balance.evicted(PoolKind::Pages, 1, 100);
        balance.evicted(PoolKind::Pages, 2, 150);
        balance.missed(PoolKind::Pages, 1, 9);
        assert_eq!(balance.gains, [0, 0, 0]);
        balance.missed(PoolKind::Pages, 2, 9);
        balance.missed(PoolKind::Pages, 2, 9);
        assert_eq!(balance.gains, [0, 0, 9]);
    }

    #[test]
    fn a_budget_grows_and_shrinks() {
        let mut balance = Balance::new(0, None);
        assert_eq!(balance.shares(), Shares([0, 0, 0]));
        assert_eq!(balance.set_total(800, None), Shares([400, 350, 50]));
        assert_eq!(balance.set_total(80, None), Shares([40, 35, 5]));
        assert_eq!(balance.set_total(7, None).0.iter().sum::<u64>(), 7);
        assert_eq!(balance.set_total(0, None), Shares([0, 0, 0]));
        // A fixed share comes back with the budget.
        let mut balance = Balance::new(0, Some(0));
        assert_eq!(balance.set_total(800, Some(200)), Shares([200, 525, 75]));
        balance.set_total(3, Some(0));
        assert_eq!(balance.set_total(800, Some(200)).0[0], 200);
    }
}
