// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real mounts of a file system in memory.

mod ending;
mod memory;
mod notify;
mod parameter;
mod processors;
mod stress;
mod takeover;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use ferrofs_fuse::{
    MountHow, Negotiated, Notifier, Session, SessionConfig, SessionError, SessionStats, Transport,
    Unmounter,
};
use ferrofs_linux::{UnmountFlags, mountinfo, xattr};
use memory::{FILE_SIZE, LIMIT, MANY, Memory, SPARSE_DATA, byte_at};
use parameter::Allowed;
use rustix::fs::SeekFrom;

/// A mount served by threads of this process; gone at the end, however the test ends.
struct Mount {
    _directory: tempfile::TempDir,
    target: PathBuf,
    unmounter: Unmounter,
    notifier: Notifier,
    negotiated: Negotiated,
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
        let transport = config.transport;
        let session = Session::mount(fs, &target, config).unwrap();
        assert!(transport == Transport::Auto || session.transport() == transport);
        let unmounter = session.unmounter().unwrap();
        let (notifier, negotiated) = (session.notifier(), *session.negotiated());
        let server = Some(std::thread::spawn(move || session.run()));
        Some(Self { _directory: directory, target, unmounter, notifier, negotiated, server })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// Unmounts and gives the counters.
    fn finish(&mut self) -> SessionStats {
        self.unmounter.unmount(UnmountFlags::default()).unwrap();
        self.ended()
    }

    /// Waits for the end of the session and gives the counters.
    fn ended(&mut self) -> SessionStats {
        let server = self.server.take().unwrap();
        let stats = within_limit("the end of the session", || server.join().unwrap()).unwrap();
        assert_eq!(stats.threads, 0);
        stats
    }

    /// Opens past the page cache.
    fn direct(&self, name: &str) -> File {
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC;
        let path = self.path(name);
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap().into()
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

/// Does what may hang in a thread of its own, and fails if it does.
fn within_limit<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = work();
        // Nobody waits any more if it took too long.
        let _ = sender.send(());
        result
    });
    let waited = receiver.recv_timeout(LIMIT);
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "{what} does not come");
    thread.join().unwrap()
}

/// Runs a test over each transport that there is.
fn over_each_transport(test: impl Fn(Transport)) {
    if !can_mount() {
        return;
    }
    test(Transport::Device);
    if let Some(allowed) = Allowed::new() {
        test(Transport::Ring);
        drop(allowed);
    }
}

fn over(transport: Transport) -> SessionConfig {
    SessionConfig { transport, ..SessionConfig::default() }
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
    over_each_transport(|transport| {
        for config in both_ways() {
            comes_back(SessionConfig { transport, ..config });
        }
    });
}

fn comes_back(config: SessionConfig) {
    let SessionConfig { transport, zero_message_open, .. } = config;
    let fs = Arc::new(Memory::new(1));
    let Some(mut mount) = Mount::new(Arc::clone(&fs), config) else { return };
    check_metadata(&mount);
    check_directories(&mount);
    check_reads(&mount);
    check_the_rest(&mount);
    check_errors(&mount);
    let entry = mountinfo::find(&mount.target).unwrap().unwrap();
    assert_eq!(entry.fs_type, "fuse.ferrofs");
    assert_eq!(entry.source, Path::new("ferrofs"));
    assert!(entry.options.split(',').any(|option| option == "ro"));
    assert_eq!(fs.opens.load(Ordering::SeqCst) == 0, zero_message_open);
    let stats = mount.finish();
    assert!(stats.requests > 10);
    assert_eq!(stats.ring_requests > 10, transport == Transport::Ring);
    assert!(mountinfo::find(&mount.target).unwrap().is_none());
    // Once more does no harm.
    mount.unmounter.unmount(UnmountFlags::default()).unwrap();
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
    let read = mount.direct("file").read_at(&mut buf, 1 << 20).unwrap();
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

/// What goes wrong goes wrong for whoever asked for it only.
fn check_errors(mount: &Mount) {
    let mut buf = [0; 4096];
    for (name, error) in [("corrupt", 117), ("short", 5), ("panics", 5)] {
        for _ in 0..2 {
            let found = mount.direct(name).read_at(&mut buf, 8192).unwrap_err();
            assert_eq!(found.raw_os_error(), Some(error), "{name}");
            let found = File::open(mount.path(name)).unwrap().read_at(&mut buf, 8192).unwrap_err();
            assert_eq!(found.raw_os_error(), Some(error), "{name}");
        }
        assert_eq!(mount.direct("file").read_at(&mut buf, 4096).unwrap(), 4096);
        assert!(buf.iter().zip(4096..).all(|(byte, at)| *byte == byte_at(at)));
    }
}

#[test]
fn readers_at_the_same_time() {
    over_each_transport(read_at_the_same_time);
}

fn read_at_the_same_time(transport: Transport) {
    let Some(mut mount) = Mount::new(Arc::new(Memory::new(1)), over(transport)) else { return };
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
    if transport == Transport::Device {
        assert!(stats.threads_peak <= SessionConfig::default().threads_max);
    }
}

/// Reads that each wait for all others: answered only if the session starts threads for requests
/// that find all of its threads stuck.
#[test]
fn stuck_workers_get_company() {
    over_each_transport(|transport| {
        // On a ring, threads beyond those that each processor has.
        let together: u64 = if transport == Transport::Ring { 12 } else { 4 };
        let config = SessionConfig { threads_max: together as usize, ..over(transport) };
        let fs = Arc::new(Memory::new(together as usize));
        let Some(mut mount) = Mount::new(fs, config) else { return };
        std::thread::scope(|scope| {
            for part in 0..together {
                let file = mount.direct("slow");
                scope.spawn(move || {
                    let mut buf = [0; 4096];
                    file.read_at(&mut buf, part * 65536).unwrap();
                    assert_eq!(buf[1], byte_at(part * 65536 + 1));
                });
            }
        });
        let stats = mount.finish();
        assert!(stats.threads_peak >= together as usize);
        assert!(transport == Transport::Ring || stats.threads_peak == 4);
    });
}

#[test]
fn unmounting_while_busy_is_refused_and_lazy_works() {
    over_each_transport(unmount_while_busy);
}

fn unmount_while_busy(transport: Transport) {
    let Some(mut mount) = Mount::new(Arc::new(Memory::new(1)), over(transport)) else { return };
    let file = File::open(mount.path("file")).unwrap();
    let error = mount.unmounter.unmount(UnmountFlags::default()).unwrap_err();
    assert!(error.to_string().contains("busy") || error.to_string().contains("uses"), "{error}");
    mount.unmounter.unmount(UnmountFlags { lazy: true, force: false }).unwrap();
    // Still served to whoever has it open.
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 4_000_000).unwrap();
    assert_eq!(byte[0], byte_at(4_000_000));
    drop(file);
    mount.ended();
}

#[test]
fn dropping_an_unserved_session_unmounts() {
    over_each_transport(drop_unserved);
}

fn drop_unserved(transport: Transport) {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().canonicalize().unwrap();
    let config = over(transport);
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
