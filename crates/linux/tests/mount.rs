// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel mounts of EROFS images, where root and `mkfs.erofs` are at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferrofs_linux::{
    MountFlags, MountHow, MountRequest, MountStep, UnmountFlags, mount_erofs, mountinfo, unmount,
};
use tempfile::TempDir;

/// Unmounts at the end, however the test ends.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        while matches!(mountinfo::find(&self.0), Ok(Some(_))) {
            if unmount(&self.0, UnmountFlags { lazy: true, force: false }).is_err() {
                break;
            }
        }
    }
}

struct Place {
    directory: TempDir,
}

impl Place {
    /// A directory on a disk, or None with the reason printed.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        // Not in the system's temporary directory if that is a tmpfs, which cannot back a mount.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Some(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn target(&self, name: &str) -> (PathBuf, Guard) {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        (path.clone(), Guard(path))
    }

    /// An image with one file, and a blob device if `blob`; None if it cannot be built.
    fn image(&self, blob: bool) -> Option<(PathBuf, PathBuf)> {
        let tree = self.path("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("file"), vec![b'z'; 20_000]).unwrap();
        let (image, device) = (self.path("image"), self.path("blob"));
        let mut command = Command::new("mkfs.erofs");
        command.args(["--quiet", "-d0"]);
        if blob {
            command.arg("--chunksize=4096").arg(format!("--blobdev={}", device.display()));
        }
        match command.arg(&image).arg(&tree).output() {
            Ok(output) if output.status.success() => Some((image, device)),
            Ok(output) => {
                println!("skipped: mkfs.erofs: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("skipped: mkfs.erofs: {error}");
                None
            }
        }
    }
}

fn has_erofs() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = known.contains("erofs");
    if !has {
        println!("skipped: this kernel has no EROFS");
    }
    has
}

fn assert_content(target: &Path) {
    assert_eq!(fs::read(target.join("file")).unwrap(), vec![b'z'; 20_000]);
    let refused = fs::write(target.join("new"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn file_backed_with_options() {
    let Some(place) = Place::new() else { return };
    let Some((source, _)) = place.image(false) else { return };
    if !has_erofs() {
        return;
    }
    let (target, _guard) = place.target("a target, with \"odd\" characters\\");
    let request = MountRequest {
        source: source.clone(),
        target: target.clone(),
        options: vec![(String::from("cache_strategy"), Some(String::from("disabled")))],
        flags: MountFlags { nosuid: true, noexec: true, ..MountFlags::default() },
        ..MountRequest::default()
    };
    let mounted = mount_erofs(&request).unwrap();
    assert_content(&target);
    let entry = mountinfo::find(&target).unwrap().expect("it is listed");
    assert_eq!(entry.fs_type, "erofs");
    assert!(entry.options.contains("nosuid") && entry.options.contains("noexec"));
    assert_eq!(mountinfo::find_under(&place.path("")).unwrap().len(), 1);
    if mounted.how == MountHow::FileBacked {
        assert_eq!(entry.source, source);
        // The option only takes effect, and is shown, where there is compression.
        assert!(mounted.loop_devices.is_empty());
    }
    // No descriptor of ours keeps it busy.
    unmount(&target, UnmountFlags::default()).unwrap();
    let error = unmount(&target, UnmountFlags::default()).unwrap_err();
    assert_eq!(error.step, MountStep::Unmount);
    assert!(error.to_string().contains("not a mount point"), "{error}");
}

#[test]
fn several_devices() {
    let Some(place) = Place::new() else { return };
    let Some((source, device)) = place.image(true) else { return };
    if !has_erofs() {
        return;
    }
    let (target, _guard) = place.target("target");
    let request = MountRequest {
        source,
        target: target.clone(),
        devices: vec![device],
        ..MountRequest::default()
    };
    mount_erofs(&request).unwrap();
    assert_content(&target);
}

/// On a tmpfs nothing can back a mount but through loop devices, for image and device alike.
#[test]
fn loop_devices_where_files_do_not_do() {
    let Some(place) = Place::new() else { return };
    let Some((image, blob)) = place.image(true) else { return };
    if !has_erofs() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        return println!("skipped: no loop devices here");
    }
    let (memory, _memory_guard) = place.target("memory");
    let made = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&memory).status();
    if !made.is_ok_and(|status| status.success()) {
        return println!("skipped: cannot mount a tmpfs");
    }
    let in_memory = (memory.join("image"), memory.join("blob"));
    fs::copy(&image, &in_memory.0).unwrap();
    fs::copy(&blob, &in_memory.1).unwrap();
    let all = (in_memory.0.clone(), in_memory.1.clone());
    for (source, device) in [all, (in_memory.0, blob), (image, in_memory.1)] {
        let (target, _guard) = place.target("target");
        let request = MountRequest {
            source: source.clone(),
            target: target.clone(),
            devices: vec![device],
            ..MountRequest::default()
        };
        let mounted = mount_erofs(&request).unwrap_or_else(|error| panic!("{source:?}: {error}"));
        // Data, unlike metadata, some kernels can read from a file on a tmpfs.
        let by_loop = mounted.how == MountHow::Loop;
        assert!(by_loop || !source.starts_with(&memory), "{source:?}: {:?}", mounted.how);
        assert_eq!(mounted.loop_devices.len(), if by_loop { 2 } else { 0 });
        assert_content(&target);
        unmount(&target, UnmountFlags::default()).unwrap();
        if !by_loop {
            continue;
        }
        // They go with the mount. Not at once: the kernel lets go of the device by and by.
        let number = mounted.loop_devices[0].file_name().unwrap();
        let backing = Path::new("/sys/block").join(number).join("loop/backing_file");
        for _ in 0..500 {
            let ours =
                fs::read_to_string(&backing).is_ok_and(|text| Path::new(text.trim_end()) == source);
            if !ours {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(
            !fs::read_to_string(&backing).is_ok_and(|text| Path::new(text.trim_end()) == source)
        );
    }
}

#[test]
fn refusals_say_why() {
    let Some(place) = Place::new() else { return };
    if !has_erofs() {
        return;
    }
    let Some((image, _)) = place.image(false) else { return };
    let (target, _guard) = place.target("target");
    let junk = place.path("junk");
    fs::write(&junk, vec![0; 8192]).unwrap();
    let request = |source: &Path, target: &Path| MountRequest {
        source: source.to_path_buf(),
        target: target.to_path_buf(),
        ..MountRequest::default()
    };
    let error = mount_erofs(&request(&junk, &target)).unwrap_err();
    assert_eq!(error.step, MountStep::Create);
    assert!(error.to_string().contains("valid image"), "{error}");
    let error = mount_erofs(&request(&place.path("none"), &target)).unwrap_err();
    assert!(error.step == MountStep::Source && error.to_string().contains("does not exist"));
    let error = mount_erofs(&request(&image, &place.path("none"))).unwrap_err();
    assert!(error.step == MountStep::Target && error.to_string().contains("does not exist"));
    let error = mount_erofs(&request(&image, &junk)).unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
    let error = mount_erofs(&request(&target, &target)).unwrap_err();
    assert_eq!(error.step, MountStep::Source);
    let unknown = MountRequest {
        options: vec![(String::from("no_such_option"), None)],
        ..request(&image, &target)
    };
    let error = mount_erofs(&unknown).unwrap_err();
    assert_eq!(error.step, MountStep::Option);
    // The kernel's own words.
    assert!(error.to_string().contains("Unknown parameter"), "{error}");
    assert!(mountinfo::find(&target).unwrap().is_none());
}
