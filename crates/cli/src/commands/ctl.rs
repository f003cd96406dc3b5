// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ctl`.

use crate::args::{CtlArgs, CtlCommand};
use crate::commands::share::overlay;
use crate::json;
use crate::output::Out;
use crate::size;
use ferrofs_serve::Error;
use ferrofs_serve::control::{
    Change, Client, Command, Control, ImagePath, InjectFault, KernelMount, Prefetched,
    SharingSnapshot, Snapshot, control,
};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

pub(crate) fn run(args: &CtlArgs) -> anyhow::Result<u8> {
    let found = match control(&args.mount) {
        // Overlays are served by the kernel, but what is shared in them can be told.
        Err(error @ Error::NotOurs { .. }) => return by_overlay(error, args),
        found => found?,
    };
    match found {
        Control::Fuse(client) => ask(&client, &args.command)?,
        Control::Kernel(mount) => by_kernel(&mount, &args.command)?,
        Control::Both(client, mount) => by_both(&client, &mount, &args.command)?,
    }
    Ok(0)
}

fn by_overlay(error: Error, args: &CtlArgs) -> anyhow::Result<u8> {
    let Some(snapshot) = overlay::snapshot(&args.mount)? else { return Err(error.into()) };
    let option = match &args.command {
        CtlCommand::Stats { json } => {
            let mut out = Out::new();
            if *json {
                json::write(&mut out, &snapshot)?;
            } else {
                show_sharing(&mut out, &snapshot)?;
            }
            out.flush()?;
            return Ok(0);
        }
        CtlCommand::Get { .. } => "get",
        CtlCommand::Set { .. } => "set",
        CtlCommand::DropCaches { .. } => "drop-caches",
        CtlCommand::Inject { .. } => "inject",
        CtlCommand::Prefetch { .. } => "prefetch",
        CtlCommand::Metrics => "metrics",
    };
    let what = "mounts by overlayfs do not have it; `ferrofs ctl DIR stats` tells what is shared";
    Err(Error::Option { option: String::from(option), what }.into())
}

/// What is shared, in words and in figures.
fn show_sharing(out: &mut Out, stats: &Snapshot) -> io::Result<()> {
    if let Some(sharing) = &stats.sharing {
        writeln!(out, "{}", shares(sharing))?;
        for (name, value) in &sharing.counters {
            writeln!(out, "sharing.{name} {value}")?;
        }
    }
    Ok(())
}

fn changes(settings: &[String]) -> Vec<Change> {
    settings.iter().map(|text| Change::from(text.as_str())).collect()
}

fn path(path: &Path) -> ImagePath {
    ImagePath::from(OsStr::new(path))
}

fn ask(client: &Client, command: &CtlCommand) -> anyhow::Result<()> {
    let mut out = Out::new();
    match command {
        CtlCommand::Stats { json: true } => json::write(&mut out, &client.stats()?)?,
        CtlCommand::Stats { json: false } => show_stats(&mut out, &client.stats()?)?,
        CtlCommand::Get { json } => show_settings(&mut out, &settings(client)?, *json)?,
        CtlCommand::Set { settings } => {
            client.ask(&Command::Set(changes(settings)))?;
        }
        CtlCommand::DropCaches { what } => {
            client.ask(&Command::DropCaches(*what))?;
        }
        CtlCommand::Inject { clear: true, .. } => {
            client.ask(&Command::ClearFaults)?;
        }
        CtlCommand::Inject { fault, file, .. } => {
            let fault = fault.clone().unwrap_or_default();
            let file = file.as_deref().map(path);
            client.ask(&Command::Inject(InjectFault { fault, file }))?;
        }
        CtlCommand::Prefetch { paths, all } => {
            let paths = paths.iter().map(|name| path(name)).collect();
            let wish = if *all { Command::PrefetchAll } else { Command::Prefetch(paths) };
            let value = client.ask(&wish)?;
            let done: Prefetched = serde_json::from_value(value).map_err(|_| Error::Answer)?;
            let Prefetched { files, bytes, complete, .. } = done;
            let shown = size::show(bytes);
            match (all, complete) {
                (true, _) => writeln!(out, "{shown}")?,
                (_, true) => writeln!(out, "{files} files, {shown}")?,
                // It has not heard yet what there is.
                (_, false) if files == 0 => writeln!(out, "begun; `ferrofs ctl DIR stats` tells")?,
                _ => writeln!(out, "{files} files, {shown}; the rest has no room now")?,
            }
        }
        CtlCommand::Metrics => {
            let value = client.ask(&Command::Metrics)?;
            write!(out, "{}", value.as_str().ok_or(Error::Answer)?)?;
        }
    }
    Ok(out.flush()?)
}

