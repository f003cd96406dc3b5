// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registry of `ferrofs-engine`, the very same source, over the locks of the model checker loom,
//! and readers that use it as the engine does.

#[path = "../../../crates/engine/src/registry/mod.rs"]
mod registry;

mod sync {
    use std::sync::PoisonError;

    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Loom does not count; waking nobody does no harm.
    pub(crate) fn has_others<T>(_shared: &Arc<T>) -> bool {
        true
    }
}

use loom::sync::Mutex;
use registry::{Claim, Joined, Need, Outcome, Owned, Registry};

/// What an owner does with a claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Decodes and delivers.
    Finish,
    /// Decodes, keeps the result in the cache and delivers.
    Keep,
    /// Fails.
    Fail,
    /// Panics before it ends.
    Drop,
}

/// Pclusters by number; the "bytes" of one are how many of them were decoded.
#[derive(Debug)]
pub struct World {
    registry: Registry<usize, usize, &'static str>,
    cache: Vec<Mutex<Option<usize>>>,
    owners: Vec<Mutex<usize>>,
    decodes: Mutex<Vec<usize>>,
}

impl World {
    /// `count` pclusters.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            registry: Registry::default(),
            cache: (0..count).map(|_| Mutex::new(None)).collect(),
            owners: (0..count).map(|_| Mutex::new(0)).collect(),
            decodes: Mutex::new(vec![0; count]),
        }
    }

    /// How often each pcluster was decoded.
    ///
    /// # Panics
    /// If a reader panicked.
    #[must_use]
    pub fn decodes(&self) -> Vec<usize> {
        self.decodes.lock().unwrap().clone()
    }

    fn claim(&self, key: usize, bytes: usize) -> Claim<'_, usize, usize, &'static str, usize> {
        let find = || self.cache[key].lock().unwrap().filter(|found| *found >= bytes);
        match find() {
            Some(found) => Claim::Found(found),
            None => self.registry.claim(key, Need { bytes, exact: false }, find),
        }
    }

    fn own(
        &self,
        key: usize,
        owned: Owned<'_, usize, usize, &'static str>,
        end: End,
    ) -> Result<usize, ()> {
        *self.owners[key].lock().unwrap() += 1;
        assert_eq!(*self.owners[key].lock().unwrap(), 1, "two decode the same");
        let need = owned.begin();
        self.decodes.lock().unwrap()[key] += 1;
        *self.owners[key].lock().unwrap() -= 1;
        match end {
            End::Finish => owned.finish(need.bytes, || need.bytes),
            End::Keep => {
                *self.cache[key].lock().unwrap() = Some(need.bytes);
                owned.finish(need.bytes, || need.bytes);
            }
            End::Fail => {
                owned.fail("failed", None);
                return Err(());
            }
            End::Drop => {
                drop(owned);
                return Err(());
            }
        }
        Ok(need.bytes)
    }

    /// Reads pclusters as the engine does: claims all, ends its claims as `end` says, and then waits
    /// for others. Returns for each how much it got, or that it failed.
    ///
    /// # Panics
    /// If a rule of the registry is broken.
    pub fn read(&self, wants: &[(usize, usize)], end: End) -> Vec<Result<usize, ()>> {
        let mut results = vec![Err(()); wants.len()];
        let mut owned = vec![];
        let mut waits: Vec<(usize, Joined<usize, &'static str>)> = vec![];
        for (index, &(key, bytes)) in wants.iter().enumerate() {
            match self.claim(key, bytes) {
                Claim::Found(found) => results[index] = Ok(found),
                Claim::Mine(mine) => owned.push((index, mine)),
                Claim::Theirs(joined) => waits.push((index, joined)),
            }
        }
        for (index, mine) in owned {
            results[index] = self.own(wants[index].0, mine, end);
        }
        for (index, mut joined) in waits {
            let (key, bytes) = wants[index];
            results[index] = loop {
                match joined.wait(|| false) {
                    Outcome::Done(found) => break Ok(found),
                    Outcome::Failed(_) => break Err(()),
                    Outcome::Retry => {}
                }
                match self.claim(key, bytes) {
                    Claim::Found(found) => break Ok(found),
                    Claim::Theirs(next) => joined = next,
                    // Who tries for himself does it well.
                    Claim::Mine(mine) => break self.own(key, mine, End::Finish),
                }
            };
        }
        for (result, (_, bytes)) in results.iter().zip(wants) {
            assert!(result.is_err() || result.is_ok_and(|found| found >= *bytes), "too short");
        }
        results
    }
}
