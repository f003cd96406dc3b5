// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and answers over `ureq`.

use super::address;
use super::connect::{self, Counted, Names, PlainProxy};
use super::tls;
use crate::{Error, ErrorKind, Secret};
use std::fmt;
use std::io::{ErrorKind as IoKind, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector, RustlsConnector, TcpConnector,
};
use ureq::{Agent, BodyReader, Proxy, ProxyProtocol, Timeout, http};
use url::Url;

/// What is read of an answer of no interest to keep its connection, in bytes.
const DRAIN_MAX: usize = 16 * 1024;
/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How long a server may take to be reached past a proxy: often it cannot be.
const PAST_PROXY_TIME: Duration = Duration::from_secs(3);

/// Where requests go through.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ProxyChoice {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`.
    #[default]
    Environment,
    /// No proxy.
    Direct,
    /// This one, for instance a peer-to-peer cache: `http[s]://[user:password@]host[:port]`. Requests
    /// for fresh answers go past it, if their server can be reached so.
    Explicit(Secret),
}

/// Settings of a client.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..ClientOptions::default()`")]
pub struct ClientOptions {
    /// Limit for names, TCP and TLS.
    pub connect_timeout: Duration,
    /// Limit for the head of an answer, from the end of the request.
    pub response_timeout: Duration,
    /// A transfer that brings no byte for so long has failed.
    pub stall_timeout: Duration,
    /// Proxy.
    pub proxy: ProxyChoice,
    /// PEM file of certificates to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// `User-Agent`.
    pub user_agent: String,
    /// Idle connections kept to each host.
    pub idle_per_host: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            proxy: ProxyChoice::default(),
            ca_file: None,
            user_agent: concat!("ferrofs/", env!("CARGO_PKG_VERSION")).to_owned(),
            idle_per_host: 96,
        }
    }
}

/// One request.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Request::get(url)`")]
pub struct Request<'a> {
    /// `GET`, `HEAD`, `POST`, `PUT`.
    pub method: &'static str,
    /// Where; user and password in it are refused.
    pub url: &'a Url,
    /// Names and values; never shown.
    pub headers: &'a [(String, String)],
    /// The whole answer must have arrived by then.
    pub deadline: Option<Instant>,
    /// It fails if no byte of the answer comes for so long, if that is less than the client's own
    /// limits for heads and bodies.
    pub stall: Option<Duration>,
    /// Past caches and an explicit proxy.
    pub fresh: bool,
    /// What is sent.
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// A `GET` without anything special.
    pub const fn get(url: &'a Url) -> Self {
        Self {
            method: "GET",
            url,
            headers: &[],
            deadline: None,
            stall: None,
            fresh: false,
            body: None,
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, address::show(self.url))
    }
}

