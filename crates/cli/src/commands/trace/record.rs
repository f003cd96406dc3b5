// SPDX-License-Identifier: MIT OR Apache-2.0
//! `trace record`: a mount, a program on it, and the trace.
//!
//! The mount is another process of this program: one that serves files must not hold files of its
//! mount, and this one has the program as its child.

use super::{Folder, check_target};
use crate::args::SourceArgs;
use anyhow::{Context as _, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Between looks for the mount.
const LOOK: Duration = Duration::from_millis(10);
/// How long the mount may take to end; files may still be open there.
const END_TIME: Duration = Duration::from_secs(30);

pub(super) fn run(
    url: &str,
    output: &Path,
    source: &SourceArgs,
    devices: &[PathBuf],
    words: &[OsString],
) -> anyhow::Result<u8> {
    check_target(output)?;
    // Errors that can be told before anything is begun.
    source.spec(url, devices)?;
    let folder = folder()?;
    // The terminal's signals are the program's; what it has read is written after it.
    crate::interrupt::watch();
    let mut mounted = Mounted::begin(url, output, source, devices, &folder.0)?;
    mounted.wait_for_mount(&folder.0)?;
    let ended = execute(words, &folder.0);
    mounted.end(&folder.0)?;
    let status = ended?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// A new empty folder that is nobody else's.
fn folder() -> anyhow::Result<Folder> {
    let parent = std::env::temp_dir();
    for number in 0..1000 {
        let path = parent.join(format!("ferrofs-trace-{}-{number}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(Folder(path)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    bail!("no folder to mount in can be made in {}", parent.display())
}

fn execute(words: &[OsString], folder: &Path) -> anyhow::Result<ExitStatus> {
    let words: Vec<OsString> = words.iter().map(|word| put(word, folder)).collect();
    let (program, arguments) = words.split_first().context("no program is given")?;
    let status = Command::new(program).args(arguments).env("FERROFS_MOUNT", folder).status();
    status.with_context(|| program.to_string_lossy().into_owned())
}

/// A word with the folder for each {}.
fn put(word: &OsStr, folder: &Path) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"{}") {
        bytes.extend_from_slice(&rest[..at]);
        bytes.extend_from_slice(folder.as_os_str().as_bytes());
        rest = &rest[at + 2..];
    }
    bytes.extend_from_slice(rest);
    OsString::from_vec(bytes)
}

/// The process that mounts; it and the mount are gone when this is dropped.
struct Mounted {
    child: Child,
    target: PathBuf,
    is_over: bool,
}

impl Mounted {
    fn begin(
        url: &str,
        output: &Path,
        source: &SourceArgs,
        devices: &[PathBuf],
        target: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["mount", "--lazy", "--quiet", "--foreground", "--trace", "none"]);
        command.arg("--record").arg(output);
        let paths = [("--cache-dir", &source.cache_dir)];
        for (name, path) in paths {
            if let Some(path) = path {
                command.arg(name).arg(path);
            }
        }
        for (name, text) in [("--pin", &source.pin), ("--digests", &source.digests)] {
            if let Some(text) = text {
                command.args([name, text]);
            }
        }
        let numbers =
            [("--cache-dir-max", source.cache_dir_max), ("--bandwidth", source.bandwidth)];
        for (name, number) in numbers {
            if let Some(number) = number {
                command.arg(name).arg(number.to_string());
            }
        }
        if source.insecure {
            command.arg("--insecure");
        }
        for mirror in &source.mirror {
            command.args(["--mirror", mirror]);
        }
        command.args(source.device_pins.words()).args(source.network.words()?);
        for device in devices {
            command.arg("--device").arg(device);
        }
        command.arg("--").arg(url).arg(target);
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().context("no process to mount with")?;
        Ok(Self { child, target: target.to_owned(), is_over: false })
    }

    fn wait_for_mount(&mut self, target: &Path) -> anyhow::Result<()> {
        let parent = target.parent().unwrap_or(target);
        let parent = std::fs::metadata(parent)?.dev();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.is_over = true;
                bail!("the image was not mounted ({status})");
            }
            // While nothing is mounted this asks nobody; afterwards the server answers.
            if std::fs::metadata(target)?.dev() != parent {
                return Ok(());
            }
            if crate::interrupt::requested() {
                bail!("interrupted");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Unmounts, and waits until the trace is written.
    fn end(&mut self, target: &Path) -> anyhow::Result<()> {
        if ferrofs_serve::unmount(target, false).is_err() {
            // Something that the program has left is there; it goes on until that ends.
            ferrofs_serve::unmount(target, true)?;
        }
        let begin = Instant::now();
        while begin.elapsed() < END_TIME {
            if let Some(status) = self.child.try_wait()? {
                self.is_over = true;
                if status.success() {
                    return Ok(());
                }
                bail!("the mount has ended badly ({status}): the trace may lack what was read");
            }
            std::thread::sleep(LOOK);
        }
        bail!("the mount does not end: something still uses it, and the trace is not written yet")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Most often it is gone; if not, this is all that can be done.
        let _ = ferrofs_serve::unmount(&self.target, true);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_put_into_words() {
        let folder = Path::new("/m");
        for (word, expected) in
            [("{}", "/m"), ("a{}/b{}", "a/m/b/m"), ("{", "{"), ("{{}}", "{/m}"), ("", "")]
        {
            assert_eq!(put(OsStr::new(word), folder), OsString::from(expected), "{word}");
        }
    }
}
