// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every golden image mounted, by our FUSE server and by the kernel, and read through the mount.

use ferrofs_linux::UnmountFlags;
use ferrofs_serve::{
    Error, ImageFiles, Method, MountMethod, MountOptions, MountSpec, Outcome, SessionStats, mount,
    unmount,
};
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use rustix::fs::SeekFrom;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

type Served = Result<SessionStats, Error>;

/// A mount, gone at the end however the test ends.
struct Mount {
    _folder: tempfile::TempDir,
    target: PathBuf,
    server: Option<JoinHandle<Served>>,
}

impl Mount {
    fn new(files: ImageFiles, method: MountMethod) -> Result<Self, Error> {
        Self::with(files, method, MountOptions::default())
    }

    fn with(files: ImageFiles, method: MountMethod, options: MountOptions) -> Result<Self, Error> {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("with spaces, and more");
        std::fs::create_dir(&target).unwrap();
        let spec =
            MountSpec { files, target: target.clone(), method, options, ..MountSpec::default() };
        let server = match mount(spec)? {
            Outcome::Kernel(_) => None,
            Outcome::Fuse(plan) => {
                let server = plan.start()?;
                Some(std::thread::spawn(move || server.run()))
            }
        };
        Ok(Self { _folder: folder, target, server })
    }

    /// Unmounts; the server must end well.
    fn finish(mut self) {
        unmount(&self.target, false).unwrap();
        if let Some(server) = self.server.take() {
            server.join().unwrap().unwrap();
        }
        assert!(matches!(unmount(&self.target, false), Err(Error::NotMounted { .. })));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Best effort: the test has failed or has unmounted.
        let _ = ferrofs_linux::unmount(&self.target, UnmountFlags { lazy: true, force: true });
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let can = root && Path::new("/dev/fuse").exists();
    if !can {
        // Owners and device nodes show only to root as they are.
        println!("skipped: needs root and /dev/fuse");
    }
    can
}

fn files(golden: &Golden, name: &str) -> ImageFiles {
    ImageFiles { devices: golden.devices(name), ..ImageFiles::new(golden.image(name)) }
}

#[test]
fn golden_images_by_fuse() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    for name in golden.names() {
        let mount = Mount::new(files(&golden, &name), MountMethod::Fuse).unwrap();
        let found = Manifest::of_directory(&mount.target).unwrap();
        let differences = golden.manifest(&name).differences(&found);
        assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
        mount.finish();
    }
}

#[test]
fn golden_images_by_the_kernel() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let mut mounted = 0;
    for name in golden.names() {
        let mount = match Mount::new(files(&golden, &name), MountMethod::Kernel) {
            Ok(mount) => mount,
            Err(error) => {
                println!("skipped: {name}: {error}");
                continue;
            }
        };
        let found = Manifest::of_directory(&mount.target).unwrap();
        let differences = golden.manifest(&name).differences(&found);
        // Kernels up to 6.18 at least lose shared attributes of such images.
        if name.starts_with("metabox") && !differences.is_empty() {
            println!("known kernel defect: {name}: {} differences", differences.len());
        } else {
            assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
        }
        mounted += 1;
        mount.finish();
    }
    println!("the kernel mounted {mounted} images");
}

