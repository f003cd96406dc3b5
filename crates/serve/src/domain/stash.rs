// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small files that were decoded to be compared with others, kept for whoever reads them next.
//!
//! Invariant: at most [`BYTES_MAX`] bytes are kept, the latest ones; what is in here is what was hashed.

use super::nodes::FileId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As much as is compared for a few listings.
const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Stash {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<FileId, Vec<u8>>,
    /// In the order in which they came; some are gone.
    order: VecDeque<FileId>,
    bytes: usize,
}

impl Stash {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all that a file holds.
    pub(crate) fn put(&self, id: FileId, content: Vec<u8>) {
        let mut state = self.lock();
        state.bytes += content.len();
        if let Some(before) = state.files.insert(id, content) {
            state.bytes -= before.len();
        } else {
            state.order.push_back(id);
        }
        while state.bytes > BYTES_MAX {
            let Some(oldest) = state.order.pop_front() else { break };
            state.remove(oldest);
        }
        // What was taken is forgotten here some time.
        if state.order.len() > 2 * state.files.len() + 64 {
            let State { files, order, .. } = &mut *state;
            order.retain(|id| files.contains_key(id));
        }
    }

    /// All that a file holds, once.
    pub(crate) fn take(&self, id: FileId) -> Option<Vec<u8>> {
        self.lock().remove(id)
    }

    /// A file is read as another one of the same content.
    pub(crate) fn rename(&self, from: FileId, to: FileId) {
        if let Some(content) = self.take(from) {
            self.put(to, content);
        }
    }

    /// Forgets the files of an image.
    pub(crate) fn forget(&self, slot: u16) {
        let mut state = self.lock();
        let gone: Vec<_> = state.files.keys().filter(|id| id.slot == slot).copied().collect();
        for id in gone {
            state.remove(id);
        }
    }
}

impl State {
    fn remove(&mut self, id: FileId) -> Option<Vec<u8>> {
        let content = self.files.remove(&id)?;
        self.bytes -= content.len();
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrofs_image::Nid;

    const fn id(slot: u16, nid: u64) -> FileId {
        FileId { slot, nid: Nid(nid) }
    }

    #[test]
    fn the_latest_are_kept_once() {
        let stash = Stash::default();
        let len = BYTES_MAX / 8;
        for nid in 0..20 {
            stash.put(id(1, nid), vec![nid as u8; len]);
            assert!(stash.lock().bytes <= BYTES_MAX);
        }
        assert_eq!(stash.take(id(1, 11)), None);
        assert_eq!(stash.take(id(1, 12)), Some(vec![12; len]));
        assert_eq!(stash.take(id(1, 12)), None);
        stash.put(id(1, 19), vec![1; 3]);
        assert_eq!(stash.take(id(1, 19)), Some(vec![1; 3]), "the last word counts");
        stash.rename(id(1, 18), id(2, 5));
        stash.forget(1);
        assert_eq!(stash.take(id(1, 17)), None);
        assert_eq!(stash.take(id(2, 5)), Some(vec![18; len]));
        assert_eq!(stash.lock().bytes, 0);
        stash.put(id(1, 1), vec![0; BYTES_MAX + 1]);
        assert_eq!((stash.take(id(1, 1)), stash.lock().bytes), (None, 0), "too large");
        for nid in 0..10_000 {
            stash.put(id(1, nid), vec![0]);
            stash.take(id(1, nid));
        }
        assert!(stash.lock().order.len() < 100);
    }
}
