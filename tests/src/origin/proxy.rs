// SPDX-License-Identifier: MIT OR Apache-2.0
//! A forward proxy as companies and peer-to-peer networks have them: whole URLs in request lines for
//! `http`, tunnels (CONNECT) for the rest; with a password, if wanted. It keeps a list of what it was
//! asked for.
//!
//! Invariant: after it is dropped no thread and no connection of it is left.

use super::acceptor::Acceptor;
use super::link::Stop;
use super::lock;
use super::request::read_head;
use std::io::{BufReader, Error, ErrorKind, Result, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

/// A running proxy on a port of its own on the loopback; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

#[derive(Debug, Default)]
struct Shared {
    /// The value of `Proxy-Authorization` that is let in.
    pass: Option<String>,
    asked: Mutex<Vec<String>>,
    /// What it is connected to.
    servers: Mutex<Vec<TcpStream>>,
    stop: Arc<Stop>,
}

impl Proxy {
    /// A proxy that lets everybody in, or those only who send this `Proxy-Authorization`.
    pub fn start(pass: Option<&str>) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let shared = Arc::new(Shared { pass: pass.map(str::to_owned), ..Shared::default() });
        let acceptor = Acceptor::start("proxy", address, Arc::clone(&shared.stop), {
            let shared = Arc::clone(&shared);
            // Errors end a connection: they are the peer's.
            move |stream| drop(serve(stream, &shared))
        })?;
        Ok(Self { shared, acceptor })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// Method and target of each request so far; of those in a tunnel, the tunnel alone.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.set();
        for server in lock(&self.shared.servers).drain(..) {
            // It may have ended.
            let _ = server.shutdown(Shutdown::Both);
        }
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
    lock(&shared.servers).push(server.try_clone()?);
    // Whoever stopped it may have looked a moment before.
    if shared.stop.is_set() { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(server) }
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
