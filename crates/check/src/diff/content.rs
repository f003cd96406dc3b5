// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparing content, in threads of its own.

use super::side::{Handle, Open};
use crate::Context;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes read of each side at once.
const PIECE: usize = 1 << 20;

/// Two files to compare.
pub(super) struct Job {
    pub(super) a: Handle,
    pub(super) b: Handle,
    pub(super) size: u64,
    pub(super) verdict: Arc<Verdict>,
}

/// Offset of the first byte that differs, if any; or why that is not known.
type Outcome = Result<Option<u64>, String>;

/// What came of a job.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    outcome: Mutex<Option<Outcome>>,
    ready: Condvar,
}

impl Verdict {
    fn set(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.ready.notify_all();
    }

    pub(super) fn wait(&self) -> Outcome {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            outcome = self.ready.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sets the verdict even if the comparison panics: somebody waits for it.
struct Promise<'a>(&'a Verdict);

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(Err("the comparison failed".to_owned()));
        }
    }
}

/// Works until there are no more jobs.
pub(super) fn work(a: &Open<'_>, b: &Open<'_>, queue: &Mutex<Receiver<Job>>, context: Context<'_>) {
    let mut buffers = [vec![], vec![]];
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let promise = Promise(&job.verdict);
        let outcome = compare(a, b, &job, context, &mut buffers);
        promise.0.set(outcome);
    }
}

fn compare(
    a: &Open<'_>,
    b: &Open<'_>,
    job: &Job,
    context: Context<'_>,
    [buf_a, buf_b]: &mut [Vec<u8>; 2],
) -> Outcome {
    let (a, b) = (a.reader(&job.a)?, b.reader(&job.b)?);
    let mut offset = 0;
    while offset < job.size {
        if context.cancelled() {
            return Err("cancelled".to_owned());
        }
        // Sizes may be huge where there is nothing: what is a hole on both sides is equal.
        let data = a.next_data(offset)?.min(b.next_data(offset)?);
        if data > offset {
            offset = data;
            continue;
        }
        let len = usize::try_from(job.size - offset).unwrap_or(PIECE).min(PIECE);
        buf_a.resize(len, 0);
        buf_b.resize(len, 0);
        let (have_a, have_b) = (a.read(offset, buf_a)?, b.read(offset, buf_b)?);
        let common = have_a.min(have_b);
        if buf_a[..common] != buf_b[..common] {
            let at = (0..common).find(|&at| buf_a[at] != buf_b[at]).unwrap_or(0);
            return Ok(Some(offset + at as u64));
        }
        if common < len {
            return Ok(Some(offset + common as u64));
        }
        context.bytes(len as u64);
        offset += len as u64;
    }
    Ok(None)
}