fn settings(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let value = client.ask(&Command::Get)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pairs = value.as_object().into_iter().flatten();
    Ok(pairs.map(|(name, value)| (name.clone(), text(value))).collect())
}

/// For a mount by the kernel whose bytes come from our server: each is asked for what it has.
fn by_both(client: &Client, mount: &KernelMount, command: &CtlCommand) -> anyhow::Result<()> {
    match command {
        CtlCommand::Get { json } => {
            let mut out = Out::new();
            let mut pairs = mount.settings();
            pairs.append(&mut settings(client)?);
            show_settings(&mut out, &pairs, *json)?;
            Ok(out.flush()?)
        }
        CtlCommand::Set { .. } | CtlCommand::DropCaches { .. } | CtlCommand::Inject { .. } => {
            by_kernel(mount, command)
        }
        CtlCommand::Stats { .. } | CtlCommand::Prefetch { .. } | CtlCommand::Metrics => {
            ask(client, command)
        }
    }
}

fn by_kernel(mount: &KernelMount, command: &CtlCommand) -> anyhow::Result<()> {
    let lacking = match command {
        CtlCommand::Get { json } => {
            let mut out = Out::new();
            show_settings(&mut out, &mount.settings(), *json)?;
            return Ok(out.flush()?);
        }
        CtlCommand::Set { settings } => return Ok(mount.set(&changes(settings))?),
        CtlCommand::DropCaches { what } => return Ok(mount.drop_caches(*what)?),
        CtlCommand::Stats { .. } => "stats",
        CtlCommand::Inject { .. } => "inject",
        CtlCommand::Prefetch { .. } => "prefetch",
        CtlCommand::Metrics => "metrics",
    };
    Err(mount.lacks(lacking).into())
}

fn show_settings(out: &mut Out, pairs: &[(String, String)], as_json: bool) -> io::Result<()> {
    if as_json {
        let object: serde_json::Map<String, Value> =
            pairs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        return json::write(out, &object);
    }
    for (name, value) in pairs {
        writeln!(out, "{name}={value}")?;
    }
    Ok(())
}

fn show_stats(out: &mut Out, stats: &Snapshot) -> io::Result<()> {
    writeln!(out, "mounted for {:.0} s", stats.uptime_seconds)?;
    let bytes = |name: &str| size::show(stats.cache_bytes.get(name).copied().unwrap_or(0));
    writeln!(
        out,
        "in memory: {} decoded extents, {} decoded pages, {} compressed, of {}",
        bytes("extents"),
        bytes("pages"),
        bytes("encoded"),
        bytes("limit")
    )?;
    for (name, times) in &stats.latency {
        let shown = |percent| duration(times.percentile(percent));
        let [half, most] = [50.0, 99.0].map(shown);
        writeln!(out, "{name}: {} times, p50 {half}, p99 {most}", times.count())?;
    }
    let pairs = stats.engine.iter().map(|pair| ("engine", pair));
    let pairs = pairs.chain(stats.fuse.iter().map(|pair| ("fuse", pair)));
    for (group, (name, value)) in pairs.chain(stats.store.iter().map(|pair| ("store", pair))) {
        writeln!(out, "{group}.{name} {value}")?;
    }
    show_sharing(out, stats)
}

/// What an image shares with the others of its domain, in a line.
pub(super) fn shares(sharing: &SharingSnapshot) -> String {
    let SharingSnapshot { domain, mechanism, image, images, .. } = sharing;
    let value = |name: &str| sharing.counters.get(name).copied().unwrap_or(0);
    let (mapped, saved) = (size::show(value("mapped_bytes")), size::show(value("saved_bytes")));
    let mut text = format!(
        "shared in domain {domain} by {mechanism}, as image {image} of {images}: {} contents, {mapped} \
         mapped, {saved} less in memory",
        value("contents")
    );
    if value("lies") > 0 {
        text = format!("{text}, {} files not what it says", value("lies"));
    }
    text
}

/// A time with a fitting unit; `-` for none.
pub(super) fn duration(time: Option<Duration>) -> String {
    let Some(time) = time else { return String::from("-") };
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        micros if micros < 100.0 => format!("{micros:.1} us"),
        micros if micros < 10_000.0 => format!("{micros:.0} us"),
        micros if micros < 10_000_000.0 => format!("{:.0} ms", micros / 1e3),
        micros => format!("{:.0} s", micros / 1e6),
    }
}
