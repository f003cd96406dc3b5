// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real mounts of a file system in memory.

mod memory;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use ferrofs_fuse::{MountHow, Session, SessionConfig, SessionError, SessionStats, Unmounter};
use ferrofs_linux::{UnmountFlags, mountinfo, xattr};
use memory::{FILE_SIZE, MANY, Memory, SPARSE_DATA, byte_at};
use rustix::fs::SeekFrom;

/// A mount served by threads of this process; gone at the end, however the test ends.
struct Mount {
    _directory: tempfile::TempDir,
    target: PathBuf,
    unmounter: Unmounter,
    server: Option<JoinHandle<Result<SessionStats, SessionError>>>,
}

impl Mount {
    fn new(fs: Arc<Memory>, config: SessionConfig) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().canonicalize().unwrap().join("with spaces, \"and\" more");
        fs::create_dir(&target).unwrap();
        let session = Session::mount(fs, &target, config).unwrap();
        let unmounter = session.unmounter().unwrap();
        let server = std::thread::spawn(move || session.run());
        Some(Self { _directory: directory, target, unmounter, server: Some(server) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// Unmounts and gives the counters.
    fn finish(&mut self) -> SessionStats {
        self.unmounter.unmount(UnmountFlags::default()).unwrap();
        self.server.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Best effort: the test has failed or has unmounted.
        let _ = self.unmounter.unmount(UnmountFlags { lazy: true, force: true });
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn can_mount() -> bool {
    let helper = || Command::new("fusermount3").arg("-V").output().is_ok();
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: there is no /dev/fuse");
        return false;
    }
    if !rustix::process::geteuid().is_root() && !helper() {
        println!("skipped: not root and no fusermount3");
        return false;
    }
    true
}

fn both_ways() -> impl Iterator<Item = SessionConfig> {
    let shared = SessionConfig::default();
    let asking = SessionConfig {
        zero_message_open: false,
        readdirplus: false,
        clone_fd: true,
        posix_acl: false,
        ..SessionConfig::default()
    };
    [shared, asking].into_iter()
}

#[test]
fn everything_comes_back() {
    for config in both_ways() {
        let zero_message_open = config.zero_message_open;
        let fs = Arc::new(Memory::new(1));
        let Some(mut mount) = Mount::new(Arc::clone(&fs), config) else { return };
        check_metadata(&mount);
        check_directories(&mount);
        check_reads(&mount);
        check_the_rest(&mount);
        let entry = mountinfo::find(&mount.target).unwrap().unwrap();
        assert_eq!(entry.fs_type, "fuse.ferrofs");
        assert_eq!(entry.source, Path::new("ferrofs"));
        assert!(entry.options.split(',').any(|option| option == "ro"));
        assert_eq!(fs.opens.load(Ordering::SeqCst) == 0, zero_message_open);
        let stats = mount.finish();
        assert!(stats.requests > 10 && stats.threads == 0);
        assert!(mountinfo::find(&mount.target).unwrap().is_none());
        // Once more does no harm.
        mount.unmounter.unmount(UnmountFlags::default()).unwrap();
    }
}

fn check_metadata(mount: &Mount) {
    let meta = fs::metadata(mount.path("file")).unwrap();
    assert_eq!((meta.ino(), meta.size(), meta.mode()), (9, FILE_SIZE, 0o104_755));
    assert_eq!((meta.uid(), meta.gid(), meta.nlink()), (1234, 70_000, 1));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-1_000_000, 123_456_789));
    assert_eq!((meta.ctime(), meta.blocks()), (-1_000_000, FILE_SIZE / 512));
    assert_eq!(fs::read_link(mount.path("link")).unwrap(), Path::new("sparse"));
    for _ in 0..2 {
        let error = fs::metadata(mount.path("absent")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    let stat = rustix::fs::statvfs(&mount.target).unwrap();
    assert_eq!((stat.f_blocks, stat.f_files, stat.f_namemax), (12_345, 678, 255));
}

fn check_directories(mount: &Mount) {
    // Twice: the second time from the kernel's cache.
    for _ in 0..2 {
        let mut names = Vec::new();
        for entry in fs::read_dir(mount.path("many")).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_file());
            names.push(entry.file_name().into_string().unwrap());
        }
        assert_eq!(names.len() as u64, MANY);
        assert!(names.iter().zip(0..).all(|(name, n)| *name == format!("entry-{n}")));
    }
    let meta = fs::metadata(mount.path("many/entry-9999")).unwrap();
    assert_eq!((meta.size(), meta.permissions().mode()), (1000 + 9999, 0o100_640));
    assert!(fs::metadata(mount.path("many/entry-10000")).is_err());
}

fn check_reads(mount: &Mount) {
    let file = File::open(mount.path("file")).unwrap();
    let mut buf = vec![0; 1 << 20];
    for (offset, len) in [
        (0, 1),
        (4095, 2),
        (12_345, 54_321),
        (FILE_SIZE - 3, 10),
        (FILE_SIZE, 10),
        (0, 1 << 20),
        ((1 << 20) + 17, 1 << 20),
    ] {
        let mut done = 0;
        while done < len {
            match file.read_at(&mut buf[done..len], offset + done as u64).unwrap() {
                0 => break,
                read => done += read,
            }
        }
        assert_eq!(done as u64, (FILE_SIZE - offset).min(len as u64));
        assert!(buf[..done].iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)));
    }
    // Past the page cache, in single requests of up to 1 MiB.
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC;
    let path = mount.path("file");
    let direct = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
    let read = rustix::io::pread(&direct, buf.as_mut_slice(), 1 << 20).unwrap();
    assert_eq!(read, 1 << 20);
    assert!(buf.iter().zip(1 << 20..).all(|(byte, at)| *byte == byte_at(at)));
    let mut all = Vec::new();
    File::open(mount.path("sparse")).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u64, FILE_SIZE);
    let (data, hole) = all.split_at(SPARSE_DATA as usize);
    assert!(data.iter().zip(0..).all(|(byte, at)| *byte == byte_at(at)));
    assert!(hole.iter().all(|byte| *byte == 0));
}

