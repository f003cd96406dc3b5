// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said to the server of a domain: a line of JSON each way, as on other control sockets.

use super::member::MemberSpec;
use super::sight::SightSpec;
use crate::control::{Refusal, Reply, Request, VERSION};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest answer in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// How long an answer may take: an image may have to be found and its files be counted.
const ANSWER_TIME: Duration = Duration::from_secs(300);

/// How the images of a domain share memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mechanism {
    /// The best that this machine has.
    #[default]
    Auto,
    /// One FUSE file system, whose parts images are: equal files of equal attributes are one.
    Superblock,
    /// A FUSE file system for each image, which passes through to one that holds contents: equal
    /// files are one, whatever their attributes. Linux 6.9.
    Passthrough,
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Superblock => "superblock",
            Self::Passthrough => "passthrough",
        })
    }
}

/// How a domain is served; told once, when its server begins.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct DomainSpec {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) mechanism: Mechanism,
    /// What images say of their content is believed.
    pub(crate) trust: bool,
    /// How long an image's cache is kept when it is not mounted any more.
    pub(crate) keep_seconds: u64,
    /// Memory for decoded data of all images together.
    pub(crate) cache_bytes: u64,
}

/// What a server can be asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DomainCommand {
    /// An image joins: answered with [`Added`].
    Add {
        image: Box<MemberSpec>,
        mechanism: Mechanism,
        trust: bool,
        keep_seconds: Option<u64>,
        sight: SightSpec,
    },
    /// Answered with [`DomainStats`]; with `memory`, what the page cache has is counted, too.
    Stats { memory: bool },
    /// Ends, unless an image is mounted.
    Stop,
}

/// An image is in the domain.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Added {
    /// What is to be mounted, from the domain's folder on.
    pub(crate) tree: PathBuf,
    /// It was there already, with whatever is in memory of it.
    pub(crate) again: bool,
    pub(crate) images: usize,
    pub(crate) stats: DomainStats,
    /// Where its metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// What does not work though it will be mounted.
    pub(crate) notes: Vec<String>,
}

/// An image of a domain.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DomainImage {
    /// Its number in the domain.
    pub number: u16,
    /// The image.
    pub image: PathBuf,
    /// Where it is mounted, as far as the server can see.
    pub targets: Vec<PathBuf>,
    /// Seconds since it joined.
    pub seconds: u64,
    /// Files of it that were not what the image says, and are not shared.
    pub lies: u64,
    /// Bytes of it that were fetched, if it is read on demand.
    pub fetched_bytes: u64,
}

/// What a domain shares and how.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DomainStats {
    /// Its name.
    pub domain: String,
    /// How it shares.
    pub mechanism: Mechanism,
    /// Its server.
    pub pid: u32,
    /// Whether digests of images are believed.
    pub trusts_digests: bool,
    /// How long the cache of an image is kept that is not mounted any more.
    pub keep_seconds: u64,
    /// Contents that several files have.
    pub contents: u64,
    /// Files that have them.
    pub files: u64,
    /// Bytes of those files, in pages.
    pub mapped_bytes: u64,
    /// Bytes of memory that they take less than alone, if all is in memory.
    pub saved_bytes: u64,
    /// Bytes of shared contents that the kernel's page cache holds now, each once; if asked for.
    pub memory_bytes: Option<u64>,
    /// Bytes that were read from images and devices.
    pub device_bytes: u64,
    /// Bytes that more could be saved if modes, owners and times were equal, too.
    pub differing_bytes: u64,
    /// Bytes that were hashed before they were shared.
    pub hashed_bytes: u64,
    /// Decoded data in the server's own caches.
    pub cache_bytes: u64,
    /// Its images.
    pub images: Vec<DomainImage>,
}

