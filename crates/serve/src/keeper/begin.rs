// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a keeper comes to its mount: the first worker finds the image, then the kernel is asked.

use super::guard::Guard;
use super::held::{self, Asking, Held};
use super::marks::Marks;
use super::{Keeper, Worker, canary, hand_over_failed, hear_failed, timespec};
use crate::handover::{Front, Opened, Plan, Serving, ToKeeper, ToWorker, receive};
use crate::{Chosen, Error, FusePlan, Method, MountSpec, Result, device_files};
use ferrofs_fuse::{Connection, SessionConfig, Transport};
use ferrofs_linux::fanotify::PreAccess;
use ferrofs_store::source::remote::Location;
use ferrofs_store::{KernelFiles, KernelHold};
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Most threads that serve an image whose bytes come from elsewhere: most of them wait.
const LAZY_THREADS: usize = 32;

/// A first worker that has found the image.
struct Prepared {
    plan: Plan,
    worker: Worker,
    opened: Opened,
}

impl Prepared {
    fn new(spec: &MountSpec) -> Result<Self> {
        let fail = |doing| move |error| Error::Io { doing, error };
        let plan = Plan::new(spec).map_err(fail("find the image"))?;
        let worker = Worker::start(&plan, &spec.log).map_err(fail("start a worker"))?;
        match worker.hear().map_err(hear_failed)? {
            Some(ToKeeper::Prepared(opened)) => Ok(Self { plan, worker, opened }),
            Some(ToKeeper::Failed(message)) => Err(Error::Refused { message }),
            _ => Err(Error::Answer),
        }
    }

    fn session(&self, spec: &MountSpec) -> SessionConfig {
        let mut config = spec.options.session(&self.plan.files().image.to_string_lossy());
        config.transport = Transport::Device;
        config
    }
}

fn one_channel() -> Error {
    let what = "a mount with a keeper has one channel only";
    Error::Option { option: String::from("clone_fd"), what }
}

impl Keeper {
    /// Mounts, and starts the first worker. To be called by a process without threads.
    pub fn start(plan: Box<FusePlan>) -> Result<Self> {
        let FusePlan { image, spec, chosen } = *plan;
        // The worker opens its own.
        drop(image);
        Self::begin(&spec, chosen)
    }

    /// As [`Keeper::start`], for an image whose bytes are somewhere else ([`MountSpec::lazy`]): only
    /// the worker speaks with whoever has them.
    pub fn lazy(mut spec: MountSpec) -> Result<Self> {
        let Some(lazy) = &spec.lazy else { return Err(Error::Answer) };
        if spec.files.offset > 0 || spec.options.offset.is_some() {
            let what = "an image that is read on demand begins its file";
            return Err(Error::Option { option: String::from("fsoffset"), what });
        }
        if !spec.files.devices.is_empty() || !spec.options.devices.is_empty() {
            let what = "devices of an image that is read on demand are found by their tags, or named \
                        by --device URL";
            return Err(Error::Option { option: String::from("device"), what });
        }
        spec.options.not_for_fuse().map_or(Ok(()), Err)?;
        ferrofs_linux::check_target(&spec.target)?;
        // Without user and password.
        spec.files.image = Location::parse(&lazy.location)?.to_string().into();
        spec.options.fuse.threads_max.get_or_insert(LAZY_THREADS);
        if spec.options.fuse.clone_fd {
            return Err(one_channel());
        }
        let prepared = Prepared::new(&spec)?;
        match held::choose(&spec, &prepared.opened)? {
            held::Choice::Marks => Self::asking(&spec, prepared),
            held::Choice::Tree(reason) => {
                Self::tree(&spec, prepared, Chosen { method: Method::Fuse, reason })
            }
            held::Choice::Files { or_tree, reason } => match Self::files(&spec, prepared, reason) {
                Err(Error::Mount(error)) if or_tree => {
                    let reason = format!("the kernel cannot on a file served by FUSE: {error}");
                    // The first worker has seen another mount.
                    let prepared = Prepared::new(&spec)?;
                    Self::tree(&spec, prepared, Chosen { method: Method::Fuse, reason })
                }
                other => other,
            },
        }
    }

    fn begin(spec: &MountSpec, chosen: Chosen) -> Result<Self> {
        if spec.options.fuse.clone_fd {
            return Err(one_channel());
        }
        Self::tree(spec, Prepared::new(spec)?, chosen)
    }

    /// Has the worker answer for the tree.
    fn tree(spec: &MountSpec, prepared: Prepared, chosen: Chosen) -> Result<Self> {
        let config = prepared.session(spec);
        let connection = Connection::mount(&spec.target, &config)?;
        let mut keeper = Self::new(spec, prepared, chosen, Held::Tree(connection));
        keeper.hand_over().map_err(hand_over_failed)?;
        keeper.await_serving()?;
        keeper.settle();
        Ok(keeper)
    }

    /// Has the worker answer for the devices, and the kernel mount EROFS on them.
    fn files(spec: &MountSpec, prepared: Prepared, reason: String) -> Result<Self> {
        let (devices, mut config) = (prepared.opened.devices, prepared.session(spec));
        device_files::set_up(&mut config);
        let (connection, root) = Connection::detached(&config)?;
        let chosen = Chosen { method: Method::FuseFile(Vec::new()), reason };
        let held = Held::Files { connection, unmounter: None };
        let mut keeper = Self::new(spec, prepared, chosen, held);
        keeper.hand_over().map_err(hand_over_failed)?;
        keeper.await_serving()?;
        keeper.mount_kernel(spec, held::Files::Served { root, devices })?;
        Ok(keeper)
    }

