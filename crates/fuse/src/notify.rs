// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages to the kernel that answer nothing: page cache contents given and taken away.
//!
//! Invariants: nothing is stored behind the end of a file (the kernel would make the file longer)
//! and no page in part (it would be read again anyway); a handle keeps no session alive.
//!
//! # Deadlock
//!
//! The kernel locks the pages that it waits for: a READ has its pages locked until it is answered.
//! [`Notifier::store`] and [`Notifier::inval_inode`] wait for the lock of each page they touch.
//! Hence: **never call them from within [`ReadOnlyFs::read`]**, nor with a lock held that a read
//! may need. A thread of its own may call them at any time; it waits there for reads of the same
//! pages, which others answer. [`Surplus`] is such a thread.
//!
//! [`ReadOnlyFs::read`]: crate::ReadOnlyFs::read

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use zerocopy::{Immutable, IntoBytes};

use crate::abi::{
    NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyRetrieveOut, NotifyStoreOut, OutHeader, notify,
};
use crate::session::Pool;

/// Bytes stored by one message: while it is copied in, the kernel holds a lock of the mount.
const STORE_MAX: usize = 1 << 20;

/// Sends messages to the kernel, from any thread; see the deadlock rule in [`Notifier::store`].
#[derive(Clone, Debug)]
pub struct Notifier {
    pool: Weak<Pool>,
}

impl Notifier {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::downgrade(pool) }
    }

    /// Puts data of a file into the kernel's page cache, from which it is read without a request
    /// then. Whole pages are stored and the end of the file; the rest of `data`, and what lies
    /// behind the end of the file, is left out. Returns the number of bytes stored.
    ///
    /// Waits for reads of the same pages, so it must never be called from within
    /// [`ReadOnlyFs::read`], nor with a lock held that a read may need: answer first, and store in
    /// another thread ([`Notifier::surplus`]).
    ///
    /// Errors: `NotFound` if the kernel does not know the node (any more), `NotConnected` if the
    /// session has ended.
    ///
    /// [`ReadOnlyFs::read`]: crate::ReadOnlyFs::read
    pub fn store(&self, node: u64, offset: u64, data: &[u8]) -> io::Result<usize> {
        let pool = self.pool()?;
        let attr = pool.dispatcher().fs().getattr(node);
        let size = attr.map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?.size;
        let page = rustix::param::page_size() as u64;
        let Some((mut at, mut data)) = whole_pages(offset, data, size, page) else { return Ok(0) };
        let mut stored: usize = 0;
        while !data.is_empty() {
            let (part, rest) = data.split_at(data.len().min(STORE_MAX));
            let size = u32::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let store = NotifyStoreOut { nodeid: node, offset: at, size, padding: 0 };
            send(&pool, notify::STORE, &store, part)?;
            stored = stored.saturating_add(part.len());
            at = at.saturating_add(part.len() as u64);
            data = rest;
        }
        Ok(stored)
    }

    /// Has the kernel forget attributes of a node, and `len` bytes (None: all) of its data from
    /// `offset` on. For an image that never changes there is no need, but to free memory or after
    /// data turned out to be wrong. The deadlock rule of [`Notifier::store`] holds here, too, and
    /// so do its errors.
    pub fn inval_inode(&self, node: u64, offset: u64, len: Option<u64>) -> io::Result<()> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = match len {
            // To the kernel, no length means all.
            Some(0) => return Ok(()),
            Some(len) => i64::try_from(len).unwrap_or(0),
            None => 0,
        };
        let message = NotifyInvalInodeOut { nodeid: node, offset, len };
        send(&*self.pool()?, notify::INVAL_INODE, &message, &[])
    }

    /// Has the kernel forget that `parent` has an entry `name`, and what it knows below, as far as
    /// nobody uses it. Waits for the lock of the directory, which lookups in it hold: not to be called
    /// from within [`ReadOnlyFs::lookup`](crate::ReadOnlyFs::lookup).
    ///
    /// Errors: `NotFound` if the kernel does not know the entry, `NotConnected` if the session has
    /// ended.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let namelen = u32::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let message = NotifyInvalEntryOut { parent, namelen, flags: 0 };
        send(&*self.pool()?, notify::INVAL_ENTRY, &message, &[name, &[0]].concat())
    }

    /// A queue and a thread that stores what is put into it: at most `bytes_max` bytes wait.
    pub fn surplus(&self, bytes_max: usize) -> io::Result<Surplus> {
        let queue = Arc::new(Queue { bytes_max, ..Queue::default() });
        let shared = Arc::clone(&queue);
        let notifier = self.clone();
        let thread = std::thread::Builder::new().name(String::from("fuse-surplus"));
        thread.spawn(move || shared.drain(&notifier))?;
        Ok(Surplus { handle: Arc::new(Handle { queue }) })
    }

    /// Files that files of this session can be opened as.
    pub fn backings(&self) -> Backings {
        Backings { notifier: self.clone() }
    }

    /// For threads that work for those who answer.
    pub fn companions(&self) -> Companions {
        Companions { pool: Weak::clone(&self.pool) }
    }

    fn pool(&self) -> io::Result<Arc<Pool>> {
        self.pool.upgrade().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Threads that work for the threads of a session: where
/// [`follow_reader`](crate::SessionConfig::follow_reader) is on, they are kept off the processor that
/// reader and worker share.
#[derive(Clone, Debug)]
pub struct Companions {
    pool: Weak<Pool>,
}

impl Companions {
    /// The calling thread is one of them, until it ends.
    pub fn join(&self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.join();
            JOINED.with_borrow_mut(|joined| joined.push(Joined { pool: Weak::clone(&self.pool) }));
        }
    }
}

