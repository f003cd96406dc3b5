// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cache`: look at the blobs that lazy mounts have fetched, check and tidy them.

use crate::args::{CacheArgs, CacheCommand};
use crate::commands::inspect::{html, write_page};
use crate::errors::Advice;
use crate::json;
use crate::output::Out;
use crate::size;
use ferrofs_serve::LazySpec;
use ferrofs_store::{BlobId, BlobInfo, Cache, CacheConfig, Findings};
use std::io::{self, Write};
use std::ops::Range;

/// Wrong bytes were found: as errors of `check`.
const WRONG: u8 = 4;

pub(crate) fn run(args: &CacheArgs) -> anyhow::Result<u8> {
    let spec = LazySpec { cache: args.cache_dir.clone().map(Into::into), ..LazySpec::default() };
    let folder = spec.cache_folder();
    // Not even an empty one is made here: a folder that was named by mistake stays as it is.
    if !Cache::is_cache(&folder) {
        return Err(Advice::error(
            format!("there is no cache at {}", folder.display()),
            "name its folder by --cache-dir",
        ));
    }
    let cache = Cache::open(CacheConfig::new(folder))?;
    let mut out = Out::new();
    let code = match &args.command {
        CacheCommand::Ls { json } => {
            let blobs = cache.list()?;
            if *json {
                json::write(&mut out, &blobs)?;
            } else {
                list(&mut out, &blobs)?;
            }
            0
        }
        CacheCommand::Stat { blob, json } => {
            let info = cache.info(&find(&cache, blob)?)?;
            if *json {
                json::write(&mut out, &info)?;
            } else {
                stat(&mut out, &info)?;
            }
            0
        }
        CacheCommand::Map { blob, html, json } => {
            let id = find(&cache, blob)?;
            let (info, runs) = (cache.info(&id)?, cache.presence(&id)?);
            if let Some(path) = html {
                write_page(&mut out, path, &html::presence(&info, &runs))?;
            } else if *json {
                json::write(&mut out, &runs)?;
            } else {
                map(&mut out, info.size.unwrap_or(0), &runs)?;
            }
            0
        }
        CacheCommand::Verify { blobs, json } => verify(&mut out, &cache, blobs, false, *json)?,
        CacheCommand::Scrub { blobs, json } => verify(&mut out, &cache, blobs, true, *json)?,
        CacheCommand::Prune { bytes } => {
            let gone = cache.prune(bytes.unwrap_or(u64::MAX))?;
            writeln!(out, "{} are free again", size::show(gone))?;
            0
        }
        CacheCommand::Pin { blobs } => pin(&cache, blobs, true)?,
        CacheCommand::Unpin { blobs } => pin(&cache, blobs, false)?,
        CacheCommand::Rm { blobs } => {
            for blob in blobs {
                cache.remove(&find(&cache, blob)?)?;
            }
            0
        }
    };
    out.flush()?;
    Ok(code)
}

/// A blob by its name, or by the first digits of it if no other begins so.
fn find(cache: &Cache, text: &str) -> anyhow::Result<BlobId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let blobs = cache.list()?;
    let mut found = blobs.iter().map(|info| &info.id).filter(|id| {
        !text.is_empty() && (id.hex().starts_with(text) || id.to_string().starts_with(text))
    });
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.clone()),
        (Some(_), Some(_)) => anyhow::bail!("several blobs begin with {text}"),
        _ => Err(Advice::error(
            format!("no blob begins with {text}"),
            "`ferrofs cache ls` lists them",
        )),
    }
}

fn pin(cache: &Cache, blobs: &[String], pinned: bool) -> anyhow::Result<u8> {
    for blob in blobs {
        cache.pin(&find(cache, blob)?, pinned)?;
    }
    Ok(0)
}