#[test]
fn the_choice_says_why() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let folder = tempfile::tempdir().unwrap();
    let spec = |method, text: &str| {
        let mut options = MountOptions::default();
        options.add(OsStr::new(text)).unwrap();
        let files = ImageFiles::new(golden.image("lz4"));
        MountSpec {
            files,
            target: folder.path().to_owned(),
            method,
            options,
            ..MountSpec::default()
        }
    };
    match mount(spec(MountMethod::Auto, "nosuid")).unwrap() {
        Outcome::Kernel(chosen) => {
            assert!(chosen.to_string().starts_with("mounted by the kernel ("), "{chosen}");
            assert!(chosen.reason.contains("0padding"), "{chosen}");
            let entry = ferrofs_linux::mountinfo::find(&folder.path().canonicalize().unwrap());
            let options = entry.unwrap().unwrap().options;
            assert!(options.contains("nosuid") && !options.contains("nodev"), "{options}");
            unmount(folder.path(), false).unwrap();
        }
        Outcome::Fuse(_) => println!("this kernel mounts no EROFS"),
    }
    let Outcome::Fuse(plan) = mount(spec(MountMethod::Auto, "allow_other")).unwrap() else {
        panic!("only FUSE has the option");
    };
    let server = plan.start().unwrap();
    let chosen = server.chosen().expect("a choice was made");
    assert_eq!(chosen.method, Method::Fuse);
    assert!(chosen.to_string().contains("allow_other"), "{chosen}");
    drop(server);
    for (method, text) in [
        (MountMethod::Fuse, "dax=never"),
        (MountMethod::Fuse, "on_change=flush"),
        (MountMethod::Kernel, "max_threads=1"),
        (MountMethod::Kernel, "cache_strategy=split"),
        (MountMethod::Kernel, "sync_decompress=always"),
        (MountMethod::Auto, "on_change=flush"),
        (MountMethod::Auto, "acl,psi"),
    ] {
        let error = mount(spec(method, text)).unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{error}");
    }
    assert!(matches!(unmount(folder.path(), false), Err(Error::NotMounted { .. })));
}

#[test]
fn many_readers_see_the_same() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let mut options = MountOptions::default();
    // A cache of nearly nothing, so that readers get in each other's way.
    options.add(OsStr::new("cache_bytes=65536,max_threads=8")).unwrap();
    let name = "lz4-dedupe-fragments-64k";
    let mount = Mount::with(files(&golden, name), MountMethod::Fuse, options).unwrap();
    let want = golden.manifest(name);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let found = Manifest::of_directory(&mount.target).unwrap();
                assert!(want.differences(&found).is_empty());
            });
        }
    });
    mount.finish();
}

/// What is decoded beside a page that is read goes to the kernel's page cache. Where pclusters are
/// shared by files that have different parts of them, each must get its own part.
#[test]
fn single_pages_in_any_order_are_right() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let names = golden.names();
    let shared = |name: &&String| name.contains("dedupe") || name.contains("fragments");
    assert!(names.iter().any(|name| shared(&name)), "{names:?}");
    for name in names.iter().filter(shared) {
        let mount = Mount::new(files(&golden, name), MountMethod::Fuse).unwrap();
        let mut pending = vec![mount.target.clone()];
        while let Some(folder) = pending.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() {
                    check_pages(&entry.path());
                }
            }
        }
        mount.finish();
    }
}

/// Reads some pages of a file out of order, then all of it from what the kernel has by then; compares
/// with reads that pass the page cache.
fn check_pages(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    const PAGE: usize = 4096;
    let file = File::open(path).unwrap();
    let len = (file.metadata().unwrap().len() as usize).min(1 << 20);
    let mut options = File::options();
    let direct = options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
    let mut want = vec![0; len];
    direct.read(true).open(path).unwrap().read_exact_at(&mut want, 0).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let pages = len.div_ceil(PAGE);
    let some = (0..pages.min(16)).map(|step| step * 7919 % pages);
    for page in some.chain(0..pages) {
        let range = page * PAGE..len.min((page + 1) * PAGE);
        let mut found = vec![0; range.len()];
        file.read_exact_at(&mut found, range.start as u64).unwrap();
        assert!(found == want[range], "{} page {page}", path.display());
    }
}