thread_local! {
    /// What this thread has joined; dropped when it ends.
    static JOINED: RefCell<Vec<Joined>> = const { RefCell::new(Vec::new()) };
}

struct Joined {
    pool: Weak<Pool>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.part();
        }
    }
}

/// Files that files of a session can be opened as. It does not keep the session alive.
#[derive(Clone, Debug)]
pub struct Backings {
    notifier: Notifier,
}

impl Backings {
    /// Gives `file` a number for [`OpenAs::Backing`](crate::OpenAs::Backing), until
    /// [`Backings::close`]. What was opened by it stays open then. `file` must not lie on a file system
    /// that lies on another (overlay, FUSE with passthrough).
    pub fn open(&self, file: impl AsFd) -> io::Result<i32> {
        ferrofs_linux::fuse_device::open_backing(self.notifier.pool()?.device(), file)
    }

    /// Takes back a number.
    pub fn close(&self, id: i32) -> io::Result<()> {
        ferrofs_linux::fuse_device::close_backing(self.notifier.pool()?.device(), id)
    }
}

/// Has the kernel send all requests again that were read by somebody and are not answered yet.
pub(crate) fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    let len = size_of::<OutHeader>() as u32;
    let header = OutHeader { len, error: notify::RESEND, unique: 0 };
    rustix::io::write(device, header.as_bytes())?;
    Ok(())
}

/// Has the kernel send a request that asks for nothing: "here are the 0 bytes of the page cache
/// you wanted". `unique` is a number that no request of its own has, `file` a regular file that it
/// knows.
pub(crate) fn ask_for_request(pool: &Pool, unique: u64, file: u64) -> io::Result<()> {
    let retrieve = NotifyRetrieveOut { unique, nodeid: file, ..NotifyRetrieveOut::default() };
    send(pool, notify::RETRIEVE, &retrieve, &[])
}

/// The whole pages of `data`, which starts at `offset` of a file of `size` bytes, and where they
/// start. The page with the end of the file counts as whole when it is there to its end.
fn whole_pages(offset: u64, data: &[u8], size: u64, page: u64) -> Option<(u64, &[u8])> {
    let end = offset.checked_add(data.len() as u64)?;
    let start = offset.checked_next_multiple_of(page)?;
    let end = if end >= size { size } else { end.saturating_sub(end.checked_rem(page)?) };
    let skip = usize::try_from(start.checked_sub(offset)?).ok()?;
    let len = usize::try_from(end.checked_sub(start)?).ok()?;
    let data = data.get(skip..)?.get(..len)?;
    (!data.is_empty()).then_some((start, data))
}

