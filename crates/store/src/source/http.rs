// SPDX-License-Identifier: MIT OR Apache-2.0
//! A blob behind a URL whose server knows ranges.
//!
//! Invariant: the sink gets the bytes that its `begin` named, of the version of the blob that was
//! first seen, all of them; or the fetch fails.

use super::{FetchContext, Identity, RangeSource, Sink};
use crate::{FetchError, FetchErrorKind};
use ferrofs_oci::http::{Ask, Authorize, Client, Resource, Response, address};
use ferrofs_oci::{Error, ErrorKind, Secret};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use url::Url;

/// Bytes that come with the question for the size, and serve the first read; and if whoever asks will read
/// the start at once.
const HEAD_LEN: u64 = 8 * 1024;
const HEAD_LEN_WANTED: u64 = 128 * 1024;

/// What a source over HTTP needs to know.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made with `..HttpOptions::default()`")]
pub struct HttpOptions {
    /// Headers for the origin, and for no other host.
    pub headers: Vec<(String, Secret)>,
    /// User and password for Basic authentication, if the URL has none.
    pub login: Option<(String, Secret)>,
    /// Whether an answer with another `ETag` or `Last-Modified` than the first one is another blob. Not
    /// needed if the content is known by a digest.
    pub validate: bool,
    /// The size, if it is known.
    pub size: Option<u64>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { headers: Vec::new(), login: None, validate: true, size: None }
    }
}

/// Ranges by HTTP/1.1.
pub struct HttpSource {
    resource: Resource,
    shown: String,
    validate: bool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    size: Option<u64>,
    validator: Option<Validator>,
    /// The first bytes of the blob, until they are asked for.
    head: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Validator {
    Strong(String),
    Weak(String),
    Modified(String),
}

impl Validator {
    fn of(answer: &Response) -> Option<Self> {
        let text = |name| answer.header(name).map(str::trim).filter(|text| text.len() <= 512);
        if let Some(tag) = text("etag").filter(|tag| !tag.is_empty()) {
            let weak = tag.starts_with("W/");
            return Some(if weak { Self::Weak(tag.into()) } else { Self::Strong(tag.into()) });
        }
        text("last-modified").map(|time| Self::Modified(time.into()))
    }

    fn text(&self) -> &str {
        match self {
            Self::Strong(text) | Self::Weak(text) | Self::Modified(text) => text,
        }
    }
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpSource({})", self.shown)
    }
}

/// Basic authentication that nobody can renew.
struct Basic(String);

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic")
    }
}

impl Authorize for Basic {
    fn authorize(
        &self,
        outgoing: &mut ferrofs_oci::http::Outgoing,
        _: Option<Instant>,
    ) -> Result<u64, Error> {
        outgoing.headers.push(("authorization".to_owned(), self.0.clone()));
        Ok(0)
    }

    fn refused(&self, _: u64, _: &Response, _: Option<Instant>) -> Result<bool, Error> {
        Ok(false)
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::Unreachable => FetchErrorKind::Unreachable,
            ErrorKind::Deadline => FetchErrorKind::Deadline,
            ErrorKind::Length => FetchErrorKind::Length,
            ErrorKind::Busy(wait) => FetchErrorKind::Busy(wait),
            ErrorKind::NotFound => FetchErrorKind::NotFound,
            ErrorKind::Denied => FetchErrorKind::Denied,
            ErrorKind::Digest => FetchErrorKind::Digest,
            ErrorKind::Io => FetchErrorKind::Io,
            _ => FetchErrorKind::Protocol,
        };
        Self::new(kind, error.what)
    }
}

impl HttpSource {
    /// A source for `url`, which may hold user and password.
    pub fn new(client: Client, url: &str, options: HttpOptions) -> Result<Self, FetchError> {
        let (url, login) = address::parse(url)?;
        let authorizer = login.or(options.login).map(|(user, password)| {
            let header = ferrofs_oci::http::basic(&user, &password);
            Arc::new(Basic(header)) as Arc<dyn Authorize>
        });
        let headers = options.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        let resource = Resource::new(client, url, headers.collect(), authorizer);
        Ok(Self::over(resource, None, options.validate, options.size))
    }

    /// A source for a resource with its own ways; `shown` instead of its URL in messages.
    pub fn over(
        resource: Resource,
        shown: Option<String>,
        validate: bool,
        size: Option<u64>,
    ) -> Self {
        let shown = shown.unwrap_or_else(|| resource.show());
        let known = Mutex::new(Known { size, ..Known::default() });
        Self { resource, shown, validate, known }
    }

    /// The URL that is asked.
    pub fn url(&self) -> &Url {
        self.resource.url()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: FetchErrorKind, what: impl fmt::Display) -> FetchError {
        FetchError::new(kind, format!("{}: {what}", self.shown))
    }

