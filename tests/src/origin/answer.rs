// SPDX-License-Identifier: MIT OR Apache-2.0
//! An answer before faults: status, headers, and a body that is read as it is sent.

use std::io::{Read, Result};
use std::ops::Range;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// Where the body begins in the resource.
    pub(super) first: u64,
    pub(super) len: u64,
    pub(super) body: Box<dyn Read + Send>,
}

impl Answer {
    pub(super) fn empty(status: u16) -> Self {
        let body = Box::new(std::io::empty());
        Self { status, headers: Vec::new(), first: 0, len: 0, body }
    }

    /// 200, 206 or 416 of a resource of `size` bytes.
    pub(super) fn resource(
        size: u64,
        tag: &str,
        range: Option<Range<u64>>,
        open: impl FnOnce(u64) -> Result<Box<dyn Read + Send>>,
    ) -> Result<Self> {
        let mut headers =
            vec![("Accept-Ranges".into(), "bytes".into()), ("ETag".into(), tag.into())];
        let (status, range) = match range {
            None => (200, 0..size),
            Some(range) if range.start >= size => {
                headers.push(("Content-Range".into(), format!("bytes */{size}")));
                let mut answer = Self::empty(416);
                answer.headers = headers;
                return Ok(answer);
            }
            Some(range) => (206, range.start..range.end.min(size)),
        };
        if status == 206 {
            let (first, last) = (range.start, range.end - 1);
            headers.push(("Content-Range".into(), format!("bytes {first}-{last}/{size}")));
        }
        let body = open(range.start)?;
        Ok(Self { status, headers, first: range.start, len: range.end - range.start, body })
    }

    /// Lets `Content-Range` lie by `by` bytes.
    pub(super) fn shift(&mut self, by: u64) {
        let (first, len) = (self.first + by, self.len);
        for (name, value) in &mut self.headers {
            if name.eq_ignore_ascii_case("content-range")
                && let Some((_, size)) = value.clone().split_once('/')
            {
                *value = format!("bytes {first}-{}/{size}", (first + len).saturating_sub(1));
            }
        }
    }

    /// Replaces or adds a header.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }
}
