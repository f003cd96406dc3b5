// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content that several files of a domain have, as one node, and reading it.
//!
//! Invariant: unless digests are trusted, every byte that leaves here was verified after it was read,
//! against digests of content that was hashed whole. So an image that changes or fails under us costs
//! its own turn, and another one that has the content answers.

use super::content::{Content, GROUP, group};
use super::member::Member;
use ferrofs_fuse::{Attr, Errno, ReadOnlyFs, ReadRequest, SPARE_LEN};
use ferrofs_image::Nid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file that has the content.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) member: Arc<Member>,
    pub(crate) nid: Nid,
}

/// One content with one set of attributes.
#[derive(Debug)]
pub(crate) struct SharedFile {
    pub(crate) node: u64,
    pub(crate) content: Content,
    pub(crate) attr: Attr,
    /// Digests of its pieces; `None` where the digests of images are trusted.
    groups: Option<Vec<[u8; 32]>>,
    providers: Mutex<Vec<Provider>>,
    /// Its beginning was read, so the kernel is likely to have it.
    read: AtomicBool,
}

impl SharedFile {
    pub(crate) const fn new(
        node: u64,
        content: Content,
        attr: Attr,
        groups: Option<Vec<[u8; 32]>>,
    ) -> Self {
        Self {
            node,
            content,
            attr,
            groups,
            providers: Mutex::new(Vec::new()),
            read: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Provider>> {
        self.providers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files that have it now.
    pub(crate) fn users(&self) -> usize {
        self.lock().len()
    }

    /// How many of them are of an image, and whether the first of all is: the others cost no memory.
    pub(crate) fn users_of(&self, slot: u16) -> (usize, bool) {
        let providers = self.lock();
        let of_image = |one: &&Provider| one.member.slot == slot;
        (
            providers.iter().filter(of_image).count(),
            providers.first().as_ref().is_some_and(of_image),
        )
    }

    pub(crate) fn add(&self, member: &Arc<Member>, nid: Nid) {
        let mut providers = self.lock();
        let same = |one: &Provider| one.member.slot == member.slot && one.nid == nid;
        if !providers.iter().any(same) {
            providers.push(Provider { member: Arc::clone(member), nid });
        }
    }

    /// Forgets the files of an image; whether none is left.
    pub(crate) fn remove(&self, slot: u16) -> bool {
        let mut providers = self.lock();
        providers.retain(|one| one.member.slot != slot);
        providers.is_empty()
    }

    /// A file that has it.
    pub(crate) fn provider(&self) -> Option<Provider> {
        self.lock().first().cloned()
    }

    /// Its beginning is read from elsewhere.
    pub(crate) fn note_read(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// Whether its beginning was read before.
    pub(crate) fn was_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    /// Reads as [`ReadOnlyFs::read`] does.
    pub(crate) fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut last = Errno::IO;
        if read.offset == 0 {
            self.note_read();
        }
        // At most as often as there are providers: each that fails goes behind the others.
        for _ in 0..self.users() {
            let Some(provider) = self.provider() else { break };
            match self.read_from(&provider, read, buf) {
                Ok(count) => return Ok(count),
                Err(error) => {
                    last = error;
                    let mut providers = self.lock();
                    let same = |one: &Provider| {
                        one.member.slot == provider.member.slot && one.nid == provider.nid
                    };
                    if let Some(at) = providers.iter().position(same) {
                        let failed = providers.remove(at);
                        providers.push(failed);
                    }
                }
            }
        }
        Err(last)
    }

    fn read_from(
        &self,
        provider: &Provider,
        read: &ReadRequest,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        let Provider { member, nid } = provider;
        let size = self.content.size;
        let end = size.min(read.offset.saturating_add(read.len as u64));
        let Some(groups) = self.groups.as_ref().filter(|_| read.offset < end) else {
            let own = read.of_node(member.inner(*nid));
            return member.fs.read(&own, buf);
        };
        let first = read.offset / GROUP as u64;
        let from = first * GROUP as u64;
        let to = size.min(end.next_multiple_of(GROUP as u64));
        let len = usize::try_from(to - from).map_err(|_| Errno::INVAL)?;
        let wanted = usize::try_from(end - read.offset).map_err(|_| Errno::INVAL)?;
        let own = read.of_node(member.inner(*nid)).of_range(from, len);
        let verify = |bytes: &[u8]| {
            let groups = groups.get(first as usize..).unwrap_or_default();
            let mut pieces = bytes.chunks(GROUP).zip(groups);
            // As many digests as pieces: both follow from the size.
            if bytes.len() == len && pieces.all(|(bytes, digest)| group(bytes) == *digest) {
                member.verified_bytes.fetch_add(len as u64, Ordering::Relaxed);
                return Ok(());
            }
            member.report_lie(*nid, "its content is not any more what was shared");
            Err(Errno::IO)
        };
        if from == read.offset && len == wanted {
            let count = member.fs.read(&own, buf)?;
            verify(buf.get(..count).unwrap_or_default())?;
            return Ok(count);
        }
        let mut whole = vec![0; len + SPARE_LEN];
        let count = member.fs.read(&own, &mut whole)?;
        verify(whole.get(..count).unwrap_or_default())?;
        let skip = (read.offset - from) as usize;
        buf[..wanted].copy_from_slice(&whole[skip..skip + wanted]);
        Ok(wanted)
    }
}