    /// Whether the answer is of the blob that we know; learns what it is if we know none.
    fn check(&self, answer: &Response, total: Option<u64>) -> Result<(), FetchError> {
        self.check_coding(answer)?;
        let validator = Validator::of(answer);
        let mut known = self.lock();
        if let (Some(before), Some(now)) = (known.size, total)
            && before != now
        {
            let what = format!("was {before} bytes long, is now {now}");
            return Err(self.error(FetchErrorKind::Changed, what));
        }
        if self.validate
            && let (Some(before), Some(now)) = (&known.validator, &validator)
            && before != now
        {
            let what = "has changed on the server (other ETag or Last-Modified)";
            return Err(self.error(FetchErrorKind::Changed, what));
        }
        known.size = known.size.or(total);
        if known.validator.is_none() {
            known.validator = validator;
        }
        Ok(())
    }

    /// Whether the answer's bytes are the blob's own.
    fn check_coding(&self, answer: &Response) -> Result<(), FetchError> {
        if answer.header("content-encoding").is_some_and(|coding| coding.trim() != "identity") {
            return Err(self.error(FetchErrorKind::Protocol, "an encoded answer nobody asked for"));
        }
        Ok(())
    }

    fn ask(&self, range: Range<u64>, context: &FetchContext) -> Ask {
        let known = self.lock();
        // A weak tag must not be sent with If-Range (RFC 9110, 13.1.5).
        let if_range = match &known.validator {
            Some(Validator::Strong(text) | Validator::Modified(text)) if self.validate => {
                Some(text.clone())
            }
            _ => None,
        };
        Ask {
            range: Some(range),
            if_range,
            deadline: context.deadline,
            stall: context.stall,
            fresh: context.fresh,
            ..Ask::default()
        }
    }

    /// Brings the body to the sink: `len` bytes, or all if that is not known.
    fn pour(
        &self,
        answer: &mut Response,
        len: Option<u64>,
        sink: &mut dyn Sink,
    ) -> Result<(), FetchError> {
        let mut got = 0_u64;
        loop {
            let left = len.map_or(u64::MAX, |len| len - got);
            if left == 0 {
                break;
            }
            let room = sink.room();
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let count = answer.read(&mut room[..part])?;
            if count == 0 {
                if len.is_none() {
                    return Ok(());
                }
                let what = format!("the answer ended {left} bytes too early");
                return Err(self.error(FetchErrorKind::Length, what));
            }
            got += count as u64;
            if sink.filled(count).is_err() {
                // A receiver that has enough, as most have at the end, must not cost the connection.
                if len == Some(got) {
                    answer.read(&mut [0]).unwrap_or_default();
                }
                return Ok(());
            }
        }
        // Only at its end is the connection free for the next request.
        if answer.read(&mut [0])? != 0 {
            return Err(self.error(FetchErrorKind::Length, "the answer is longer than announced"));
        }
        Ok(())
    }

