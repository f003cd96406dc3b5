// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that reads an image and answers for it, on behalf of a keeper.
//!
//! Knows nothing of the workers before it: every request can be answered from the image alone.
//! Invariant: when the keeper is gone the mount fails: nobody would be there to replace this process.

use crate::handover::{Plan, Serve, Serving, ToKeeper, ToWorker, receive, send};
use crate::lazy::LazyImage;
use crate::server::{Place, Server};
use crate::{ErofsFs, Error, Result};
use ferrofs_fuse::{MountHow, Session, Transport, Unmounter};
use ferrofs_linux::UnmountFlags;
use ferrofs_store::Blob;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Works for the keeper at the other end of the standard input, until the mount is gone. The exit
/// code: 0 if nothing is left to be served.
#[must_use]
pub fn work() -> u8 {
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "no keeper");
            return 1;
        }
    };
    match serve(&socket) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the worker ends");
            // Without a keeper there is nobody to tell.
            let _ = send(&socket, &ToKeeper::Failed(error.to_string()), &[]);
            1
        }
    }
}

fn serve(socket: &OwnedFd) -> Result<()> {
    let ToWorker::Prepare(plan) = next(socket)?.0 else { return Err(Error::Answer) };
    if let Some(score) = plan.oom_score {
        // It was the user's choice; if it stays lower than that, nothing breaks.
        let _ = ferrofs_linux::process::set_oom_score(score);
    }
    Server::share_heaps();
    let options = plan.options()?;
    let (image, blobs) = match &plan.lazy {
        Some(lazy) => {
            let LazyImage { image, blobs } = lazy.open(plan.patience())?;
            (image, blobs)
        }
        None => (plan.files().open_whole()?, Vec::new()),
    };
    let fs = Arc::new(ErofsFs::new(Arc::new(image), options.engine_config()));
    let say = |message| {
        send(socket, &message, &[]).map_err(|error| Error::Io { doing: "tell the keeper", error })
    };
    say(ToKeeper::Prepared)?;
    let (message, mut fds) = next(socket)?;
    let (ToWorker::Serve(serve), Some(device)) = (message, fds.pop()) else {
        return Err(Error::Answer);
    };
    let server = start(&plan, &serve, fs, blobs, device)?;
    say(ToKeeper::Serving(Serving { metrics: server.metrics(), notes: server.notes().to_vec() }))?;
    watch_keeper(socket, &serve)?;
    server.run().map(|_| ())
}

fn next(socket: &OwnedFd) -> Result<(ToWorker, Vec<OwnedFd>)> {
    let received =
        receive(socket).map_err(|error| Error::Io { doing: "hear the keeper", error })?;
    received.ok_or(Error::Answer)
}

fn start(
    plan: &Plan,
    serve: &Serve,
    fs: Arc<ErofsFs>,
    blobs: Vec<Blob>,
    device: OwnedFd,
) -> Result<Server> {
    let options = plan.options()?;
    let files = plan.files();
    let mut config = options.session(&files.image.to_string_lossy());
    config.transport = Transport::Device;
    let session = Session::from_fd(Arc::clone(&fs) as _, device, serve.negotiated(), config)?;
    if serve.takeovers > 0 {
        session.resend()?;
    }
    let place = Place {
        device: Some(serve.device),
        target: PathBuf::from(&serve.target),
        source: files.image,
        blobs,
        takeovers: Some(serve.takeovers),
        started: Instant::now().checked_sub(serve.uptime).unwrap_or_else(Instant::now),
    };
    Server::of_session(&options, fs, Arc::new(session), place)
}

/// Ends the mount and this process when the keeper does.
fn watch_keeper(socket: &OwnedFd, serve: &Serve) -> Result<()> {
    let fail = |error| Error::Io { doing: "watch the keeper", error };
    let socket = socket.try_clone().map_err(fail)?;
    let how = if serve.by_helper { MountHow::Helper } else { MountHow::Direct };
    let unmounter = Unmounter::existing(PathBuf::from(&serve.target), serve.device, how);
    let thread = std::thread::Builder::new().name(String::from("keeper-watch"));
    let watch = move || {
        // It says nothing more as long as it lives.
        while receive::<ToWorker>(&socket).is_ok_and(|message| message.is_some()) {}
        tracing::error!("the keeper is gone; the mount ends");
        if let Err(error) = unmounter.unmount(UnmountFlags { lazy: true, force: true }) {
            tracing::error!(%error, "the mount stays");
        }
        std::process::exit(1);
    };
    thread.spawn(watch).map(|_| ()).map_err(fail)
}
