// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters in Prometheus' text format, and the little HTTP and the file that deliver it.
//!
//! Written by hand: the engine has counters and histograms of its own already, and the format is a
//! page long. Refuses to know connections. Invariant: every line is well-formed whatever names the
//! mount has.

use crate::control::{Shared, SharingSnapshot, latencies};
use ferrofs_engine::{BUCKETS, EngineStats, Histogram};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest head of an HTTP request, in bytes.
pub(crate) const HEAD_MAX: usize = 8 << 10;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the engine's counters count. Those it has besides are shown with their names.
const HELP: [(&str, &str); 28] = [
    ("requests", "Requests for file data."),
    ("failed_requests", "Requests of which a part could not be read."),
    ("bytes", "Bytes delivered."),
    ("lookups", "Parts of compressed extents wanted: each is a hit, a wait or a claim."),
    ("extent_hits", "Parts found in decoded extents in memory."),
    ("page_hits", "Parts found in decoded pages in memory."),
    ("waits", "Parts whose pcluster another reader was decoding."),
    ("retries", "Waits that had to try again."),
    ("claims", "Pclusters claimed for decoding."),
    ("encoded_hits", "Claimed pclusters whose encoded bytes were in memory."),
    ("device_reads", "Reads of devices."),
    ("device_bytes", "Bytes read from devices."),
    ("borrowed_bytes", "Bytes decoded from where devices keep them in memory, without a read."),
    ("merged", "Pclusters read together with the one before them."),
    ("bypassed", "Requests of compressed data that read no device."),
    ("stored_bytes", "Bytes of stored data read straight into readers' buffers."),
    ("staging_bytes", "Encoded bytes read into buffers of their own."),
    ("copied_bytes", "Decoded bytes copied to get to a reader."),
    ("decodes", "Pclusters decoded."),
    ("decoded_bytes", "Bytes decoded."),
    ("direct_decodes", "Decodes straight into a reader's buffer."),
    ("in_place_decodes", "Direct decodes whose encoded bytes were in that buffer too."),
    ("partial_decodes", "Decodes of only the head of an extent."),
    ("io_failures", "Claimed pclusters that could not be read."),
    ("decode_failures", "Claimed pclusters that did not decode."),
    ("assisted", "Requests that workers helped with."),
    ("background_jobs", "Background jobs done."),
    ("background_refused", "Background jobs refused because too many waited."),
];

/// What the counters of an image in a domain count.
const SHARING_HELP: [(&str, &str); 10] = [
    ("contents", "Contents of it that several files of the domain have."),
    ("files", "Files of it with such contents."),
    ("mapped_bytes", "Bytes of those files, in pages."),
    ("saved_bytes", "Bytes of memory that they take less than alone, if all is in memory."),
    ("hits", "Times that a file was looked up, listed or opened, and was shared content."),
    ("misses", "Times that a file was looked up, listed or opened, and was its image's alone."),
    ("hashed_bytes", "Bytes of it hashed before they were shared."),
    ("verified_bytes", "Bytes of it verified when they were read as shared content."),
    ("lies", "Files that were not what the image says, and are not shared."),
    ("fetched_bytes", "Bytes of it that were fetched."),
];

