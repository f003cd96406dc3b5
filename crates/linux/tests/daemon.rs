// SPDX-License-Identifier: MIT OR Apache-2.0
//! Going to the background, by a process of its own: the test harness has threads, which forbid
//! it.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ferrofs_linux::daemon::daemonize;
use ferrofs_linux::descriptors;
use std::os::fd::OwnedFd;

/// The name under which test runners know the one test of this program.
const NAME: &str = "goes_to_the_background";

fn main() {
    if let Ok(role) = std::env::var("FERROFS_TEST_ROLE") {
        return child(&role);
    }
    // What cargo-nextest asks of a test program without the standard harness.
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    match (asked("--list"), asked("--ignored")) {
        (true, false) => println!("{NAME}: test"),
        (false, false) => parent(),
        (_, true) => {}
    }
}

fn child(role: &str) {
    let readiness = daemonize().expect("one thread only");
    assert!(readiness.is_background());
    match role {
        "ready" => {
            // Standard input is the test's socket until then.
            let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
            readiness.ready().unwrap();
            let place = std::env::current_dir().unwrap();
            let session = rustix::process::getsid(None).unwrap();
            let leads = session == rustix::process::getpid();
            let word = format!("{} {leads}\n", place.display());
            descriptors::send(socket, word.as_bytes(), &[]).unwrap();
        }
        "failed" => readiness.failed(7, "the reason").unwrap(),
        "dies" => std::process::exit(9),
        _ => drop(readiness),
    }
}

fn parent() {
    let run = |role: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .env("FERROFS_TEST_ROLE", role)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text, BufReader::new(ours))
    };
    let (status, text, mut socket) = run("ready");
    assert_eq!((status, text.as_str()), (Some(0), ""));
    let mut word = String::new();
    socket.read_line(&mut word).unwrap();
    assert_eq!(word, "/ true\n");
    let (status, text, _) = run("failed");
    assert_eq!((status, text.as_str()), (Some(7), "the reason\n"));
    let (status, text, _) = run("dies");
    assert_eq!(status, Some(9));
    assert!(text.contains("before it was ready"));
    let (status, _, _) = run("drops");
    assert_eq!(status, Some(1));
    println!("test {NAME} ... ok");
}
