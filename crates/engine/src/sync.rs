// SPDX-License-Identifier: MIT OR Apache-2.0
//! The locks of the registry. Its model test puts those of a model checker in their place.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use std::sync::PoisonError;

/// Locks, also after a panic elsewhere: what the registry guards is whole between any two lines.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits to be woken.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody else holds it.
pub(crate) fn has_others<T>(shared: &Arc<T>) -> bool {
    Arc::strong_count(shared) > 1
}