/// All metrics of a mount.
pub(crate) fn text(shared: &Shared) -> String {
    let engine = shared.fs.engine().stats();
    let fuse = shared.session.as_ref().map(|session| session.stats()).unwrap_or_default();
    let mount = escape(&shared.target.to_string_lossy());
    let image = escape(&shared.image.to_string_lossy());
    let mut text =
        Text { out: String::with_capacity(16 << 10), mount: format!("mount=\"{mount}\"") };
    text.head("ferrofs_info", "gauge", "What is mounted where.");
    let version = env!("CARGO_PKG_VERSION");
    text.value("ferrofs_info", &format!(",image=\"{image}\",version=\"{version}\""), 1);
    text.head("ferrofs_uptime_seconds", "gauge", "Time since it was mounted.");
    text.float("ferrofs_uptime_seconds", shared.started.elapsed().as_secs_f64());
    engine_text(&mut text, &engine);
    let ahead = shared.ahead_stats();
    for (name, help, value) in [
        ("requests", "Requests from the kernel.", fuse.requests),
        ("ring_requests", "Of these, requests over io_uring.", fuse.ring_requests),
        ("ahead_files", "Files given to the kernel before it asked for them.", ahead.files),
        ("ahead_bytes", "Bytes of them.", ahead.bytes),
    ] {
        text.counter(&format!("ferrofs_fuse_{name}_total"), help, value);
    }
    for (name, value) in shared.store_counters() {
        let help = "Of the image's blobs together, which are fetched when they are read.";
        match name {
            "in_flight" | "prefetch_jobs" | "present_bytes" | "wasted_bytes" | "size_bytes" => {
                text.gauge(&format!("ferrofs_store_{name}"), help, value);
            }
            name if name.starts_with("wait_") => {
                text.gauge(&format!("ferrofs_store_{name}"), help, value);
            }
            name => text.counter(&format!("ferrofs_store_{name}_total"), help, value),
        }
    }
    if let Some(sight) = &shared.sight {
        sharing_text(&mut text, &sight.look());
    }
    if let Some(takeovers) = shared.takeovers {
        let help = "Times that another server took the mount over.";
        text.counter("ferrofs_fuse_takeovers_total", help, takeovers);
    }
    text.gauge("ferrofs_fuse_threads", "Threads that serve the kernel now.", fuse.threads as u64);
    let peak = fuse.threads_peak as u64;
    text.gauge("ferrofs_fuse_threads_peak", "Most of them at a time so far.", peak);
    text.out
}

fn sharing_text(text: &mut Text, sharing: &SharingSnapshot) {
    let SharingSnapshot { domain, mechanism, image, images, counters } = sharing;
    text.head("ferrofs_sharing_info", "gauge", "The domain that it shares memory in, and how.");
    let (domain, mechanism) = (escape(domain), escape(mechanism));
    let labels = format!(",domain=\"{domain}\",mechanism=\"{mechanism}\",number=\"{image}\"");
    text.value("ferrofs_sharing_info", &labels, 1);
    text.gauge("ferrofs_sharing_images", "Images of the domain.", *images);
    for (name, value) in counters {
        let help = SHARING_HELP.iter().find(|(known, _)| *known == name);
        let help = help.map_or("Of all images of the domain together.", |(_, help)| help);
        let name = format!("ferrofs_sharing_{name}");
        match name.as_str() {
            // What is shared now; it becomes less when images leave.
            name if ["contents", "files", "mapped_bytes", "saved_bytes"]
                .iter()
                .any(|now| name.ends_with(now)) =>
            {
                text.gauge(name, help, *value);
            }
            name => text.counter(&format!("{name}_total"), help, *value),
        }
    }
}

fn engine_text(text: &mut Text, engine: &EngineStats) {
    for (name, value) in engine.counters() {
        let help = HELP.iter().find(|(known, _)| *known == name);
        let help = help.map_or(name, |(_, help)| help);
        text.counter(&format!("ferrofs_engine_{name}_total"), help, value);
    }
    let pools = "ferrofs_engine_cache_bytes";
    text.head(pools, "gauge", "Bytes in memory, by what they are.");
    text.value(pools, ",pool=\"extents\"", engine.extent_cache_bytes);
    text.value(pools, ",pool=\"pages\"", engine.page_cache_bytes);
    text.value(pools, ",pool=\"encoded\"", engine.encoded_cache_bytes);
    text.gauge("ferrofs_engine_cache_limit_bytes", "Limit of all pools.", engine.cache_limit);
    text.gauge(
        "ferrofs_engine_encoded_share_bytes",
        "The part of the limit that is for encoded data now.",
        engine.encoded_share,
    );
    for (name, histogram) in latencies(engine) {
        let help = match name {
            "request" => "Time of whole requests.",
            "device" => "Time of single reads of devices.",
            "decode" => "Time of single decodes.",
            _ => "Time of waiting for other readers' decodes.",
        };
        text.histogram(&format!("ferrofs_engine_{name}_seconds"), help, histogram);
    }
}

