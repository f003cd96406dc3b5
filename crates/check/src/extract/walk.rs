// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk over directories, and what becomes of each entry.

use super::attributes::{On, Policy};
use super::content::Segment;
use super::files::Large;
use super::links::{Links, Name, Turn};
use super::problem::Failure;
use super::target::{open_target, trail};
use super::{ExtractOptions, ExtractReport, Problem, ProblemKind};
use crate::dirs::{Descriptors, Dir};
use crate::fsck::default_budget;
use crate::nidset::NidSet;
use crate::pool::{self, Tasks};
use crate::{Context, Error, RawPath, Result};
use ferrofs_engine::Engine;
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Entry, Image, Inode, Nid};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Entries of a directory taken at once.
const BATCH: usize = 256;
/// With fewer files left than this, a batch is not split between threads.
const SPLIT_MIN: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) directories: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) symlinks: AtomicU64,
    pub(super) specials: AtomicU64,
    pub(super) hard_links: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) hole_bytes: AtomicU64,
}

/// One extraction.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) engine: &'a Engine,
    pub(super) options: &'a ExtractOptions,
    pub(super) context: Context<'a>,
    pub(super) policy: Policy,
    pub(super) totals: Totals,
    pub(super) descriptors: Descriptors,
    pub(super) links: Links,
    directories: Mutex<NidSet>,
    /// Directories that their owner may not enter: they get their attributes last, since hard links
    /// may still lead to files in them.
    late: Mutex<Vec<Arc<Dir>>>,
    pub(super) problems: Mutex<Vec<Problem>>,
    pub(super) problems_total: AtomicU64,
    pub(super) stopped: AtomicBool,
    /// What [`Image::metadata_decoded`] may come to.
    metadata_max: u64,
    first: Mutex<Option<Task>>,
}

#[derive(Debug)]
pub(super) enum Task {
    /// Entries of a directory from a position on.
    List { dir: Arc<Dir>, position: u64 },
    /// Some entries that are not directories.
    Files { dir: Arc<Dir>, entries: Vec<Entry> },
    /// Content of a large file from an offset on.
    Large { file: Arc<Large>, start: u64 },
}

