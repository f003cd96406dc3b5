// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who asks something of a domain: each has a thread, and little time to say it.

use super::super::message::{DomainCommand, Mechanism, parse_line};
use super::Domain;
use crate::control::{LINE_MAX, Refusal, Reply, VERSION, peer_uid};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client may take to say what it wants.
const CLIENT_TIME: Duration = Duration::from_secs(5);
/// Clients at a time.
const CLIENTS_MAX: usize = 16;

impl Domain {
    pub(super) fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let Ok((stream, _)) = listener.accept() else {
            // For want of descriptors, say, it would fail again at once.
            return std::thread::sleep(Duration::from_millis(20));
        };
        let me = rustix::process::geteuid().as_raw();
        let permitted = peer_uid(&stream).is_ok_and(|uid| uid == 0 || uid == me);
        if !permitted || self.clients.load(Ordering::Relaxed) >= CLIENTS_MAX {
            return;
        }
        self.clients.fetch_add(1, Ordering::Relaxed);
        let domain = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(String::from("client")).spawn(move || {
            domain.client(stream);
            domain.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            self.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn client(&self, mut stream: UnixStream) {
        let mut line = Vec::new();
        let limits = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(CLIENT_TIME)))
            .and_then(|()| stream.set_write_timeout(Some(CLIENT_TIME)));
        let read = || {
            let mut reader = io::BufReader::new((&stream).take(LINE_MAX as u64));
            reader.read_until(b'\n', &mut line)
        };
        if limits
            .and_then(|()| {
                let mut read = read;
                read()
            })
            .is_err()
        {
            return;
        }
        let mut stop = false;
        let outcome = self.execute(&line, &mut stop);
        let (ok, error) = match outcome {
            Ok(value) => (Some(value), None),
            Err(Refusal(text)) => (None, Some(text)),
        };
        let mut answer =
            serde_json::to_vec(&Reply { version: VERSION, ok, error }).unwrap_or_default();
        answer.push(b'\n');
        // A client that has gone needs no answer.
        let _ = stream.write_all(&answer);
        drop(stream);
        if stop {
            self.end();
        }
    }

    fn execute(
        &self,
        line: &[u8],
        stop: &mut bool,
    ) -> std::result::Result<serde_json::Value, Refusal> {
        let refuse = |error: serde_json::Error| Refusal(format!("no answer: {error}"));
        match parse_line(line)? {
            DomainCommand::Stats { memory } => {
                let mut stats = self.stats();
                stats.memory_bytes = memory.then(|| self.memory_bytes());
                serde_json::to_value(stats).map_err(refuse)
            }
            DomainCommand::Stop => {
                let mounted = self.mounted();
                if !mounted.is_empty() {
                    let text = format!("{} of its images are mounted", mounted.len());
                    return Err(Refusal(text));
                }
                *stop = true;
                Ok(serde_json::Value::Null)
            }
            DomainCommand::Add { image, mechanism, trust, keep_seconds, sight } => {
                if mechanism != Mechanism::Auto && mechanism != self.spec.mechanism {
                    let text = format!("the domain shares by {}", self.spec.mechanism);
                    return Err(Refusal(text));
                }
                if trust != self.spec.trust {
                    let text = "the domain was begun with the other choice of --trust-digests";
                    return Err(Refusal(String::from(text)));
                }
                if let Some(seconds) = keep_seconds {
                    self.keep_seconds.store(seconds, Ordering::Relaxed);
                }
                let added = self.add(*image, sight).map_err(|error| Refusal(error.to_string()))?;
                serde_json::to_value(added).map_err(refuse)
            }
        }
    }
}
