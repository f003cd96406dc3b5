// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said on the control socket.
//!
//! A request is `{"version":1,"command":COMMAND}`, an answer `{"version":1,"ok":VALUE}` or
//! `{"version":1,"error":TEXT}`; each is one line. Names that a side does not know are errors in
//! requests and passed over in answers, so that a newer server can tell an older client more.

use ferrofs_engine::{EngineStats, Histogram};
use ferrofs_fuse::SessionStats;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// Longest request in bytes, with its newline.
pub(crate) const LINE_MAX: usize = 64 << 10;
/// Longest answer in bytes.
pub(crate) const REPLY_MAX: u64 = 1 << 20;

/// A request as it stands in its line. The command is looked at only if the version is known.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) command: serde_json::Value,
}

/// An answer.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Reply {
    pub(crate) version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ok: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Why a request is refused, in words for people.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

/// What a server can be asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// Counters: answered with a [`Snapshot`].
    Stats,
    /// Counters in Prometheus' text format.
    Metrics,
    /// Settings in force: answered with an object of names and texts.
    Get,
    /// Changes settings, all or none.
    Set(Vec<Change>),
    /// Drops what is in memory: 1 encoded, 2 decoded, 3 both.
    DropCaches(u8),
    /// Lets something go wrong.
    Inject(InjectFault),
    /// Nothing goes wrong any more.
    ClearFaults,
    /// Decodes files into memory, or fetches what is stored of them if the image is read on demand:
    /// answered with [`Prefetched`].
    Prefetch(Vec<ImagePath>),
    /// Fetches all of an image that is read on demand: answered with [`Prefetched`].
    PrefetchAll,
}

/// A setting and its new value.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a name and a value")]
pub struct Change {
    /// Its name, as in mount options.
    pub name: String,
    /// The value; none for switches.
    pub value: Option<String>,
}

/// A fault to inject.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "what and where")]
pub struct InjectFault {
    /// As the engine's [`Fault`](ferrofs_engine::Fault) is written.
    pub fault: String,
    /// Only for this file.
    pub file: Option<ImagePath>,
}

/// A path inside the image, from its root: text if it can be written so, else bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "text or not")]
pub enum ImagePath {
    /// UTF-8.
    Text(String),
    /// Any other.
    Bytes(Vec<u8>),
}

impl From<&OsStr> for ImagePath {
    fn from(path: &OsStr) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_bytes().to_vec()),
        }
    }
}

impl ImagePath {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        OsString::from_vec(self.as_bytes().to_vec()).to_string_lossy().into_owned()
    }
}

/// What a prefetch has begun.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Prefetched {
    /// Files found.
    pub files: u64,
    /// Bytes of them that will be decoded.
    pub bytes: u64,
    /// Whether all of them: else the cache is too small, too many wishes wait, or there are too many
    /// files for one request.
    pub complete: bool,
}

/// What a server has done and holds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Seconds since it was mounted.
    pub uptime_seconds: f64,
    /// Counters of the engine.
    pub engine: BTreeMap<String, u64>,
    /// Bytes in memory now, by pool (`extents`, `pages`, `encoded`), and limits (`limit`,
    /// `encoded_share`).
    pub cache_bytes: BTreeMap<String, u64>,
    /// Latencies, by what took the time: `request`, `device`, `decode`, `wait`.
    pub latency: BTreeMap<String, HistogramJson>,
    /// Counters of the FUSE session.
    pub fuse: BTreeMap<String, u64>,
    /// Counters of the image's blobs together, if it is read on demand.
    pub store: BTreeMap<String, u64>,
    /// What it shares with others, if it is mounted in a domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingSnapshot>,
}

/// How an image shares memory.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SharingSnapshot {
    /// Its domain.
    pub domain: String,
    /// How the domain shares.
    pub mechanism: String,
    /// Its number in the domain.
    pub image: u64,
    /// Images of the domain.
    pub images: u64,
    /// Its counters. `contents` that several files have, its `files` with them, the bytes of those
    /// (`mapped_bytes`), and what they take less than alone (`saved_bytes`); how often a file that was
    /// looked up, listed or opened was shared content (`hits`) and was not (`misses`); bytes that were hashed
    /// before they were shared, and verified when they were read as shared content; files that were
    /// not what the image says (`lies`). Beginning with `domain_`: of all images together.
    pub counters: BTreeMap<String, u64>,
}

