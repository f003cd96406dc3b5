// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a keeper holds: a mount by FUSE, or one by the kernel on files that FUSE serves.
//!
//! Refuses to know workers. Invariant: where nobody answers any more, readers get errors: what is
//! held ends with its descriptors.

use crate::control;
use crate::device_files;
use crate::handover::{Front, Mounted, Opened};
use crate::{Error, MountMethod, MountSpec, Result};
use ferrofs_fuse::{Connection, MountHow, Negotiated, Unmounter};
use ferrofs_linux::{MountFlags, MountRequest, mountinfo};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

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
}

impl Held {
    pub(super) const fn front(&self) -> Front {
        match self {
            Self::Tree(_) => Front::Tree,
            Self::Files { .. } => Front::Files,
        }
    }

    const fn connection(&self) -> &Connection {
        match self {
            Self::Tree(connection) | Self::Files { connection, .. } => connection,
        }
    }

    /// What a poll of tells an error of when the mount is gone; none once it is abandoned.
    pub(super) fn device(&self) -> Option<BorrowedFd<'_>> {
        self.connection().device()
    }

    pub(super) fn negotiated(&self) -> &Negotiated {
        self.connection().negotiated()
    }

    pub(super) fn can_resend(&self) -> bool {
        self.negotiated().can_resend()
    }

    pub(super) fn unmounter(&self) -> Option<&Unmounter> {
        match self {
            Self::Tree(connection) => connection.unmounter(),
            Self::Files { unmounter, .. } => unmounter.as_ref().map(|(unmounter, _)| unmounter),
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
                })
            }
            Self::Files { unmounter, .. } => unmounter.as_ref().map(|(_, mounted)| mounted.clone()),
        }
    }

    /// The kernel has mounted EROFS.
    pub(super) fn set_mounted(&mut self, mounted: &Mounted) {
        if let Self::Files { unmounter, .. } = self {
            let target = PathBuf::from(&mounted.target);
            let found = Unmounter::existing(target, mounted.device, MountHow::Direct);
            *unmounter = Some((found, mounted.clone()));
        }
    }

    /// Lets everything asked of the mount fail from now on, if no other process has it.
    pub(super) fn abandon(&mut self) {
        match self {
            Self::Tree(connection) | Self::Files { connection, .. } => connection.abandon(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
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
        MountMethod::Kernel | MountMethod::FuseFile => {
            if let Some(option) = only_for_tree {
                let what = "only mounts by FUSE alone have it (--fuse)";
                return Err(Error::Option { option, what });
            }
            match &opened.obstacle {
                Some(reason) => Err(Error::Obstacle { reason: reason.clone() }),
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
    pub(super) fn start(spec: &MountSpec, root: OwnedFd, devices: usize) -> Result<Self> {
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
        let work = move || mount(request, &root, devices, &image);
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

fn mount(mut request: MountRequest, root: &OwnedFd, devices: usize, image: &Path) -> Result<Found> {
    let fail = |doing| move |error| Error::Io { doing, error };
    let open = |index| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(root, device_files::name(index), flags, Mode::empty())
    };
    let files: rustix::io::Result<Vec<OwnedFd>> = (0..devices).map(open).collect();
    let files = files.map_err(|errno| fail("open what is served")(errno.into()))?;
    // Nowhere else is there a path to them.
    let mut paths =
        files.iter().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    request.source = paths.next().ok_or(Error::Answer)?;
    request.devices = paths.collect();
    let shown = Shown::new(&request.source, image).ok();
    if let Some(shown) = &shown {
        request.source.clone_from(&shown.link);
    }
    let target = request.target.canonicalize().map_err(fail("find the directory to mount on"))?;
    let mounted = ferrofs_linux::mount_erofs(&request)?;
    let entry = mountinfo::find(&target).map_err(fail("read the list of mounts"))?;
    let entry = entry.ok_or_else(|| Error::NotMounted { path: target.clone() })?;
    let told = Mounted { target: target.into(), device: entry.device, by_helper: false };
    Ok(Found { told, loop_devices: mounted.loop_devices })
}
