// SPDX-License-Identifier: MIT OR Apache-2.0
//! An HTTP/1.1 origin that misbehaves on demand, and the real servers it can stand before.
//!
//! [`Origin`] serves bytes or a folder, or passes requests on to another server (nginx, a registry,
//! S3), each request with the [`Fault`]s that a test's script gives it, over one simulated
//! [`Link`]. It keeps a [`Ledger`] of what was asked and what was sent: bytes are counted here, at
//! the origin, not by the reader that is judged.
//!
//! It knows nothing of ferrofs. Invariant: without a fault an answer is right; after [`Origin`] is
//! dropped no thread and no connection of it is left, whatever stall it was in.

mod answer;
pub mod certificate;
pub mod component;
mod connection;
mod content;
mod fault;
mod ledger;
mod link;
mod proxy;
mod request;

pub use content::Content;
pub use fault::{Fault, Script, at_random};
pub use ledger::{Entry, Ledger};
pub use link::Link;
pub use proxy::Proxy;
pub use request::Request;

use connection::Shared;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A running origin on a port of its own on the loopback; stops when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// Serves `content` over an unlimited link, without a fault.
    pub fn start(content: Content) -> std::io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), content, Link::unlimited())
    }

    /// Serves `content` over `link`, without a fault.
    pub fn over(content: Content, link: Link) -> std::io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), content, link)
    }

    /// Serves `content` at `address`.
    pub fn listen(address: SocketAddr, content: Content, link: Link) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(content, link));
        let acceptor = std::thread::Builder::new().name("origin".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of `path` (which begins with a slash) here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on `script` says which faults a request gets.
    pub fn script(&self, script: Script) {
        *lock(&self.shared.script) = Some(script);
    }

    /// From now on no request gets a fault (queued ones are dropped, too).
    pub fn behave(&self) {
        *lock(&self.shared.script) = None;
        lock(&self.shared.queue).clear();
    }

    /// The next request that nothing is queued for gets exactly these faults, before any script.
    pub fn next(&self, faults: Vec<Fault>) {
        lock(&self.shared.queue).push_back(faults);
    }

    /// From now on serves something else.
    pub fn replace(&self, content: Content) {
        *lock(&self.shared.content) = Arc::new(content);
    }

    /// What was asked and sent so far.
    pub fn ledger(&self) -> Ledger {
        lock(&self.shared.ledger).clone()
    }

    /// Begins a new ledger; answers under way are counted in neither.
    pub fn forget(&self) {
        lock(&self.shared.ledger).clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.set();
        // Wakes the acceptor; if even that fails there is nothing to join.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(acceptor) = self.acceptor.take()
            && woken
        {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut open: VecDeque<(TcpStream, JoinHandle<()>)> = VecDeque::new();
    for stream in listener.incoming() {
        if shared.stop.is_set() {
            break;
        }
        let Ok(stream) = stream else { continue };
        open.retain(|(_, thread)| !thread.is_finished());
        let Ok(handle) = stream.try_clone() else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("origin-connection".into())
            .spawn(move || shared.serve(&stream));
        if let Ok(thread) = thread {
            open.push_back((handle, thread));
        }
    }
    for (stream, thread) in open {
        // Ends a read or a write that waits for the peer.
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = thread.join();
    }
}

/// A test that failed with a lock held has told why already.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
