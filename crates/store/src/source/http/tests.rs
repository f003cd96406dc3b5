// SPDX-License-Identifier: MIT OR Apache-2.0
//! Odd answers, from a scripted server.

use super::scripted::{Got, Server, Then, part, reply};
use super::*;
use crate::{Demand, Origin, OriginConfig, SinkStop};
use ferrofs_oci::http::{ClientOptions, ProxyChoice};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Keeps what it gets; room for 1000 bytes at once.
#[derive(Default)]
pub(crate) struct Kept {
    began: Vec<(u64, Option<u64>)>,
    pub(crate) bytes: Vec<u8>,
    room: Vec<u8>,
    stop_after: Option<usize>,
}

impl Sink for Kept {
    fn begin(&mut self, offset: u64, total: Option<u64>) -> Result<(), SinkStop> {
        self.began.push((offset, total));
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        self.room.resize(1000, 0);
        &mut self.room
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        self.bytes.extend_from_slice(&self.room[..count]);
        if self.stop_after.is_some_and(|stop| self.bytes.len() >= stop) {
            return Err(SinkStop);
        }
        Ok(())
    }
}

fn blob(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn client() -> Client {
    Client::new(ClientOptions {
        proxy: ProxyChoice::Direct,
        stall_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    })
    .unwrap()
}

fn source(server: &Server) -> HttpSource {
    HttpSource::new(client(), &server.url("/blob"), HttpOptions::default()).unwrap()
}

fn fetch(source: &HttpSource, range: Range<u64>) -> Result<Kept, FetchError> {
    let mut sink = Kept::default();
    source.fetch(range, &mut sink, &FetchContext::default())?;
    Ok(sink)
}

fn kind(source: &HttpSource, range: Range<u64>) -> FetchErrorKind {
    match fetch(source, range) {
        Ok(sink) => panic!("gave {} bytes from {:?}", sink.bytes.len(), sink.began),
        Err(error) => error.kind,
    }
}

#[test]
fn ranges_come_exact_over_one_connection() {
    let data = blob(10_000);
    let served = data.clone();
    let server = Server::start(move |_, got| (part(got, &served, "ETag: \"a\"\r\n"), Then::Keep));
    let source = source(&server);
    for range in [0..10_000, 5..6, 9_999..10_000, 4096..8192] {
        let sink = fetch(&source, range.clone()).unwrap();
        assert_eq!(sink.began, [(range.start, Some(10_000))]);
        assert_eq!(sink.bytes, data[range.start as usize..range.end as usize]);
    }
    let context = FetchContext::default();
    // As all that verify: they have enough with the last byte.
    let mut enough = Kept { stop_after: Some(100), ..Kept::default() };
    source.fetch(0..100, &mut enough, &context).unwrap();
    assert_eq!(enough.bytes, data[..100]);
    // Of a size that is not known.
    let mut head = Kept::default();
    source.fetch(0..20_000, &mut head, &FetchContext { head: true, ..context.clone() }).unwrap();
    assert_eq!(head.bytes, data);
    let identity = source.identity(&context).unwrap();
    assert_eq!((identity.size, identity.validator.as_deref()), (10_000, Some("\"a\"")));
    let got = server.requests();
    assert_eq!((got.len(), server.connections.load(Ordering::SeqCst)), (6, 1));
    assert_eq!(got[1].header("if-range"), Some("\"a\""));
    assert_eq!(got[1].header("accept-encoding"), Some("identity"));
}

#[test]
fn the_first_read_comes_with_the_size() {
    let data = blob(100_000);
    let served = data.clone();
    let server = Server::start(move |_, got| (part(got, &served, ""), Then::Keep));
    let source = source(&server);
    assert_eq!(source.identity(&FetchContext::default()).unwrap().size, 100_000);
    assert_eq!(fetch(&source, 1024..5120).unwrap().bytes, data[1024..5120]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_without_ranges_gives_all() {
    let data = blob(5_000);
    let served = data.clone();
    let server = Server::start(move |number, _| match number {
        0 => (reply("200 OK", "", &served), Then::Keep),
        // In chunks, without a length; then with a lie about ranges.
        1 => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in served.chunks(999) {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            (bytes, Then::Keep)
        }
        _ => (b"HTTP/1.1 200 OK\r\n\r\n0123".to_vec(), Then::Close),
    });
    let source = source(&server);
    for total in [Some(5_000), Some(5_000)] {
        let sink = fetch(&source, 4_000..4_100).unwrap();
        assert_eq!((sink.began.as_slice(), &sink.bytes), ([(0, total)].as_slice(), &data));
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    // The size is known: that the connection ended early is seen.
    assert_eq!(kind(&source, 0..10), FetchErrorKind::Length);
}

#[test]
fn an_end_that_cannot_be_told_is_no_end() {
    let server = Server::start(|_, _| (b"HTTP/1.1 200 OK\r\n\r\n0123".to_vec(), Then::Close));
    assert_eq!(kind(&source(&server), 0..4), FetchErrorKind::NoRanges);
}

#[test]
fn wrong_parts_are_refused() {
    let answer = |range: &str, len: usize| {
        let head = format!("Content-Range: {range}\r\n");
        reply("206 Partial Content", &head, &vec![0; len])
    };
    for (bytes, wanted) in [
        (answer("bytes 0-99/1000", 100), FetchErrorKind::Length),
        (answer("bytes 100-198/1000", 99), FetchErrorKind::Length),
        (answer("bytes 100-299/1000", 200), FetchErrorKind::Length),
        (answer("bytes 100-199/1000", 99), FetchErrorKind::Length),
        (answer("bytes 100-199/1000", 101), FetchErrorKind::Length),
        (answer("bytes 100-199/150", 100), FetchErrorKind::Length),
        (answer("bytes 100-149/150", 50), FetchErrorKind::Changed),
        (answer("bytes 18446744073709551615-18446744073709551615/*", 1), FetchErrorKind::Length),
        (answer("items 100-199/1000", 100), FetchErrorKind::Length),
        (reply("206 Partial Content", "", &[0; 100]), FetchErrorKind::Length),
        (
            reply("206 Partial Content", "Content-Type: multipart/byteranges; boundary=x\r\n", b""),
            FetchErrorKind::Protocol,
        ),
        (reply("200 OK", "Content-Encoding: gzip\r\n", &[0; 100]), FetchErrorKind::Protocol),
        // Not for its length, which is that of what is encoded: it would be asked for again and again.
        (
            reply(
                "206 Partial Content",
                "Content-Range: bytes 100-199/1000\r\nContent-Encoding: gzip\r\n",
                &[0; 60],
            ),
            FetchErrorKind::Protocol,
        ),
        (reply("404 Not Found", "", b"x"), FetchErrorKind::NotFound),
        (reply("403 Forbidden", "", b""), FetchErrorKind::Denied),
        (
            reply("503 Busy", "Retry-After: 7\r\n", b""),
            FetchErrorKind::Busy(Some(Duration::from_secs(7))),
        ),
        (reply("416 No", "Content-Range: bytes */50\r\n", b""), FetchErrorKind::Changed),
        (b"HTTP/1.1 banana\r\n\r\n".to_vec(), FetchErrorKind::Protocol),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), FetchErrorKind::Protocol),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let server = Server::start(move |_, _| (bytes.clone(), Then::Close));
        assert_eq!(kind(&source(&server), 100..200), wanted, "{shown}");
    }
}

#[test]
fn heads_without_end_are_refused() {
    let server = Server::start(|_, _| {
        let mut bytes = b"HTTP/1.1 206 Partial Content\r\n".to_vec();
        for number in 0..20_000 {
            bytes.extend_from_slice(format!("X-{number}: 0123456789\r\n").as_bytes());
        }
        (bytes, Then::Stall)
    });
    assert_eq!(kind(&source(&server), 0..10), FetchErrorKind::Protocol);
}

#[test]
fn short_bodies_and_stalls_fail() {
    let head =
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-99/100\r\nContent-Length: 100\r\n\r\n0123";
    for (then, wanted) in
        [(Then::Close, FetchErrorKind::Length), (Then::Stall, FetchErrorKind::Unreachable)]
    {
        let server = Server::start(move |_, _| (head.to_vec(), then));
        assert_eq!(kind(&source(&server), 0..100), wanted);
        assert_eq!(server.requests().len(), 1);
    }
    // The caller's deadline is told apart.
    let server = Server::start(move |_, _| (head.to_vec(), Then::Stall));
    let deadline = Some(Instant::now() + Duration::from_millis(100));
    let context = FetchContext { deadline, ..FetchContext::default() };
    let error = source(&server).fetch(0..100, &mut Kept::default(), &context).unwrap_err();
    assert_eq!(error.kind, FetchErrorKind::Deadline, "{error}");
}

/// Servers and the caches before them may send less of a range than was asked for.
#[test]
fn parts_that_end_early_are_kept_and_the_rest_asked_for() {
    let data = blob(100_000);
    let served = data.clone();
    let server = Server::start(move |_, got| {
        let (first, last) = got.range();
        let last = last.min(first + 29_999);
        let head = format!("Content-Range: bytes {first}-{last}/100000\r\n");
        let body = &served[first..=last];
        (reply("206 Partial Content", &head, body), Then::Keep)
    });
    let origin = Origin::new(Arc::new(source(&server)));
    let mut kept = Kept::default();
    let demand = Demand::soft(Duration::from_secs(20));
    origin.fetch(0..100_000, &mut kept, &demand, false).unwrap();
    assert_eq!(kept.bytes, data);
    let asked: Vec<usize> = server.requests().iter().map(|got| got.range().0).collect();
    assert_eq!(asked, [0, 30_000, 60_000, 90_000]);
    assert_eq!(origin.identity(&demand).unwrap().size, 100_000);
}

/// A server that goes silent costs the stall limit, not what the length of the range allows: the next
/// attempt goes on where the first one stopped.
#[test]
fn a_stalled_transfer_is_resumed() {
    for head_only in [false, true] {
        let server = Server::start(move |number, got| {
            let whole = part(got, &blob(100_000), "");
            match number {
                0 if head_only => (vec![], Then::Stall),
                0 => (whole[..50_000].to_vec(), Then::Stall),
                _ => (whole, Then::Keep),
            }
        });
        let options = HttpOptions { size: Some(100_000), ..HttpOptions::default() };
        // Of a client with its usual limits, which are longer than this test.
        let client =
            Client::new(ClientOptions { proxy: ProxyChoice::Direct, ..ClientOptions::default() });
        let source = HttpSource::new(client.unwrap(), &server.url("/blob"), options).unwrap();
        let config = OriginConfig { stall: Duration::from_millis(200), ..OriginConfig::default() };
        let clock = Arc::new(crate::SystemClock);
        let origin = Origin::with(vec![], Arc::new(source), config, Arc::default(), clock);
        let mut kept = Kept::default();
        let demand = Demand::soft(Duration::from_secs(8));
        origin.fetch(0..100_000, &mut kept, &demand, false).unwrap();
        assert_eq!(kept.bytes, blob(100_000));
        let asked: Vec<_> = server.requests().iter().map(Got::range).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
    }
}

#[test]
fn another_version_is_noticed() {
    let answers = |server: fn(usize, &Got) -> Vec<u8>| {
        Server::start(move |number, got| (server(number, got), Then::Keep))
    };
    let by_tag = answers(|number, got| part(got, &blob(500), &format!("ETag: \"{number}\"\r\n")));
    let by_size = answers(|number, got| part(got, &blob(500 + number), ""));
    let by_time = answers(|number, _| {
        let head = format!("Last-Modified: Tue, 0{} Nov 1994 08:12:31 GMT\r\n", number + 1);
        reply("200 OK", &head, &blob(500))
    });
    for server in [by_tag, by_size, by_time] {
        let source = source(&server);
        fetch(&source, 0..100).unwrap();
        assert_eq!(kind(&source, 100..200), FetchErrorKind::Changed);
    }
}

#[test]
fn a_sink_that_has_enough_ends_the_transfer() {
    let server = Server::start(|_, _| (reply("200 OK", "", &blob(1 << 20)), Then::Keep));
    let mut sink = Kept { stop_after: Some(3000), ..Kept::default() };
    source(&server).fetch(0..10, &mut sink, &FetchContext::default()).unwrap();
    assert_eq!(sink.bytes.len(), 3000);
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    let server = Server::start(|number, got| match number {
        // Dies when the second request arrives.
        1 => (Vec::new(), Then::Close),
        _ => (part(got, &blob(500), ""), Then::Keep),
    });
    let source = source(&server);
    fetch(&source, 0..100).unwrap();
    assert_eq!(fetch(&source, 100..200).unwrap().bytes, blob(500)[100..200]);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_first_connection_that_dies_is_not_tried_again() {
    let server = Server::start(|_, _| (Vec::new(), Then::Close));
    assert_eq!(kind(&source(&server), 0..100), FetchErrorKind::Unreachable);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn redirects_are_kept_and_credentials_stay_at_home() {
    let data = blob(500);
    let served = data.clone();
    let target = Server::start(move |number, got| match number {
        // The signature runs out after three requests.
        3 => (reply("403 Forbidden", "", b"expired"), Then::Keep),
        _ => (part(got, &served, ""), Then::Keep),
    });
    let to = target.url("/signed");
    let origin = Server::start(move |number, _| {
        let head = format!("Location: {to}?n={number}\r\n");
        (reply("307 Temporary Redirect", &head, b""), Then::Keep)
    });
    let url = format!("http://user:hunter2@{}/blob", origin.address);
    let options = HttpOptions {
        headers: vec![("x-key".into(), Secret::new("k3y"))],
        ..HttpOptions::default()
    };
    let source = HttpSource::new(client(), &url, options).unwrap();
    for at in 0..5 {
        assert_eq!(fetch(&source, at..at + 100).unwrap().bytes[0], data[at as usize]);
    }
    let asked = origin.requests();
    assert_eq!(asked.len(), 2, "asked once, and once more when the target refused");
    assert_eq!(asked[0].header("authorization"), Some("Basic dXNlcjpodW50ZXIy"));
    assert_eq!(asked[0].header("x-key"), Some("k3y"));
    for got in target.requests() {
        assert_eq!((got.header("authorization"), got.header("x-key")), (None, None));
        assert!(got.path().starts_with("/signed?n="));
    }
    for text in [format!("{source:?}"), source.describe()] {
        assert!(!text.contains("hunter2") && !text.contains("user"), "{text}");
    }
}

#[test]
fn a_refusal_is_renewed_once_for_all() {
    let served = blob(1000);
    let target = Server::start(move |_, got| {
        // Signature 0 has expired for everybody.
        let old = got.path().ends_with("n=0") && got.range().0 > 0;
        let answer = if old { reply("403 No", "", b"") } else { part(got, &served, "") };
        (answer, Then::Keep)
    });
    let to = target.url("/signed");
    let origin = Server::start(move |number, _| {
        thread::sleep(Duration::from_millis(50));
        let head = format!("Location: {to}?n={number}\r\n");
        (reply("302 Found", &head, b""), Then::Keep)
    });
    let source = source(&origin);
    fetch(&source, 0..10).unwrap();
    thread::scope(|scope| {
        for at in 1..9_u64 {
            let source = &source;
            scope.spawn(move || fetch(source, at * 10..at * 10 + 10).unwrap());
        }
    });
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn redirects_in_circles_and_into_the_unknown_end() {
    for target in
        ["/blob", "ftp://h/x", "http://u:p@127.0.0.1:1/x", "http://[", "file:///etc/passwd"]
    {
        let head = format!("Location: {target}\r\n");
        let server = Server::start(move |_, _| (reply("302 Found", &head, b""), Then::Keep));
        assert_eq!(kind(&source(&server), 0..10), FetchErrorKind::Protocol, "{target}");
        assert!(server.requests().len() <= 6, "{target}");
    }
}

#[test]
fn plain_http_goes_through_a_proxy_and_fresh_past_it() {
    let data = blob(500);
    let (served, also) = (data.clone(), data.clone());
    let proxy = Server::start(move |_, got| (part(got, &served, ""), Then::Keep));
    let origin = Server::start(move |_, got| (part(got, &also, ""), Then::Keep));
    let client = Client::new(ClientOptions {
        proxy: ProxyChoice::Explicit(Secret::new(format!("http://pu:pw@{}", proxy.address))),
        ..ClientOptions::default()
    })
    .unwrap();
    assert!(!format!("{client:?}").contains("pw"));
    let source = HttpSource::new(client, &origin.url("/blob"), HttpOptions::default()).unwrap();
    for at in [0, 100] {
        assert_eq!(fetch(&source, at..at + 100).unwrap().bytes, data[at as usize..][..100]);
    }
    assert_eq!(origin.requests().len(), 0);
    let got = proxy.requests();
    assert_eq!(got[1].path(), origin.url("/blob"));
    assert_eq!(got[1].header("proxy-authorization"), Some("Basic cHU6cHc="));
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 1);
    let fresh = FetchContext { fresh: true, ..FetchContext::default() };
    source.fetch(0..100, &mut Kept::default(), &fresh).unwrap();
    assert_eq!(proxy.requests().len(), 2);
    assert_eq!(origin.requests()[0].header("cache-control"), Some("no-cache"));
}

#[test]
fn content_ranges_are_read_strictly() {
    for (text, wanted) in [
        ("bytes 0-9/10", Some((0, 9, Some(10)))),
        ("Bytes 5-5/*", Some((5, 5, None))),
        ("bytes 0-10/10", None),
        ("bytes 5-4/10", None),
        ("bytes +0-9/10", None),
        ("bytes 0-99999999999999999999/*", None),
        ("bytes */10", None),
        ("0-9/10", None),
    ] {
        assert_eq!(parse_content_range(text), wanted, "{text}");
    }
}
