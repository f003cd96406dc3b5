// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pclusters are being decoded now, so that each is decoded once however many want it.
//!
//! A reader claims pclusters without waiting, finishes all it has claimed, and only then waits for
//! those that others have claimed. So nobody who is waited for ever waits, and there is no circle
//! whatever the order in which images share pclusters. Who joins before decoding begins has his need
//! decoded along. A claim that is dropped unfinished (its owner panicked or gave up) wakes those who
//! joined, and they try for themselves.
//!
//! Knows nothing of pclusters, only keys, values and errors: the model test explores every
//! interleaving of it (`tests/model`).

mod hash;

use crate::sync::{Arc, Condvar, Mutex, has_others, lock, wait};
use hash::PlaceHasher;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};

const SHARDS: usize = 16;

type Hashing = BuildHasherDefault<PlaceHasher>;
type Shard<K, V, E> = HashMap<K, Arc<Flight<V, E>>, Hashing>;

#[derive(Debug)]
pub(crate) struct Registry<K, V, E> {
    shards: [Mutex<Shard<K, V, E>>; SHARDS],
}

/// How much of a pcluster must be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Need {
    pub(crate) bytes: usize,
    /// The encoded bytes hold no more than that, and this is to be checked.
    pub(crate) exact: bool,
}

impl Need {
    /// What serves both.
    fn with(self, other: Self) -> Self {
        if other.bytes > self.bytes || (other.bytes == self.bytes && other.exact) {
            other
        } else {
            self
        }
    }
}

/// A decode under way.
#[derive(Debug)]
pub(crate) struct Flight<V, E> {
    state: Mutex<State<V, E>>,
    ended: Condvar,
}

#[derive(Debug)]
enum State<V, E> {
    Running {
        need: Need,
        /// Decoding has begun, and `need` does not grow any more.
        begun: bool,
        /// Others whom `need` serves.
        waiters: usize,
    },
    Done {
        value: V,
        bytes: usize,
    },
    Failed {
        error: E,
        /// Only this need is known to fail; `None`: all do.
        need: Option<Need>,
    },
    /// Ended without a result for others: they try again.
    Left,
}

/// What a wait came to.
#[derive(Debug)]
pub(crate) enum Outcome<V, E> {
    Done(V),
    Failed(E),
    /// Look again: the other reader left nothing behind, or less than is needed.
    Retry,
}

/// Answer to [`Registry::claim`].
#[derive(Debug)]
pub(crate) enum Claim<'a, K: Copy + Eq + Hash, V, E, F> {
    /// The caller must decode.
    Mine(Owned<'a, K, V, E>),
    /// Another reader does.
    Theirs(Joined<V, E>),
    /// It was finished a moment ago.
    Found(F),
}

/// The right and duty to decode one pcluster.
#[derive(Debug)]
pub(crate) struct Owned<'a, K: Copy + Eq + Hash, V, E> {
    registry: &'a Registry<K, V, E>,
    key: K,
    flight: Arc<Flight<V, E>>,
    ended: bool,
}

/// A decode by another reader that will be waited for.
#[derive(Debug)]
pub(crate) struct Joined<V, E> {
    flight: Arc<Flight<V, E>>,
    need: Need,
}

impl<K, V, E> Default for Registry<K, V, E> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashMap::default())) }
    }
}

impl<K: Copy + Eq + Hash, V, E> Registry<K, V, E> {
    fn shard(&self, key: &K) -> &Mutex<Shard<K, V, E>> {
        // Maps look at the lower bits.
        let hash = Hashing::default().hash_one(key) >> 56;
        &self.shards[hash as usize % SHARDS]
    }

