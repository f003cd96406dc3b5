// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener whose connections have a thread each.
//!
//! Invariant: after it is dropped no thread and no connection of it is left.

use super::link::Stop;
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

#[derive(Debug)]
pub(super) struct Acceptor {
    address: SocketAddr,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Listens at `address`, and has `serve` serve each connection to its end.
    pub(super) fn start(
        name: &str,
        address: SocketAddr,
        stop: Arc<Stop>,
        serve: impl Fn(&TcpStream) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let thread = std::thread::Builder::new().name(name.into()).spawn({
            let stop = Arc::clone(&stop);
            move || accept(&listener, &stop, &Arc::new(serve))
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.set();
        // Wakes the thread; if even that fails there is nothing to join.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    stop: &Stop,
    serve: &Arc<impl Fn(&TcpStream) + Send + Sync + 'static>,
) {
    let mut open: VecDeque<(TcpStream, JoinHandle<()>)> = VecDeque::new();
    for stream in listener.incoming() {
        if stop.is_set() {
            break;
        }
        let Ok(stream) = stream else { continue };
        open.retain(|(_, thread)| !thread.is_finished());
        let Ok(handle) = stream.try_clone() else { continue };
        let serve = Arc::clone(serve);
        let thread = std::thread::Builder::new().name("connection".into());
        if let Ok(thread) = thread.spawn(move || {
            serve(&stream);
            // Another handle of the socket is open: dropping this one would not end it.
            let _ = stream.shutdown(Shutdown::Both);
        }) {
            open.push_back((handle, thread));
        }
    }
    for (stream, thread) in open {
        // Ends a read or a write that waits for the peer.
        let _ = stream.shutdown(Shutdown::Both);
        let _ = thread.join();
    }
}