/// HTTP/1.1 client with kept connections. Cheap to clone; for many threads.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ClientOptions,
    /// Certificates of the user's file.
    own_roots: Vec<Certificate<'static>>,
    proxy: Option<Proxy>,
    names: Names,
    connections: Arc<AtomicU64>,
    /// By (`https`, past the proxy): certificates are loaded only if wanted.
    agents: [OnceLock<Agent>; 4],
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client; fails if the proxy or the file of certificates makes no sense. The certificates of
    /// the system are read when first needed.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let proxy = match &options.proxy {
            ProxyChoice::Direct => None,
            ProxyChoice::Environment => Proxy::try_from_env(),
            ProxyChoice::Explicit(url) => Some(connect::proxy(url)?),
        };
        let own_roots = options.ca_file.as_deref().map(tls::read_roots).transpose()?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                own_roots: own_roots.unwrap_or_default(),
                proxy,
                names: Names::default(),
                connections: Arc::default(),
                agents: Default::default(),
            }),
        })
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Whether the user has named certificates to trust besides those of the system.
    pub fn has_own_roots(&self) -> bool {
        !self.inner.own_roots.is_empty()
    }

    /// Sends the request and reads the head of the answer, whatever its status. A kept connection
    /// that turns out to be closed is replaced once.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        let explicit = matches!(self.inner.options.proxy, ProxyChoice::Explicit(_));
        match self.send_by(request, request.fresh && explicit) {
            // The proxy is the only way then; it is told not to answer from its cache.
            Err(error) if request.fresh && explicit && error.kind == ErrorKind::Unreachable => {
                self.send_by(request, false)
            }
            other => other,
        }
    }

    fn send_by(&self, request: &Request<'_>, past_proxy: bool) -> Result<Response, Error> {
        let (answer, kept) = connect::watch(|| self.send_once(request, past_proxy));
        match answer {
            Err(Failure { stale: true, .. })
                if kept && matches!(request.method, "GET" | "HEAD") =>
            {
                self.send_once(request, past_proxy).map_err(|failure| failure.error)
            }
            other => other.map_err(|failure| failure.error),
        }
    }

    fn send_once(&self, request: &Request<'_>, past_proxy: bool) -> Result<Response, Failure> {
        let place = address::show(request.url);
        let limit = match request.deadline {
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(limit) if !limit.is_zero() => Some(limit),
                _ => {
                    let what = format!("{place}: no time left to ask");
                    return Err(Error::new(ErrorKind::Deadline, what).into());
                }
            },
            None => None,
        };
        if !request.url.username().is_empty() || request.url.password().is_some() {
            return Err(Error::protocol(format!("{place}: a URL with a password in it")).into());
        }
        let agent = self.agent(request.url.scheme() == "https", past_proxy);
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(request.url.as_str())
            .header("accept-encoding", "identity");
        if request.fresh {
            builder = builder.header("cache-control", "no-cache").header("pragma", "no-cache");
        }
        for (name, value) in request.headers {
            builder = builder.header(name.as_str(), value.as_str());
        }
        let misfit = |_| Error::invalid(format!("{place}: a header or the URL cannot be sent"));
        let options = &self.inner.options;
        let within = |limit: Duration| Some(request.stall.map_or(limit, |stall| stall.min(limit)));
        let (head, piece) = (within(options.response_timeout), within(options.stall_timeout));
        let sent = if let Some(body) = request.body {
            let message = agent.configure_request(builder.body(body).map_err(misfit)?);
            let message = message.timeout_recv_response(head).timeout_per_read(piece);
            agent.run(message.timeout_global(limit).build())
        } else {
            let message = agent.configure_request(builder.body(()).map_err(misfit)?);
            let message = message.timeout_recv_response(head).timeout_per_read(piece);
            agent.run(message.timeout_global(limit).build())
        };
        match sent {
            Ok(answer) => Ok(Response::new(answer, place, request)),
            Err(error) => {
                let failure = Failure::from_ureq(&error, &place);
                if failure.error.kind == ErrorKind::Unreachable {
                    self.inner.names.forget(request.url.host_str().unwrap_or_default());
                }
                Err(failure)
            }
        }
    }

    fn agent(&self, tls: bool, past_proxy: bool) -> &Agent {
        let inner = &self.inner;
        let slot = &inner.agents[usize::from(tls) * 2 + usize::from(past_proxy)];
        if let Some(agent) = slot.get() {
            return agent;
        }
        let options = &inner.options;
        // A proxy may speak TLS, too.
        let wanted =
            tls || inner.proxy.as_ref().is_some_and(|p| p.protocol() == ProxyProtocol::Https);
        let roots = if wanted { tls::roots(&inner.own_roots) } else { RootCerts::WebPki };
        let connecting = if past_proxy {
            options.connect_timeout.min(PAST_PROXY_TIME)
        } else {
            options.connect_timeout
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(if past_proxy { None } else { inner.proxy.clone() })
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .user_agent(options.user_agent.as_str())
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(connecting))
            .timeout_recv_response(Some(options.response_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .max_response_header_size(32 * 1024)
            .max_idle_connections(options.idle_per_host.saturating_mul(4))
            .max_idle_connections_per_host(options.idle_per_host)
            .max_idle_age(Duration::from_secs(30))
            .build();
        let connector =
            ().chain(PlainProxy)
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(RustlsConnector::default())
                .chain(Counted(Arc::clone(&inner.connections)));
        let agent = Agent::with_parts(config, connector, inner.names.clone());
        slot.get_or_init(|| agent)
    }
}

/// An error, and whether a connection that was kept too long explains it.
struct Failure {
    error: Error,
    stale: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, stale: false }
    }
}

impl Failure {
    fn from_ureq(error: &ureq::Error, place: &str) -> Self {
        let stale = matches!(error, ureq::Error::Io(error) if matches!(
            error.kind(),
            IoKind::UnexpectedEof | IoKind::ConnectionReset | IoKind::BrokenPipe
                | IoKind::ConnectionAborted
        ));
        Self { error: translate(error, place), stale }
    }
}