#[test]
fn devices_and_offsets() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let name = "chunk-blobdev";
    for method in [MountMethod::Auto, MountMethod::Kernel, MountMethod::Fuse] {
        let error = Mount::new(ImageFiles::new(golden.image(name)), method).err().unwrap();
        assert!(matches!(error, Error::DevicesMissing { count: 1, .. }), "{error}");
    }
    // As an option, too.
    let mut options = MountOptions::default();
    let mut text = std::ffi::OsString::from("device=");
    text.push(&golden.devices(name)[0]);
    options.add(&text).unwrap();
    let lone = ImageFiles::new(golden.image(name));
    Mount::with(lone, MountMethod::Fuse, options).unwrap().finish();

    let folder = tempfile::tempdir().unwrap();
    let shifted = folder.path().join("shifted");
    let image = std::fs::read(golden.image("lz4")).unwrap();
    std::fs::write(&shifted, [vec![0xff; 8192], image].concat()).unwrap();
    for method in [MountMethod::Auto, MountMethod::Fuse] {
        let files = ImageFiles { offset: 8192, ..ImageFiles::new(&shifted) };
        let mount = Mount::new(files, method).unwrap();
        let found = Manifest::of_directory(&mount.target).unwrap();
        assert!(golden.manifest("lz4").differences(&found).is_empty());
        mount.finish();
    }
}

#[test]
fn sizes_of_the_file_system() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let name = "zstd-64k";
    let image = files(&golden, name).open().unwrap();
    let mount = Mount::new(files(&golden, name), MountMethod::Fuse).unwrap();
    let stat = rustix::fs::statvfs(&mount.target).unwrap();
    assert_eq!(stat.f_blocks, image.superblock().blocks);
    assert_eq!((stat.f_bsize, stat.f_frsize, stat.f_namemax), (4096, 4096, 255));
    assert_eq!((stat.f_bfree, stat.f_bavail, stat.f_ffree), (0, 0, 0));
    assert_eq!(stat.f_files, image.superblock().inodes);
    assert_eq!(std::fs::metadata(&mount.target).unwrap().ino(), image.root().stat_ino());
    mount.finish();
}

#[test]
fn holes_can_be_found() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let mount = Mount::new(files(&golden, "chunk-4k"), MountMethod::Fuse).unwrap();
    let mut pending = vec![mount.target.clone()];
    let (mut holes, mut files) = (0, 0);
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files += 1;
                holes += check_holes(&entry.path());
            }
        }
    }
    assert!(files > 100 && holes > 0, "{files} files, {holes} holes");
    mount.finish();
}

/// Data and holes must take turns to the end, and holes be zeros. Gives the number of holes.
fn check_holes(path: &Path) -> u32 {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let seek = |from| rustix::fs::seek(&file, from);
    let (mut at, mut holes) = (0, 0);
    while at < size {
        let data = match seek(SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::NXIO);
                size
            }
        };
        assert!(data >= at && data <= size);
        if data > at {
            holes += 1;
            let mut buf = vec![1; (data - at).min(1 << 20) as usize];
            file.read_exact_at(&mut buf, at).unwrap();
            assert!(buf.iter().all(|&byte| byte == 0), "{}", path.display());
        }
        if data == size {
            break;
        }
        let hole = seek(SeekFrom::Hole(data)).unwrap();
        assert!(hole > data && hole <= size);
        at = hole;
    }
    assert_eq!(seek(SeekFrom::Data(size)), Err(rustix::io::Errno::NXIO));
    holes
}

#[test]
fn bad_images_and_targets() {
    if !can_mount() {
        return;
    }
    let golden = Golden::unpack();
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("file");
    std::fs::write(&plain, [0; 8192]).unwrap();
    let mut truncated = std::fs::read(golden.image("plain")).unwrap();
    truncated.truncate(1500);
    let cut = folder.path().join("cut");
    std::fs::write(&cut, truncated).unwrap();
    let missing = folder.path().join("missing");
    for image in [&plain, &cut, &missing, &folder.path().to_owned()] {
        for method in [MountMethod::Auto, MountMethod::Kernel, MountMethod::Fuse] {
            let error = Mount::new(ImageFiles::new(image), method).err().unwrap();
            assert!(error.to_string().contains(image.to_str().unwrap()), "{error}");
        }
    }
    for target in [&plain, &missing] {
        let spec = MountSpec {
            files: ImageFiles::new(golden.image("plain")),
            target: target.clone(),
            ..MountSpec::default()
        };
        assert!(matches!(mount(spec), Err(Error::Mount(_))));
        assert!(unmount(target, false).is_err());
    }
    assert!(ferrofs_linux::mountinfo::find_under(folder.path()).unwrap().is_empty());
}
