// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image of a domain as a file system of its own: names and attributes are the image's, content is
//! the domain's.
//!
//! A file is opened as the domain's file of that content, by FUSE passthrough; so equal content is in
//! memory once whatever its modes, owners and times. Content there is decoded when it is read, like
//! any other: the kernel maps no page that was not. Which file that is, `backing` knows.

use super::ahead::Ahead;
use super::backing::{DomainFiles, Numbers};
use super::daemon::THREADS_MAX;
use super::fs::DomainFs;
use super::member::Member;
use crate::{MountOptions, Result};
use ferrofs_format::inode::FileType;
use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, OpenAs, ReadOnlyFs, ReadRequest, Session, SessionConfig, StatFs,
    Whence,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The file system.
#[derive(Debug)]
struct View {
    domain: Arc<DomainFs>,
    member: Arc<Member>,
    numbers: Arc<Numbers>,
    ahead: OnceLock<Ahead>,
}

/// A view that is served.
#[derive(Debug)]
pub(crate) struct ViewServer {
    session: Arc<Session>,
    ended: Arc<AtomicBool>,
}

impl ViewServer {
    /// Mounts a view on `target`, and serves it by a thread.
    pub(crate) fn start(
        domain: Arc<DomainFs>,
        member: Arc<Member>,
        files: DomainFiles,
        target: &Path,
    ) -> Result<Self> {
        let config = MountOptions::default().session(&member.spec.image.to_string_lossy());
        let numbers = Numbers::new(Arc::clone(&domain), Arc::clone(&member), files);
        let numbers = Arc::new(numbers);
        let ahead = OnceLock::new();
        let view = Arc::new(View { domain, member, numbers, ahead });
        let config = SessionConfig { passthrough: true, threads_max: THREADS_MAX, ..config };
        let session = Arc::new(Session::mount(Arc::clone(&view) as _, target, config)?);
        // Nobody has asked yet: requests are answered from here on.
        view.numbers.begin(session.notifier().backings());
        // What is not here is not read because it may be wanted.
        if view.member.blobs.is_empty() {
            let ahead = Ahead::start(&view.domain, &view.member, &view.numbers);
            // Without it there is only more to wait for.
            let _ = ahead.map(|ahead| view.ahead.set(ahead));
        }
        let ended = Arc::new(AtomicBool::new(false));
        let server = Self { session: Arc::clone(&session), ended: Arc::clone(&ended) };
        let thread = std::thread::Builder::new().name(String::from("view"));
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "an image is not served any more");
            }
            ended.store(true, Ordering::Release);
        };
        thread.spawn(serve).map_err(|error| crate::Error::Io { doing: "start a thread", error })?;
        Ok(server)
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// Device number of its mounts.
    pub(crate) fn device(&self) -> Option<(u32, u32)> {
        self.session.unmounter().as_ref().and_then(ferrofs_fuse::Unmounter::device)
    }

    /// Ends it when nobody uses it any more; whether that is so already.
    pub(crate) fn end(&self) -> bool {
        if let Some(unmounter) = self.session.unmounter() {
            // Gone the second time.
            let _ = unmounter.unmount(ferrofs_linux::UnmountFlags::default());
        }
        self.ended.load(Ordering::Acquire)
    }
}

/// Whether this kernel lets files of FUSE be opened as others; tried on `target`.
pub(crate) fn probe(target: &Path) -> bool {
    let config =
        SessionConfig { passthrough: true, ..MountOptions::default().session("ferrofs-probe") };
    // Unmounted when it is dropped.
    Session::mount(Arc::new(DomainFs::new(false, false)), target, config)
        .is_ok_and(|session| session.negotiated().can_pass_through())
}

impl View {
    fn fs(&self) -> &crate::ErofsFs {
        &self.member.fs
    }
}

impl ReadOnlyFs for View {
    fn lookup(&self, parent: u64, name: &[u8]) -> std::result::Result<Entry, Errno> {
        self.fs().lookup(parent, name)
    }

    fn getattr(&self, node: u64) -> std::result::Result<Attr, Errno> {
        self.fs().getattr(node)
    }

    fn readlink(&self, node: u64, target: &mut Vec<u8>) -> std::result::Result<(), Errno> {
        self.fs().readlink(node, target)
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        self.fs().read(read, buf)
    }

    fn readdir(
        &self,
        node: u64,
        cookie: u64,
        sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> std::result::Result<(), Errno> {
        self.fs().readdir(node, cookie, sink)
    }

    fn getxattr(
        &self,
        node: u64,
        name: &[u8],
        value: &mut Vec<u8>,
    ) -> std::result::Result<(), Errno> {
        self.fs().getxattr(node, name, value)
    }

    fn listxattr(&self, node: u64, names: &mut Vec<u8>) -> std::result::Result<(), Errno> {
        self.fs().listxattr(node, names)
    }

    fn statfs(&self) -> std::result::Result<StatFs, Errno> {
        self.fs().statfs()
    }

    fn lseek(&self, node: u64, offset: u64, whence: Whence) -> std::result::Result<u64, Errno> {
        self.fs().lseek(node, offset, whence)
    }

    fn open(&self, node: u64) -> std::result::Result<OpenAs, Errno> {
        let nid = self.member.nid(node);
        let fail = |error: ferrofs_image::Error| Errno::new(error.errno());
        let inode = self.member.image().inode(nid).map_err(fail)?;
        // What is empty is read nowhere.
        if inode.file_type != FileType::Regular || inode.size == 0 {
            return Ok(OpenAs::Itself);
        }
        if let Some(ahead) = self.ahead.get() {
            ahead.note(&self.domain.sharing, self.member.id(nid));
        }
        self.numbers.open(&inode).map(OpenAs::Backing)
    }

    fn release(&self, node: u64) {
        self.numbers.release(self.member.nid(node));
    }
}
