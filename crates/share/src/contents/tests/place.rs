// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder of images and domains, whose mounts end with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ferrofs_build::{BuildOptions, Silent, Target, build};
use ferrofs_linux::{MountFlags, MountRequest, UnmountFlags, mountinfo};
use ferrofs_tree::{Walk, WalkOptions};

use crate::contents::{ContentStore, Input, StoreOptions};

pub(super) struct Place {
    folder: tempfile::TempDir,
    pub(super) share: PathBuf,
    targets: AtomicU32,
}

pub(super) fn file(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Why nothing can be mounted here.
pub(super) fn unable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let both = known.contains("\terofs") && known.contains("\toverlay");
    (!both).then_some("the kernel does not know erofs and overlay")
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join("share");
        Self { folder, share, targets: AtomicU32::new(0) }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn domain(&self, name: &str) -> ContentStore {
        ContentStore::open(&self.share, name, StoreOptions::default()).unwrap()
    }

    pub(super) fn image(&self, name: &str, fill: impl Fn(&Path)) -> Input {
        self.image_with(name, &BuildOptions::default(), fill)
    }

    pub(super) fn image_with(
        &self,
        name: &str,
        options: &BuildOptions,
        fill: impl Fn(&Path),
    ) -> Input {
        let root = self.path(&format!("{name}.tree"));
        fs::create_dir(&root).unwrap();
        fill(&root);
        let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
        let image = self.path(name);
        let target = Target { image: &image, blob: None };
        build(&walked.tree, &walked.source, options, target, &mut Silent).unwrap();
        Input { image, ..Input::default() }
    }

    /// Mounts an image as it is.
    pub(super) fn plain(&self, input: &Input) -> PathBuf {
        let target = self.target();
        let source = input.image.clone();
        let request = MountRequest { source, target: target.clone(), ..MountRequest::default() };
        ferrofs_linux::mount_erofs(&request).unwrap();
        target
    }

    /// Adds an image, and mounts it out of the domain.
    pub(super) fn shared(&self, domain: &ContentStore, input: &Input) -> PathBuf {
        let target = self.target();
        let added = domain.add(input).unwrap();
        domain.mount(added.image, &target, MountFlags::default()).unwrap();
        target
    }

    /// A new directory to mount on.
    pub(super) fn target(&self) -> PathBuf {
        let number = self.targets.fetch_add(1, Ordering::Relaxed);
        let target = self.path(&format!("mount{number}"));
        fs::create_dir(&target).unwrap();
        target
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let detach = UnmountFlags { lazy: true, force: false };
        for entry in mountinfo::find_under(self.folder.path()).unwrap_or_default() {
            let _ = ferrofs_linux::unmount(&entry.target, detach);
        }
        for domain in fs::read_dir(&self.share).into_iter().flatten().flatten() {
            let name = domain.file_name().into_string().unwrap_or_default();
            if let Ok(domain) = ContentStore::open(&self.share, &name, StoreOptions::default()) {
                let _ = domain.prune();
            }
        }
    }
}
