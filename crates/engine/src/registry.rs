// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pclusters are being decoded now, so that each is decoded once however many want it.
//!
//! A reader claims pclusters without waiting, finishes all it has claimed, and only then waits for
//! those that others have claimed. So nobody who is waited for ever waits, and there is no cycle
//! whatever the order in which images share pclusters. A claim that is dropped unfinished (its owner
//! panicked or gave up) wakes its waiters, who try for themselves.

use crate::cache::{Decoded, Key};
use ferrofs_image::Error;
use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

type Shard = HashMap<Key, Arc<Flight>>;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    shards: [Mutex<Shard>; SHARDS],
}

/// A decode under way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Bytes it will decode.
    need: usize,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
enum State {
    Running {
        waiters: usize,
    },
    Done(Arc<Decoded>),
    Failed(Error),
    /// Ended without a result for others: they try again.
    Left,
}

/// What a wait came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Arc<Decoded>),
    Failed(Error),
    /// Look again: the other reader left nothing behind, or less than is needed.
    Retry,
}

/// Answer to [`Registry::claim`].
#[derive(Debug)]
pub(crate) enum Claim<'a> {
    /// The caller must decode.
    Mine(Owned<'a>),
    /// Another reader does.
    Theirs(Arc<Flight>),
    /// It was finished a moment ago.
    Found(Arc<Decoded>),
}

/// The right and duty to decode one pcluster.
#[derive(Debug)]
pub(crate) struct Owned<'a> {
    registry: &'a Registry,
    key: Key,
    flight: Arc<Flight>,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.shards[hasher.finish() as usize % SHARDS]
    }

    /// Claims the decode of `need` bytes of `key`. `look` is asked, under the lock, whether it has
    /// been finished meanwhile. Never waits for a decode.
    pub(crate) fn claim(
        &self,
        key: Key,
        need: usize,
        look: impl FnOnce() -> Option<Arc<Decoded>>,
    ) -> Claim<'_> {
        let mut shard = lock(self.shard(&key));
        match shard.entry(key) {
            Entry::Occupied(entry) => Claim::Theirs(Arc::clone(entry.get())),
            Entry::Vacant(entry) => {
                if let Some(found) = look() {
                    return Claim::Found(found);
                }
                let flight = Arc::new(Flight {
                    need,
                    state: Mutex::new(State::Running { waiters: 0 }),
                    ended: Condvar::new(),
                });
                entry.insert(Arc::clone(&flight));
                Claim::Mine(Owned { registry: self, key, flight, ended: false })
            }
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }
}

impl Flight {
    /// Waits for the end. The caller must hold no claim of its own.
    pub(crate) fn wait(&self, need: usize) -> Outcome {
        let mut state = lock(&self.state);
        if let State::Running { waiters } = &mut *state {
            // One that decodes too little leaves nothing that would help.
            if self.need >= need {
                *waiters += 1;
            }
        }
        let state = self
            .ended
            .wait_while(state, |state| matches!(state, State::Running { .. }))
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Done(decoded) if decoded.len() >= need => Outcome::Done(Arc::clone(decoded)),
            State::Failed(error) if self.need == need => Outcome::Failed(error.clone()),
            // A failed decode of another length says nothing about this one.
            _ => Outcome::Retry,
        }
    }
}

impl Owned<'_> {
    /// Ends with bytes for everybody. They must be in the cache already, if they are to stay.
    pub(crate) fn finish(mut self, decoded: Arc<Decoded>) {
        self.end(State::Done(decoded));
    }

    /// Ends with bytes that only the owner has; `share` makes a copy if somebody waits for them.
    pub(crate) fn finish_own(mut self, share: impl FnOnce() -> Decoded) {
        let waiting = match &*lock(&self.flight.state) {
            State::Running { waiters } => *waiters > 0,
            _ => false,
        };
        // Who begins to wait after this look finds nothing and decodes for himself.
        let state = if waiting { State::Done(Arc::new(share())) } else { State::Left };
        self.end(state);
    }

    /// Ends with an error for everybody who waits; nothing of it is kept.
    pub(crate) fn fail(mut self, error: Error) {
        self.end(State::Failed(error));
    }

    fn end(&mut self, state: State) {
        self.ended = true;
        // First out of the map, then wake: who comes later starts anew.
        lock(self.registry.shard(&self.key)).remove(&self.key);
        *lock(&self.flight.state) = state;
        // Once out of the map it gets no new holders; without others, waking would be a system call
        // for nobody.
        if Arc::strong_count(&self.flight) > 1 {
            self.flight.ended.notify_all();
        }
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(State::Left);
        }
    }
}

#[cfg(test)]
mod tests;
