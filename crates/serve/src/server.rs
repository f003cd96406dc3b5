// SPDX-License-Identifier: MIT OR Apache-2.0
//! A FUSE mount and the process that serves it.
//!
//! Invariant: a signal that asks to end ends the mount first; files that are open then can be read to
//! their end.

use crate::mount::FusePlan;
use crate::{Chosen, ErofsFs, Error, Result};
use ferrofs_engine::EngineConfig;
use ferrofs_fuse::{Session, SessionStats, Unmounter};
use ferrofs_linux::UnmountFlags;
use ferrofs_linux::signals::{Signal, Signals};
use std::sync::Arc;

/// An image mounted by FUSE, to be served.
#[derive(Debug)]
pub struct Server {
    session: Session,
    fs: Arc<ErofsFs>,
    chosen: Chosen,
}

impl Server {
    pub(crate) fn start(plan: FusePlan) -> Result<Self> {
        let FusePlan { image, spec, chosen } = plan;
        let source = std::path::absolute(&spec.files.image).unwrap_or(spec.files.image);
        let config = spec.options.session(&source.to_string_lossy());
        let engine =
            EngineConfig { cache_bytes: spec.options.fuse.cache_bytes, ..EngineConfig::default() };
        let fs = Arc::new(ErofsFs::new(Arc::new(image), engine));
        let session = Session::mount(Arc::clone(&fs) as _, &spec.target, config)?;
        Ok(Self { session, fs, chosen })
    }

    /// Why FUSE.
    #[must_use]
    pub const fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// The file system, for its counters and limits.
    #[must_use]
    pub const fn fs(&self) -> &Arc<ErofsFs> {
        &self.fs
    }

    /// Unmounts, which ends [`Server::run`].
    #[must_use]
    pub fn unmounter(&self) -> Option<Unmounter> {
        self.session.unmounter()
    }

    /// Serves until the mount is gone.
    pub fn run(&self) -> Result<SessionStats> {
        Ok(self.session.run()?)
    }

    /// Serves until the mount is gone; SIGINT, SIGTERM and SIGHUP unmount it. `say` gets what there
    /// is to tell meanwhile.
    ///
    /// While files are in use the mount is only detached, and served until the last one is closed.
    /// A second signal does not wait for that.
    pub fn run_until_signal(&self, say: impl Fn(&str) + Send + 'static) -> Result<SessionStats> {
        let signals = Signals::catch(&[Signal::Hangup, Signal::Interrupt, Signal::Terminate])
            .map_err(|error| Error::Io { doing: "catch signals", error })?;
        if let Some(unmounter) = self.unmounter() {
            // Ends with the process: it waits for signals all its life.
            std::thread::Builder::new()
                .name(String::from("signals"))
                .spawn(move || unmount_on_signal(signals, &unmounter, &say))
                .map_err(|error| Error::Io { doing: "start a thread", error })?;
        }
        self.run()
    }
}

fn unmount_on_signal(signals: Signals, unmounter: &Unmounter, say: &dyn Fn(&str)) {
    let mut detached = false;
    while let Ok(Some(_)) = signals.wait(None) {
        if detached {
            say("ended while files were in use");
            // Whoever still reads gets an error now; that is what the second signal asks for.
            std::process::exit(1);
        }
        if unmounter.unmount(UnmountFlags::default()).is_ok() {
            continue;
        }
        match unmounter.unmount(UnmountFlags { lazy: true, force: false }) {
            Ok(()) => {
                detached = true;
                say("detached, but still in use: serving until the last file is closed \
                     (another signal ends it at once)");
            }
            Err(error) => say(&format!("cannot unmount: {error}")),
        }
    }
}
