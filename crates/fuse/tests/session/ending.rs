// SPDX-License-Identifier: MIT OR Apache-2.0
//! How sessions end: unmounted, aborted, killed, with reads under way.

use super::*;

/// Starts readers of "gated" that the file system has in hand when this returns.
fn start_gated(
    mount: &Mount,
    fs: &Memory,
    count: usize,
) -> Vec<JoinHandle<std::io::Result<usize>>> {
    let readers = (0..count).map(|part| {
        let file = mount.direct("gated");
        std::thread::spawn(move || file.read_at(&mut [0; 4096], part as u64 * 8192))
    });
    let readers = readers.collect();
    fs.wait_for_gated(count);
    readers
}

#[test]
fn a_lazy_unmount_waits_for_reads_under_way() {
    over_each_transport(|transport| {
        let fs = Arc::new(Memory::new(1));
        let mut mount = Mount::new(Arc::clone(&fs), over(transport)).unwrap();
        let readers = start_gated(&mount, &fs, 3);
        mount.unmounter.unmount(UnmountFlags { lazy: true, force: false }).unwrap();
        fs.open_gate();
        for reader in readers {
            assert_eq!(within_limit("a read", || reader.join().unwrap()).unwrap(), 4096);
        }
        mount.ended();
    });
}

#[test]
fn a_forced_unmount_ends_reads_under_way() {
    over_each_transport(|transport| {
        let fs = Arc::new(Memory::new(1));
        let mut mount = Mount::new(Arc::clone(&fs), over(transport)).unwrap();
        let readers = start_gated(&mount, &fs, 3);
        mount.unmounter.unmount(UnmountFlags { lazy: true, force: true }).unwrap();
        // Before the file system has let go of them.
        for reader in readers {
            within_limit("a read", || reader.join().unwrap()).unwrap_err();
        }
        fs.open_gate();
        mount.ended();
    });
}

#[test]
fn an_abort_ends_reads_under_way_and_the_session() {
    over_each_transport(|transport| {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can abort");
        }
        let fs = Arc::new(Memory::new(1));
        let mut mount = Mount::new(Arc::clone(&fs), over(transport)).unwrap();
        let readers = start_gated(&mount, &fs, 3);
        let control = Control::new();
        let (_, minor) = mount.unmounter.device().unwrap();
        fs::write(control.0.path().join(minor.to_string()).join("abort"), "1").unwrap();
        drop(control);
        for reader in readers {
            within_limit("a read", || reader.join().unwrap()).unwrap_err();
        }
        fs.open_gate();
        mount.ended();
        fs::metadata(mount.path("file")).unwrap_err();
        // The mount itself stays until somebody unmounts it; the session no longer does.
        let flags = UnmountFlags { lazy: true, force: false };
        ferrofs_linux::unmount(&mount.target, flags).unwrap();
    });
}

/// The kernel's control file system for FUSE.
struct Control(tempfile::TempDir);

impl Control {
    fn new() -> Self {
        let control = Self(tempfile::tempdir().unwrap());
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", control.0.path(), "fusectl", flags, None).unwrap();
        control
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let flags = UnmountFlags { lazy: true, force: false };
        ferrofs_linux::unmount(&self.0.path().canonicalize().unwrap(), flags).unwrap();
    }
}

/// Mounts and unmounts in quick succession, with readers that do not care.
#[test]
fn ends_come_at_any_time() {
    over_each_transport(|transport| {
        for round in 0..12_u32 {
            let fs = Arc::new(Memory::new(1));
            let mut mount = Mount::new(fs, over(transport)).unwrap();
            let readers: Vec<_> = (0..4_u64)
                .map(|part| {
                    let file = mount.direct("file");
                    std::thread::spawn(move || {
                        let mut buf = vec![0; 65536];
                        for step in 0.. {
                            let offset = (part + step) * 65536 % FILE_SIZE;
                            // Ends with the mount.
                            let Ok(read) = file.read_at(&mut buf, offset) else { break };
                            let good = |(byte, at): (&u8, u64)| *byte == byte_at(at);
                            assert!(buf[..read].iter().zip(offset..).all(good));
                        }
                    })
                })
                .collect();
            if round % 3 > 0 {
                std::thread::sleep(Duration::from_millis(u64::from(round)));
            }
            mount.unmounter.unmount(UnmountFlags { lazy: true, force: true }).unwrap();
            for reader in readers {
                within_limit("a reader's end", || reader.join().unwrap());
            }
            mount.ended();
        }
    });
}

/// Serves a mount in a process of its own, for the tests below.
#[test]
#[ignore = "started by other tests"]
fn server_process() {
    let Some(target) = std::env::var_os("FERROFS_TEST_TARGET") else { return };
    let ring = std::env::var_os("FERROFS_TEST_RING").is_some();
    let config = over(if ring { Transport::Ring } else { Transport::Device });
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
    command.args(["--exact", "ending::server_process", "--ignored", "--nocapture"]);
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
    over_each_transport(kill_a_server);
}

fn kill_a_server(transport: Transport) {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().canonicalize().unwrap();
    let mut command = server_command(&std::env::current_exe().unwrap(), &target);
    command.env("FERROFS_TEST_WAIT", "1").stdout(Stdio::piped());
    if transport == Transport::Ring {
        command.env("FERROFS_TEST_RING", "1");
    }
    let mut server = Killed(command.spawn().unwrap());
    let mut output = std::io::BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("served") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert!(read > 0, "the server ended");
    }
    // Reads under way, of which nobody knows how far they have come.
    let reader = |part: u64| {
        let path = target.join("gated");
        std::thread::spawn(move || {
            File::open(path).and_then(|file| file.read_at(&mut [0; 4096], part * 65536))
        })
    };
    let readers: Vec<_> = (0..3).map(reader).collect();
    drop(server);
    for reader in readers {
        within_limit("a read", || reader.join().unwrap()).unwrap_err();
    }
    // Rings end some time after their process.
    let gone = target.clone();
    let dead = within_limit("the end of the session", move || {
        loop {
            match rustix::fs::statx(
                rustix::fs::CWD,
                &gone,
                rustix::fs::AtFlags::STATX_FORCE_SYNC,
                rustix::fs::StatxFlags::BASIC_STATS,
            ) {
                Err(rustix::io::Errno::NOTCONN) => break true,
                Ok(_) => break false,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
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