fn check_the_rest(mount: &Mount) {
    let file = File::open(mount.path("file")).unwrap();
    let (mut names, mut value) = (Vec::new(), Vec::new());
    xattr::list(&file, &mut names).unwrap();
    assert_eq!(xattr::names(&names).collect::<Vec<_>>(), [&b"user.large"[..], b"user.empty"]);
    assert!(xattr::get(&file, b"user.large", &mut value).unwrap());
    assert_eq!(value, vec![b'v'; 60_000]);
    value.clear();
    assert!(xattr::get(&file, b"user.empty", &mut value).unwrap() && value.is_empty());
    assert!(!xattr::get(&file, b"user.none", &mut value).unwrap());
    let sparse = File::open(mount.path("sparse")).unwrap();
    assert_eq!(rustix::fs::seek(&sparse, SeekFrom::Hole(5)).unwrap(), SPARSE_DATA);
    assert_eq!(rustix::fs::seek(&sparse, SeekFrom::Data(5)).unwrap(), 5);
    assert!(rustix::fs::seek(&sparse, SeekFrom::Data(SPARSE_DATA)).is_err());
    let refused = [
        fs::write(mount.path("new"), "").unwrap_err(),
        File::options().write(true).open(mount.path("file")).unwrap_err(),
        fs::remove_file(mount.path("file")).unwrap_err(),
        fs::create_dir(mount.path("new")).unwrap_err(),
        fs::rename(mount.path("file"), mount.path("new")).unwrap_err(),
        xattr::set(&file, b"user.new", b"").unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    }
}

#[test]
fn readers_at_the_same_time() {
    let Some(mut mount) = Mount::new(Arc::new(Memory::new(1)), SessionConfig::default()) else {
        return;
    };
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let path = mount.path("file");
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut buf = vec![0; 70_000];
                for step in 0..60_u64 {
                    let offset = (thread * 7_654_321 + step * 1_234_577) % (FILE_SIZE - 70_000);
                    file.read_exact_at(&mut buf, offset).unwrap();
                    assert!(buf.iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)));
                }
            });
        }
    });
    let stats = mount.finish();
    assert!(stats.threads_peak <= SessionConfig::default().threads_max);
}

/// Four reads that each wait for the three others: answered only if the session starts threads for
/// requests that find all workers stuck.
#[test]
fn stuck_workers_get_company() {
    let config = SessionConfig { threads_max: 4, ..SessionConfig::default() };
    let Some(mut mount) = Mount::new(Arc::new(Memory::new(4)), config) else { return };
    std::thread::scope(|scope| {
        for part in 0..4_u64 {
            let path = mount.path("slow");
            scope.spawn(move || {
                let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC;
                let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
                let mut buf = [0; 4096];
                rustix::io::pread(&file, &mut buf, part * 65536).unwrap();
                assert_eq!(buf[1], byte_at(part * 65536 + 1));
            });
        }
    });
    assert_eq!(mount.finish().threads_peak, 4);
}

