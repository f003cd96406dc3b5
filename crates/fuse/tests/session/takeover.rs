// SPDX-License-Identifier: MIT OR Apache-2.0
//! One server killed, the next one going on: nobody who reads may notice.

use super::*;
use ferrofs_fuse::Connection;
use std::io::Write;
use std::os::fd::AsFd;

/// A mount held by this process, served by others; gone at the end, however the test ends.
struct Kept {
    _directory: tempfile::TempDir,
    target: PathBuf,
    connection: Connection,
}

impl Kept {
    fn new() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().canonicalize().unwrap().join("mount");
        fs::create_dir(&target).unwrap();
        let connection = Connection::mount(&target, &over(Transport::Device)).unwrap();
        if !connection.negotiated().can_resend() {
            println!("skipped: this kernel cannot send requests again");
            return None;
        }
        Some(Self { _directory: directory, target, connection })
    }

    /// Readers of "gated", which are processes of their own: a server that this process starts
    /// would inherit files of the mount for a moment, and to close them ask itself.
    fn readers(&self) -> Vec<Child> {
        let file = format!("if={}", self.target.join("gated").display());
        let start = |part: u64| {
            let mut command = Command::new("dd");
            let skip = format!("skip={}", part * 16);
            command.args([&file, "bs=4096", "count=1", &skip, "status=none"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        (0..4).map(start).collect()
    }

    /// Starts a server; with `gate` open its reads of "gated" are answered.
    fn serve(&self, gate: bool, again: bool) -> Server {
        let Negotiated { minor, kernel_minor, flags, max_read, max_readahead } =
            *self.connection.negotiated();
        let device = self.connection.device().unwrap().try_clone_to_owned().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "takeover::server_process", "--ignored", "--nocapture"]);
        let numbers = format!("{minor} {kernel_minor} {flags} {max_read} {max_readahead}");
        command.env("FERROFS_TEST_NEGOTIATED", numbers);
        if gate {
            command.env("FERROFS_TEST_GATE", "1");
        }
        if again {
            command.env("FERROFS_TEST_RESEND", "1");
        }
        command.stdin(Stdio::from(device)).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        Server { child, output }
    }
}

struct Server {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Waits until the server has said this.
    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            let read = std::io::BufRead::read_line(&mut self.output, &mut line).unwrap();
            assert!(read > 0, "the server ended before it said {word}");
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of a mount that it has not made.
#[test]
#[ignore = "started by other tests"]
fn server_process() {
    let Some(numbers) = std::env::var_os("FERROFS_TEST_NEGOTIATED") else { return };
    let numbers = numbers.into_string().unwrap();
    let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    let [minor, kernel_minor, flags, max_read, max_readahead] = numbers[..] else { panic!() };
    let negotiated = Negotiated {
        minor: minor as u32,
        kernel_minor: kernel_minor as u32,
        flags,
        max_read: max_read as u32,
        max_readahead: max_readahead as u32,
    };
    let device = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let memory = Arc::new(Memory::new(1));
    if std::env::var_os("FERROFS_TEST_GATE").is_some() {
        memory.open_gate();
    }
    let config = over(Transport::Device);
    let session = Session::from_fd(Arc::clone(&memory) as _, device, negotiated, config).unwrap();
    if std::env::var_os("FERROFS_TEST_RESEND").is_some() {
        session.resend().unwrap();
    }
    let watch = std::thread::spawn(move || {
        println!("serving");
        memory.wait_for_gated(4);
        println!("gated");
        std::io::stdout().flush().unwrap();
    });
    session.run().unwrap();
    drop(watch);
}

#[test]
fn reads_survive_servers_that_are_killed() {
    let Some(mut kept) = Kept::new() else { return };
    let mut server = kept.serve(false, false);
    server.wait_for("serving");
    let readers: Vec<_> = kept.readers();
    // Twice with all of them in hand: what was sent again is sent again.
    server.wait_for("gated");
    server.kill();
    let mut server = kept.serve(false, true);
    server.wait_for("gated");
    server.kill();
    let server = kept.serve(true, true);
    for (reader, part) in readers.into_iter().zip(0..) {
        let output = within_limit("a read", || reader.wait_with_output().unwrap());
        let right = |(byte, at): (&u8, u64)| *byte == byte_at(at);
        assert!(output.status.success() && output.stdout.len() == 4096);
        assert!(output.stdout.iter().zip(part * 65536..).all(right));
    }
    // What was looked at before is known to the server that never saw it.
    let mut file = File::open(kept.target.join("file")).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, FILE_SIZE);
    assert!(bytes.iter().zip(0..).all(|(byte, at)| *byte == byte_at(at)));
    drop(file);
    kept.connection.unmounter().unwrap().unmount(UnmountFlags::default()).unwrap();
    within_limit("the server's end", move || {
        let mut server = server;
        assert!(server.child.wait().unwrap().success());
    });
    kept.connection.abandon();
    assert!(mountinfo::find(&kept.target).unwrap().is_none());
}

#[test]
fn without_any_server_left_readers_get_errors() {
    let Some(mut kept) = Kept::new() else { return };
    let mut server = kept.serve(false, false);
    server.wait_for("serving");
    let readers = kept.readers();
    server.wait_for("gated");
    server.kill();
    kept.connection.abandon();
    for reader in readers {
        let output = within_limit("a read", || reader.wait_with_output().unwrap());
        assert!(!output.status.success() && output.stdout.is_empty());
    }
    File::open(kept.target.join("gated")).unwrap_err();
    let flags = UnmountFlags { lazy: true, force: false };
    kept.connection.unmounter().unwrap().unmount(flags).unwrap();
}
