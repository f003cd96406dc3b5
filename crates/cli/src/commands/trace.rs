// SPDX-License-Identifier: MIT OR Apache-2.0
//! `trace`: what is read first of images, learned and used.

mod files;
mod record;

pub(crate) use files::order;

use crate::args::{AheadArgs, NetworkArgs, PrefetchArg, SourceArgs, TraceArgs, TraceCommand};
use crate::errors::Advice;
use crate::network::device_urls;
use crate::output::Out;
use crate::{json, size, time};
use anyhow::Context as _;
use ferrofs_serve::{LazySpec, PrefetchWhat, TraceFrom};
use ferrofs_store::source::remote::{Location, RemoteOptions, resolve};
use ferrofs_store::{Progress, Trace};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a registry may take.
const ATTACH_TIME: Duration = Duration::from_secs(120);

pub(crate) fn run(args: TraceArgs) -> anyhow::Result<u8> {
    match args.command {
        TraceCommand::Record { url, output, devices, source, command } => {
            record::run(&url, &output, &source, &devices.device, &command)
        }
        TraceCommand::Replay { trace, url, devices, source, all, json } => {
            let spec = source.spec(&url, &devices.device)?;
            replay(&trace, spec, all, json)
        }
        TraceCommand::Show { trace, json } => show(&read(&trace)?, json),
        TraceCommand::Merge { traces, output, runs_min } => {
            let mut merged = Trace::default();
            for path in &traces {
                // One after the other: of any number no more than two are in memory.
                merged = Trace::merge(&[merged, read(path)?], 1);
            }
            write(&output, &Trace::merge(&[merged], runs_min))?;
            Ok(0)
        }
        TraceCommand::Attach { trace, url, insecure, network, json } => {
            attach(&trace, &url, insecure, &network, json)
        }
        TraceCommand::Files { trace, image, place, source, json } => {
            files::run(&read(&trace)?, &image, &place, &source, json)
        }
    }
}

/// Reads a trace.
pub(crate) fn read(path: &Path) -> anyhow::Result<Trace> {
    let read = File::open(path).and_then(|file| Trace::read(BufReader::new(file)));
    read.with_context(|| format!("the trace {}", path.display()))
}

/// Writes a trace under its name when it is complete.
fn write(path: &Path, trace: &Trace) -> anyhow::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}~", std::process::id()));
    let written =
        std::fs::write(&unfinished, trace.emit()).and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        // What counts is why it could not be written.
        let _ = std::fs::remove_file(&unfinished);
    }
    written.with_context(|| path.display().to_string())
}

fn absolute(path: &Path) -> anyhow::Result<OsString> {
    let whole = std::path::absolute(path);
    Ok(whole.with_context(|| path.display().to_string())?.into_os_string())
}

/// Where a trace is, as users name it. A file is looked at now, while somebody hears of it.
fn trace_from(text: &OsStr) -> anyhow::Result<TraceFrom> {
    Ok(match text.to_str() {
        Some("auto") => TraceFrom::Image,
        Some("none") => TraceFrom::Nowhere,
        Some(text) if Location::is_location(text) => TraceFrom::Url(text.to_owned()),
        _ => {
            read(Path::new(text))?;
            TraceFrom::File(absolute(Path::new(text))?)
        }
    })
}

