// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories being filled or compared: a chain up to the first, each with a descriptor while it is
//! used.
//!
//! Trees may be deeper than a process has descriptors: the oldest are closed and opened again, from
//! the nearest ancestor that is open, when they are needed.

use crate::RawPath;
use ferrofs_image::Inode;
use ferrofs_linux::at::{self, Mode, OFlags};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Descriptors of directories kept open; most systems give a process 1024.
const OPEN_MAX: usize = 384;
/// The kernel takes paths below 4096 bytes.
const PATH_MAX: usize = 4000;

/// A directory of the target.
#[derive(Debug)]
pub(crate) struct Dir {
    parent: Option<Arc<Self>>,
    name: Box<[u8]>,
    /// What it is in the image; `None` for a target whose attributes are not ours to set.
    pub(crate) inode: Option<Inode>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Tasks and directories below that are not done.
    pending: AtomicUsize,
}

impl Dir {
    /// The target itself.
    pub(crate) fn top(fd: OwnedFd, inode: Option<Inode>) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: Box::default(),
            inode,
            fd: Mutex::new(Some(Arc::new(fd))),
            pending: AtomicUsize::new(1),
        })
    }

    /// A directory in `parent` that exists already; one task of it is pending.
    pub(crate) fn below(parent: &Arc<Self>, name: &[u8], inode: Inode) -> Arc<Self> {
        parent.hold();
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.into(),
            inode: Some(inode),
            fd: Mutex::new(None),
            pending: AtomicUsize::new(1),
        })
    }

    pub(crate) const fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Notes one more task.
    pub(crate) fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a task's end; whether it was the last, so that the directory is done.
    pub(crate) fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// A directory in `parent` that is only looked at.
    pub(crate) fn plain(parent: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.into(),
            inode: None,
            fd: Mutex::new(None),
            pending: AtomicUsize::new(0),
        })
    }

    /// Path in the target, for reports.
    pub(crate) fn path(&self) -> RawPath {
        let mut names = vec![];
        let mut dir = self;
        while let Some(parent) = &dir.parent {
            names.push(&dir.name);
            dir = parent;
        }
        if names.is_empty() {
            return RawPath::from(&b"/"[..]);
        }
        let mut path = vec![];
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        RawPath(path)
    }

    fn opened(&self) -> Option<Arc<OwnedFd>> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the descriptor as soon as nobody uses it. Not of the target, which has no way back.
    pub(crate) fn close(&self) {
        if self.parent.is_some() {
            self.fd.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Drop for Dir {
    /// Not by recursion: chains may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut dir) = next.and_then(Arc::into_inner) {
            next = dir.parent.take();
        }
    }
}

/// Descriptors of directories.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    open: Mutex<VecDeque<Weak<Dir>>>,
}

impl Descriptors {
    /// The descriptor of `dir`, opened if need be.
    pub(crate) fn get(&self, dir: &Arc<Dir>) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = dir.opened() {
            return Ok(fd);
        }
        // Up to the nearest open one, then down again.
        let mut names: Vec<&[u8]> = vec![];
        let mut at = dir;
        let mut fd = loop {
            names.push(&at.name);
            let parent = at.parent.as_ref().ok_or(io::ErrorKind::NotFound)?;
            if let Some(fd) = parent.opened() {
                break fd;
            }
            at = parent;
        };
        let mut path: Vec<u8> = vec![];
        while let Some(name) = names.pop() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            if names.last().is_none_or(|next| path.len() + 1 + next.len() > PATH_MAX) {
                fd = Arc::new(open_directory(&*fd, &path)?);
                path.clear();
            }
        }
        *dir.fd.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fd));
        self.note(dir);
        Ok(fd)
    }

    fn note(&self, dir: &Arc<Dir>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back(Arc::downgrade(dir));
        if open.len() > OPEN_MAX {
            open.retain(|dir| dir.upgrade().is_some_and(|dir| dir.opened().is_some()));
        }
        while open.len() > OPEN_MAX {
            if let Some(dir) = open.pop_front().and_then(|dir| dir.upgrade()) {
                dir.close();
            }
        }
    }
}

/// Opens a directory by path, following no symbolic link.
fn open_directory(from: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    at::open_beneath(from, Path::new(OsStr::from_bytes(path)), flags, Mode::empty())
}
