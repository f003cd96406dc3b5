// SPDX-License-Identifier: MIT OR Apache-2.0
//! Credential helpers: programs called `docker-credential-NAME` that tell user and password of a
//! registry.
//!
//! They may be anybody's, hang, or say nonsense. Invariants: whatever one does, the call ends in time
//! and leaves nothing running that it was given up for; what it says is in no message.

use super::Credential;
use crate::error::printable;
use crate::{Error, ErrorKind, Secret};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Longest answer, in bytes.
const LEN_MAX: u64 = 1 << 20;
/// How long one may think.
const TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks the helper that the file at `path` names for a registry.
pub(super) fn ask(
    name: &str,
    server: &str,
    path: &Path,
    deadline: Option<Instant>,
) -> Result<Option<Credential>, Error> {
    let fine = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !fine {
        let name = printable(name);
        return Err(Error::invalid(format!("a credential helper named {name:?} is refused")));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    command.arg("get");
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let limit = left.map_or(TIME_MAX, |left| left.min(TIME_MAX));
    run(command, &program, server, limit).map_err(|error| {
        let path = path.display();
        let what = format!(
            "{} ({path} names it for {server}; to see what it says, run: echo {server} | {program} get)",
            error.what
        );
        Error::new(error.kind, what)
    })
}

/// A helper, which is ended with all that it has started if it was not waited for to its end.
struct Running {
    child: Child,
    status: Option<ExitStatus>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_some() {
            return;
        }
        // It leads a process group of its own, and is not waited for yet, so the number is still its.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(
    mut command: Command,
    program: &str,
    server: &str,
    limit: Duration,
) -> Result<Option<Credential>, Error> {
    let failed = |what: String| Error::new(ErrorKind::Io, format!("{program}: {what}"));
    let until = Instant::now() + limit;
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut running = Running { child, status: None };
    if let Some(mut input) = running.child.stdin.take() {
        // A helper that does not read ends the pipe; its status tells.
        let _ = input.write_all(server.as_bytes());
    }
    let output = running.child.stdout.take().ok_or_else(|| failed("gives no output".to_owned()))?;
    let (sender, receiver) = sync_channel(1);
    // Ends with the output, or when the helper is killed.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.take(LEN_MAX).read_to_string(&mut text);
        // The receiver may have given up.
        let _ = sender.send(read.map(|_| text));
    });
    let late = || failed(format!("did not answer in {:.0} s", limit.as_secs_f64()));
    let text = match receiver.recv_timeout(limit) {
        Ok(text) => text.map_err(|error| failed(error.to_string()))?,
        Err(RecvTimeoutError::Timeout) => return Err(late()),
        Err(RecvTimeoutError::Disconnected) => return Err(failed("gives no output".to_owned())),
    };
    if text.len() as u64 >= LEN_MAX {
        return Err(failed(format!("answered more than {LEN_MAX} bytes")));
    }
    let status = loop {
        match running.child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > until => return Err(late()),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    running.status = Some(status);
    if !status.success() {
        if text.to_ascii_lowercase().contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("failed ({status})")));
    }
    // What serde says of strings may repeat them.
    let answer: Answer =
        serde_json::from_str(&text).map_err(|_| failed("did not answer in its form".to_owned()))?;
    credential(answer).map_err(|why| failed(why.to_owned()))
}

fn credential(answer: Answer) -> Result<Option<Credential>, &'static str> {
    let Answer { user, secret } = answer;
    // Nobody at all: who has no credentials.
    if user.is_empty() && secret.is_empty() {
        return Ok(None);
    }
    let secret = Secret::new(secret);
    if user == "<token>" {
        return Ok(Some(Credential::IdentityToken(secret)));
    }
    // The first colon ends the user where passwords are sent (RFC 7617).
    if user.contains(':') || user.chars().any(char::is_control) {
        return Err("gives a user that cannot be one");
    }
    Ok(Some(Credential::Password(user, secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A helper that is this script.
    fn helper(script: &str, limit: Duration) -> Result<Option<Credential>, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", script, "helper", "get"]);
        run(command, "docker-credential-x", "r.example:5000", limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn answers_are_taken() {
        let password = |user: &str, secret| Credential::Password(user.into(), Secret::new(secret));
        let token = Credential::IdentityToken(Secret::new("t"));
        let answer = |user, secret| {
            let script =
                "read -r server || :; test \"$1 $server\" = \"get r.example:5000\" || exit 3; ";
            let json = serde_json::json!({ "ServerURL": "x", "Username": user, "Secret": secret });
            helper(&format!("{script} printf '%s' '{json}'"), LONG).unwrap()
        };
        assert_eq!(answer("u", "p:w\n"), Some(password("u", "p:w\n")));
        assert_eq!(answer("<token>", "t"), Some(token));
        assert_eq!(answer("", ""), None);
        let none = "echo credentials not found in native keychain; exit 1";
        assert_eq!(helper(none, LONG).unwrap(), None);
        // Slow, and it does not read what it is asked.
        let slow = r#"exec <&-; sleep 1; echo '{"Username":"u","Secret":"p"}'"#;
        assert_eq!(helper(slow, LONG).unwrap(), Some(password("u", "p")));
    }

    #[test]
    fn what_is_hostile_fails_and_ends() {
        let secret = r#"echo '{"Username":"s3cret","Secret":"s3cret"'"#;
        for (script, expected) in [
            ("exit 7", "status: 7"),
            ("echo s3cret; exit 1", "failed"),
            ("kill -9 $$", "signal: 9"),
            (secret, "form"),
            ("echo '[]'", "form"),
            (r#"echo '{"Username":"a:s3cret","Secret":"p"}'"#, "user"),
            (r#"printf '%s' '{"Username":"s3cret\n","Secret":"p"}'"#, "user"),
            (r"printf '\377\376'", "UTF-8"),
            ("yes s3cret", "more than"),
            ("trap '' PIPE; while :; do echo s3cret 2>&-; done", "more than"),
        ] {
            let begin = Instant::now();
            let error = helper(script, LONG).unwrap_err();
            assert!(error.what.contains(expected), "{script}: {error}");
            assert!(!error.what.contains("s3cret"), "{error}");
            assert!(begin.elapsed() < LONG, "{script}");
        }
        let error = run(Command::new("/nowhere/helper"), "x", "r", LONG).unwrap_err();
        assert!(error.what.contains("No such file"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let shown = pid.display();
        // A child that holds the output open, too.
        for end in ["wait", "exit 0"] {
            let script = format!("sleep 300 & echo $! >{shown}; {end}");
            let begin = Instant::now();
            let error = helper(&script, Duration::from_millis(700)).unwrap_err();
            assert!(error.what.contains("did not answer in 1 s"), "{error}");
            assert!(begin.elapsed() < LONG);
            let child = std::fs::read_to_string(&pid).unwrap();
            let status = format!("/proc/{}/status", child.trim());
            let lives = || {
                let status = std::fs::read_to_string(&status).unwrap_or_default();
                status.contains("sleep") && !status.contains("Z (zombie)")
            };
            while lives() {
                assert!(begin.elapsed() < LONG, "{child} lives on");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
