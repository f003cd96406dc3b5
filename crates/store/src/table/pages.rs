// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verified pages of many tables in memory, within a limit.

use super::PAGE_LEN;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) type Page = Arc<[u8; PAGE_LEN]>;

/// Which table, and which page of it.
type Key = (u64, u32);

/// Pages of tables, shared by all blobs of a process: what was used since the hand came by stays.
pub struct PageCache {
    pages_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: HashMap<Key, (Page, bool)>,
    clock: VecDeque<Key>,
}

impl PageCache {
    /// Keeps at most so many bytes of pages, at least one page.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let pages_max = usize::try_from(bytes_max / PAGE_LEN as u64).unwrap_or(usize::MAX).max(1);
        Self { pages_max, state: Mutex::default() }
    }

    /// Bytes of pages now.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.pages.len() * PAGE_LEN) as u64
    }

    pub(super) fn get(&self, table: u64, page: u32) -> Option<Page> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (page, used) = state.pages.get_mut(&(table, page))?;
        *used = true;
        Some(page.clone())
    }

    pub(super) fn put(&self, table: u64, number: u32, page: &Page) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (table, number);
        if state.pages.insert(key, (page.clone(), false)).is_none() {
            state.clock.push_back(key);
        }
        while state.pages.len() > self.pages_max {
            let Some(key) = state.clock.pop_front() else { break };
            match state.pages.get_mut(&key) {
                Some((_, used)) if *used => {
                    *used = false;
                    state.clock.push_back(key);
                }
                _ => {
                    state.pages.remove(&key);
                }
            }
        }
    }

    /// Forgets the pages of a table that is closed.
    pub(super) fn forget(&self, table: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pages.retain(|key, _| key.0 != table);
        state.clock.retain(|key| key.0 != table);
    }
}

impl Default for PageCache {
    /// 16 MiB: the pages of 2 GiB of blobs, or of 16 GiB that are read in large pieces.
    fn default() -> Self {
        Self::new(16 << 20)
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("pages_max", &self.pages_max).finish_non_exhaustive()
    }
}
