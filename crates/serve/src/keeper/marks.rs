// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs whose data files the kernel reads by itself, asking before: the answering side.
//!
//! Refuses to know how bytes come; the worker fetches them. Invariants: a read is let go on only
//! when everything it wants is present by the map that all processes share, or when it is the
//! worker's own; a question outlives the worker it was given to; while the file system lives, so
//! does the group, since without it the kernel would read holes.

use crate::handover::Fill;
use ferrofs_linux::fanotify::{PreAccess, ReadEvent, Verdict};
use ferrofs_linux::mountinfo;
use ferrofs_store::KernelHold;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const INSTANCES: &str = "/sys/fs/erofs";

/// How often is looked whether a blob is complete, at most.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// The group, what it stands for, and the questions that wait.
#[derive(Debug)]
pub(crate) struct Marks {
    group: PreAccess,
    holds: Vec<KernelHold>,
    /// Devices that were marked here and not complete when last looked at.
    marked: BTreeSet<usize>,
    looked: Instant,
    waiting: BTreeMap<u64, (ReadEvent, Fill)>,
    next: u64,
    /// Nobody will fetch any more.
    refusing: bool,
}

impl Marks {
    /// Answers for `holds`, which were marked by somebody else.
    pub(crate) fn new(group: PreAccess, holds: Vec<KernelHold>) -> Self {
        Self {
            group,
            holds,
            marked: BTreeSet::new(),
            looked: Instant::now(),
            waiting: BTreeMap::new(),
            next: 0,
            refusing: false,
        }
    }

    /// Has the kernel ask about one more blob: whoever opens its file from now on.
    pub(crate) fn add(&mut self, hold: KernelHold) -> io::Result<()> {
        if !hold.is_present(&(0..hold.size())) {
            self.group.mark(path_of(&hold).as_ref())?;
            self.marked.insert(self.holds.len());
        }
        self.holds.push(hold);
        Ok(())
    }

    /// Has the kernel ask no longer about blobs that are complete, for what is present stays as long
    /// as we hold it: from then on they are read as fast as any file.
    fn let_go_of_complete(&mut self) {
        if self.marked.is_empty() || self.looked.elapsed() < LOOK_TIME {
            return;
        }
        self.looked = Instant::now();
        let Self { group, holds, marked, .. } = self;
        marked.retain(|device| {
            let Some(hold) = holds.get(*device) else { return false };
            if !hold.is_present(&(0..hold.size())) {
                return true;
            }
            if let Err(error) = group.unmark(path_of(hold).as_ref()) {
                // It goes on asking, and is answered.
                tracing::warn!(%error, "a complete blob is asked about");
            }
            false
        });
    }

    /// The blobs, marked or complete.
    pub(super) fn holds(&self) -> &[KernelHold] {
        &self.holds
    }

    pub(crate) fn group(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }

    /// Takes questions and answers those that can be; what must be fetched first is given back.
    /// `worker` writes what it has fetched, for which it is asked, too.
    pub(crate) fn asked(&mut self, worker: Option<i32>) -> io::Result<Vec<Fill>> {
        let (mut events, mut fills) = (Vec::new(), Vec::new());
        let taken = self.group.take(&mut events);
        for event in events {
            let device = self.holds.iter().position(|hold| hold.is(&event.file));
            let Some((device, hold)) = device.and_then(|at| Some((at, self.holds.get(at)?))) else {
                // It cannot be: nothing else is marked.
                self.group.answer(&event, Verdict::Deny)?;
                continue;
            };
            // A length that is not told is the longest.
            let len = if event.len == 0 { u64::MAX } else { event.len };
            let range = event.offset..event.offset.saturating_add(len).min(hold.size());
            if worker == Some(event.pid) || hold.is_present(&range) {
                self.group.answer(&event, Verdict::Allow)?;
            } else if self.refusing {
                self.group.answer(&event, Verdict::Deny)?;
            } else {
                let fill = Fill { id: self.next, device, start: range.start, end: range.end };
                self.next += 1;
                fills.push(fill);
                self.waiting.insert(fill.id, (event, fill));
            }
        }
        self.let_go_of_complete();
        taken.map(|()| fills)
    }