    /// Has the kernel mount EROFS on the cache's own files, about which it asks here before it reads.
    fn asking(spec: &MountSpec, prepared: Prepared) -> Result<Self> {
        let fail = |doing| move |error| Error::Io { doing, error };
        let group = PreAccess::new().map_err(fail("be asked by the kernel (Linux 6.14 can)"))?;
        let reason = String::from("as asked");
        let chosen = Chosen { method: Method::Fanotify, reason };
        let devices = prepared.opened.devices;
        let lazy = spec.lazy.as_ref().ok_or(Error::Answer)?;
        canary::check(&lazy.cache_folder())?;
        let guard = Guard::start(group.as_fd(), &spec.log).map_err(fail("start a guard"))?;
        let marks = Marks::new(group, Vec::new());
        let held = Held::Marks(Box::new(Asking { marks, guard: Some(guard), mounted: None }));
        let mut keeper = Self::new(spec, prepared, chosen, held);
        keeper.hand_over().map_err(hand_over_failed)?;
        let mut files = Vec::new();
        for _ in 0..devices {
            let hold = keeper.take_files()?;
            files.push(hold.data().try_clone().map_err(fail("open a blob"))?);
            if let Held::Marks(asking) = &mut keeper.held {
                let told = asking.guard.as_ref().map_or(Ok(()), |guard| guard.add(&hold));
                told.map_err(fail("tell the guard"))?;
                asking.marks.add(hold).map_err(fail("mark a blob in the cache"))?;
            }
        }
        keeper.mount_kernel(spec, held::Files::Own(files))?;
        Ok(keeper)
    }

    /// The next device's files, from the worker.
    fn take_files(&self) -> Result<KernelHold> {
        let worker = self.worker.as_ref().ok_or(Error::Answer)?;
        match receive(&worker.socket).map_err(hear_failed)? {
            Some((ToKeeper::Files, fds)) => {
                let [data, map, lock] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| Error::Answer)?;
                let hold = KernelHold::new(KernelFiles { data, map, lock });
                hold.map_err(|error| match error.kind() {
                    io::ErrorKind::ResourceBusy => Error::CacheInUse,
                    _ => Error::Io { doing: "hold a blob", error },
                })
            }
            Some((ToKeeper::Failed(message), _)) => Err(Error::Refused { message }),
            _ => Err(Error::Answer),
        }
    }

    /// Has the kernel mount EROFS, and answers what it asks meanwhile.
    fn mount_kernel(&mut self, spec: &MountSpec, files: held::Files) -> Result<()> {
        let mounting = held::Mounting::start(spec, files)?;
        let mounted = loop {
            // The kernel waits for the worker: without one it would for ever.
            if mounting.is_done() {
                break mounting.end()?;
            }
            if self.held.front() == Front::Marks {
                self.look_at_marks().map_err(hear_failed)?;
            }
            match self.wait_for_worker(held::MOUNTING_STEP)? {
                None => {}
                Some(ToKeeper::Filled(id)) => self.filled(id).map_err(hear_failed)?,
                Some(message) => {
                    self.held.abandon();
                    return Err(match message {
                        ToKeeper::Failed(message) => Error::Refused { message },
                        _ => Error::Answer,
                    });
                }
            }
        };
        if let Method::FuseFile(devices) = &mut self.chosen.method {
            *devices = mounted.loop_devices;
        }
        let fail = |error| Error::Io { doing: "watch the mount", error };
        self.held.set_mounted(&mounted.told).map_err(fail)?;
        self.tell(&ToWorker::Mounted(mounted.told)).map_err(hand_over_failed)?;
        self.await_serving()?;
        self.settle();
        Ok(())
    }

    fn new(spec: &MountSpec, prepared: Prepared, chosen: Chosen, held: Held) -> Self {
        Self {
            plan: prepared.plan,
            log: spec.log.clone(),
            chosen,
            held,
            patience: spec.options.fuse.patience.unwrap_or_default(),
            worker: Some(prepared.worker),
            serving: Serving::default(),
            mounted: Instant::now(),
            restarts: 0,
            faults: 0,
            deaths: 0,
            restart_at: None,
            down: None,
            detached: false,
            given_up: None,
        }
    }

    fn await_serving(&mut self) -> Result<()> {
        loop {
            let worker = self.worker.as_ref().ok_or(Error::Answer)?;
            match worker.hear().map_err(hear_failed)? {
                Some(ToKeeper::Serving(serving)) => {
                    self.set_serving(serving);
                    return Ok(());
                }
                Some(ToKeeper::Filled(id)) => self.filled(id).map_err(hear_failed)?,
                Some(ToKeeper::Failed(message)) => return Err(Error::Refused { message }),
                _ => return Err(Error::Answer),
            }
        }
    }

    /// What the worker says within `time`, if anything; that it has ended is an error.
    fn wait_for_worker(&self, time: Duration) -> Result<Option<ToKeeper>> {
        let worker = self.worker.as_ref().ok_or(Error::Answer)?;
        let mut fds = [PollFd::from_borrowed_fd(worker.socket.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(time))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            Ok(_) => worker.hear().map_err(hear_failed)?.map(Some).ok_or(Error::Answer),
            Err(errno) => Err(hear_failed(errno.into())),
        }
    }

    /// Wishes that the system may not grant.
    fn settle(&mut self) {
        if !self.held.can_resend() {
            self.serving.notes.push(String::from(
                "this kernel cannot send requests again (Linux 6.9 can): if the worker dies, the \
                 mount ends with errors",
            ));
        }
        super::stay_in_memory();
    }
}