fn translate(error: &ureq::Error, place: &str) -> Error {
    let kind = match error {
        ureq::Error::Timeout(Timeout::Global) => ErrorKind::Deadline,
        ureq::Error::Io(error) if error.kind() == IoKind::InvalidData => ErrorKind::Protocol,
        ureq::Error::ConnectProxyFailed(reason) if connect::is_refusal(reason) => ErrorKind::Denied,
        ureq::Error::Timeout(_)
        | ureq::Error::Io(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_) => ErrorKind::Unreachable,
        _ => ErrorKind::Protocol,
    };
    let what = match error {
        // These may hold the whole URL.
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "the URL is wrong".to_owned(),
        ureq::Error::Timeout(Timeout::Global) => "the deadline has passed".to_owned(),
        ureq::Error::ConnectProxyFailed(_) if kind == ErrorKind::Denied => {
            "the proxy refuses: it wants another user or password (status 407), or nobody may go \
             there (403)"
                .to_owned()
        }
        ureq::Error::Timeout(Timeout::PerRead) => "no byte arrived for too long".to_owned(),
        other => tls::explain(&other.to_string()),
    };
    Error::new(kind, format!("{place}: {what}"))
}

/// An answer: its head, and its body to be read.
pub struct Response {
    status: u16,
    headers: http::HeaderMap,
    body: BodyReader<'static>,
    place: String,
    has_body: bool,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.place)
    }
}

impl Response {
    fn new(answer: http::Response<ureq::Body>, place: String, request: &Request<'_>) -> Self {
        let (parts, body) = answer.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.into_reader(),
            place,
            has_body: request.method != "HEAD",
        }
    }

    /// The status.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Scheme, host and path that answered.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A header, if it is there and printable ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers of that name, as far as they are printable.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Whether the end of the body can be told from a broken connection.
    pub fn is_delimited(&self) -> bool {
        self.content_length().is_some() || self.headers.contains_key("transfer-encoding")
    }

    /// Some bytes of the body; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if !self.has_body {
            return Ok(0);
        }
        self.body.read(buffer).map_err(|error| {
            if error.kind() == IoKind::UnexpectedEof {
                let what = format!("{}: the connection ended within the answer", self.place);
                return Error::new(ErrorKind::Length, what);
            }
            translate(&ureq::Error::from(error), &self.place)
        })
    }

    /// The whole body, if it is at most `len_max` bytes.
    pub fn read_all(&mut self, len_max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut piece = [0; 8192];
        loop {
            let count = self.read(&mut piece)?;
            if count == 0 {
                return Ok(bytes);
            }
            if bytes.len() + count > len_max {
                let what = format!("{}: the answer is larger than {len_max} bytes", self.place);
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    }

    /// Reads what little is left, so that the connection can be used again.
    pub fn drain(mut self) {
        if self.content_length().is_none_or(|len| len <= DRAIN_MAX as u64) {
            // If it fails, the connection is not kept: nothing else follows from it.
            let _ = self.read_all(DRAIN_MAX);
        }
    }

    /// The error that a status means which is none of those the caller knows. Reads the body away.
    pub fn into_error(self) -> Error {
        self.into_error_with(|_, _| None)
    }

    /// As [`Response::into_error`]; `explain` may say more, by the beginning of the body.
    pub(crate) fn into_error_with(
        mut self,
        explain: impl FnOnce(u16, &[u8]) -> Option<(ErrorKind, String)>,
    ) -> Error {
        let status = self.status;
        let kind = match status {
            401 | 403 | 407 => ErrorKind::Denied,
            404 | 410 => ErrorKind::NotFound,
            408 | 425 | 429 | 500..=599 => ErrorKind::Busy(self.retry_after()),
            _ => ErrorKind::Protocol,
        };
        let reason = match kind {
            ErrorKind::Denied if status == 407 => "the proxy wants another user or password",
            ErrorKind::Denied => "access denied",
            ErrorKind::NotFound => "not found",
            ErrorKind::Busy(_) => "the server is busy or has failed",
            _ => "unexpected answer",
        };
        // What cannot be read of it says nothing.
        let body = self.read_head(DRAIN_MAX);
        let (kind, reason) = match explain(status, &body) {
            Some((known, reason)) if !matches!(kind, ErrorKind::Busy(_)) => (known, reason),
            _ => (kind, reason.to_owned()),
        };
        Error::new(kind, format!("{}: {reason} (status {status})", self.place))
    }

    /// The beginning of the body, as much as comes.
    fn read_head(&mut self, len_max: usize) -> Vec<u8> {
        let mut bytes = vec![0; len_max];
        let mut len = 0;
        while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
            match self.read(room) {
                Ok(count) if count > 0 => len += count,
                _ => break,
            }
        }
        bytes.truncate(len);
        bytes
    }

    fn retry_after(&self) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        let wait = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => httpdate::parse_http_date(text)
                .ok()?
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        };
        Some(wait.min(RETRY_AFTER_MAX))
    }

    /// `Date`, if the server tells it.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header("date")?).ok()
    }
}