/// A histogram.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HistogramJson {
    /// How many there were up to each bound, in nanoseconds; the last has none. Counts are of each
    /// bucket alone, not of all up to it.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// Sum of all in nanoseconds.
    pub sum_ns: u64,
}

impl From<&Histogram> for HistogramJson {
    fn from(histogram: &Histogram) -> Self {
        let bound = |index| Histogram::bound(index).map(|bound| bound.as_nanos() as u64);
        let buckets = histogram.buckets.iter().enumerate();
        Self {
            buckets: buckets.map(|(index, count)| (bound(index), *count)).collect(),
            sum_ns: histogram.sum_ns,
        }
    }
}

impl HistogramJson {
    /// How many in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |index| earlier.buckets.get(index).map_or(0, |(_, count): &(_, u64)| *count);
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets
                .map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index))))
                .collect(),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// The bound that `percent` of all did not exceed; `None` if there are none, or no bound.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut sum = 0_u64;
        for (bound, count) in &self.buckets {
            sum = sum.saturating_add(*count);
            if sum >= wanted {
                return bound.map(Duration::from_nanos);
            }
        }
        None
    }
}

impl Snapshot {
    pub(crate) fn new(engine: &EngineStats, fuse: &SessionStats, uptime: Duration) -> Self {
        let named = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let latency = latencies(engine);
        Self {
            uptime_seconds: uptime.as_secs_f64(),
            engine: named(&engine.counters()),
            cache_bytes: named(&[
                ("extents", engine.extent_cache_bytes),
                ("pages", engine.page_cache_bytes),
                ("encoded", engine.encoded_cache_bytes),
                ("limit", engine.cache_limit),
                ("encoded_share", engine.encoded_share),
            ]),
            store: BTreeMap::new(),
            sharing: None,
            latency: latency.map(|(name, times)| (name.to_owned(), times.into())).into(),
            fuse: named(&[
                ("requests", fuse.requests),
                ("ring_requests", fuse.ring_requests),
                ("threads", fuse.threads as u64),
                ("threads_peak", fuse.threads_peak as u64),
            ]),
        }
    }
}

/// The engine's histograms with their names.
pub(crate) const fn latencies(engine: &EngineStats) -> [(&'static str, &Histogram); 4] {
    [
        ("request", &engine.request_time),
        ("device", &engine.device_time),
        ("decode", &engine.decode_time),
        ("wait", &engine.wait_time),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_so() {
        let text = |command: &Command| serde_json::to_string(command).unwrap();
        assert_eq!(text(&Command::Stats), r#""stats""#);
        let change = Change { name: String::from("cache"), value: Some(String::from("1M")) };
        let set = Command::Set(vec![change]);
        assert_eq!(text(&set), r#"{"set":[{"name":"cache","value":"1M"}]}"#);
        let paths = vec![OsStr::new("a").into(), OsStr::from_bytes(b"\xff").into()];
        let prefetch = Command::Prefetch(paths);
        assert_eq!(text(&prefetch), r#"{"prefetch":["a",[255]]}"#);
        let Command::Prefetch(paths) = serde_json::from_str(&text(&prefetch)).unwrap() else {
            panic!("another command");
        };
        assert_eq!(paths[1].as_bytes(), b"\xff");
        for bad in [r#""explode""#, r#"{"drop_caches":256}"#, r#"{"set":[{"name":"x","y":1}]}"#] {
            assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_older_client_understands_a_newer_server() {
        let text = r#"{"uptime_seconds":1.5,"engine":{"requests":3,"new":1},"more":{"x":[1]}}"#;
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!((snapshot.engine["requests"], snapshot.fuse.len()), (3, 0));
    }

    #[test]
    fn differences_and_percentiles() {
        let histogram = |counts: [u64; 3]| HistogramJson {
            buckets: [Some(10), Some(20), None].into_iter().zip(counts).collect(),
            sum_ns: counts.iter().sum(),
        };
        let since = histogram([5, 100, 0]).since(&histogram([4, 1, 0]));
        assert_eq!(since.count(), 100);
        assert_eq!(since.percentile(1.0), Some(Duration::from_nanos(10)));
        assert_eq!(since.percentile(50.0), Some(Duration::from_nanos(20)));
        assert_eq!(histogram([0, 0, 1]).percentile(50.0), None);
        assert_eq!(histogram([0, 0, 0]).percentile(50.0), None);
    }
}
