// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that answers as a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// One request as it came: its line and headers, names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    /// First and last byte asked for.
    pub(crate) fn range(&self) -> (usize, usize) {
        let text = self.header("range").unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = text.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }
}

/// What is done after the bytes were sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    Keep,
    Close,
    /// Nothing more is sent, and nothing closed, until the server ends.
    Stall,
}

type Answer = dyn Fn(usize, &Got) -> (Vec<u8>, Then) + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) got: Arc<Mutex<Vec<Got>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    end: Arc<AtomicBool>,
}

impl Server {
    /// `answer` gets the number of the request and the request, and gives the bytes to send.
    pub(crate) fn start(
        answer: impl Fn(usize, &Got) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            connections: Arc::default(),
            end: Arc::default(),
        };
        let answer: Arc<Answer> = Arc::new(answer);
        let (got, connections) = (Arc::clone(&server.got), Arc::clone(&server.connections));
        let end = Arc::clone(&server.end);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let (got, answer, end) = (Arc::clone(&got), Arc::clone(&answer), Arc::clone(&end));
                thread::spawn(move || serve(&stream.unwrap(), &got, &*answer, &end));
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: &TcpStream, got: &Mutex<Vec<Got>>, answer: &Answer, end: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut headers = Vec::new();
        loop {
            let mut text = String::new();
            reader.read_line(&mut text).unwrap();
            let Some((name, value)) = text.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let got_now = Got { line: line.trim_end().to_owned(), headers };
        if let Some(len) = got_now.header("content-length") {
            let mut body = vec![0; len.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
        }
        let number = {
            let mut got = got.lock().unwrap();
            got.push(got_now.clone());
            got.len() - 1
        };
        let (bytes, then) = answer(number, &got_now);
        let _ = stream.write_all(&bytes);
        match then {
            Then::Keep => {}
            Then::Close => return,
            Then::Stall => {
                while !end.load(Ordering::SeqCst) {
                    thread::sleep(std::time::Duration::from_millis(10));
                }
                return;
            }
        }
    }
}

/// An answer with a length.
pub(crate) fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len())
        .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The right answer to a ranged request.
pub(crate) fn part(got: &Got, blob: &[u8], headers: &str) -> Vec<u8> {
    let (first, last) = got.range();
    let last = last.min(blob.len() - 1);
    let range = format!("Content-Range: bytes {first}-{last}/{}\r\n{headers}", blob.len());
    reply("206 Partial Content", &range, &blob[first..=last])
}
