// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the files of a view are opened as: files of the domain, and their numbers in the view's session.
//!
//! Opening a file for the first time costs the kernel a look at the domain, which is a request; so
//! what was opened a moment ago stays ready, and what will be opened next is made ready by others
//! (`ahead`). Content of small files is handed to the kernel along the way, which then need not ask for
//! it. Invariants: all who have a file open at a time have the same number; a number that is given out
//! is not closed before the last of them has closed the file; one thread at a time makes a file ready.

use super::fs::DomainFs;
use super::member::Member;
use ferrofs_fuse::{Backings, Errno, Notifier, ReadOnlyFs, ReadRequest, SPARE_LEN};
use ferrofs_image::{Inode, Nid};
use ferrofs_linux::pagecache::cached_bytes;
use rustix::fs::{Mode, OFlags};
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Files of up to this size are handed over whole: the kernel would ask for all of one at once.
const GIVEN_MAX: u64 = 128 << 10;
/// Files that stay ready though nobody has them open.
const READY_MAX: usize = 256;

/// How the domain's files are reached.
#[derive(Clone, Debug)]
pub(crate) struct DomainFiles {
    /// The folder that has them all.
    pub(crate) folder: PathBuf,
    /// The domain's session.
    pub(crate) notifier: Notifier,
}

/// The numbers of one view.
#[derive(Debug)]
pub(crate) struct Numbers {
    domain: Arc<DomainFs>,
    member: Arc<Member>,
    files: DomainFiles,
    folder: OnceLock<OwnedFd>,
    session: OnceLock<Backings>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Nid, Backed>,
    /// Files that nobody had open at the time of the stamp, oldest first.
    idle: VecDeque<(Nid, u64)>,
    stamp: u64,
    /// Threads that wait for what others make ready.
    waiting: u32,
}

#[derive(Clone, Copy, Debug)]
enum Backed {
    /// Somebody is about to make it ready.
    Soon,
    Ready {
        number: i32,
        users: u64,
        /// When it was closed last.
        stamp: u64,
    },
}

/// The duty to make a file ready, or to say that it failed.
struct Claim<'a> {
    numbers: &'a Numbers,
    nid: Nid,
    kept: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.numbers.lock();
        if !self.kept {
            state.files.remove(&self.nid);
        }
        // A system call, which hardly anybody waits for.
        if state.waiting > 0 {
            self.numbers.changed.notify_all();
        }
    }
}

impl Numbers {
    pub(crate) fn new(domain: Arc<DomainFs>, member: Arc<Member>, files: DomainFiles) -> Self {
        Self {
            domain,
            member,
            files,
            folder: OnceLock::new(),
            session: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Has them belong to a session. Once, before anything is opened.
    pub(crate) fn begin(&self, backings: Backings) {
        let _ = self.session.set(backings);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a regular file that is not empty.
    pub(crate) fn open(&self, inode: &Inode) -> Result<i32, Errno> {
        let nid = inode.nid;
        let mut state = self.lock();
        let claim = loop {
            match state.files.entry(nid) {
                Entry::Occupied(mut entry) => match entry.get_mut() {
                    Backed::Ready { number, users, .. } => {
                        *users += 1;
                        return Ok(*number);
                    }
                    Backed::Soon => {
                        state.waiting += 1;
                        let waited = self.changed.wait(state);
                        state = waited.unwrap_or_else(PoisonError::into_inner);
                        state.waiting -= 1;
                    }
                },
                Entry::Vacant(entry) => {
                    entry.insert(Backed::Soon);
                    break Claim { numbers: self, nid, kept: false };
                }
            }
        };
        drop(state);
        // Content may have to be hashed first.
        let node = self.domain.sharing.resolve(&self.member, inode)?;
        let number = self.number_of(node, inode.size).map_err(|error| {
            tracing::warn!(nid = nid.0, %error, "cannot be opened as the domain's file");
            Errno::from(error)
        })?;
        self.keep(claim, Backed::Ready { number, users: 1, stamp: 0 });
        Ok(number)
    }

    /// Makes a file ready whose node is known, unless it is so already or somebody is about to.
    pub(crate) fn make_ready(&self, nid: Nid, node: u64, size: u64) {
        {
            let mut state = self.lock();
            let Entry::Vacant(entry) = state.files.entry(nid) else { return };
            entry.insert(Backed::Soon);
        }
        let claim = Claim { numbers: self, nid, kept: false };
        // Whoever opens it gets the error.
        let Ok(number) = self.number_of(node, size) else { return };
        let stamp = {
            let mut state = self.lock();
            state.stamp += 1;
            let stamp = state.stamp;
            state.idle.push_back((nid, stamp));
            stamp
        };
        self.keep(claim, Backed::Ready { number, users: 0, stamp });
        self.close_oldest();
    }

    fn keep(&self, mut claim: Claim<'_>, backed: Backed) {
        self.lock().files.insert(claim.nid, backed);
        claim.kept = true;
    }

    /// One who had it open has closed it.
    pub(crate) fn release(&self, nid: Nid) {
        let mut state = self.lock();
        state.stamp += 1;
        let now = state.stamp;
        let Some(Backed::Ready { users, stamp, .. }) = state.files.get_mut(&nid) else { return };
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        *stamp = now;
        state.idle.push_back((nid, now));
        drop(state);
        self.close_oldest();
    }

    fn close_oldest(&self) {
        let mut state = self.lock();
        while state.idle.len() > READY_MAX {
            let Some((nid, then)) = state.idle.pop_front() else { return };
            let Some(Backed::Ready { number, users: 0, stamp }) = state.files.get(&nid).copied()
            else {
                continue;
            };
            // Else it was opened and closed since, and has a later place in the row.
            if stamp == then {
                state.files.remove(&nid);
                if let Some(session) = self.session.get() {
                    // Fails only when the session has ended, and all its numbers with it.
                    let _ = session.close(number);
                }
            }
        }
    }

    /// Opens a file of the domain, and gets a number for it.
    fn number_of(&self, node: u64, size: u64) -> io::Result<i32> {
        let name = DomainFs::name_of(node);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.folder()?, name, flags, Mode::empty())?;
        // Bytes that are not here are not fetched before they are read.
        if size <= GIVEN_MAX && self.member.blobs.is_empty() {
            self.give(node, size, &file);
        }
        let session = self.session.get().ok_or(io::ErrorKind::NotConnected)?;
        session.open(&file)
    }

    /// Hands the content of a small file to the kernel, if it has nothing of it. A gift: what fails here
    /// the kernel asks for when it is read.
    fn give(&self, node: u64, size: u64, file: &OwnedFd) {
        thread_local! {
            static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Ok(len) = usize::try_from(size) else { return };
        if cached_bytes(file).map_or(true, |cached| cached > 0) {
            return;
        }
        ROOM.with_borrow_mut(|room| {
            room.resize(GIVEN_MAX as usize + SPARE_LEN, 0);
            let read = self.domain.read(&ReadRequest::new(node, 0, len), room);
            if read == Ok(len) {
                let _ = self.files.notifier.store(node, 0, &room[..len]);
            }
        });
    }

    /// The folder of the domain's files, held open so that no path is walked.
    pub(crate) fn folder(&self) -> io::Result<&OwnedFd> {
        if self.folder.get().is_none() {
            let folder = File::open(&self.files.folder)?;
            // Another may have been faster.
            let _ = self.folder.set(folder.into());
        }
        self.folder.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