    /// The worker is done with a question.
    pub(crate) fn filled(&mut self, id: u64) -> io::Result<()> {
        // Another worker may have been faster, whose word came late.
        let Some((event, fill)) = self.waiting.remove(&id) else { return Ok(()) };
        // Believed is the map.
        let present = self
            .holds
            .get(fill.device)
            .is_some_and(|hold| hold.is_present(&(fill.start..fill.end)));
        self.group.answer(&event, if present { Verdict::Allow } else { Verdict::Deny })
    }

    /// What a new worker is to be asked.
    pub(crate) fn unanswered(&self) -> Vec<Fill> {
        self.waiting.values().map(|(_, fill)| *fill).collect()
    }

    /// From now on what is not present is an error.
    pub(crate) fn refuse(&mut self) -> io::Result<()> {
        self.refusing = true;
        for (event, _) in std::mem::take(&mut self.waiting).into_values() {
            self.group.answer(&event, Verdict::Deny)?;
        }
        Ok(())
    }

    /// As [`Marks::refuse`], also for what a process that is gone has taken.
    pub(crate) fn refuse_of_others(&mut self, end: i32) -> io::Result<()> {
        self.group.refuse_below(end);
        self.refuse()
    }
}

/// A name of its data file that no folder need have.
fn path_of(hold: &KernelHold) -> String {
    format!("/proc/self/fd/{}", hold.data().as_raw_fd())
}

/// A mount by the kernel, and whether it is still somewhere.
#[derive(Debug)]
pub(crate) struct Instance {
    target: PathBuf,
    device: (u32, u32),
    /// Names that came up in sysfs when it was made. If others mounted at the same time theirs are
    /// among them, and it is taken to live as long as any of these.
    names: Vec<String>,
    list: File,
}

impl Instance {
    /// Names of all instances there are.
    pub(crate) fn names() -> HashSet<String> {
        let folders = std::fs::read_dir(INSTANCES).into_iter().flatten().flatten();
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// `names`: those that came up in sysfs when it was mounted.
    pub(crate) fn new(target: PathBuf, device: (u32, u32), names: Vec<String>) -> io::Result<Self> {
        Ok(Self { target, device, names, list: File::open("/proc/self/mountinfo")? })
    }

    /// A poll for what is urgent here tells that mounts have changed.
    pub(crate) fn changes(&self) -> BorrowedFd<'_> {
        self.list.as_fd()
    }

    /// Whether it is where it was mounted.
    pub(crate) fn is_mounted(&self) -> bool {
        match mountinfo::find(&self.target) {
            Ok(entry) => entry.is_some_and(|entry| entry.device == self.device),
            // Rather too long than too short.
            Err(_) => true,
        }
    }

    /// Whether it is anywhere: mounted elsewhere, or detached and in use.
    pub(crate) fn lives(&self) -> bool {
        self.is_mounted()
            || self.names.is_empty()
            || self.names.iter().any(|name| PathBuf::from(INSTANCES).join(name).exists())
    }
}

/// Answers alone, until the file system is gone: the one who should has died. What is present is
/// read, the rest is an error.
pub(crate) fn guard(marks: &mut Marks, instance: &Instance, numbers_end: i32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // Whatever fails here, letting go of the group would be worse.
    if let Err(error) = marks.refuse_of_others(numbers_end) {
        tracing::error!(%error, "a reader may wait for ever");
    }
    while instance.lives() {
        let mut fds = [PollFd::from_borrowed_fd(marks.group(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        if let Err(error) = marks.asked(None) {
            tracing::error!(%error, "a reader may wait for ever");
        }
    }
}
