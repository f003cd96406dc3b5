// SPDX-License-Identifier: MIT OR Apache-2.0
//! SHA-256 of whole files that workers read in pieces, in any order.
//!
//! Who has the piece that comes next hashes it, and all pieces that wait behind it; who has a later
//! one leaves its bytes and goes on. So nobody waits, and nothing is read twice. What waits belongs
//! to a job that is not written yet, so its memory is still counted as that job's.
//!
//! Refuses to know how files are stored. Invariant: when all jobs have ended without an error, there
//! is a digest for every file that has content.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrofs_format::xattr::InodeDigest;
use ferrofs_tree::InodeId;
use sha2::{Digest, Sha256};

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A piece of a file. What lies between pieces, and behind the last, is zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) file: InodeId,
    /// Of the whole file.
    pub(crate) size: u64,
    /// Pieces before this one.
    pub(crate) number: u32,
    pub(crate) offset: u64,
    /// No more pieces follow.
    pub(crate) last: bool,
}

/// The digests of a build.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    state: Mutex<State>,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    chains: HashMap<InodeId, Chain>,
    done: HashMap<InodeId, InodeDigest>,
}

/// A file that is not hashed to its end.
#[derive(Debug)]
struct Chain {
    /// `None` while a worker is at it.
    idle: Option<Running>,
    waiting: BTreeMap<u32, (Span, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Running {
    hash: Sha256,
    position: u64,
    next: u32,
}

impl Digests {
    /// A piece of a file, whole files included.
    pub(crate) fn piece(&self, span: Span, bytes: &[u8]) {
        let mut state = self.lock();
        let chain = state.chains.entry(span.file).or_default();
        let running = chain.idle.take_if(|running| running.next == span.number);
        drop(state);
        if let Some(mut running) = running {
            self.add(&mut running, span, bytes);
            self.go_on(span, running);
        } else {
            self.leave(span, bytes.to_vec());
        }
    }

    fn leave(&self, span: Span, bytes: Vec<u8>) {
        let mut state = self.lock();
        let chain = state.chains.entry(span.file).or_default();
        chain.waiting.insert(span.number, (span, bytes));
        // It may have become the next meanwhile, and nobody else would look.
        if let Some(running) = chain.idle.take() {
            drop(state);
            self.go_on(span, running);
        }
    }

    /// Hashes what waits, and leaves the rest to others.
    fn go_on(&self, mut span: Span, mut running: Running) {
        loop {
            let mut state = self.lock();
            if span.last && running.next > span.number {
                state.chains.remove(&span.file);
                let digest = InodeDigest::Sha256(running.hash.finalize().into());
                state.done.insert(span.file, digest);
                return;
            }
            let chain = state.chains.entry(span.file).or_default();
            let Some((next, bytes)) = chain.waiting.remove(&running.next) else {
                chain.idle = Some(running);
                return;
            };
            drop(state);
            self.add(&mut running, next, &bytes);
            span = next;
        }
    }

    fn add(&self, running: &mut Running, span: Span, bytes: &[u8]) {
        self.zeros(running, span.offset);
        running.hash.update(bytes);
        running.position = span.offset + bytes.len() as u64;
        running.next += 1;
        if span.last {
            self.zeros(running, span.size);
        }
    }

    fn zeros(&self, running: &mut Running, end: u64) {
        while running.position < end && !self.stopped.load(Ordering::Relaxed) {
            let count = (end - running.position).min(ZEROS.len() as u64);
            running.hash.update(&ZEROS[..count as usize]);
            running.position += count;
        }
    }

    /// The build is over: holes, which may take long, need not be hashed to their ends.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> HashMap<InodeId, InodeDigest> {
        core::mem::take(&mut self.lock().done)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self { idle: Some(Running::default()), waiting: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_of_pieces_gives_the_digest_of_the_whole() {
        // Pieces of 3 bytes, 2 bytes of holes behind each, and one byte behind the last.
        let content = b"abc\0\0def\0\0ghi\0";
        let expected = InodeDigest::Sha256(Sha256::digest(content).into());
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let digests = Digests::default();
            for number in order {
                let at = number as usize * 5;
                let (size, last) = (content.len() as u64, number == 2);
                let span = Span { file: InodeId::ROOT, size, number, offset: at as u64, last };
                digests.piece(span, &content[at..at + 3]);
            }
            assert_eq!(digests.take().get(&InodeId::ROOT), Some(&expected), "{order:?}");
        }
    }
}