#[test]
fn unmounting_while_busy_is_refused_and_lazy_works() {
    let Some(mut mount) = Mount::new(Arc::new(Memory::new(1)), SessionConfig::default()) else {
        return;
    };
    let file = File::open(mount.path("file")).unwrap();
    let error = mount.unmounter.unmount(UnmountFlags::default()).unwrap_err();
    assert!(error.to_string().contains("busy") || error.to_string().contains("uses"), "{error}");
    mount.unmounter.unmount(UnmountFlags { lazy: true, force: false }).unwrap();
    // Still served to whoever has it open.
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 4_000_000).unwrap();
    assert_eq!(byte[0], byte_at(4_000_000));
    drop(file);
    mount.server.take().unwrap().join().unwrap().unwrap();
}

#[test]
fn dropping_an_unserved_session_unmounts() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().canonicalize().unwrap();
    let config = SessionConfig::default();
    let session = Session::mount(Arc::new(Memory::new(1)), &target, config.clone()).unwrap();
    assert!(mountinfo::find(&target).unwrap().is_some());
    assert!(session.negotiated().max_read >= 4096);
    drop(session);
    assert!(mountinfo::find(&target).unwrap().is_none());
    let missing = target.join("missing");
    let error = Session::mount(Arc::new(Memory::new(1)), &missing, config.clone()).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    let config = SessionConfig { threads_max: 0, ..config };
    let error = Session::mount(Arc::new(Memory::new(1)), &target, config).unwrap_err();
    assert!(matches!(error, SessionError::Config("threads_max")));
}

/// Serves a mount in a process of its own, for the tests below.
#[test]
#[ignore = "started by other tests"]
fn server_process() {
    let Some(target) = std::env::var_os("FERROFS_TEST_TARGET") else { return };
    let config = SessionConfig::default();
    let session = Session::mount(Arc::new(Memory::new(1)), target.as_ref(), config).unwrap();
    let by_helper = session.how() == MountHow::Helper;
    assert_eq!(by_helper, !rustix::process::geteuid().is_root());
    let unmounter = session.unmounter().unwrap();
    let server = std::thread::spawn(move || session.run());
    let file = File::open(Path::new(&target).join("file")).unwrap();
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 100_000).unwrap();
    assert_eq!(byte[0], byte_at(100_000));
    drop(file);
    println!("served");
    if std::env::var_os("FERROFS_TEST_WAIT").is_some() {
        std::thread::sleep(Duration::from_secs(600));
    }
    unmounter.unmount(UnmountFlags::default()).unwrap();
    server.join().unwrap().unwrap();
    println!("unmounted");
}

fn server_command(program: &Path, target: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "server_process", "--ignored", "--nocapture"]);
    command.env("FERROFS_TEST_TARGET", target);
    command
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_server_leaves_a_mount_that_can_be_told_and_cleaned() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().canonicalize().unwrap();
    let mut command = server_command(&std::env::current_exe().unwrap(), &target);
    command.env("FERROFS_TEST_WAIT", "1").stdout(Stdio::piped());
    let mut server = Killed(command.spawn().unwrap());
    let mut output = std::io::BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("served") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert!(read > 0, "the server ended");
    }
    drop(server);
    let dead = fs::metadata(&target).is_err();
    let second = Session::mount(Arc::new(Memory::new(1)), &target, SessionConfig::default());
    let error = second.map(drop).err();
    let flags = UnmountFlags { lazy: true, force: false };
    ferrofs_linux::unmount(&target, flags).unwrap();
    assert!(dead);
    let error = error.expect("a dead mount is in the way");
    assert!(error.to_string().contains("unmount it first"), "{error}");
    fs::metadata(&target).unwrap();
}

#[test]
fn unprivileged_through_the_helper() {
    if !can_mount() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: the other tests are unprivileged already");
    }
    let mode = fs::metadata("/dev/fuse").unwrap().mode();
    if mode & 0o006 != 0o006 {
        return println!("skipped: /dev/fuse has mode {:o}, for root only", mode & 0o777);
    }
    for program in ["fusermount3", "setpriv"] {
        if Command::new(program).arg("-V").output().is_err() {
            return println!("skipped: {program} is not installed");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().canonicalize().unwrap().join("a, b\\c");
    fs::create_dir(&target).unwrap();
    // Where the user can reach it, whatever the build directory's permissions are.
    let program = directory.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(directory.path(), 0o755), (&program, 0o755), (&target, 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(&target, Some(65534), Some(65534)).unwrap();
    let inner = server_command(&program, &target);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).args(inner.get_args()).env("FERROFS_TEST_TARGET", &target);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let left = mountinfo::find(&target).unwrap();
    if left.is_some() {
        let flags = UnmountFlags { lazy: true, force: true };
        ferrofs_linux::unmount(&target, flags).unwrap();
    }
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("unmounted"), "{text}{errors}");
    assert!(left.is_none());
}