    /// The part that a 206 brings, checked against what was asked for; and the size of the whole. It
    /// begins where it should, and may end too early: a server may send less than was asked for
    /// (RFC 9110, 15.3.7).
    fn part(
        &self,
        answer: &Response,
        asked: &Range<u64>,
    ) -> Result<(u64, Option<u64>), FetchError> {
        let shown = || answer.header("content-range").map(|text| text.chars().take(80).collect());
        let wrong = |why: &str| {
            let shown: String = shown().unwrap_or_default();
            let what =
                format!("{why}: asked for bytes {}-{}, got {shown:?}", asked.start, asked.end - 1);
            self.error(FetchErrorKind::Length, what)
        };
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("multipart/")) {
            return Err(self.error(FetchErrorKind::Protocol, "an answer of several parts"));
        }
        // Before its length is looked at, which is another then.
        self.check_coding(answer)?;
        let header = answer.header("content-range").and_then(parse_content_range);
        let Some((first, last, total)) = header else {
            return Err(wrong("a part without a proper Content-Range"));
        };
        let end = last.checked_add(1).filter(|end| first == asked.start && *end <= asked.end);
        let Some(end) = end else {
            return Err(wrong("another part"));
        };
        if answer.content_length().is_some_and(|len| len != end - first) {
            return Err(wrong("a part whose length is not that of its range"));
        }
        Ok((end - first, total))
    }

    fn size_of_head(&self, context: &FetchContext) -> Result<u64, FetchError> {
        let ask = Ask {
            head_only: true,
            deadline: context.deadline,
            stall: context.stall,
            fresh: context.fresh,
            ..Ask::default()
        };
        let answer = self.resource.open(&ask)?;
        if answer.status() != 200 {
            return Err(self.resource.error(answer).into());
        }
        let total = answer.content_length();
        self.check(&answer, total)?;
        total.ok_or_else(|| self.error(FetchErrorKind::Protocol, "the server tells no size"))
    }

    /// Asks for the first bytes; the size comes with them.
    fn ask_identity(&self, context: &FetchContext) -> Result<u64, FetchError> {
        let asked = 0..if context.head { HEAD_LEN_WANTED } else { HEAD_LEN };
        let mut answer = self.resource.open(&self.ask(asked.clone(), context))?;
        match answer.status() {
            206 => {
                let (len, total) = self.part(&answer, &asked)?;
                let Some(total) = total else {
                    return self.size_of_head(context);
                };
                self.check(&answer, Some(total))?;
                let head = answer.read_all(len as usize)?;
                if head.len() as u64 == len {
                    self.lock().head = head;
                }
                Ok(total)
            }
            200 => {
                let total = answer.content_length();
                self.check(&answer, total)?;
                match total {
                    Some(total) => Ok(total),
                    None => self.size_of_head(context),
                }
            }
            416 if unsatisfied_size(&answer) == Some(0) => {
                self.check(&answer, Some(0))?;
                Ok(0)
            }
            _ => Err(self.resource.error(answer).into()),
        }
    }

    /// Serves from the first bytes that came with the size, once.
    fn serve_head(&self, range: &Range<u64>, sink: &mut dyn Sink) -> bool {
        let (head, size) = {
            let mut known = self.lock();
            if range.end > known.head.len() as u64 {
                return false;
            }
            (std::mem::take(&mut known.head), known.size)
        };
        let mut bytes = &head[range.start as usize..range.end as usize];
        if sink.begin(range.start, size).is_err() {
            return true;
        }
        while !bytes.is_empty() {
            let room = sink.room();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if sink.filled(count).is_err() {
                break;
            }
        }
        true
    }
}

impl RangeSource for HttpSource {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    fn identity(&self, context: &FetchContext) -> Result<Identity, FetchError> {
        let known = if context.fresh { None } else { self.lock().size };
        let size = match known {
            Some(size) => size,
            None => self.ask_identity(context)?,
        };
        let validator = self.lock().validator.clone();
        Ok(Identity { size, validator: validator.map(|validator| validator.text().to_owned()) })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        context: &FetchContext,
    ) -> Result<(), FetchError> {
        if !context.fresh && self.serve_head(&range, sink) {
            return Ok(());
        }
        let mut answer = self.resource.open(&self.ask(range.clone(), context))?;
        match answer.status() {
            206 => {
                let (len, total) = self.part(&answer, &range)?;
                self.check(&answer, total)?;
                let is_head = context.head && range.start == 0;
                let end = total.map_or(range.end, |total| range.end.min(total));
                if end != range.end && !is_head {
                    let what = format!("ends before byte {}", range.end);
                    return Err(self.error(FetchErrorKind::Changed, what));
                }
                if sink.begin(range.start, total).is_err() {
                    return Ok(());
                }
                self.pour(&mut answer, Some(len), sink)?;
                // What came is kept, and whoever asks goes on from there.
                let missing = (end - range.start).saturating_sub(len);
                if missing != 0 {
                    let what = format!("a part that ends {missing} bytes too early");
                    return Err(self.error(FetchErrorKind::Length, what));
                }
                Ok(())
            }
            200 => {
                let told = answer.content_length();
                self.check(&answer, told)?;
                let total = told.or(self.lock().size);
                if total.is_none() && !answer.is_delimited() {
                    let what = "an answer of unknown length could break off unnoticed";
                    return Err(self.error(FetchErrorKind::NoRanges, what));
                }
                if sink.begin(0, total).is_err() {
                    return Ok(());
                }
                self.pour(&mut answer, total, sink)
            }
            416 => {
                let size = unsatisfied_size(&answer);
                let what = match size {
                    Some(size) => {
                        format!("is {size} bytes long, was asked for byte {}", range.end - 1)
                    }
                    None => format!("has no bytes {}-{}", range.start, range.end - 1),
                };
                answer.drain();
                Err(self.error(FetchErrorKind::Changed, what))
            }
            _ => Err(self.resource.error(answer).into()),
        }
    }
}

/// `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*`.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u64>().ok() } else { None }
    };
    let total = if total == "*" { None } else { Some(number(total)?) };
    let (first, last) = (number(first)?, number(last)?);
    let fits = first <= last && total.is_none_or(|total| last < total);
    (unit.eq_ignore_ascii_case("bytes") && fits).then_some((first, last, total))
}

/// `bytes */TOTAL` of a 416.
fn unsatisfied_size(answer: &Response) -> Option<u64> {
    answer.header("content-range")?.trim().strip_prefix("bytes */")?.parse().ok()
}

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
pub(crate) mod tests;
