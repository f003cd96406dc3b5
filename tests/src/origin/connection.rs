// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection: reads requests, applies what goes wrong, writes answers.

use super::answer::Answer;
use super::link::Stop;
use super::{Content, Fault, Ledger, Link, Request, Script, lock};
use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Sent at once: fine enough for a link of some Mbit/s.
const PIECE: usize = 16 << 10;
const PIECE_UNLIMITED: usize = 256 << 10;

/// What all connections of an origin share.
pub(super) struct Shared {
    pub(super) content: Mutex<Arc<Content>>,
    pub(super) script: Mutex<Option<Script>>,
    pub(super) queue: Mutex<VecDeque<Vec<Fault>>>,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) stop: Arc<Stop>,
    link: Link,
    requests: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// How the body of one answer goes wrong.
#[derive(Default)]
struct Damage {
    reset: Option<u64>,
    cut: Option<u64>,
    flip: Option<u64>,
    stall: Option<(u64, Duration)>,
}

impl Shared {
    pub(super) fn new(content: Content, link: Link) -> Self {
        Self {
            content: Mutex::new(Arc::new(content)),
            script: Mutex::default(),
            queue: Mutex::default(),
            ledger: Mutex::default(),
            stop: Arc::default(),
            link,
            requests: AtomicU64::new(0),
        }
    }

    /// Serves a connection to its end. Errors end it: they are the peer's or a fault's.
    pub(super) fn serve(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut input = BufReader::new(stream);
        while let Ok(Some(request)) = Request::read(&mut input) {
            if self.stop.is_set() {
                return;
            }
            if !self.respond(stream, &request).unwrap_or(false) {
                return;
            }
        }
    }

    /// Answers one request; whether the connection goes on.
    fn respond(&self, stream: &TcpStream, request: &Request) -> Result<bool> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults(request, number);
        let faulty = faults.iter().any(|fault| !matches!(fault, Fault::Delay(_)));
        lock(&self.ledger).begin(number, request, faulty);
        self.stop.sleep(self.link.delay())?;
        let mut damage = Damage::default();
        let mut answer = None;
        let mut short = None;
        let content = Arc::clone(&lock(&self.content));
        for fault in &faults {
            match fault {
                Fault::Delay(time) => self.stop.sleep(*time)?,
                Fault::Reset(0) => return reset(stream),
                Fault::Reset(at) => damage.reset = Some(*at),
                Fault::Cut(at) => damage.cut = Some(*at),
                Fault::Short(len) => short = Some(*len),
                Fault::Flip(at) => damage.flip = Some(*at),
                Fault::Stall(at, time) => damage.stall = Some((*at, *time)),
                Fault::Whole => answer = Some(content.answer(request, true)?),
                Fault::Status(code, headers) => {
                    let mut empty = Answer::empty(*code);
                    empty.headers.clone_from(headers);
                    answer = Some(empty);
                }
                Fault::Tag(_) | Fault::Elsewhere(_) => {}
            }
        }
        let mut answer = match answer {
            Some(answer) => answer,
            None => content.answer(request, false).unwrap_or_else(|_| Answer::empty(502)),
        };
        for fault in &faults {
            match fault {
                Fault::Tag(tag) => answer.set("ETag", tag),
                Fault::Elsewhere(by) => answer.shift(*by),
                _ => {}
            }
        }
        if let Some(short) = short {
            answer.len = answer.len.min(short);
        }
        self.send(stream, request, number, answer, &damage)
    }

    fn faults(&self, request: &Request, number: u64) -> Vec<Fault> {
        if let Some(faults) = lock(&self.queue).pop_front() {
            return faults;
        }
        lock(&self.script).as_ref().map_or_else(Vec::new, |script| script(request, number))
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        request: &Request,
        number: u64,
        mut answer: Answer,
        damage: &Damage,
    ) -> Result<bool> {
        let keep = !request.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            head.extend([name.as_ref(), ": ", value.as_ref(), "\r\n"]);
        }
        let connection = if keep { "keep-alive" } else { "close" };
        let len = answer.len.to_string();
        head.extend(["Content-Length: ", &len, "\r\nConnection: ", connection, "\r\n\r\n"]);
        lock(&self.ledger).note(number, |entry| {
            entry.status = answer.status;
            entry.first = answer.first;
        });
        stream.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(keep);
        }
        let mut piece = vec![0; if self.link.is_limited() { PIECE } else { PIECE_UNLIMITED }];
        let mut at = 0;
        let mut stall = damage.stall;
        while at < answer.len {
            if damage.reset.is_some_and(|end| at >= end) {
                return reset(stream);
            }
            if damage.cut.is_some_and(|end| at >= end) {
                return Ok(false);
            }
            if let Some((_, time)) = stall.filter(|(from, _)| at >= *from) {
                self.stop.sleep(time)?;
                stall = None;
            }
            // Pieces end where something is to happen.
            let places = [damage.reset, damage.cut, stall.map(|(from, _)| from)];
            let end = places.into_iter().flatten().chain([answer.len]).min().unwrap_or(answer.len);
            let len = (end.min(answer.len) - at).min(piece.len() as u64) as usize;
            let piece = &mut piece[..len];
            answer.body.read_exact(piece)?;
            if let Some(place) = damage.flip.map(|place| place % answer.len)
                && (at..at + len as u64).contains(&place)
            {
                piece[(place - at) as usize] ^= 0x10;
            }
            self.stop.sleep(self.link.book(len as u64))?;
            lock(&self.ledger).note(number, |entry| entry.sent += len as u64);
            stream.write_all(piece)?;
            at += len as u64;
        }
        Ok(keep)
    }
}

/// Ends the connection with RST: what is on its way may be lost.
fn reset(stream: &TcpStream) -> Result<bool> {
    // The acceptor holds a second handle of the socket, so closing ours would send nothing;
    // connecting a TCP socket to nowhere (AF_UNSPEC) aborts it whoever else holds it.
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    rustix::net::connect_unspec(stream)?;
    Err(ErrorKind::ConnectionReset.into())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Said",
    }
}
