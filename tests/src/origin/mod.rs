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

mod acceptor;
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

use acceptor::Acceptor;
use connection::Shared;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// A running origin on a port of its own on the loopback; stops when dropped.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    acceptor: Acceptor,
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
        let shared = Arc::new(Shared::new(content, link));
        let acceptor = Acceptor::start("origin", address, Arc::clone(&shared.stop), {
            let shared = Arc::clone(&shared);
            move |stream| shared.serve(stream)
        })?;
        Ok(Self { shared, acceptor })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// The address of `path` (which begins with a slash) here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
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

/// A test that failed with a lock held has told why already.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
