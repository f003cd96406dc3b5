// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that help readers, and that do what nobody waits for.
//!
//! A reader lends its work to the workers for as long as it is at it itself ([`Workers::assist`]);
//! jobs of their own ([`Workers::spawn`]) are done when no reader wants help, and readers who wait do
//! them too ([`Workers::help`]). Threads start when there is work, and end with the engine.
//! Invariant: when `assist` returns, no worker runs the caller's closure or will.
#![expect(unsafe_code, reason = "a closure is lent for a time that the compiler cannot see")]

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that wait at most; more are refused, for what they would prepare comes too late anyway.
const JOBS_MAX: usize = 256;

thread_local! {
    /// This thread does a job while it waits for something else.
    static HELPING: Cell<bool> = const { Cell::new(false) };
}

/// With what each worker begins.
type First = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Workers {
    shared: Arc<Shared>,
    limit: usize,
    first: OnceLock<First>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is work.
    work: Condvar,
    /// A worker has left a reader's closure.
    left: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    lent: Vec<Lent>,
    threads: usize,
    idle: usize,
    closing: bool,
    next: u64,
}

/// A reader's closure.
struct Lent {
    id: u64,
    body: Body,
    /// Workers that may still enter.
    places: usize,
    inside: usize,
}

/// A closure that lives until [`Workers::assist`] returns.
#[derive(Clone, Copy)]
struct Body(*const (dyn Fn() + Sync));

// SAFETY: the closure is `Sync`, so any thread may call it through a shared reference; that it is
// still there when one does is what `Lent` and `assist` see to.
unsafe impl Send for Body {}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            if state.closing {
                break;
            }
            if let Some(lent) = state.lent.iter_mut().find(|lent| lent.places > 0) {
                lent.places -= 1;
                lent.inside += 1;
                let (id, body) = (lent.id, lent.body);
                drop(state);
                // SAFETY: `inside` was raised under the lock while the entry was in the list, and
                // `assist` neither returns nor unwinds before it has found, under the same lock,
                // that nobody is inside. So the closure it borrows lives until the lowering below.
                let body = unsafe { &*body.0 };
                // A panic belongs to the reader's data; it fails for the reader, who finds his work
                // undone.
                let _ = catch_unwind(AssertUnwindSafe(body));
                state = self.state();
                if let Some(lent) = state.lent.iter_mut().find(|lent| lent.id == id) {
                    lent.inside -= 1;
                }
                self.left.notify_all();
            } else if let Some(job) = state.jobs.pop_front() {
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
        state.threads -= 1;
    }
}

impl Workers {
    pub(crate) fn new(limit: usize) -> Self {
        Self { shared: Arc::default(), limit, first: OnceLock::new() }
    }

    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Has each worker that starts from now on begin with `first`. Once.
    pub(crate) fn begin_with(&self, first: impl Fn() + Send + Sync + 'static) {
        // A second one would come from the same session.
        let _ = self.first.set(Arc::new(first));
    }

    /// Starts all workers, for what will come.
    pub(crate) fn start(&self) {
        let mut state = self.shared.state();
        if !state.closing {
            self.add(&mut state, self.limit);
        }
    }

    /// Starts so many workers, as far as there may be more.
    fn add(&self, state: &mut State, count: usize) {
        for _ in 0..count.min(self.limit.saturating_sub(state.threads)) {
            let shared = Arc::clone(&self.shared);
            let first = self.first.get().map(Arc::clone);
            let serve = move || {
                if let Some(first) = first {
                    first();
                }
                shared.serve();
            };
            let thread = std::thread::Builder::new().name(String::from("ferrofs-engine"));
            // Without a thread the reader does it alone.
            if thread.spawn(serve).is_err() {
                break;
            }
            state.threads += 1;
        }
    }