impl AheadArgs {
    /// The first of these options that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            ("--prefetch", self.prefetch.is_some()),
            ("--prefetch-list", self.prefetch_list.is_some()),
            ("--prefetch-bandwidth", self.prefetch_bandwidth.is_some()),
            ("--trace", self.trace.is_some()),
            ("--record", self.record.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// Puts them into a mount, as far as they make sense. What can be seen to be wrong is now, and
    /// not only by a server in the background.
    pub(crate) fn apply(&self, spec: &mut LazySpec) -> anyhow::Result<()> {
        spec.prefetch = match self.prefetch {
            Some(PrefetchArg::None) => PrefetchWhat::None,
            Some(PrefetchArg::All) => PrefetchWhat::All,
            Some(PrefetchArg::Metadata) | None => PrefetchWhat::Metadata,
        };
        if let Some(list) = &self.prefetch_list {
            File::open(list).with_context(|| format!("the list {}", list.display()))?;
            spec.prefetch_list = Some(absolute(list)?);
        }
        spec.prefetch_bandwidth = self.prefetch_bandwidth;
        if let Some(trace) = &self.trace {
            spec.trace = trace_from(trace)?;
        }
        if let Some(record) = &self.record {
            check_target(record)?;
            spec.record = Some(absolute(record)?);
        }
        Ok(())
    }
}

/// A trace can be written there: nothing else is, and its folder is there.
fn check_target(path: &Path) -> anyhow::Result<()> {
    match File::open(path) {
        Ok(file) => {
            Trace::read(BufReader::new(file)).map_err(|error| {
                Advice::error(
                    format!("{}: {error}", path.display()),
                    "what is there is not replaced: name another file for the trace",
                )
            })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            std::fs::metadata(folder).with_context(|| folder.display().to_string())?;
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    }
    Ok(())
}

impl SourceArgs {
    /// The image at a URL.
    pub(crate) fn spec(&self, url: &str, devices: &[PathBuf]) -> anyhow::Result<LazySpec> {
        if !Location::is_location(url) {
            return Err(Advice::error(
                format!("{url} is no place to fetch from"),
                "name it by http://, https://, oci://, s3:// or file:///PATH",
            ));
        }
        Ok(LazySpec {
            location: url.to_owned(),
            cache: self.cache_dir.as_deref().map(absolute).transpose()?,
            cache_bytes: self.cache_dir_max,
            devices: device_urls(devices)?,
            pin: self.pin.clone(),
            device_pins: self.device_pins.by_tag()?,
            digests: self.digests.clone(),
            insecure: self.insecure,
            mirrors: self.mirror.clone(),
            bandwidth: self.bandwidth,
            network: self.network.network()?,
            ..LazySpec::default()
        })
    }
}

/// What a replay came to, for `--json`.
#[derive(Serialize)]
struct Replayed {
    wanted_bytes: u64,
    done_bytes: u64,
    failed_bytes: u64,
    seconds: f64,
}

fn replay(trace: &OsStr, spec: LazySpec, all: bool, as_json: bool) -> anyhow::Result<u8> {
    let begin = Instant::now();
    let from = trace_from(trace)?;
    // Metadata comes as the trace tells it.
    let spec = LazySpec { prefetch: PrefetchWhat::None, ..spec };
    let look = spec.look()?;
    let Some(trace) = look.trace(&from)? else {
        return Err(Advice::error(
            format!("no trace is kept with {}", Location::parse(&spec.location)?),
            "record one: ferrofs trace record URL -o TRACE -- COMMAND",
        ));
    };
    let Some(first) = look.replay(&trace, &mut |_| {})? else {
        return Err(Advice::error(
            "the trace is of another image",
            "it names the blobs that it knows: ferrofs trace show TRACE",
        ));
    };
    let mut ended: Vec<Progress> = vec![first];
    if all {
        ended.extend(look.fetch_all(&mut |_| {})?);
    }
    let sum = |of: fn(&Progress) -> u64| ended.iter().map(of).fold(0, u64::saturating_add);
    let replayed = Replayed {
        wanted_bytes: sum(|progress| progress.total),
        done_bytes: sum(|progress| progress.done),
        failed_bytes: sum(|progress| progress.failed),
        seconds: begin.elapsed().as_secs_f64(),
    };
    let mut out = Out::new();
    if as_json {
        json::write(&mut out, &replayed)?;
    } else {
        let Replayed { wanted_bytes, done_bytes, seconds, .. } = &replayed;
        let (done, wanted) = (size::show(*done_bytes), size::show(*wanted_bytes));
        writeln!(out, "{done} of {wanted} are there, after {seconds:.1} s")?;
    }
    out.flush()?;
    if let Some(error) = ended.iter().find_map(|progress| progress.error.as_ref()) {
        anyhow::bail!("not all could be fetched: {error}");
    }
    if ended.iter().any(|progress| progress.is_cut_short) {
        return Err(Advice::error(
            "not all could be kept",
            "the cache is full: see `ferrofs cache prune` and --cache-dir-max",
        ));
    }
    Ok(0)
}

/// A trace, for `--json`.
#[derive(Serialize)]
struct Shown {
    runs: u32,
    touches: usize,
    bytes: u64,
    /// When the last one was touched.
    seconds: f64,
    blobs: Vec<ShownBlob>,
}

#[derive(Clone, Default, Serialize)]
struct ShownBlob {
    name: String,
    touches: u64,
    bytes: u64,
}

fn show(trace: &Trace, as_json: bool) -> anyhow::Result<u8> {
    let mut blobs: Vec<ShownBlob> = trace
        .blobs
        .iter()
        .map(|name| ShownBlob { name: name.clone(), ..ShownBlob::default() })
        .collect();
    for touch in &trace.touches {
        if let Some(blob) = blobs.get_mut(touch.blob as usize) {
            blob.touches += 1;
            blob.bytes = blob.bytes.saturating_add(touch.len);
        }
    }
    let micros = trace.touches.iter().map(|touch| touch.micros).max().unwrap_or_default();
    let shown = Shown {
        runs: trace.runs,
        touches: trace.touches.len(),
        bytes: trace.bytes(),
        seconds: micros as f64 / 1e6,
        blobs,
    };
    let mut out = Out::new();
    if as_json {
        json::write(&mut out, &shown)?;
    } else {
        let Shown { runs, touches, bytes, seconds, blobs } = &shown;
        let bytes = size::show(*bytes);
        writeln!(out, "{runs} runs, {touches} parts, {bytes}, the last one after {seconds:.3} s")?;
        for ShownBlob { name, touches, bytes } in blobs {
            writeln!(out, "{name}: {touches} parts, {}", size::show(*bytes))?;
        }
    }
    out.flush()?;
    Ok(0)
}

/// What was attached, for `--json`.
#[derive(Serialize)]
struct Attached {
    artifact: String,
    image: String,
}

fn attach(
    path: &Path,
    url: &str,
    insecure: bool,
    network: &NetworkArgs,
    as_json: bool,
) -> anyhow::Result<u8> {
    let trace = read(path)?;
    let location = Location::parse(url)?;
    if !location.has_manifest() {
        return Err(Advice::error(
            format!("{location} is in no registry and no image layout"),
            "elsewhere a trace is found if it lies beside the image, under its name with .trace",
        ));
    }
    let deadline = Instant::now().checked_add(ATTACH_TIME);
    let client = network.network()?.client_options();
    let options = RemoteOptions { client, insecure, deadline, ..RemoteOptions::default() };
    let image = resolve(&location, &options)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let created = time::rfc3339(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let artifact = image.attach_trace(&trace, &created, deadline)?;
    let image = image.manifest.map(|digest| digest.to_string()).unwrap_or_default();
    let mut out = Out::new();
    if as_json {
        json::write(&mut out, &Attached { artifact, image })?;
    } else {
        writeln!(out, "{artifact} belongs to {image}")?;
    }
    out.flush()?;
    Ok(0)
}

/// A path of the image of a trace: a location, or a file.
fn is_remote(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| Location::is_location(text))
}

/// A folder that is removed when it is dropped, if it is empty.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever is mounted there stays.
        let _ = std::fs::remove_dir(&self.0);
    }
}
