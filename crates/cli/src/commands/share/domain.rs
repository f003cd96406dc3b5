// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share ls` and `share stat`: domains, whose mounts share memory.

use crate::json;
use crate::output::Out;
use crate::size;
use ferrofs_serve::{DomainImage, DomainStats};
use std::io::{self, Write};

pub(crate) fn list(json: bool) -> anyhow::Result<()> {
    let mut out = Out::new();
    let domains = ferrofs_serve::domains_running()?;
    if json {
        json::write(&mut out, &domains)?;
    } else {
        show_all(&mut out, &domains)?;
    }
    Ok(out.flush()?)
}

pub(crate) fn stat(domain: &str, json: bool) -> anyhow::Result<()> {
    let mut out = Out::new();
    let stats = ferrofs_serve::domain_stats(domain)?;
    if json {
        json::write(&mut out, &stats)?;
    } else {
        show(&mut out, &stats)?;
    }
    Ok(out.flush()?)
}

fn show_all(out: &mut Out, domains: &[DomainStats]) -> io::Result<()> {
    for domain in domains {
        let DomainStats { domain: name, mechanism, images, saved_bytes, .. } = domain;
        let saved = size::show(*saved_bytes);
        writeln!(out, "{name}: {mechanism}, {} images, {saved} less in memory", images.len())?;
    }
    Ok(())
}

fn show(out: &mut Out, stats: &DomainStats) -> io::Result<()> {
    writeln!(out, "domain     {}", stats.domain)?;
    writeln!(out, "mechanism  {} (process {})", stats.mechanism, stats.pid)?;
    let digests = if stats.trusts_digests { "believed" } else { "verified" };
    writeln!(out, "digests    {digests}; {} hashed", size::show(stats.hashed_bytes))?;
    writeln!(
        out,
        "shared     {} contents of {} files, {} mapped, {} less in memory",
        stats.contents,
        stats.files,
        size::show(stats.mapped_bytes),
        size::show(stats.saved_bytes)
    )?;
    if let Some(bytes) = stats.memory_bytes {
        writeln!(out, "in memory  {} of shared contents, each once", size::show(bytes))?;
    }
    if stats.differing_bytes > 0 {
        let more = size::show(stats.differing_bytes);
        writeln!(out, "not shared {more} of equal content with other attributes")?;
    }
    writeln!(
        out,
        "caches     {}, kept for {} s",
        size::show(stats.cache_bytes),
        stats.keep_seconds
    )?;
    for image in &stats.images {
        let DomainImage { number, image: path, targets, lies, fetched_bytes, .. } = image;
        writeln!(out, "image {number}    {}", path.display())?;
        for target in targets {
            writeln!(out, "           on {}", target.display())?;
        }
        if targets.is_empty() {
            writeln!(out, "           not mounted")?;
        }
        if *lies > 0 {
            writeln!(out, "           {lies} files are not what it says, and are not shared")?;
        }
        if *fetched_bytes > 0 {
            writeln!(out, "           {} fetched", size::show(*fetched_bytes))?;
        }
    }
    Ok(())
}
