// SPDX-License-Identifier: MIT OR Apache-2.0
//! How connections come about: names looked up once for many requests, and plain HTTP through a
//! proxy in the form that proxies cache.
//!
//! `ureq` asks the resolver before it looks into its pool, and with a deadline it starts a thread for
//! that; and it tunnels everything with CONNECT, which proxies refuse for port 80 and peer-to-peer
//! caches cannot look into.

use crate::Secret;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Proxy, ProxyProtocol};

/// How long an address is taken for granted. A failed connection does not wait for that: its name is
/// forgotten at once.
const ADDRESS_AGE_MAX: Duration = Duration::from_secs(30);
/// Names kept; a hostile server that redirects to ever new hosts must not fill the memory.
const NAMES_MAX: usize = 256;

/// Resolver with a memory.
#[derive(Clone, Default)]
pub(super) struct Names {
    known: Arc<Mutex<HashMap<String, (Instant, ResolvedSocketAddrs)>>>,
}

impl Names {
    /// Forgets a host that could not be reached.
    pub(super) fn forget(&self, host: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| name.rsplit_once(':').is_none_or(|(name, _)| name != host));
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            let mut addresses = self.empty();
            addresses.push(SocketAddr::new(address, port));
            return Ok(addresses);
        }
        let name = format!("{host}:{port}");
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((when, addresses)) = known.get(&name)
                && when.elapsed() < ADDRESS_AGE_MAX
            {
                return Ok(addresses.clone());
            }
        }
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name, (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

thread_local! {
    /// Whether the request that this thread is in made a connection, or took a kept one.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a request and tells whether it used a kept connection.
pub(super) fn watch<T>(request: impl FnOnce() -> T) -> (T, bool) {
    CONNECTED.set(false);
    let answer = request();
    (answer, !CONNECTED.get())
}

/// Counts connections, at the end of the chain of connectors.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Arc<AtomicU64>);

impl<In: Transport> Connector<In> for Counted {
    type Out = In;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<In>, Error> {
        CONNECTED.set(true);
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(chained)
    }
}

/// A proxy by its URL; nothing of that is repeated in errors.
pub(super) fn proxy(url: &Secret) -> Result<Proxy, crate::Error> {
    let wrong = |why: &str| crate::Error::invalid(format!("the proxy's URL is wrong: {why}"));
    let (url, login) = super::address::parse(url.reveal())
        .map_err(|_| wrong("it is http://[USER:PASSWORD@]HOST[:PORT], or https://"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(wrong("there is something after the host"));
    }
    let https = url.scheme() == "https";
    let protocol = if https { ProxyProtocol::Https } else { ProxyProtocol::Http };
    // Made by `address::parse`, which wants both.
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let mut builder = Proxy::builder(protocol).host(host).port(port);
    if let Some((user, password)) = &login {
        builder = builder.username(user).password(password.reveal());
    }
    builder.build().map_err(|_| wrong("no such host or user can be named"))
}

/// Whether what a proxy said to CONNECT will not change by itself: `proxy server responded 407/407`.
pub(super) fn is_refusal(reason: &str) -> bool {
    let status = reason.rsplit(' ').next().and_then(|status| status.split('/').next());
    matches!(status, Some("401" | "403" | "405" | "407"))
}

/// Opens plain connections to an HTTP proxy for `http` URLs.
#[derive(Debug)]
pub(super) struct PlainProxy;

impl Connector<()> for PlainProxy {
    type Out = PlainProxyTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<PlainProxyTransport>, Error> {
        let Some(proxy) = details.config.proxy() else { return Ok(None) };
        if details.needs_tls()
            || proxy.protocol() != ProxyProtocol::Http
            || proxy.is_no_proxy(details.uri)
        {
            return Ok(None);
        }
        let addresses = details.resolver.resolve(proxy.uri(), details.config, details.timeout)?;
        let mut failure = Error::ConnectionFailed;
        for address in &addresses {
            let stream = match details.timeout.not_zero() {
                Some(limit) => TcpStream::connect_timeout(address, *limit),
                None => TcpStream::connect(address),
            };
            match stream {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let config = details.config;
                    return Ok(Some(PlainProxyTransport {
                        stream,
                        buffers: LazyBuffers::new(
                            config.input_buffer_size(),
                            config.output_buffer_size(),
                        ),
                        prefix: format!(
                            "http://{}",
                            details.uri.authority().map_or("", |a| a.as_str())
                        ),
                        login: authorization(proxy),
                        at_head: true,
                    }));
                }
                Err(error) => failure = Error::Io(error),
            }
        }
        Err(failure)
    }
}

fn authorization(proxy: &Proxy) -> String {
    use base64::Engine;
    if proxy.username().is_none() && proxy.password().is_none() {
        return String::new();
    }
    let (user, password) =
        (proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
    let login = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Proxy-Authorization: Basic {login}\r\n")
}

/// A connection to a proxy that wants whole URLs in request lines.
pub(super) struct PlainProxyTransport {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// Scheme and authority of the server.
    prefix: String,
    /// A header line, or nothing.
    login: String,
    /// What is sent next begins a request: nothing was sent since something was received.
    at_head: bool,
}

impl fmt::Debug for PlainProxyTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainProxyTransport").finish_non_exhaustive()
    }
}

/// The head of a request with the whole URL in its first line, and the proxy's credentials.
fn for_proxy(head: &[u8], prefix: &str, login: &str) -> Option<Vec<u8>> {
    let path = head.iter().position(|&byte| byte == b' ')?.checked_add(1)?;
    let line = head.windows(2).position(|pair| pair == b"\r\n")?.checked_add(2)?;
    if path >= line || head.get(path) != Some(&b'/') {
        return None;
    }
    let mut text = Vec::with_capacity(head.len() + prefix.len() + login.len());
    text.extend_from_slice(&head[..path]);
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(&head[path..line]);
    text.extend_from_slice(login.as_bytes());
    text.extend_from_slice(&head[line..]);
    Some(text)
}

fn as_timeout(error: std::io::Error, timeout: NextTimeout) -> Error {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
        Error::Timeout(timeout.reason)
    } else {
        Error::Io(error)
    }
}

impl Transport for PlainProxyTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(timeout.not_zero().map(|limit| *limit))?;
        let output = &self.buffers.output()[..amount];
        let head = if self.at_head { for_proxy(output, &self.prefix, &self.login) } else { None };
        self.at_head = false;
        let text = head.as_deref().unwrap_or(output);
        self.stream.write_all(text).map_err(|error| as_timeout(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let limit = timeout.not_zero().map(|limit| *limit);
        let until = limit.map(|limit| Instant::now() + limit);
        self.at_head = true;
        self.stream.set_read_timeout(limit)?;
        let count = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        return Err(Error::Timeout(timeout.reason));
                    }
                }
                Err(error) => return Err(as_timeout(error, timeout)),
                Ok(count) => break count,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        let silent = self.stream.set_nonblocking(true).is_ok()
            && matches!(self.stream.read(&mut [0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock);
        silent && self.stream.set_nonblocking(false).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_get_the_whole_url() {
        let head = b"GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n";
        let text = for_proxy(head, "http://h:81", "Proxy-Authorization: Basic x\r\n").unwrap();
        assert_eq!(
            text,
            b"GET http://h:81/a?b HTTP/1.1\r\nProxy-Authorization: Basic x\r\nhost: h\r\n\r\n"
        );
        assert_eq!(for_proxy(b"no line at all", "http://h", ""), None);
    }
}