    /// Makes sure that up to `wanted` workers notice that there is work.
    fn wake(&self, mut state: MutexGuard<'_, State>, wanted: usize) {
        let missing = wanted.saturating_sub(state.idle);
        self.add(&mut state, missing);
        drop(state);
        for _ in 0..wanted {
            self.shared.work.notify_one();
        }
    }

    /// Runs `body` in this thread, and in up to `helpers` workers at the same time, if they come
    /// before it returns here. It must share out the work itself.
    pub(crate) fn assist(&self, helpers: usize, body: &(dyn Fn() + Sync)) {
        struct Revoke<'a> {
            shared: &'a Shared,
            id: u64,
        }
        impl Drop for Revoke<'_> {
            fn drop(&mut self) {
                let mut state = self.shared.state();
                while let Some(index) = state.lent.iter().position(|lent| lent.id == self.id) {
                    state.lent[index].places = 0;
                    if state.lent[index].inside == 0 {
                        state.lent.swap_remove(index);
                        break;
                    }
                    state = self.shared.left.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }

        let helpers = helpers.min(self.limit);
        if helpers == 0 {
            return body();
        }
        let mut state = self.shared.state();
        let id = state.next;
        state.next += 1;
        let pointer: *const (dyn Fn() + Sync + '_) = body;
        #[expect(clippy::transmute_ptr_to_ptr, reason = "a cast must not lengthen the lifetime")]
        // SAFETY: only the lifetime changes. The pointer is followed by workers that are `inside`
        // the entry pushed below, and `Revoke` removes it, and waits until nobody is inside, before
        // this function is left in any way.
        let pointer: *const (dyn Fn() + Sync + 'static) = unsafe { std::mem::transmute(pointer) };
        state.lent.push(Lent { id, body: Body(pointer), places: helpers, inside: 0 });
        let revoke = Revoke { shared: &self.shared, id };
        self.wake(state, helpers);
        body();
        drop(revoke);
    }

    /// Has `job` done some time; false if too many wait already.
    pub(crate) fn spawn(&self, job: Job) -> bool {
        let mut state = self.shared.state();
        if self.limit == 0 || state.jobs.len() >= JOBS_MAX || state.closing {
            return false;
        }
        state.jobs.push_back(job);
        self.wake(state, 1);
        true
    }

    /// Does one job that waits, if there is one. Never one inside another.
    pub(crate) fn help(&self) -> bool {
        if HELPING.get() {
            return false;
        }
        let Some(job) = self.shared.state().jobs.pop_front() else { return false };
        HELPING.set(true);
        let _ = catch_unwind(AssertUnwindSafe(job));
        HELPING.set(false);
        true
    }

    /// No further work; jobs that wait are dropped.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state();
        state.closing = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop(jobs);
        self.shared.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn lent_work_is_done_once_and_never_later() {
        let workers = Workers::new(3);
        for _ in 0..200 {
            let left = AtomicUsize::new(100);
            let done = AtomicUsize::new(0);
            workers.assist(3, &|| {
                while left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok()
                {
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
            assert_eq!(done.load(Ordering::SeqCst), 100);
        }
        workers.close();
    }

    #[test]
    fn a_panic_leaves_no_worker_inside() {
        let workers = Workers::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            workers.assist(2, &|| panic!("expected in this test"));
        }));
        assert!(caught.is_err());
        assert!(workers.shared.state().lent.is_empty());
        workers.close();
    }

    #[test]
    fn jobs_are_done_by_workers_or_those_who_wait() {
        let workers = Workers::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let mut accepted = 0;
        for _ in 0..50 {
            let done = Arc::clone(&done);
            let job = Box::new(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
            accepted += usize::from(workers.spawn(job));
        }
        while done.load(Ordering::SeqCst) < accepted {
            if !workers.help() {
                std::thread::yield_now();
            }
        }
        workers.close();
        assert!(!workers.spawn(Box::new(|| {})));
        assert!(!Workers::new(0).spawn(Box::new(|| {})));
    }
}
