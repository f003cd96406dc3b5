// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sharing would save, found by reading images and not mounting them.
//!
//! Each regular file is read once (hard links once for each tree) and cut in every way that sharing
//! could cut it. Of each piece a key of 16 bytes is kept, never the bytes; a file is in memory by
//! windows of 4 MiB. Invariant: the result depends on content and order of the trees alone, neither on
//! how they are stored nor on threads. One exception: long holes are not looked at, so content-defined
//! chunks begin anew behind them.

mod count;
mod trees;

#[cfg(test)]
mod tests;

use crate::{Error, Result};
use count::{Counter, Totals, Work};
use ferrofs_engine::Engine;
use serde::Serialize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use trees::Tree;

/// A tree to look at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// An image.
    Image(&'a Engine),
    /// A directory of this machine; links are not followed.
    Directory(&'a Path),
}

/// How to look.
#[derive(Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..EstimateOptions::default()`")]
pub struct EstimateOptions<'a> {
    /// Threads; 0 is one for every CPU.
    pub workers: usize,
    /// Does not read a file whose size and inode digest are those of one that was read.
    pub trust_digests: bool,
    /// Told how many more bytes were read, from several threads.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// The job ends early, and says so, once this is set.
    pub cancel: Option<&'a AtomicBool>,
}

impl std::fmt::Debug for EstimateOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EstimateOptions")
            .field("workers", &self.workers)
            .field("trust_digests", &self.trust_digests)
            .finish_non_exhaustive()
    }
}

/// A tree that was looked at.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TreeFacts {
    /// What the caller calls it.
    pub name: String,
    /// Regular files that are not empty, hard links counted once.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// The same, each file rounded up to pages: what the page cache takes.
    pub page_bytes: u64,
    /// Bytes of content that were read.
    pub read_bytes: u64,
}

/// What one way of sharing would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MethodFacts {
    /// The way: `none`, `whole`, `page4k`, `fix64k`, `cdc4k`, `cdc16k`, `cdc64k`.
    pub method: &'static str,
    /// Bytes of all trees without sharing: pages, or bytes for content-defined chunks.
    pub total_bytes: u64,
    /// Bytes of all trees with it.
    pub unique_bytes: u64,
    /// How much of the total it saves.
    pub saved_percent: f64,
    /// What each tree costs beyond those before it.
    pub added_bytes: Vec<u64>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The trees, in the order given.
    pub trees: Vec<TreeFacts>,
    /// The ways of sharing.
    pub methods: Vec<MethodFacts>,
}

/// More threads than this only cost memory.
const WORKERS_MAX: usize = 64;

/// Looks at trees, one after the other, and counts.
pub fn estimate(inputs: &[(String, Input<'_>)], options: EstimateOptions<'_>) -> Result<Estimate> {
    let threads = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    };
    let counter = Counter::new();
    let mut trees = vec![];
    let mut after = vec![];
    for (name, input) in inputs {
        let tree = Tree::list(*input, options);
        let facts = tree.and_then(|tree| read(&tree, &counter, options, threads.min(WORKERS_MAX)));
        let mut facts = facts.map_err(|error| match error {
            Error::Image(_) | Error::ImagePath { .. } => {
                Error::In { name: name.clone(), source: Box::new(error) }
            }
            error => error,
        })?;
        facts.name.clone_from(name);
        trees.push(facts);
        after.push(counter.totals());
    }
    Ok(Estimate { methods: methods(&trees, &after), trees })
}

fn read(
    tree: &Tree<'_>,
    counter: &Counter,
    options: EstimateOptions<'_>,
    threads: usize,
) -> Result<TreeFacts> {
    let next = AtomicUsize::new(0);
    let result = Mutex::new(Ok(TreeFacts::default()));
    let lock = || result.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        let mut work = Work::default();
        let mut facts = TreeFacts::default();
        while let Some(index) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < tree.len())
        {
            if let Err(error) = counter.file(tree, index, options, &mut work, &mut facts) {
                next.store(tree.len(), Ordering::Relaxed);
                let mut result = lock();
                if result.is_ok() {
                    *result = Err(error);
                }
                return;
            }
        }
        if let Ok(all) = &mut *lock() {
            all.files += facts.files;
            all.bytes = all.bytes.saturating_add(facts.bytes);
            all.page_bytes = all.page_bytes.saturating_add(facts.page_bytes);
            all.read_bytes = all.read_bytes.saturating_add(facts.read_bytes);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn methods(trees: &[TreeFacts], after: &[Totals]) -> Vec<MethodFacts> {
    let sum = |of: fn(&TreeFacts) -> u64| {
        trees.iter().fold(0, |sum: u64, tree| sum.saturating_add(of(tree)))
    };
    let (pages, bytes) = (sum(|tree| tree.page_bytes), sum(|tree| tree.bytes));
    let row = |method, total_bytes: u64, after: Vec<u64>| {
        let unique_bytes = after.last().copied().unwrap_or(0);
        let before = std::iter::once(0).chain(after.iter().copied());
        let added_bytes = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let saved_percent = match total_bytes {
            0 => 0.0,
            total => (1.0 - unique_bytes as f64 / total as f64) * 100.0,
        };
        MethodFacts { method, total_bytes, unique_bytes, saved_percent, added_bytes }
    };
    let mut unshared = 0_u64;
    let none = trees.iter().map(|tree| {
        unshared = unshared.saturating_add(tree.page_bytes);
        unshared
    });
    let mut rows = vec![row("none", pages, none.collect())];
    for (index, (method, by_pages)) in count::METHODS.into_iter().enumerate() {
        let total = if by_pages { pages } else { bytes };
        rows.push(row(method, total, after.iter().map(|totals| totals[index]).collect()));
    }
    rows
}

fn check_cancel(options: EstimateOptions<'_>) -> Result<()> {
    match options.cancel {
        Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
        _ => Ok(()),
    }
}