fn send<T: IntoBytes + Immutable>(
    pool: &Pool,
    code: i32,
    message: &T,
    data: &[u8],
) -> io::Result<()> {
    let len = size_of::<OutHeader>().saturating_add(size_of::<T>()).saturating_add(data.len());
    let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Zero where the request's number would be: this is no answer.
    let header = OutHeader { len, error: code, unique: 0 };
    let parts =
        [IoSlice::new(header.as_bytes()), IoSlice::new(message.as_bytes()), IoSlice::new(data)];
    match rustix::io::writev(pool.device(), &parts) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::CONNABORTED) => {
            Err(io::ErrorKind::NotConnected.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Gives file data that nobody asked for to the kernel's page cache, when there is time.
///
/// What is put in is a gift, not a duty: if too much waits it is dropped, and so is what the
/// kernel does not want. The thread behind it ends with the last handle or the session.
#[derive(Clone, Debug)]
pub struct Surplus {
    handle: Arc<Handle>,
}

impl Surplus {
    /// Puts in data of a file to be stored later. Never waits. False if it was dropped instead,
    /// because too much waits or the session has ended.
    ///
    /// Best pages that were not asked for: storing a page that a READ still waits for makes the
    /// queue wait, too.
    pub fn offer(&self, node: u64, offset: u64, data: impl AsRef<[u8]> + Send + 'static) -> bool {
        let queue = &self.handle.queue;
        let len = data.as_ref().len();
        let mut state = queue.state();
        let bytes = state.bytes.saturating_add(len);
        if state.closed || bytes > queue.bytes_max {
            state.dropped = state.dropped.saturating_add(1);
            return false;
        }
        state.bytes = bytes;
        state.gifts.push_back(Gift { node, offset, data: Box::new(data) });
        drop(state);
        queue.changed.notify_one();
        true
    }

    /// Counters so far.
    pub fn stats(&self) -> SurplusStats {
        let state = self.handle.queue.state();
        SurplusStats {
            stored_bytes: state.stored_bytes,
            stored: state.stored,
            refused: state.refused,
            dropped: state.dropped,
            waiting_bytes: state.bytes,
        }
    }
}

/// Counters of a [`Surplus`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SurplusStats {
    /// Bytes in the kernel's page cache (at the time).
    pub stored_bytes: u64,
    /// Gifts stored.
    pub stored: u64,
    /// Gifts that the kernel did not want.
    pub refused: u64,
    /// Gifts dropped because too much waited.
    pub dropped: u64,
    /// Bytes that wait now.
    pub waiting_bytes: usize,
}

struct Gift {
    node: u64,
    offset: u64,
    data: Box<dyn AsRef<[u8]> + Send>,
}

/// What the handles share; the thread is told when the last is dropped.
#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[derive(Debug, Default)]
struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    gifts: VecDeque<Gift>,
    /// Bytes that wait, the gift that is being stored included.
    bytes: usize,
    closed: bool,
    stored: u64,
    stored_bytes: u64,
    refused: u64,
    dropped: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Queue {
    /// Stores what comes until there is nobody left to put anything in, or no session.
    fn drain(&self, notifier: &Notifier) {
        let mut state = self.state();
        loop {
            while state.gifts.is_empty() && !state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                break;
            }
            let Some(Gift { node, offset, data }) = state.gifts.pop_front() else { continue };
            drop(state);
            let data = (*data).as_ref();
            let result = notifier.store(node, offset, data);
            state = self.state();
            state.bytes = state.bytes.saturating_sub(data.len());
            match result {
                Ok(stored) => {
                    state.stored = state.stored.saturating_add(1);
                    state.stored_bytes = state.stored_bytes.saturating_add(stored as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::NotConnected => state.closed = true,
                Err(_) => state.refused = state.refused.saturating_add(1),
            }
        }
        state.gifts.clear();
        state.bytes = 0;
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_and_the_end_are_kept() {
        let data = vec![0; 10_000];
        let kept = |offset, len: usize, size| {
            whole_pages(offset, &data[..len], size, 4096).map(|(at, part)| (at, part.len()))
        };
        assert_eq!(kept(0, 4096, 100_000), Some((0, 4096)));
        assert_eq!(kept(0, 4095, 100_000), None);
        assert_eq!(kept(0, 10_000, 100_000), Some((0, 8192)));
        assert_eq!(kept(1, 10_000, 100_000), Some((4096, 4096)));
        assert_eq!(kept(4096, 5000, 9000), Some((4096, 4904)));
        assert_eq!(kept(4096, 4904, 9000), Some((4096, 4904)));
        assert_eq!(kept(4096, 4903, 9000), Some((4096, 4096)));
        assert_eq!(kept(8192, 10, 9000), None);
        assert_eq!(kept(9000, 10, 9000), None);
        assert_eq!(kept(12_288, 10_000, 9000), None);
        assert_eq!(kept(u64::MAX - 5, 10_000, u64::MAX), None);
        assert_eq!(kept(u64::MAX - 5, 3, u64::MAX), None);
    }

    #[test]
    fn without_a_session_nothing_is_kept() {
        let notifier = Notifier { pool: Weak::new() };
        assert_eq!(
            notifier.store(1, 0, &[0; 4096]).unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
        assert!(notifier.inval_inode(1, 0, None).is_err());
        let surplus = notifier.surplus(10_000).unwrap();
        assert!(!surplus.offer(1, 0, vec![0; 10_001]));
        while surplus.offer(1, 0, vec![0; 4096]) {
            std::thread::yield_now();
        }
        assert!(surplus.stats().dropped >= 2);
    }
}
