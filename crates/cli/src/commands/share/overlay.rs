// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mount --share`: images of one domain keep equal files in memory once.

use crate::errors::Advice;
use crate::size;
use ferrofs_serve::{ImageFiles, MountOptions};
use ferrofs_share::contents::{ContentStore, Input, StoreOptions};
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

/// Unmounts stores that nobody uses.
pub(crate) fn prune(domain: &str, folder: Option<&Path>) -> anyhow::Result<()> {
    let pruned = open(domain, folder, StoreOptions::default())?.prune()?;
    eprintln!("ferrofs: {pruned} stores unmounted");
    Ok(())
}

/// Takes an image out of a content store.
pub(crate) fn remove(domain: &str, folder: Option<&Path>, image: &Path) -> anyhow::Result<()> {
    let store = open(domain, folder, StoreOptions::default())?;
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
