// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a keeper holds: a mount by FUSE, or one by the kernel, on files that FUSE serves or on the
//! cache's own.
//!
//! Refuses to know workers. Invariant: where nobody answers any more, readers get errors.

use crate::control;
use crate::device_files;
use crate::handover::{Fill, Front, Fuse, Mounted, Opened};
use crate::keeper::guard::Guard;
use crate::keeper::marks::{self, Instance, Marks};
use crate::{Error, MountMethod, MountSpec, Result, WorkerLog};
use ferrofs_fuse::{Connection, MountHow, Unmounter};
use ferrofs_linux::{MountFlags, MountRequest, mountinfo};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is looked whether a detached mount is still in use.
const DETACHED_STEP: Duration = Duration::from_millis(100);
/// How often it is looked whether the kernel has mounted.
pub(super) const MOUNTING_STEP: Duration = Duration::from_millis(5);

/// A mount, whoever serves it.
#[derive(Debug)]
pub(super) enum Held {
    /// FUSE shows the tree.
    Tree(Connection),
    /// FUSE shows files to nobody but the kernel's EROFS, which is mounted on them.
    Files {
        connection: Connection,
        /// Of the kernel's mount, and how the worker is told of it.
        unmounter: Option<(Unmounter, Mounted)>,
    },
    /// The kernel's EROFS is mounted on the cache's own files, and asks before it reads them.
    Marks(Box<Asking>),
}

/// A mount that asks.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) marks: Marks,
    /// Told by its end that nobody is left. None: it was killed, and no other can be started.
    pub(super) guard: Option<Guard>,
    /// Of the kernel's mount, once it is made.
    pub(super) mounted: Option<(Unmounter, Mounted, Instance)>,
}

impl Held {
    pub(super) const fn front(&self) -> Front {
        match self {
            Self::Tree(_) => Front::Tree,
            Self::Files { .. } => Front::Files,
            Self::Marks(_) => Front::Marks,
        }
    }