/// Memory of one thread, reused.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) segments: Vec<Segment>,
    pub(super) buf: Vec<u8>,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        target: &Path,
        options: &'a ExtractOptions,
        context: Context<'a>,
    ) -> Result<Self> {
        let image = engine.image();
        let trail = trail(image, options.subtree.as_deref().unwrap_or_default())?;
        let fd = open_target(target, options.overwrite)?;
        let job = Self {
            engine,
            options,
            context,
            policy: Policy::new(options, fd.as_fd()),
            totals: Totals::default(),
            descriptors: Descriptors::default(),
            links: Links::default(),
            directories: Mutex::default(),
            late: Mutex::default(),
            problems: Mutex::default(),
            problems_total: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            metadata_max: image.metadata_decoded().saturating_add(
                options.metadata_max.unwrap_or_else(|| default_budget(image).saturating_mul(4096)),
            ),
            first: Mutex::new(None),
        };
        job.begin(fd, trail)?;
        Ok(job)
    }

    /// Makes what leads to the subtree, and the first task.
    fn begin(&self, fd: OwnedFd, mut trail: Vec<(Vec<u8>, Inode)>) -> Result<()> {
        let Some((name, last)) = trail.pop() else { return Ok(()) };
        let is_directory = last.file_type == FileType::Directory;
        let mut dir = if self.options.strip || trail.is_empty() {
            self.totals.directories.fetch_add(u64::from(is_directory), Ordering::Relaxed);
            Dir::top(fd, is_directory.then_some(last))
        } else {
            self.totals.directories.fetch_add(1, Ordering::Relaxed);
            let top = Dir::top(fd, trail.first().map(|(_, inode)| *inode));
            let mut at = Arc::clone(&top);
            for (name, inode) in trail.into_iter().skip(1) {
                at = self.descend(&at, &name, inode)?;
            }
            if is_directory { self.descend(&at, &name, last)? } else { at }
        };
        let task = if is_directory {
            self.enter(last.nid);
            Task::List { dir, position: 0 }
        } else {
            let entry = Entry { name, nid: last.nid, file_type: Some(last.file_type) };
            // The target is not an image's directory then: nothing to restore.
            if let Some(top) = Arc::get_mut(&mut dir) {
                top.inode = top.inode.filter(|_| !self.options.strip);
            }
            Task::Files { dir, entries: vec![entry] }
        };
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    fn descend(&self, parent: &Arc<Dir>, name: &[u8], inode: Inode) -> Result<Arc<Dir>> {
        self.enter(inode.nid);
        let made =
            self.descriptors.get(parent).and_then(|fd| self.make_directory(&*fd, name, &inode));
        made.map_err(|source| Error::Io { doing: "make", path: RawPath::from(name), source })?;
        self.totals.directories.fetch_add(1, Ordering::Relaxed);
        let dir = Dir::below(parent, name, inode);
        // The parent has no task of its own.
        parent.release();
        Ok(dir)
    }

    pub(super) fn run(self) -> ExtractReport {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads = self.context.threads();
        pool::run(threads, first.into_iter().collect(), Worker::default, |tasks, worker, task| {
            if self.is_stopped() {
                tasks.stop();
            }
            self.step(tasks, worker, task);
        });
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        for dir in late {
            self.restore_directory(&dir);
        }
        let complete = !self.is_stopped();
        let totals = &self.totals;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExtractReport {
            directories: get(&totals.directories),
            files: get(&totals.files),
            symlinks: get(&totals.symlinks),
            specials: get(&totals.specials),
            hard_links: get(&totals.hard_links),
            bytes: get(&totals.bytes),
            hole_bytes: get(&totals.hole_bytes),
            owners_skipped: self.policy.skips_owners(self.options),
            privileged_xattrs_skipped: get(&self.policy.privileged_xattrs_skipped),
            set_id_bits_dropped: get(&self.policy.set_id_bits_dropped),
            complete,
            problems_total: get(&self.problems_total),
            problems: self.problems.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(super) fn image(&self) -> &Image {
        self.engine.image()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || {
            let cancelled = self.context.cancelled();
            if cancelled {
                self.stopped.store(true, Ordering::Relaxed);
            }
            cancelled || self.is_too_much()
        }
    }

    /// Ends the job when reading names and inodes takes more decoding than an image of this size
    /// should need.
    fn is_too_much(&self) -> bool {
        let too_much = self.image().metadata_decoded() > self.metadata_max;
        if too_much && !self.stopped.swap(true, Ordering::Relaxed) {
            self.problems_total.fetch_add(1, Ordering::Relaxed);
            self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(Problem {
                path: RawPath::from(&b"/"[..]),
                nid: self.image().root().0,
                kind: ProblemKind::Limit,
                detail: "more work than an image of this size should need".into(),
                errno: None,
            });
        }
        too_much
    }

    /// Counts bytes to be written against the limit.
    pub(super) fn count_bytes(&self, len: u64) -> std::result::Result<(), Failure> {
        let before = self.totals.bytes.fetch_add(len, Ordering::Relaxed);
        match self.options.bytes_max {
            Some(max) if before.saturating_add(len) > max => {
                self.totals.bytes.fetch_sub(len, Ordering::Relaxed);
                Err(Failure::BytesMax)
            }
            _ => Ok(()),
        }
    }

    /// Notes a directory; whether it is the first time.
    fn enter(&self, nid: Nid) -> bool {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(nid)
    }

    fn step(&self, tasks: &Tasks<Task>, worker: &mut Worker, task: Task) {
        match task {
            Task::List { dir, position } => {
                self.list(tasks, worker, &dir, position);
                self.release(dir);
            }
            Task::Files { dir, entries } => {
                match self.descriptors.get(&dir) {
                    Ok(fd) => self.files(tasks, worker, &dir, &fd, entries),
                    Err(error) => self.fail(&dir, None, &Failure::Io(error)),
                }
                self.release(dir);
            }
            Task::Large { file, start } => self.large(tasks, worker, file, start),
        }
    }

    fn list(&self, tasks: &Tasks<Task>, worker: &mut Worker, dir: &Arc<Dir>, position: u64) {
        let Some(inode) = &dir.inode else { return };
        let mut entries = Vec::with_capacity(BATCH);
        let mut next = None;
        let read = self.image().directory(inode).and_then(|directory| {
            directory.walk(position, |entry, after| {
                if entries.len() == BATCH {
                    return ControlFlow::Break(());
                }
                next = Some(after);
                if !matches!(entry.name, b"." | b"..") {
                    entries.push(Entry {
                        name: entry.name.to_vec(),
                        nid: entry.nid,
                        file_type: entry.file_type,
                    });
                }
                ControlFlow::Continue(())
            })
        });
        match read {
            Err(error) => self.fail(dir, None, &Failure::Image(error)),
            // Whoever is free goes on with the listing, while this thread makes files.
            Ok(()) if entries.len() == BATCH => {
                if let Some(position) = next {
                    dir.hold();
                    tasks.push(Task::List { dir: Arc::clone(dir), position });
                }
            }
            Ok(()) => {}
        }
        let fd = match self.descriptors.get(dir) {
            Ok(fd) => fd,
            Err(error) => return self.fail(dir, None, &Failure::Io(error)),
        };
        let (directories, files): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| entry.file_type.is_none_or(|kind| kind == FileType::Directory));
        let below: Vec<Task> = directories
            .into_iter()
            .filter_map(|entry| self.directory(dir, &fd, &entry))
            .map(|dir| Task::List { dir, position: 0 })
            .collect();
        tasks.extend(below.into_iter().rev());
        self.files(tasks, worker, dir, &fd, files);
    }

    /// Makes a directory.
    fn directory(&self, parent: &Arc<Dir>, fd: &OwnedFd, entry: &Entry) -> Option<Arc<Dir>> {
        let at = Some((&entry.name[..], entry.nid));
        let inode = match self.image().inode(entry.nid) {
            Ok(inode) => inode,
            Err(error) => {
                self.fail(parent, at, &Failure::Image(error));
                return None;
            }
        };
        if inode.file_type != FileType::Directory {
            let text = "directory entry's type differs from the inode's".into();
            self.problem(parent, at, ProblemKind::Image, text, None);
            return None;
        }
        if !self.enter(entry.nid) {
            let text = "directory has two parents, or contains itself".into();
            self.problem(parent, at, ProblemKind::Image, text, None);
            return None;
        }
        if let Err(error) = self.make_directory(fd, &entry.name, &inode) {
            self.fail(parent, at, &Failure::Io(error));
            return None;
        }
        self.totals.directories.fetch_add(1, Ordering::Relaxed);
        Some(Dir::below(parent, &entry.name, inode))
    }

    fn files(
        &self,
        tasks: &Tasks<Task>,
        worker: &mut Worker,
        dir: &Arc<Dir>,
        fd: &Arc<OwnedFd>,
        mut entries: Vec<Entry>,
    ) {
        self.context.entries(entries.len() as u64);
        entries.reverse();
        while let Some(entry) = entries.pop() {
            if self.is_stopped() {
                return;
            }
            if entries.len() >= SPLIT_MIN && tasks.is_hungry() {
                // What comes last is at the front.
                let keep = entries.split_off(entries.len() / 2);
                let mut give = std::mem::replace(&mut entries, keep);
                give.reverse();
                dir.hold();
                tasks.push(Task::Files { dir: Arc::clone(dir), entries: give });
            }
            self.file(tasks, worker, dir, fd, &entry);
        }
    }

    /// Makes anything but a directory.
    fn file(
        &self,
        tasks: &Tasks<Task>,
        worker: &mut Worker,
        dir: &Arc<Dir>,
        fd: &Arc<OwnedFd>,
        entry: &Entry,
    ) {
        let at = Some((&entry.name[..], entry.nid));
        let inode = match self.image().inode(entry.nid) {
            Ok(inode) => inode,
            Err(error) => return self.fail(dir, at, &Failure::Image(error)),
        };
        if entry.file_type.is_some_and(|kind| kind != inode.file_type) {
            let text = "directory entry's type differs from the inode's".into();
            return self.problem(dir, at, ProblemKind::Image, text, None);
        }
        if inode.nlink > 1 {
            let name = || Name { dir: Arc::clone(dir), name: entry.name[..].into() };
            match self.links.turn(inode.nid, inode.nlink, name) {
                Turn::Make => {}
                Turn::Later => return,
                Turn::LinkTo(first) => return self.link(&first, dir, &entry.name, inode.nid),
                Turn::Failed => {
                    let text = "the file that this is a hard link to could not be made".into();
                    return self.problem(dir, at, ProblemKind::Image, text, None);
                }
            }
        }
        let result = match inode.file_type {
            FileType::Regular => {
                match self.regular(tasks, worker, dir, fd, &entry.name, &inode) {
                    // Other threads may still be at it; the last one finishes.
                    Ok(false) => return,
                    other => other.map(|_| ()),
                }
            }
            _ => self.special(dir, fd, &entry.name, &inode),
        };
        self.conclude(dir, &entry.name, &inode, &result);
    }

    /// Ends a task of `dir`; ends the directory, and those above, if it was the last.
    pub(super) fn release(&self, dir: Arc<Dir>) {
        let mut next = Some(dir);
        while let Some(dir) = next {
            if !dir.release() {
                return;
            }
            let owner_enters = dir.inode.is_none_or(|inode| inode.mode & 0o700 == 0o700);
            if owner_enters || self.is_stopped() {
                self.restore_directory(&dir);
            } else {
                self.late.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&dir));
            }
            next = dir.parent().cloned();
        }
    }

    fn restore_directory(&self, dir: &Arc<Dir>) {
        let Some(inode) = &dir.inode else { return };
        match self.descriptors.get(dir) {
            Ok(fd) => self.set_attributes(On::File(fd.as_fd()), inode, |kind, text, errno| {
                self.problem(dir, None, kind, text, errno);
            }),
            Err(error) => self.fail(dir, None, &Failure::Io(error)),
        }
        dir.close();
    }
}
