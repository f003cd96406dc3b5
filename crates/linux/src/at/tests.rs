// SPDX-License-Identifier: MIT OR Apache-2.0

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink as std_symlink};

use super::*;

const NAME: &str = "name";

fn name() -> &'static OsStr {
    OsStr::new(NAME)
}

fn errno(result: io::Result<OwnedFd>) -> i32 {
    result.expect_err("should be refused").raw_os_error().unwrap()
}

#[test]
fn nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/file"), "in").unwrap();
    fs::write(outside.path().join("secret"), "out").unwrap();
    std_symlink("..", root.join("up")).unwrap();
    std_symlink("a", root.join("inner")).unwrap();
    std_symlink("file", root.join("a/b/link")).unwrap();
    let directory = File::open(&root).unwrap();
    type Open<'a> = &'a dyn Fn(&str, OFlags) -> io::Result<OwnedFd>;
    let by_kernel =
        |path: &str, flags| open_beneath(&directory, Path::new(path), flags, Mode::empty());
    let by_steps =
        |path: &str, flags| open_by_steps(directory.as_fd(), Path::new(path), flags, Mode::empty());
    for open in [&by_kernel as Open<'_>, &by_steps] {
        for path in ["a/b/file", "./a/b/file", "a/b", ".", "a/./b/file"] {
            open(path, OFlags::RDONLY).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert_eq!(errno(open("../secret", OFlags::RDONLY)), Errno::XDEV.raw_os_error());
        assert_eq!(errno(open("/etc/passwd", OFlags::RDONLY)), Errno::XDEV.raw_os_error());
        for path in ["up/secret", "inner/b/file"] {
            let errno = errno(open(path, OFlags::RDONLY));
            assert!([Errno::LOOP, Errno::NOTDIR].iter().any(|e| e.raw_os_error() == errno));
        }
        for flags in [OFlags::RDONLY, OFlags::PATH] {
            assert_eq!(errno(open("a/b/link", flags)), Errno::LOOP.raw_os_error());
        }
    }
    open_beneath(&directory, Path::new(""), OFlags::RDONLY, Mode::empty()).unwrap();
}

#[test]
fn names_that_are_paths_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let handle = File::open(directory.path()).unwrap();
    for bad in ["", ".", "..", "a/b", "/a"] {
        assert!(mkdir(&handle, OsStr::new(bad), 0o755).is_err(), "{bad:?}");
        assert!(symlink(name(), &handle, OsStr::new(bad)).is_err(), "{bad:?}");
        assert!(mknod(&handle, OsStr::new(bad), 0o100_644, 0).is_err(), "{bad:?}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn metadata_of_links_is_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let handle = File::open(directory.path()).unwrap();
    symlink(OsStr::new("nowhere"), &handle, name()).unwrap();
    set_times(&handle, name(), (-5, 1), (1_000_000_000, 999_999_999)).unwrap();
    let path = directory.path().join(NAME);
    let meta = fs::symlink_metadata(&path).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 999_999_999));
    assert!(set_times(&handle, name(), (0, 0), (0, 1_000_000_000)).is_err());
    assert_eq!(
        chmod(&handle, name(), 0o600).unwrap_err().raw_os_error(),
        Some(Errno::OPNOTSUPP.raw_os_error())
    );
    chown(&handle, name(), meta.uid(), meta.gid()).unwrap();
    assert!(chown(&handle, name(), u32::MAX, 0).is_err());
    link(&handle, name(), &handle, OsStr::new("second")).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().nlink(), 2);
}

#[test]
fn pipes_and_modes() {
    let directory = tempfile::tempdir().unwrap();
    let handle = File::open(directory.path()).unwrap();
    mknod(&handle, name(), 0o010_600, 0).unwrap();
    chmod(&handle, name(), 0o4751).unwrap();
    let mode = fs::metadata(directory.path().join(NAME)).unwrap().mode();
    assert_eq!(mode, 0o014_751);
    unlink(&handle, name()).unwrap();
    if rustix::process::geteuid().is_root() {
        match mknod(&handle, name(), 0o020_600, rustix::fs::makedev(1, 3)) {
            Ok(()) => {
                let rdev = fs::metadata(directory.path().join(NAME)).unwrap().rdev();
                assert_eq!(rdev, rustix::fs::makedev(1, 3));
            }
            Err(error) => println!("skipped: device nodes cannot be made here: {error}"),
        }
    } else {
        println!("skipped: device nodes need root");
    }
}

#[test]
fn an_unnamed_file_gets_its_name_when_done() {
    let directory = tempfile::tempdir().unwrap();
    let handle = File::open(directory.path()).unwrap();
    let unnamed = match create_unnamed(&handle, 0o640) {
        Ok(unnamed) => unnamed,
        Err(error) => return println!("skipped: no unnamed files here: {error}"),
    };
    let mut file = File::from(unnamed);
    file.write_all(b"done").unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    link_unnamed(&file, &handle, name()).unwrap();
    assert_eq!(fs::read(directory.path().join(NAME)).unwrap(), b"done");
    assert!(link_unnamed(&file, &handle, name()).is_err());
    link_unnamed(&file, &handle, OsStr::new("other")).unwrap();
    rename(&handle, OsStr::new("other"), OsStr::new("third")).unwrap();
    assert!(directory.path().join("third").exists());
}