    const fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Tree(connection) | Self::Files { connection, .. } => Some(connection),
            Self::Marks(_) => None,
        }
    }

    /// What the worker gets; none once it is abandoned.
    pub(super) fn device(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tree(connection) | Self::Files { connection, .. } => connection.device(),
            Self::Marks(asking) => Some(asking.marks.group()),
        }
    }

    /// What the worker gets besides, if it and we are not to be the only ones.
    pub(super) fn guard(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tree(_) | Self::Files { .. } => None,
            Self::Marks(asking) => asking.guard.as_ref().map(Guard::socket),
        }
    }

    /// What to poll for: that something is to be done about the mount, or that it may be gone.
    pub(super) fn polls(&self) -> Vec<PollFd<'_>> {
        match self {
            // Of the device only its end is told.
            Self::Tree(connection) | Self::Files { connection, .. } => {
                let device = connection.device();
                device
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()))
                    .into_iter()
                    .collect()
            }
            Self::Marks(asking) => {
                let list = asking.mounted.as_ref().map(|(.., instance)| {
                    PollFd::from_borrowed_fd(instance.changes(), PollFlags::PRI)
                });
                let group = PollFd::from_borrowed_fd(asking.marks.group(), PollFlags::IN);
                // Only its end is told.
                let guard = asking.guard.as_ref();
                let guard =
                    guard.map(|guard| PollFd::from_borrowed_fd(guard.socket(), PollFlags::empty()));
                std::iter::once(group).chain(list).chain(guard).collect()
            }
        }
    }

    /// After a poll, or the time of [`Held::look_again`]: whether the mount is gone, and what must be
    /// fetched. `worker`: its process.
    pub(super) fn look(&mut self, worker: Option<i32>) -> io::Result<(bool, Vec<Fill>)> {
        match self {
            Self::Tree(_) | Self::Files { .. } => Ok((true, Vec::new())),
            Self::Marks(asking) => {
                let fills = asking.marks.asked(worker)?;
                let gone = asking.mounted.as_ref().is_some_and(|(.., at)| !at.lives());
                Ok((gone, fills))
            }
        }
    }

    /// Starts another guard if it was killed. Workers that are there do not know it: it acts when this
    /// process ends.
    pub(super) fn see_to_guard(&mut self, log: &WorkerLog) {
        let Self::Marks(asking) = self else { return };
        if !asking.guard.as_ref().is_some_and(Guard::is_gone) {
            return;
        }
        let started = Guard::start(asking.marks.group(), log).and_then(|guard| {
            asking.marks.holds().iter().try_for_each(|hold| guard.add(hold))?;
            asking.mounted.iter().try_for_each(|(_, mounted, _)| guard.set_mounted(mounted))?;
            Ok(guard)
        });
        if let Err(error) = &started {
            tracing::warn!(%error, "nobody will be there if this process and the worker are killed");
        }
        asking.guard = started.ok();
    }

    /// Nothing tells the end of a mount that is detached but in use: when to look.
    pub(super) fn look_again(&self) -> Option<Duration> {
        match self {
            Self::Marks(asking) => {
                let (.., instance) = asking.mounted.as_ref()?;
                (!instance.is_mounted()).then_some(DETACHED_STEP)
            }
            _ => None,
        }
    }

    pub(super) fn fuse(&self) -> Option<Fuse> {
        self.connection().map(|connection| Fuse::from(connection.negotiated()))
    }

    /// Whether what a dead worker left unanswered can be answered by the next.
    pub(super) fn can_resend(&self) -> bool {
        self.connection().is_none_or(|connection| connection.negotiated().can_resend())
    }

    pub(super) fn unmounter(&self) -> Option<&Unmounter> {
        match self {
            Self::Tree(connection) => connection.unmounter(),
            Self::Files { unmounter, .. } => unmounter.as_ref().map(|(unmounter, _)| unmounter),
            Self::Marks(asking) => asking.mounted.as_ref().map(|(unmounter, ..)| unmounter),
        }
    }

    /// Where users see it, once they do.
    pub(super) fn mounted(&self) -> Option<Mounted> {
        match self {
            Self::Tree(connection) => {
                let unmounter = connection.unmounter()?;
                Some(Mounted {
                    target: unmounter.target().as_os_str().to_owned(),
                    device: unmounter.device()?,
                    by_helper: connection.how() == MountHow::Helper,
                    instance: Vec::new(),
                })
            }
            Self::Files { unmounter, .. } => unmounter.as_ref().map(|(_, mounted)| mounted.clone()),
            Self::Marks(asking) => asking.mounted.as_ref().map(|(_, mounted, _)| mounted.clone()),
        }
    }

    /// The kernel has mounted EROFS.
    pub(super) fn set_mounted(&mut self, mounted: &Mounted) -> io::Result<()> {
        let target = PathBuf::from(&mounted.target);
        let found = Unmounter::existing(target.clone(), mounted.device, MountHow::Direct);
        match self {
            Self::Tree(_) => {}
            Self::Files { unmounter, .. } => *unmounter = Some((found, mounted.clone())),
            Self::Marks(asking) => {
                let names = mounted.instance.clone();
                let instance = Instance::new(target, mounted.device, names)?;
                if let Some(guard) = &asking.guard {
                    guard.set_mounted(mounted)?;
                }
                asking.mounted = Some((found, mounted.clone(), instance));
            }
        }
        Ok(())
    }

    /// Lets everything asked of the mount fail from now on, if no other process has it.
    pub(super) fn abandon(&mut self) {
        match self {
            Self::Tree(connection) | Self::Files { connection, .. } => connection.abandon(),
            Self::Marks(asking) => {
                if let Err(error) = asking.marks.refuse() {
                    tracing::error!(%error, "a reader may wait for ever");
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Marks(asking) = self
            && let Asking { marks, mounted: Some((unmounter, _, instance)), .. } = &mut **asking
        {
            // The group must not be let go of before nobody can read any more.
            let flags = ferrofs_linux::UnmountFlags { lazy: true, force: false };
            let _ = unmounter.unmount(flags);
            marks::guard(marks, instance, 0);
            return;
        }
        if let Self::Files { connection, unmounter: Some((unmounter, _)) } = self
            && connection.device().is_some()
        {
            let flags = ferrofs_linux::UnmountFlags { lazy: true, force: false };
            if let Err(error) = unmounter.unmount(flags) {
                tracing::warn!(%error, "the mount stays");
            }
        }
    }
}

/// How an image that is read on demand is to be mounted.
pub(super) enum Choice {
    /// By the kernel on the cache's own files.
    Marks,
    /// By FUSE, and why.
    Tree(String),
    /// By the kernel on files, and why; if it refuses, perhaps by FUSE.
    Files { or_tree: bool, reason: String },
}

/// Chooses, by what is wanted and what was found.
pub(super) fn choose(spec: &MountSpec, opened: &Opened) -> Result<Choice> {
    let tree = |reason: String| match spec.options.not_for_fuse() {
        None => Ok(Choice::Tree(reason)),
        Some(Error::Option { option, .. }) => Err(Error::KernelOnly { option, reason }),
        Some(error) => Err(error),
    };
    spec.options.not_for_new().map_or(Ok(()), Err)?;
    let only_for_tree = spec.options.only_for_tree();
    match spec.method {
        MountMethod::Fuse => {
            spec.options.not_for_fuse().map_or(Ok(()), Err)?;
            Ok(Choice::Tree(String::from("as asked")))
        }
        MountMethod::Kernel | MountMethod::FuseFile | MountMethod::Fanotify => {
            if let Some(option) = only_for_tree {
                let what = "only mounts by FUSE alone have it (--fuse)";
                return Err(Error::Option { option, what });
            }
            match &opened.obstacle {
                Some(reason) => Err(Error::Obstacle { reason: reason.clone() }),
                None if spec.method == MountMethod::Fanotify => Ok(Choice::Marks),
                None => Ok(Choice::Files { or_tree: false, reason: String::from("as asked") }),
            }
        }
        MountMethod::Auto => match (only_for_tree, &opened.obstacle) {
            (Some(option), _) => tree(format!("only FUSE has the option {option}")),
            (None, Some(obstacle)) => tree(obstacle.clone()),
            (None, None) => Ok(Choice::Files {
                or_tree: spec.options.not_for_fuse().is_none(),
                reason: String::from("what it reads there is fetched when it is read"),
            }),
        },
    }
}

/// What came of [`Mounting`].
pub(super) struct Found {
    pub(super) told: Mounted,
    pub(super) loop_devices: Vec<PathBuf>,
}

/// A thread that has the kernel mount EROFS on files: the kernel reads them meanwhile.
pub(super) struct Mounting(JoinHandle<Result<Found>>);

impl Mounting {
    pub(super) fn start(spec: &MountSpec, files: Files) -> Result<Self> {
        let request = MountRequest {
            target: spec.target.clone(),
            options: spec.options.kernel_options(),
            flags: MountFlags {
                // What comes from elsewhere is not trusted with more than was asked for.
                nosuid: spec.options.nosuid.unwrap_or(true),
                nodev: spec.options.nodev.unwrap_or(true),
                ..spec.options.kernel_flags()
            },
            ..MountRequest::default()
        };
        let thread = std::thread::Builder::new().name(String::from("mount"));
        let image = spec.files.image.clone();
        let work = move || mount(request, files, &image);
        let thread = thread.spawn(work);
        thread.map(Self).map_err(|error| Error::Io { doing: "start a thread", error })
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    pub(super) fn end(self) -> Result<Found> {
        self.0.join().map_err(|_| Error::Answer)?
    }
}

/// A link to what is mounted, by whose name the list of mounts shows it. Gone when dropped.
struct Shown {
    folder: PathBuf,
    link: PathBuf,
}

impl Shown {
    fn new(source: &Path, image: &Path) -> io::Result<Self> {
        let unfit = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = image.file_name().ok_or_else(unfit)?;
        // One mount is made by a process.
        let folder = control::folder_of_root()?.join(std::process::id().to_string());
        std::fs::create_dir(&folder)?;
        let shown = Self { link: folder.join(name), folder };
        std::os::unix::fs::symlink(source, &shown.link)?;
        Ok(shown)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // What stays is in nobody's way.
        let _ = std::fs::remove_file(&self.link);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// What the kernel is to mount.
pub(super) enum Files {
    /// So many files in this root.
    Served { root: OwnedFd, devices: usize },
    /// These.
    Own(Vec<File>),
}

impl Files {
    fn open(self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Own(files) => Ok(files.into_iter().map(OwnedFd::from).collect()),
            Self::Served { root, devices } => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let open = |index| {
                    rustix::fs::openat(&root, device_files::name(index), flags, Mode::empty())
                };
                Ok((0..devices).map(open).collect::<rustix::io::Result<_>>()?)
            }
        }
    }
}

fn mount(mut request: MountRequest, files: Files, image: &Path) -> Result<Found> {
    let fail = |doing| move |error| Error::Io { doing, error };
    let own = matches!(files, Files::Own(_));
    let files = files.open().map_err(fail("open what is to be mounted"))?;
    // What is served has no other path.
    let mut paths =
        files.iter().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    request.source = paths.next().ok_or(Error::Answer)?;
    request.devices = paths.collect();
    let shown = Shown::new(&request.source, image).ok();
    if let Some(shown) = &shown {
        request.source.clone_from(&shown.link);
    }
    let target = request.target.canonicalize().map_err(fail("find the directory to mount on"))?;
    let before = Instance::names();
    let loop_devices = if own {
        // A loop device would read without asking.
        ferrofs_linux::mount_erofs_on_files(&request)?;
        Vec::new()
    } else {
        ferrofs_linux::mount_erofs(&request)?.loop_devices
    };
    let entry = mountinfo::find(&target).map_err(fail("read the list of mounts"))?;
    let entry = entry.ok_or_else(|| Error::NotMounted { path: target.clone() })?;
    let instance = Instance::names().difference(&before).cloned().collect();
    let device = entry.device;
    let told = Mounted { target: target.into(), device, by_helper: false, instance };
    Ok(Found { told, loop_devices })
}
