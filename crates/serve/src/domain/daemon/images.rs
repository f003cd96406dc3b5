// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images come into a domain, and leave it.
//!
//! Invariant: nothing of the domain is changed for an image that cannot join.

use super::super::backing::DomainFiles;
use super::super::folder;
use super::super::fs::FILES;
use super::super::member::{Member, MemberSpec};
use super::super::message::{Added, Mechanism};
use super::super::sight::{self, Sight, SightSpec};
use super::super::survey;
use super::super::view::ViewServer;
use super::{Domain, Seen};
use crate::control::make_folder;
use crate::{EngineConfig, Error, MountOptions, Result};
use ferrofs_fuse::ROOT_NODE;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

impl Domain {
    pub(super) fn see(&self, slot: u16, mounted: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(slot, Seen { at: Instant::now(), mounted });
    }

    pub(super) fn add(&self, image: MemberSpec, sight: SightSpec) -> Result<Added> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.fs.members();
        if let Some(member) = members.iter().find(|member| member.is(&image)) {
            self.see(member.slot, false);
            if sight.metrics.is_none() && sight.metrics_file.is_none() {
                return Ok(self.added(member.slot, true));
            }
            let sight = sight.prepare()?;
            // Its socket is there; further metrics come in addition to those that are.
            self.show(member, sight, false)?;
            return Ok(self.added(member.slot, true));
        }
        // What can fail does before anything is changed.
        let sight = sight.prepare()?;
        let slot = *next;
        let after = slot.checked_add(1).ok_or(Error::DomainFull)?;
        let cache_bytes = self.spec.cache_bytes / (members.len() as u64 + 1);
        let config = EngineConfig { cache_bytes, ..MountOptions::default().engine_config() };
        let member = Arc::new(Member::open(slot, image, config, members.is_empty())?);
        *next = after;
        for other in &members {
            other.give_cache(cache_bytes);
        }
        // Who decodes is started by who reads first, which may be where it follows its reader.
        let companions = self.session.notifier().companions();
        member.fs.engine().begin_workers_with(move || companions.join());
        if member.blobs.is_empty() {
            survey::count(&self.fs, &member);
        } else {
            // Those who fetch start threads.
            self.session.stop_following();
            if !members.is_empty() {
                survey::wait(&member);
            }
        }
        self.fs.add(Arc::clone(&member));
        let is_view = self.spec.mechanism == Mechanism::Passthrough;
        let begun = survey::begin(&self.fs, &member)
            .and_then(|()| if is_view { self.view(&member) } else { Ok(()) });
        if let Err(error) = begun {
            self.fs.remove(slot);
            return Err(error);
        }
        self.see(slot, false);
        self.show(&member, sight, true)?;
        // Whoever looked for it before got told that there is none, and the kernel remembers.
        let _ = self.session.notifier().inval_entry(ROOT_NODE, slot.to_string().as_bytes());
        Ok(self.added(slot, false))
    }

    fn added(&self, slot: u16, again: bool) -> Added {
        let sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        let last = sights.get(&slot).and_then(|all| all.last());
        Added {
            tree: self.tree_of(slot),
            again,
            images: self.fs.members().len(),
            metrics: last.and_then(|last| last.metrics),
            notes: last.map(|last| last.notes.clone()).unwrap_or_default(),
            stats: self.stats(),
        }
    }

    /// Lets an image be seen.
    fn show(&self, member: &Arc<Member>, prepared: sight::Prepared, socket: bool) -> Result<()> {
        let sight = Sight {
            domain: self.spec.name.clone(),
            mechanism: self.spec.mechanism,
            fs: Arc::clone(&self.fs),
            member: Arc::clone(member),
        };
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, device) = match views.get(&member.slot) {
            Some(view) => (view.session(), view.device()),
            None => (Arc::clone(&self.session), self.device),
        };
        drop(views);
        let seen = sight.open(prepared, session, device.filter(|_| socket))?;
        let mut sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        sights.entry(member.slot).or_default().push(seen);
        Ok(())
    }

    /// Takes an image out that nobody uses.
    pub(super) fn forget(&self, member: &Member) {
        if !self.let_go(member) {
            return;
        }
        self.fs.remove(member.slot);
        survey::renew(&self.fs);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&member.slot);
        let gone = self.sights.lock().unwrap_or_else(PoisonError::into_inner).remove(&member.slot);
        // Without the lock: who answers just now may have to be waited for.
        drop(gone);
    }

    /// What is to be mounted of an image, from the domain's folder on.
    pub(super) fn tree_of(&self, slot: u16) -> PathBuf {
        match self.spec.mechanism {
            Mechanism::Passthrough => PathBuf::from(format!("image-{slot}")),
            _ => PathBuf::from("tree").join(slot.to_string()),
        }
    }

    /// Makes an image a file system of its own.
    fn view(&self, member: &Arc<Member>) -> Result<()> {
        let target = self.spec.folder.join(self.tree_of(member.slot));
        let fail = |error| Error::Io { doing: "make the image's folder", error };
        make_folder(&target).map_err(fail)?;
        let (fs, member) = (Arc::clone(&self.fs), Arc::clone(member));
        let slot = member.slot;
        let files = DomainFiles {
            folder: folder::tree(&self.spec.folder).join(FILES),
            notifier: self.session.notifier(),
        };
        let view = ViewServer::start(fs, member, files, &target)?;
        self.guard.watch(view.device());
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, view);
        Ok(())
    }

    /// Has an image forgotten by the kernel as far as nobody uses it; whether nobody does.
    fn let_go(&self, member: &Member) -> bool {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = views.get(&member.slot) else {
            drop(views);
            // Not there any more if the kernel had to make room.
            let name = member.slot.to_string();
            let _ = self.session.notifier().inval_entry(ROOT_NODE, name.as_bytes());
            return member.root_references.load(Ordering::Relaxed) == 0;
        };
        if !view.end() {
            return false;
        }
        views.remove(&member.slot);
        // If it cannot go it is in nobody's way.
        let _ = std::fs::remove_dir(self.spec.folder.join(self.tree_of(member.slot)));
        true
    }
}
