// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share ls` and `share stat`: domains, whose mounts share memory.

use super::overlay;
use crate::json;
use crate::output::Out;
use crate::size;
use ferrofs_serve::{DomainImage, DomainStats};
use ferrofs_share::contents::StoreStats;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// Domains with a server of theirs, and those with a content store, as JSON has them.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Served(DomainStats),
    Stored(StoreStats),
    Kernel(ByKernel),
}

/// What the kernel itself shares: it tells nobody which of these mounts are in one domain.
#[derive(Serialize)]
struct ByKernel {
    mechanism: &'static str,
    mounts: Vec<String>,
}

fn by_kernel() -> io::Result<Option<ByKernel>> {
    let mounts = ferrofs_serve::shared_by_kernel()?;
    let mounts: Vec<_> = mounts.iter().map(|path| path.display().to_string()).collect();
    Ok((!mounts.is_empty()).then_some(ByKernel { mechanism: "kernel", mounts }))
}

/// Both that a domain of one name can have.
#[derive(Serialize)]
struct Both {
    #[serde(flatten)]
    served: DomainStats,
    overlay: StoreStats,
}

pub(crate) fn list(json: bool, folder: Option<&Path>) -> anyhow::Result<()> {
    let mut out = Out::new();
    let served = ferrofs_serve::domains_running()?;
    let stored = overlay::all(folder)?;
    let by_kernel = by_kernel()?;
    if json {
        let served = served.into_iter().map(Listed::Served);
        let stored = stored.into_iter().map(Listed::Stored);
        let all: Vec<_> = served.chain(stored).chain(by_kernel.map(Listed::Kernel)).collect();
        json::write(&mut out, &all)?;
    } else {
        show_all(&mut out, &served)?;
        for domain in ferrofs_serve::domains_dead()? {
            writeln!(
                out,
                "{domain}: its server was killed; `ferrofs share stop {domain}` cleans up"
            )?;
        }
        for StoreStats { domain, images, stored_bytes, saved_bytes, .. } in &stored {
            let (stored, saved) = (size::show(*stored_bytes), size::show(*saved_bytes));
            let images = images.len();
            writeln!(
                out,
                "{domain}: overlay, {images} images, {stored} stored, {saved} less in memory"
            )?;
        }
        if let Some(ByKernel { mounts, .. }) = &by_kernel {
            let mounts = mounts.join(", ");
            writeln!(out, "by the kernel itself, which tells nobody the domains: {mounts}")?;
        }
    }
    Ok(out.flush()?)
}

pub(crate) fn stat(domain: &str, json: bool, folder: Option<&Path>) -> anyhow::Result<()> {
    let mut out = Out::new();
    let stored = overlay::one(domain, folder, true)?;
    let served = match (ferrofs_serve::domain_stats(domain), &stored) {
        (Ok(served), _) => Some(served),
        // There is no server, and need be none.
        (Err(ferrofs_serve::Error::Refused { .. }), Some(_)) => None,
        (Err(error), _) => return Err(error.into()),
    };
    match (json, served, stored) {
        (true, Some(served), Some(overlay)) => json::write(&mut out, &Both { served, overlay })?,
        (true, Some(served), None) => json::write(&mut out, &served)?,
        (true, None, stored) => json::write(&mut out, &stored)?,
        (false, served, stored) => {
            if let Some(served) = &served {
                show(&mut out, served)?;
            }
            if let Some(stored) = &stored {
                show_store(&mut out, stored)?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Ends a domain, or removes what is left of it.
pub(crate) fn stop(domain: &str) -> anyhow::Result<()> {
    let stopped = ferrofs_serve::stop_domain(domain)?;
    if stopped.dead {
        let count = stopped.detached.len();
        eprintln!("ferrofs: the server of {domain} was dead; {count} mounts of it were detached");
    }
    Ok(())
}

fn show_all(out: &mut Out, domains: &[DomainStats]) -> io::Result<()> {
    for domain in domains {
        let DomainStats { domain: name, mechanism, images, saved_bytes, .. } = domain;
        let saved = size::show(*saved_bytes);
        writeln!(out, "{name}: {mechanism}, {} images, {saved} less in memory", images.len())?;
    }
    Ok(())
}

fn show_store(out: &mut Out, stats: &StoreStats) -> io::Result<()> {
    writeln!(out, "domain     {}", stats.domain)?;
    writeln!(out, "mechanism  {} (content stores in {})", stats.mechanism, stats.folder.display())?;
    writeln!(
        out,
        "stored     {} contents of {}, which take {} in {} stores ({} mounted)",
        stats.stored_contents,
        size::show(stats.content_bytes),
        size::show(stats.stored_bytes),
        stats.stores,
        stats.mounted_stores
    )?;
    shared(out, stats.contents, stats.files, [stats.mapped_bytes, stats.saved_bytes])?;
    if let Some(bytes) = stats.memory_bytes {
        writeln!(out, "in memory  {} of stored contents, each once", size::show(bytes))?;
    }
    for (index, image) in stats.images.iter().enumerate() {
        writeln!(out, "image {}    {}: {} files", index + 1, image.id, image.files)?;
        for target in &image.targets {
            writeln!(out, "           on {}", target.display())?;
        }
        if image.targets.is_empty() {
            writeln!(out, "           not mounted")?;
        }
    }
    Ok(())
}

/// What is shared, and by how much that is less.
fn shared(
    out: &mut Out,
    contents: impl Display,
    files: impl Display,
    [mapped, saved]: [u64; 2],
) -> io::Result<()> {
    let (mapped, saved) = (size::show(mapped), size::show(saved));
    writeln!(
        out,
        "shared     {contents} contents of {files} files, {mapped} mapped, {saved} less in memory"
    )
}

fn show(out: &mut Out, stats: &DomainStats) -> io::Result<()> {
    writeln!(out, "domain     {}", stats.domain)?;
    writeln!(out, "mechanism  {} (process {})", stats.mechanism, stats.pid)?;
    let digests = if stats.trusts_digests { "believed" } else { "verified" };
    writeln!(out, "digests    {digests}; {} hashed", size::show(stats.hashed_bytes))?;
    shared(out, stats.contents, stats.files, [stats.mapped_bytes, stats.saved_bytes])?;
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
