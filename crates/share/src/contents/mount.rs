// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounting images of a domain: stores once, then an overlay of metadata and stores.
//!
//! Stores stay mounted in a folder of the domain's own when the last image is unmounted, so that
//! what was read stays in memory, until [`ContentStore::prune`]. The metadata is mounted there, too,
//! but only until the overlay holds it. So unmounting an image is unmounting the overlay, whoever
//! does that.
//!
//! A store is looked at whenever an image is mounted: one whose length has changed is refused. Before
//! that it is made immutable (`guard`), for if one that is mounted is cut off, Linux 6.18 gives errors
//! for some of what is gone, and zeros for the rest.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use ferrofs_linux::{
    FsMount, MountFlags, MountRequest, Parameter, UnmountFlags, mount_erofs, mountinfo,
};

use super::folder::{self, Lock};
use super::{ContentStore, Error, ImageId, Result, StoreId, guard};

/// What overlays of ours are called in the list of mounts.
pub(super) const SOURCE: &str = "ferrofs-share";

impl ContentStore {
    /// Mounts an image that was added. Needs root, and Linux 6.8.
    pub fn mount(&self, id: ImageId, target: &Path, flags: MountFlags) -> Result<()> {
        ferrofs_linux::check_target(target)?;
        let lock = self.lock()?;
        self.unmount_metadata(&lock)?;
        let stores = self.stores_of(id)?;
        let image = self.image_path(id);
        guard::guard(&image)?;
        // Its length is right, or this fails.
        folder::open(&image)?;
        if stores.is_empty() {
            // An overlay needs two layers.
            return mount_image(&image, target, flags);
        }
        let mut parameters = Vec::new();
        let metadata = self.run.join("images").join(id.to_string());
        parameters.push(Parameter::Value("lowerdir+", metadata.clone().into_os_string()));
        for store in stores {
            let place = self.mount_store(store)?;
            parameters.push(Parameter::Value("datadir+", place.into_os_string()));
        }
        parameters.push(Parameter::Value("redirect_dir", OsString::from("on")));
        parameters.push(Parameter::Value("metacopy", OsString::from("on")));
        folder::make(&metadata)?;
        mount_image(&image, &metadata, MountFlags::default())?;
        let overlay = FsMount { fs_type: "overlay", source: OsStr::new(SOURCE), parameters, flags };
        let mounted = overlay.mount(target);
        self.unmount_metadata(&lock)?;
        Ok(mounted?)
    }

    /// Unmounts stores that no overlay uses, and gives their memory back. Says how many. What is not
    /// mounted then is not immutable any more.
    pub fn prune(&self) -> Result<u64> {
        let lock = self.lock()?;
        self.unmount_metadata(&lock)?;
        let mounts = mounts()?;
        let mut pruned = 0;
        let stores = self.run.join("stores");
        for entry in mounts.iter().filter(|entry| entry.target.parent() == Some(&stores)) {
            let option = format!("datadir+={}", entry.target.display());
            let uses = |other: &&mountinfo::MountEntry| {
                other.fs_type == "overlay"
                    && other.super_options.split(',').any(|part| part == option)
            };
            if mounts.iter().find(uses).is_none() {
                ferrofs_linux::unmount(&entry.target, UnmountFlags::default())?;
                pruned += 1;
            }
        }
        self.release_unmounted()?;
        // Those in use are not empty.
        for folder in fs::read_dir(&stores).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(folder.path());
        }
        for folder in [&stores, &self.run.join("images"), &self.run] {
            let _ = fs::remove_dir(folder);
        }
        Ok(pruned)
    }

    /// Lets all files be changed that nothing is mounted from.
    fn release_unmounted(&self) -> Result<()> {
        let mounts = mounts()?;
        for id in self.stores()? {
            let place = self.run.join("stores").join(id.to_string());
            if mounts.iter().all(|entry| entry.target != place) {
                guard::release(&self.store_path(id))?;
            }
        }
        for id in self.images()? {
            let path = self.image_path(id);
            let layer = self.run.join("images").join(id.to_string());
            let option = format!("lowerdir+={}", layer.display());
            let uses = |entry: &mountinfo::MountEntry| {
                // Images without content are mounted as they are.
                entry.source == path || entry.super_options.split(',').any(|part| part == option)
            };
            if !mounts.iter().any(uses) {
                guard::release(&path)?;
            }
        }
        Ok(())
    }

    /// The place where a store is mounted.
    fn mount_store(&self, id: StoreId) -> Result<PathBuf> {
        let path = self.store_path(id);
        guard::guard(&path)?;
        folder::open(&path)?;
        let place = self.run.join("stores").join(id.to_string());
        let mounted = mounts()?.into_iter().any(|entry| entry.target == place);
        if !mounted {
            folder::make(&place)?;
            mount_image(&path, &place, MountFlags::default())?;
        }
        Ok(place)
    }

    /// Unmounts metadata that no command needs any more: what was added to an overlay, or left.
    fn unmount_metadata(&self, _: &Lock) -> Result<()> {
        let images = self.run.join("images");
        for entry in mounts()?.iter().filter(|entry| entry.target.parent() == Some(&images)) {
            ferrofs_linux::unmount(&entry.target, UnmountFlags { lazy: true, force: false })?;
        }
        for folder in fs::read_dir(&images).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(folder.path());
        }
        Ok(())
    }
}

fn mounts() -> Result<Vec<mountinfo::MountEntry>> {
    let path = Path::new("/proc/self/mountinfo");
    mountinfo::read().map_err(|error| Error::io("read", path, error))
}

fn mount_image(image: &Path, target: &Path, flags: MountFlags) -> Result<()> {
    let (source, target) = (image.to_owned(), target.to_owned());
    mount_erofs(&MountRequest { source, target, flags, ..MountRequest::default() })?;
    Ok(())
}