    /// Claims the decode of `need` bytes of `key`, or joins the one under way. `look` is asked,
    /// under the lock, whether it has been finished meanwhile. Never waits for a decode.
    pub(crate) fn claim<F>(
        &self,
        key: K,
        need: Need,
        look: impl FnOnce() -> Option<F>,
    ) -> Claim<'_, K, V, E, F> {
        let mut shard = lock(self.shard(&key));
        match shard.entry(key) {
            Entry::Occupied(entry) => {
                let flight = Arc::clone(entry.get());
                // Under the lock of the map: what is in it has not ended.
                flight.join(need);
                Claim::Theirs(Joined { flight, need })
            }
            Entry::Vacant(entry) => {
                if let Some(found) = look() {
                    return Claim::Found(found);
                }
                let state = State::Running { need, begun: false, waiters: 0 };
                let flight = Arc::new(Flight { state: Mutex::new(state), ended: Condvar::new() });
                entry.insert(Arc::clone(&flight));
                Claim::Mine(Owned { registry: self, key, flight, ended: false })
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }
}

impl<V, E> Flight<V, E> {
    fn join(&self, mine: Need) {
        if let State::Running { need, begun, waiters } = &mut *lock(&self.state) {
            if !*begun {
                *need = need.with(mine);
            }
            // One that decodes too little leaves nothing that would help.
            if need.bytes >= mine.bytes {
                *waiters += 1;
            }
        }
    }
}

impl<V: Clone, E: Clone> Joined<V, E> {
    /// Waits for the end. The caller must hold no claim of its own. While there is nothing to take,
    /// `help` is called for as long as it finds something useful to do.
    pub(crate) fn wait(self, mut help: impl FnMut() -> bool) -> Outcome<V, E> {
        let mut state = lock(&self.flight.state);
        while matches!(*state, State::Running { .. }) {
            drop(state);
            let helped = help();
            state = lock(&self.flight.state);
            if !helped {
                while matches!(*state, State::Running { .. }) {
                    state = wait(&self.flight.ended, state);
                }
            }
        }
        match &*state {
            State::Done { value, bytes } if *bytes >= self.need.bytes => {
                Outcome::Done(value.clone())
            }
            State::Failed { error, need } if need.is_none_or(|need| need == self.need) => {
                Outcome::Failed(error.clone())
            }
            _ => Outcome::Retry,
        }
    }
}

impl<K: Copy + Eq + Hash, V, E> Owned<'_, K, V, E> {
    /// Decoding begins: from here on the need does not grow.
    pub(crate) fn begin(&self) -> Need {
        match &mut *lock(&self.flight.state) {
            State::Running { need, begun, .. } => {
                *begun = true;
                *need
            }
            // Only `end` makes another state, and that consumes `self`.
            _ => unreachable!("an owned flight is running"),
        }
    }

    /// Ends with the first `bytes` of the pcluster. If they are to stay, they must be in the cache
    /// already. `share` gives them to those who joined, and is not called if nobody did.
    pub(crate) fn finish(mut self, bytes: usize, share: impl FnOnce() -> V) {
        self.leave();
        // Out of the map it gets no more waiters: who comes from here on looks into the cache.
        let waiting = match &*lock(&self.flight.state) {
            State::Running { waiters, .. } => *waiters > 0,
            _ => false,
        };
        self.set(if waiting { State::Done { value: share(), bytes } } else { State::Left });
    }

    /// Ends with an error for everybody who wanted `need`, or for all; nothing of it is kept.
    pub(crate) fn fail(mut self, error: E, need: Option<Need>) {
        self.leave();
        self.set(State::Failed { error, need });
    }

    fn leave(&mut self) {
        self.ended = true;
        lock(self.registry.shard(&self.key)).remove(&self.key);
    }

    fn set(&self, state: State<V, E>) {
        *lock(&self.flight.state) = state;
        // Without others, waking would be a system call for nobody.
        if has_others(&self.flight) {
            self.flight.ended.notify_all();
        }
    }
}

impl<K: Copy + Eq + Hash, V, E> Drop for Owned<'_, K, V, E> {
    fn drop(&mut self) {
        if !self.ended {
            self.leave();
            self.set(State::Left);
        }
    }
}

#[cfg(test)]
mod tests;