struct Text {
    out: String,
    mount: String,
}

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.out.write_fmt(line);
        self.out.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        let mount = self.mount.clone();
        self.line(format_args!("{name}{{{mount}{labels}}} {value}"));
    }

    fn float(&mut self, name: &str, value: f64) {
        let mount = self.mount.clone();
        self.line(format_args!("{name}{{{mount}}} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.value(name, "", value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.value(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        for index in 0..BUCKETS {
            sum += histogram.buckets[index];
            let bound = Histogram::bound(index).as_ref().map(Duration::as_secs_f64);
            let bound = bound.map_or_else(|| String::from("+Inf"), |bound| bound.to_string());
            self.value(&bucket, &format!(",le=\"{bound}\""), sum);
        }
        self.float(&format!("{name}_sum"), histogram.sum_ns as f64 / 1e9);
        self.value(&format!("{name}_count"), "", sum);
    }
}

/// A label's value.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The answer to an HTTP request, if its head has come whole.
pub(crate) fn http(shared: &Shared, input: &[u8]) -> Option<Vec<u8>> {
    let whole = input.windows(4).any(|four| four == b"\r\n\r\n")
        || input.windows(2).any(|two| two == b"\n\n");
    if !whole {
        let long = input.len() >= HEAD_MAX;
        return long.then(|| http_text("431 Request Header Fields Too Large", "", true));
    }
    let line = input.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(match words[..] {
        [method @ ("GET" | "HEAD"), path, version] if version.starts_with("HTTP/1.") => {
            let with_body = method == "GET";
            match path.split('?').next() {
                Some("/metrics") => http_text("200 OK", &text(shared), with_body),
                Some("/") => http_text("200 OK", "ferrofs: see /metrics\n", with_body),
                _ => http_text("404 Not Found", "see /metrics\n", with_body),
            }
        }
        [_, _, version] if version.starts_with("HTTP/1.") => {
            http_text("405 Method Not Allowed", "", true)
        }
        _ => http_text("400 Bad Request", "", true),
    })
}

fn http_text(status: &str, body: &str, with_body: bool) -> Vec<u8> {
    let len = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A file with the metrics; gone when this is dropped, so that nothing stale is collected.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    temporary: PathBuf,
    failed: bool,
}

impl MetricsFile {
    /// Begins with an empty file, to see whether it can be written.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        // The collector takes files that end in ".prom".
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let mut file = Self { path, temporary, failed: false };
        file.replace("")?;
        Ok(file)
    }

    /// Writes the metrics as they are now.
    pub(crate) fn write(&mut self, shared: &Shared) {
        match self.replace(&text(shared)) {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !self.failed {
                    tracing::warn!(%error, path = %self.path.display(), "no metrics written");
                }
                self.failed = true;
            }
        }
    }

    /// Readers see the old text or the new one.
    fn replace(&mut self, text: &str) -> io::Result<()> {
        let mut file = File::create(&self.temporary)?;
        file.write_all(text.as_bytes())?;
        drop(file);
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        // They may be gone already, which is as good.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_says_what_it_counts() {
        for (name, _) in EngineStats::default().counters() {
            assert!(HELP.iter().any(|(known, _)| *known == name), "{name}");
        }
    }

    #[test]
    fn lines_are_well_formed() {
        let mut text = Text { out: String::new(), mount: String::from("mount=\"/m\"") };
        let mut engine = EngineStats::default();
        engine.request_time.buckets = [1; BUCKETS];
        engine.request_time.sum_ns = 1_500_000_000;
        engine_text(&mut text, &engine);
        for line in text.out.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(name.starts_with("ferrofs_engine_") && name.ends_with('}'), "{line}");
        }
        let has = |line: &str| assert!(text.out.lines().any(|found| found == line), "{line}");
        has("ferrofs_engine_request_seconds_sum{mount=\"/m\"} 1.5");
        has("ferrofs_engine_request_seconds_count{mount=\"/m\"} 28");
        has("ferrofs_engine_request_seconds_bucket{mount=\"/m\",le=\"0.000000256\"} 1");
        has("ferrofs_engine_request_seconds_bucket{mount=\"/m\",le=\"+Inf\"} 28");
        has("# TYPE ferrofs_engine_decodes_total counter");
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