fn list(out: &mut Out, blobs: &[BlobInfo]) -> io::Result<()> {
    if blobs.is_empty() {
        return writeln!(out, "empty");
    }
    writeln!(out, "{:<20} {:>10} {:>10} {:>6}  from", "blob", "size", "on disk", "there")?;
    let mut total = 0;
    for info in blobs {
        total += info.disk_bytes;
        let name: String = info.id.to_string().chars().take(20).collect();
        write!(out, "{name:<20} ")?;
        match info.size {
            Some(bytes) => {
                let there = info.present_bytes as f64 * 100.0 / bytes.max(1) as f64;
                let on_disk = size::show(info.disk_bytes);
                write!(out, "{:>10} {on_disk:>10} {there:>5.1}%  ", size::show(bytes))?;
            }
            None => write!(out, "{:>10} {:>10} {:>6}  ", "?", size::show(info.disk_bytes), "?")?,
        }
        out.write_name(info.source.as_deref().unwrap_or("?").as_bytes())?;
        let marks = [(info.in_use, " (in use)"), (info.pinned, " (pinned)")];
        writeln!(
            out,
            "{}",
            marks.iter().filter(|mark| mark.0).map(|mark| mark.1).collect::<String>()
        )?;
    }
    writeln!(out, "{} blobs, {} on disk", blobs.len(), size::show(total))
}

fn stat(out: &mut Out, info: &BlobInfo) -> io::Result<()> {
    writeln!(out, "blob      {}", info.id)?;
    let bytes = info.size.map_or_else(|| String::from("?"), |bytes| bytes.to_string());
    writeln!(out, "size      {bytes}")?;
    writeln!(out, "present   {}", info.present_bytes)?;
    writeln!(out, "on disk   {}", info.disk_bytes)?;
    write!(out, "from      ")?;
    out.write_name(info.source.as_deref().unwrap_or("?").as_bytes())?;
    writeln!(out, "\npin       {}", info.pin.as_deref().unwrap_or("none: not verified"))?;
    writeln!(out, "used      {}", crate::time::show(i64::try_from(info.used).unwrap_or(i64::MAX)))?;
    writeln!(out, "in use    {}", if info.in_use { "yes" } else { "no" })?;
    writeln!(out, "pinned    {}", if info.pinned { "yes" } else { "no" })
}

/// A row of 64 marks a line: how much of each part is there.
fn map(out: &mut Out, size: u64, runs: &[Range<u64>]) -> io::Result<()> {
    const COLUMNS: usize = 64;
    const ROWS: u64 = 32;
    const MARKS: [char; 5] = [' ', '.', '-', '+', '#'];
    let shares = html::shares(size, runs, COLUMNS as u64 * ROWS);
    let there: u64 = runs.iter().map(|run| run.end - run.start).sum();
    writeln!(
        out,
        "{} of {} there; {} a mark, from ` ` (nothing) to `#` (all)",
        size::show(there),
        size::show(size),
        size::show(shares.cell_bytes)
    )?;
    for (row, line) in shares.of.chunks(COLUMNS).enumerate() {
        let at = (row * COLUMNS) as u64 * shares.cell_bytes;
        // All is all, and something is something.
        let mark = |&share: &f64| match share {
            0.0 => MARKS[0],
            1.0 => MARKS[4],
            share => MARKS[1 + (share * 3.0) as usize],
        };
        writeln!(out, "{:>10} |{}|", size::show(at), line.iter().map(mark).collect::<String>())?;
    }
    Ok(())
}

fn verify(
    out: &mut Out,
    cache: &Cache,
    blobs: &[String],
    repair: bool,
    as_json: bool,
) -> anyhow::Result<u8> {
    let ids = if blobs.is_empty() {
        cache.list()?.into_iter().map(|info| info.id).collect()
    } else {
        blobs.iter().map(|blob| find(cache, blob)).collect::<anyhow::Result<Vec<_>>>()?
    };
    let mut all = Vec::new();
    for id in &ids {
        all.push(cache.verify(id, None, repair)?);
    }
    if as_json {
        json::write(out, &all)?;
    } else {
        for findings in &all {
            tell(out, findings)?;
        }
    }
    Ok(if all.iter().any(|findings| !findings.wrong.is_empty()) { WRONG } else { 0 })
}

fn tell(out: &mut Out, findings: &Findings) -> io::Result<()> {
    write!(out, "{}: {} verified", findings.id, size::show(findings.verified_bytes))?;
    if findings.unverified_bytes > 0 {
        let why =
            if findings.verifiable { "their digests are not here" } else { "no digest table" };
        write!(out, ", {} not ({why})", size::show(findings.unverified_bytes))?;
    }
    writeln!(out)?;
    for range in &findings.wrong {
        let dropped = if findings.dropped_bytes > 0 { ": dropped" } else { "" };
        writeln!(out, "  wrong: bytes {} to {}{dropped}", range.start, range.end)?;
    }
    Ok(())
}
