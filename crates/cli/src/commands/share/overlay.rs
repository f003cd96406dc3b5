// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mount --share-by overlay`: images of one domain keep equal files in memory once.

use crate::errors::Advice;
use crate::size;
use ferrofs_serve::control::{SharingSnapshot, Snapshot};
use ferrofs_serve::{ImageFiles, MountOptions};
use ferrofs_share::contents::{ContentStore, Input, StoreOptions, StoreStats};
use ferrofs_store::source::remote::Location;
use std::path::Path;

/// The domain, and where its contents are.
pub(crate) struct Place<'a> {
    pub(crate) domain: &'a str,
    pub(crate) folder: Option<&'a Path>,
    pub(crate) trust_digests: bool,
}

fn open(
    domain: &str,
    folder: Option<&Path>,
    options: StoreOptions,
) -> anyhow::Result<ContentStore> {
    Ok(ContentStore::open(folder.unwrap_or(Path::new(ContentStore::PLACE)), domain, options)?)
}

/// The content store of a domain that has one: who looks or tidies makes none.
fn known(domain: &str, folder: Option<&Path>) -> anyhow::Result<ContentStore> {
    let place = folder.unwrap_or(Path::new(ContentStore::PLACE));
    ContentStore::existing(place, domain)?.ok_or_else(|| {
        let text = format!("there is no content store of a domain {domain} in {}", place.display());
        Advice::error(text, "`ferrofs share ls` lists domains; --share-dir names another place")
    })
}

/// What the domains with content stores hold.
pub(super) fn all(folder: Option<&Path>) -> anyhow::Result<Vec<StoreStats>> {
    let place = folder.unwrap_or(Path::new(ContentStore::PLACE));
    let mut all = Vec::new();
    for domain in ContentStore::domains(place)? {
        all.extend(one(&domain, folder, false)?);
    }
    Ok(all)
}

/// What the content store of a domain holds, if it has one.
pub(super) fn one(
    domain: &str,
    folder: Option<&Path>,
    memory: bool,
) -> anyhow::Result<Option<StoreStats>> {
    let place = folder.unwrap_or(Path::new(ContentStore::PLACE));
    let store = ContentStore::existing(place, domain)?;
    Ok(store.map(|store| store.stats(memory)).transpose()?)
}

/// What a mount by overlayfs shares, in the form that other mounts have; `None` if it is none of ours.
pub(crate) fn snapshot(path: &Path) -> anyhow::Result<Option<Snapshot>> {
    let Some(found) = ContentStore::find(path)? else { return Ok(None) };
    let stats = found.store.stats(true)?;
    let id = found.image.to_string();
    let Some(number) = stats.images.iter().position(|image| image.id == id) else {
        let text = "the image of this mount was removed from its domain";
        return Err(Advice::error(text, "what it holds in memory goes when it is unmounted"));
    };
    let own = &stats.images[number];
    let counters = [
        ("contents", own.shared_contents),
        ("files", own.shared_files),
        ("mapped_bytes", own.mapped_bytes),
        ("saved_bytes", own.saved_bytes),
        ("domain_contents", stats.contents),
        ("domain_files", stats.files),
        ("domain_mapped_bytes", stats.mapped_bytes),
        ("domain_saved_bytes", stats.saved_bytes),
        ("domain_memory_bytes", stats.memory_bytes.unwrap_or(0)),
        ("domain_stored_contents", stats.stored_contents),
        ("domain_stored_bytes", stats.stored_bytes),
    ];
    let mut sharing = SharingSnapshot::default();
    sharing.domain = stats.domain;
    sharing.mechanism = stats.mechanism;
    sharing.image = number as u64 + 1;
    sharing.images = stats.images.len() as u64;
    sharing.counters = counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let mut snapshot = Snapshot::default();
    snapshot.sharing = Some(sharing);
    Ok(Some(snapshot))
}

/// Unmounts stores that nobody uses.
pub(crate) fn prune(domain: &str, folder: Option<&Path>) -> anyhow::Result<()> {
    let pruned = known(domain, folder)?.prune()?;
    eprintln!("ferrofs: {pruned} stores unmounted");
    Ok(())
}

/// Takes an image out of a content store.
pub(crate) fn remove(domain: &str, folder: Option<&Path>, image: &Path) -> anyhow::Result<()> {
    let store = known(domain, folder)?;
    let id = store.identify(&Input { image: image.to_owned(), offset: 0, devices: Vec::new() })?;
    store.remove(id)?;
    Ok(())
}

/// Adds the image to the domain's content store and mounts it; gives a line about it.
pub(crate) fn overlay(
    place: &Place<'_>,
    files: ImageFiles,
    target: &Path,
    mut options: MountOptions,
) -> anyhow::Result<String> {
    let flags = options.for_overlay()?;
    if files.image.to_str().is_some_and(Location::is_location) {
        return Err(Advice::error(
            "--share-by overlay is for images on this machine",
            "name the image by its path",
        ));
    }
    let mut devices = files.devices;
    devices.append(&mut options.devices);
    let offset = options.offset.unwrap_or(files.offset);
    let input = Input { image: files.image, offset, devices };
    let settings = StoreOptions { trust_digests: place.trust_digests, ..StoreOptions::default() };
    let store = open(place.domain, place.folder, settings)?;
    let added = store.add(&input)?;
    store.mount(added.image, target, flags)?;
    let mut how = format!("mounted by overlayfs over the content store of {}", place.domain);
    if !store.is_guarded(added.image)? {
        // Who cuts one off makes zeros of what was in it.
        how.push_str(" (which can be changed: its file system has no immutable files)");
    }
    Ok(if added.known {
        format!("{how}, which had the image")
    } else {
        let new = size::show(added.new_bytes);
        format!("{how}: {} files, {} new contents ({new})", added.files, added.new_contents)
    })
}