/// Asks the server at `socket`.
pub(crate) fn ask<T: for<'a> Deserialize<'a>>(
    stream: &UnixStream,
    folder: &Path,
    command: &DomainCommand,
) -> Result<T> {
    let fail = |error| Error::NoServer { path: folder.to_owned(), error };
    stream.set_nonblocking(false).map_err(fail)?;
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(fail)?;
    stream.set_write_timeout(Some(ANSWER_TIME)).map_err(fail)?;
    let mut stream = stream;
    stream.write_all(&line_of(command)?).map_err(fail)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).map_err(fail)?;
    if answer.is_empty() {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    parse_answer(&answer)
}

/// The line that asks.
pub(crate) fn line_of(command: &DomainCommand) -> Result<Vec<u8>> {
    let command = serde_json::to_value(command).map_err(|_| Error::Answer)?;
    let mut line =
        serde_json::to_vec(&Request { version: VERSION, command }).map_err(|_| Error::Answer)?;
    line.push(b'\n');
    Ok(line)
}

/// What a line asks.
pub(crate) fn parse_line(line: &[u8]) -> std::result::Result<DomainCommand, Refusal> {
    let refuse =
        |error: serde_json::Error| Refusal(format!("the request is not understood: {error}"));
    let request: Request = serde_json::from_slice(line).map_err(refuse)?;
    if request.version != VERSION {
        let text = format!("version {} is asked for; this is {VERSION}", request.version);
        return Err(Refusal(text));
    }
    serde_json::from_value(request.command).map_err(refuse)
}

/// What an answer holds.
fn parse_answer<T: for<'a> Deserialize<'a>>(answer: &[u8]) -> Result<T> {
    match serde_json::from_slice(answer).map_err(|_| Error::Answer)? {
        Reply { error: Some(message), .. } => Err(Error::Refused { message }),
        Reply { version: VERSION, ok, .. } => {
            serde_json::from_value(ok.unwrap_or_default()).map_err(|_| Error::Answer)
        }
        Reply { .. } => Err(Error::Answer),
    }
}

/// For fuzz targets: whatever comes is understood or refused, and what is understood is so again when
/// it is written anew.
pub(crate) fn exercise(bytes: &[u8]) {
    if let Ok(command) = parse_line(bytes) {
        let line = line_of(&command).expect("what was parsed can be written");
        let again = parse_line(&line).expect("what was written can be parsed");
        assert_eq!(line_of(&again).expect("it can be written again"), line);
    }
    let text = |stats: &DomainStats| serde_json::to_string(stats).expect("numbers and names");
    if let Ok(stats) = parse_answer::<DomainStats>(bytes) {
        let again: DomainStats = serde_json::from_str(&text(&stats)).expect("it was just written");
        assert_eq!(text(&again), text(&stats));
    }
    if let Ok(added) = parse_answer::<Added>(bytes) {
        let value = serde_json::to_value(&added).expect("numbers and names");
        serde_json::from_value::<Added>(value).expect("it was just written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_refused_by_its_fault() {
        let stats = line_of(&DomainCommand::Stats { memory: true }).unwrap();
        assert_eq!(stats, b"{\"version\":1,\"command\":{\"stats\":{\"memory\":true}}}\n");
        assert!(matches!(parse_line(&stats), Ok(DomainCommand::Stats { memory: true })));
        for (bad, what) in [
            (&b""[..], "not understood"),
            (b"{\"version\":2,\"command\":\"stop\"}", "version 2"),
            (b"{\"version\":1,\"command\":\"explode\"}", "explode"),
            (b"{\"version\":1,\"command\":{\"stats\":{\"memory\":1}}}", "boolean"),
            (b"{\"version\":1,\"command\":\"stop\",\"x\":1}", "`x`"),
            (b"{\"version\":1,\"command\":\"stop\"}}", "trailing"),
        ] {
            let Err(Refusal(text)) = parse_line(bad) else { panic!("{bad:?}") };
            assert!(text.contains(what), "{text}");
            exercise(bad);
        }
        exercise(&stats);
        exercise(b"{\"version\":1,\"ok\":{\"domain\":\"x\",\"images\":[{\"number\":1}]}}");
    }
}
