// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading requests (and, of a server behind us, answers): heads, ranges, bodies.

use std::io::{BufRead, Error, ErrorKind, Read, Result};
use std::ops::Range;

const HEAD_MAX: u64 = 64 << 10;
const BODY_MAX: u64 = 2 << 30;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Request {
    /// Value of the first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The single range asked for, `u64::MAX` as its end where it has none; suffix ranges and lists
    /// are not understood, which HTTP allows.
    pub fn range(&self) -> Option<Range<u64>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let first: u64 = first.trim().parse().ok()?;
        if last.trim().is_empty() {
            return Some(first..u64::MAX);
        }
        let last: u64 = last.trim().parse().ok()?;
        (last >= first).then(|| first..last.saturating_add(1))
    }

    /// Reads one; `None` where the peer has ended the connection between two.
    pub(super) fn read(input: &mut impl BufRead) -> Result<Option<Self>> {
        let Some((line, headers)) = read_head(input)? else { return Ok(None) };
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(Error::new(ErrorKind::InvalidData, line));
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let len = find(&headers, "content-length").map_or(Ok(0), str::parse::<u64>);
        let len = len.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let mut body = Vec::new();
        input.take(len.min(BODY_MAX)).read_to_end(&mut body)?;
        if body.len() as u64 != len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Self { method, target, headers, body }))
    }
}

pub(super) type Head = (String, Vec<(String, String)>);

/// A first line and headers.
pub(super) fn read_head(input: &mut impl BufRead) -> Result<Option<Head>> {
    let mut input = input.take(HEAD_MAX);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return if lines.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let mut lines = lines.into_iter();
    let Some(first) = lines.next() else { return Err(ErrorKind::InvalidData.into()) };
    let headers = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    Ok(Some((first, headers)))
}

pub(super) fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}
