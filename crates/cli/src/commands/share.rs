// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share`: look at domains, whose mounts share memory.

use crate::args::{ShareArgs, ShareCommand};
use crate::json;
use crate::output::Out;
use crate::size;
use ferrofs_serve::{DomainImage, DomainStats};
use std::io::{self, Write};

pub(crate) fn run(args: &ShareArgs) -> anyhow::Result<u8> {
    let mut out = Out::new();
    match &args.command {
        ShareCommand::Ls { json } => {
            let domains = ferrofs_serve::domains_running()?;
            if *json {
                json::write(&mut out, &domains)?;
            } else {
                list(&mut out, &domains)?;
            }
        }
        ShareCommand::Stat { domain, json } => {
            let stats = ferrofs_serve::domain_stats(domain)?;
            if *json {
                json::write(&mut out, &stats)?;
            } else {
                show(&mut out, &stats)?;
            }
        }
        ShareCommand::Stop { domain } => ferrofs_serve::stop_domain(domain)?,
    }
    out.flush()?;
    Ok(0)
}

fn list(out: &mut Out, domains: &[DomainStats]) -> io::Result<()> {
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
