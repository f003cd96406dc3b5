// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces as text: a head, a line a blob, a line a touch.
//!
//! ```text
//! ferrofs-trace 1 runs=3
//! blob blake3:0123...
//! 1520 0 4096 8192 3
//! ```
//!
//! A touch is microseconds, blob (from 0, in the order of their lines), first byte, bytes, runs.

use super::{Touch, Trace};
use std::fmt::{self, Write as _};
use std::io::{self, Read};

const HEAD: &str = "ferrofs-trace 1 runs=";
const NAME_MAX: usize = 256;

/// What follows the name of an image in the name of its trace.
pub const TRACE_SUFFIX: &str = ".trace";

/// What is wrong with the text of a trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TraceError {
    /// Not a trace, or of a version that is not known.
    Head,
    /// A line (from 1) that is neither a blob nor a touch of a blob before it.
    Line(usize),
    /// More blobs, touches or bytes than a trace has.
    TooLong,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => write!(f, "not a trace, or of a version that is not known"),
            Self::Line(line) => write!(f, "line {line} of the trace is neither blob nor touch"),
            Self::TooLong => write!(
                f,
                "a trace of more than {} blobs, {} touches or {} bytes",
                Trace::BLOBS_MAX,
                Trace::TOUCHES_MAX,
                Trace::TEXT_MAX
            ),
        }
    }
}

impl std::error::Error for TraceError {}

/// Whether a blob may be called so: printable, without spaces.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Trace {
    /// Reads the text of a trace, of any origin.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        if text.len() > Self::TEXT_MAX {
            return Err(TraceError::TooLong);
        }
        let mut lines = text.lines();
        let runs = lines.next().and_then(|head| head.strip_prefix(HEAD)).ok_or(TraceError::Head)?;
        let runs = number(runs).ok_or(TraceError::Head)?;
        let mut trace = Self { runs, ..Self::default() };
        for (index, line) in lines.enumerate() {
            let wrong = TraceError::Line(index.saturating_add(2));
            if let Some(name) = line.strip_prefix("blob ") {
                if !is_name(name) {
                    return Err(wrong);
                }
                if trace.blobs.len() >= Self::BLOBS_MAX {
                    return Err(TraceError::TooLong);
                }
                trace.blobs.push(name.to_owned());
                continue;
            }
            let touch = touch(line).ok_or(wrong)?;
            if touch.blob as usize >= trace.blobs.len() {
                return Err(wrong);
            }
            if trace.touches.len() >= Self::TOUCHES_MAX {
                return Err(TraceError::TooLong);
            }
            trace.touches.push(touch);
        }
        Ok(trace)
    }

    /// Whether bytes are meant to be a trace, of whatever version.
    #[must_use]
    pub fn is_trace(bytes: &[u8]) -> bool {
        bytes.starts_with(b"ferrofs-trace ")
    }

    /// Reads a trace from a file, no more of it than a trace can have.
    pub fn read(mut file: impl Read) -> io::Result<Self> {
        let mut text = String::new();
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        file.by_ref().take(Self::TEXT_MAX as u64 + 1).read_to_string(&mut text).map_err(
            |error| match error.kind() {
                io::ErrorKind::InvalidData => wrong(TraceError::Head),
                _ => error,
            },
        )?;
        Self::parse(&text).map_err(wrong)
    }

    /// The text of a trace.
    #[must_use]
    pub fn emit(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.runs);
        for blob in &self.blobs {
            text.extend(["blob ", blob, "\n"]);
        }
        for Touch { micros, blob, start, len, runs } in &self.touches {
            // Writing to a string does not fail.
            writeln!(text, "{micros} {blob} {start} {len} {runs}").unwrap_or(());
        }
        text
    }
}

fn touch(line: &str) -> Option<Touch> {
    let mut words = line.split(' ');
    let touch = Touch {
        micros: number(words.next()?)?,
        blob: number(words.next()?)?,
        start: number(words.next()?)?,
        len: number(words.next()?)?,
        runs: number(words.next()?)?,
    };
    let is_good = words.next().is_none()
        && touch.len > 0
        && touch.runs > 0
        && touch.start.checked_add(touch.len).is_some();
    is_good.then_some(touch)
}

/// Digits only: no sign, as `parse` alone would take.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
