// SPDX-License-Identifier: MIT OR Apache-2.0
//! A forward proxy as companies and peer-to-peer networks have them: whole URLs in request lines for
//! `http`, tunnels (CONNECT) for the rest; with a password, if wanted. It keeps a list of what it was
//! asked for.
//!
//! Invariant: after it is dropped no thread and no connection of it is left.

use super::lock;
use super::request::read_head;
use std::io::{BufReader, Error, ErrorKind, Result, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A running proxy on a port of its own on the loopback; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The value of `Proxy-Authorization` that is let in.
    pass: Option<String>,
    asked: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

impl Proxy {
    /// A proxy that lets everybody in, or those only who send this `Proxy-Authorization`.
    pub fn start(pass: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { pass: pass.map(str::to_owned), ..Shared::default() });
        let acceptor = std::thread::Builder::new().name("proxy".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Method and target of each request so far; of those in a tunnel, the tunnel alone.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.open).drain(..) {
            // It may have ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(acceptor) = self.acceptor.take()
            && woken
        {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(handle) = stream.try_clone() {
            lock(&shared.open).push(handle);
        }
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            // Errors end a connection: they are the peer's.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
    for stream in lock(&shared.open).drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(client: &TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    let mut input = BufReader::new(client);
    while let Some((line, headers)) = read_head(&mut input)? {
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(ErrorKind::InvalidData.into());
        };
        lock(&shared.asked).push(format!("{method} {target}"));
        let given = headers.iter().find(|(name, _)| name == "proxy-authorization");
        if shared.pass.is_some() && shared.pass.as_ref() != given.map(|(_, value)| value) {
            let answer = "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\
                          Content-Length: 0\r\n\r\n";
            { client }.write_all(answer.as_bytes())?;
            continue;
        }
        if method == "CONNECT" {
            let server = connect(target, shared)?;
            { client }.write_all(b"HTTP/1.1 200 Go on\r\n\r\n")?;
            return tunnel(client, &server);
        }
        let Some((authority, path)) = target.strip_prefix("http://").and_then(|rest| {
            let at = rest.find('/')?;
            Some(rest.split_at(at))
        }) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let mut server = connect(authority, shared)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            if !matches!(name.as_str(), "connection" | "proxy-authorization") {
                head.extend([&name, ": ", &value, "\r\n"]);
            }
        }
        head.push_str("\r\n");
        server.write_all(head.as_bytes())?;
        // Only GET and HEAD come here, and the answer ends with the connection.
        copy(&mut &server, &mut { client })?;
        return Ok(());
    }
    Ok(())
}

fn connect(authority: &str, shared: &Shared) -> Result<TcpStream> {
    let authority =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let server = TcpStream::connect(authority)?;
    if !server.peer_addr()?.ip().is_loopback() {
        return Err(Error::other("not on this machine"));
    }
    server.set_nodelay(true)?;
    lock(&shared.open).push(server.try_clone()?);
    Ok(server)
}

fn tunnel(client: &TcpStream, server: &TcpStream) -> Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = copy(&mut &*client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        let copied = copy(&mut &*server, &mut &*client).map(|_| ());
        let _ = client.shutdown(Shutdown::Both);
        copied
    })
}
