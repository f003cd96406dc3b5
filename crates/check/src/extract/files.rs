// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regular files: small ones by one thread, large ones by several; hard links to them.

use super::ProblemKind;
use super::attributes::On;
use super::content::{STEP, Segment};
use super::links::Name;
use super::problem::Failure;
use super::walk::{Job, Task, Worker};
use crate::dirs::Dir;
use crate::pool::Tasks;
use ferrofs_engine::OpenFile;
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Inode, Nid};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Files from here on are looked through for blocks of zeros.
const SPARSE_MIN: u64 = 256 << 10;

/// A file that several threads write.
#[derive(Debug)]
pub(super) struct Large {
    dir: Arc<Dir>,
    name: Box<[u8]>,
    inode: Inode,
    source: OpenFile,
    target: File,
    pending: AtomicUsize,
    failed: AtomicBool,
    /// Removes the file, unless that is cleared.
    guard: Guard,
}

/// Removes the name of a file that is not complete, however that came: an error, the end of the job
/// before all tasks were begun, a panic.
#[derive(Debug)]
struct Guard {
    dir: Arc<OwnedFd>,
    name: Box<[u8]>,
    armed: AtomicBool,
}

impl Guard {
    fn new(dir: &Arc<OwnedFd>, name: &[u8], armed: bool) -> Self {
        Self { dir: Arc::clone(dir), name: name.into(), armed: AtomicBool::new(armed) }
    }

    fn clear(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if *self.armed.get_mut() {
            // If it cannot be removed, the problem that led here is reported anyway.
            let _ = ferrofs_linux::at::unlink(&self.dir, OsStr::from_bytes(&self.name));
        }
    }
}

impl Job<'_> {
    /// Makes a regular file; whether it is complete.
    pub(super) fn regular(
        &self,
        tasks: &Tasks<Task>,
        worker: &mut Worker,
        dir: &Arc<Dir>,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        inode: &Inode,
    ) -> std::result::Result<bool, Failure> {
        let source = self.engine.open(inode)?;
        let target = File::from(self.create(fd, name, self.policy.first_mode(inode))?);
        let guard = Guard::new(fd, name, !self.options.keep_broken);
        let sparse = self.options.sparse && inode.size >= SPARSE_MIN;
        if inode.size > STEP {
            target.set_len(inode.size)?;
            dir.hold();
            let large = Large {
                dir: Arc::clone(dir),
                name: name.into(),
                inode: *inode,
                source,
                target,
                pending: AtomicUsize::new(1),
                failed: AtomicBool::new(false),
                guard,
            };
            self.large(tasks, worker, Arc::new(large), 0);
            return Ok(false);
        }
        self.small(worker, &source, &target, sparse)?;
        guard.clear();
        self.set_attributes(On::File(target.as_fd()), inode, |kind, text, errno| {
            self.problem(dir, Some((name, inode.nid)), kind, text, errno);
        });
        Ok(true)
    }

    fn small(
        &self,
        worker: &mut Worker,
        source: &OpenFile,
        target: &File,
        sparse: bool,
    ) -> std::result::Result<(), Failure> {
        let size = source.size();
        let Worker { segments, buf } = worker;
        let (mut offset, mut written) = (0, 0);
        while offset < size {
            offset = self.plan(source, offset, segments)?;
            self.copy(source, target, segments, sparse, buf)?;
            written = segments.last().map_or(written, Segment::end);
        }
        if sparse || written < size {
            target.set_len(size)?;
        }
        Ok(())
    }

    /// One step of a large file.
    pub(super) fn large(
        &self,
        tasks: &Tasks<Task>,
        worker: &mut Worker,
        file: Arc<Large>,
        start: u64,
    ) {
        let Worker { segments, buf } = worker;
        if !file.failed.load(Ordering::Relaxed) {
            let result = self.plan(&file.source, start, segments).map_err(Failure::Image);
            let result = result.and_then(|next| {
                if next < file.inode.size {
                    file.pending.fetch_add(1, Ordering::Relaxed);
                    tasks.push(Task::Large { file: Arc::clone(&file), start: next });
                }
                self.copy(&file.source, &file.target, segments, self.options.sparse, buf)
            });
            if let Err(failure) = result
                && !file.failed.swap(true, Ordering::Relaxed)
            {
                self.fail(&file.dir, Some((&file.name, file.inode.nid)), &failure);
            }
        }
        if file.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish_large(&file);
            if let Some(file) = Arc::into_inner(file) {
                self.release(file.dir);
            }
        }
    }

    fn finish_large(&self, file: &Large) {
        let Large { dir, name, inode, target, .. } = file;
        if file.failed.load(Ordering::Relaxed) {
            self.settle(dir, name, inode, false);
            return;
        }
        file.guard.clear();
        self.set_attributes(On::File(target.as_fd()), inode, |kind, text, errno| {
            self.problem(dir, Some((name, inode.nid)), kind, text, errno);
        });
        self.conclude(dir, name, inode, &Ok(()));
    }

    /// Counts what was made, or reports why it was not; links its other names.
    pub(super) fn conclude(
        &self,
        dir: &Arc<Dir>,
        name: &[u8],
        inode: &Inode,
        result: &std::result::Result<(), Failure>,
    ) {
        let counter = match inode.file_type {
            FileType::Regular => &self.totals.files,
            FileType::Symlink => &self.totals.symlinks,
            _ => &self.totals.specials,
        };
        match result {
            Ok(()) => {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => self.fail(dir, Some((name, inode.nid)), failure),
        }
        self.settle(dir, name, inode, result.is_ok());
    }

    /// Does what waits for the first name of an inode.
    fn settle(&self, dir: &Arc<Dir>, name: &[u8], inode: &Inode, made: bool) {
        if inode.nlink <= 1 {
            return;
        }
        let first = Name { dir: Arc::clone(dir), name: name.into() };
        for waiting in self.links.made(inode.nid, made.then(|| first.clone())) {
            if made {
                self.link(&first, &waiting.dir, &waiting.name, inode.nid);
            } else {
                let text = "the file that this is a hard link to could not be made".into();
                let at = Some((&waiting.name[..], inode.nid));
                self.problem(&waiting.dir, at, ProblemKind::Image, text, None);
            }
            self.release(waiting.dir);
        }
    }

    pub(super) fn link(&self, first: &Name, dir: &Arc<Dir>, name: &[u8], nid: Nid) {
        let result = self.descriptors.get(&first.dir).and_then(|from| {
            let to = self.descriptors.get(dir)?;
            self.make_link(&from, &first.name, &to, name)
        });
        match result {
            Ok(()) => {
                self.totals.hard_links.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.fail(dir, Some((name, nid)), &Failure::Io(error)),
        }
    }
}
