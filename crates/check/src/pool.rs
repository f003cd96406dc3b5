// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that share a stack of tasks, which tasks add to.
//!
//! Last in, first out: a tree is walked depth first, so that few tasks wait at any time. Invariant:
//! [`run`] returns when the stack is empty and nobody works, or after [`Tasks::stop`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Stack<T> {
    tasks: Vec<T>,
    /// Threads that hold a task, which may add more.
    busy: usize,
}

/// The stack.
#[derive(Debug)]
pub(crate) struct Tasks<T> {
    stack: Mutex<Stack<T>>,
    changed: Condvar,
    idle: AtomicUsize,
    stopped: AtomicBool,
}

impl<T> Tasks<T> {
    fn lock(&self) -> MutexGuard<'_, Stack<T>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task; it is the next to be taken.
    pub(crate) fn push(&self, task: T) {
        self.lock().tasks.push(task);
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    /// Adds tasks; the last is the next to be taken.
    pub(crate) fn extend(&self, tasks: impl IntoIterator<Item = T>) {
        self.lock().tasks.extend(tasks);
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.changed.notify_all();
        }
    }

    /// Whether a thread has nothing to do: long work is better split then.
    pub(crate) fn is_hungry(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0
    }

    /// Ends the run: tasks not begun are dropped.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.lock().tasks.clear();
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<T> {
        let mut stack = self.lock();
        loop {
            if self.is_stopped() {
                stack.tasks.clear();
            }
            if let Some(task) = stack.tasks.pop() {
                stack.busy += 1;
                return Some(task);
            }
            if stack.busy == 0 {
                return None;
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
            stack = self.changed.wait(stack).unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Works until all is done. A panic of one worker ends the others, too.
    fn work<W>(&self, worker: &mut W, step: &impl Fn(&Self, &mut W, T)) {
        while let Some(task) = self.take() {
            let done = Done { tasks: self };
            step(self, worker, task);
            drop(done);
        }
    }
}

/// A task's end, however it comes.
struct Done<'a, T> {
    tasks: &'a Tasks<T>,
}

impl<T> Drop for Done<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tasks.stop();
        }
        let mut stack = self.tasks.lock();
        stack.busy -= 1;
        if stack.busy == 0 && stack.tasks.is_empty() {
            self.tasks.changed.notify_all();
        }
    }
}

/// Runs `first` and all that comes of it with `threads` threads, each with a state made by `make`.
pub(crate) fn run<T: Send, W>(
    threads: usize,
    first: Vec<T>,
    make: impl Fn() -> W + Sync,
    step: impl Fn(&Tasks<T>, &mut W, T) + Sync,
) {
    let tasks = Tasks {
        stack: Mutex::new(Stack { tasks: first, busy: 0 }),
        changed: Condvar::new(),
        idle: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| tasks.work(&mut make(), &step));
        }
        tasks.work(&mut make(), &step);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn tasks_beget_tasks() {
        let sum = AtomicU64::new(0);
        for threads in [1, 4] {
            run(
                threads,
                vec![12u64],
                || (),
                |tasks, (), task| {
                    sum.fetch_add(1, Ordering::Relaxed);
                    if task > 0 {
                        tasks.extend([task - 1, task - 1]);
                    }
                },
            );
        }
        assert_eq!(sum.into_inner(), 2 * 8191);
    }

    #[test]
    fn stopping_ends_an_endless_run() {
        let count = AtomicU64::new(0);
        run(
            3,
            vec![()],
            || (),
            |tasks, (), ()| {
                if count.fetch_add(1, Ordering::Relaxed) == 1000 {
                    tasks.stop();
                }
                if !tasks.is_stopped() {
                    tasks.extend([(), ()]);
                }
            },
        );
        assert!(count.into_inner() >= 1000);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let result = std::panic::catch_unwind(|| {
            run(2, vec![3, 2, 1], || (), |_, (), task: u32| assert!(task != 2, "as wanted"));
        });
        assert!(result.is_err());
    }
}
