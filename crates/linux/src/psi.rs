// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pressure stall information: whether somebody waits for memory, told by the kernel.
//!
//! With a trigger the kernel wakes who polls the file; without the right to set one (root, or
//! `CAP_SYS_RESOURCE`; since Linux 6.5 anybody, with longer windows) the averages can still be read.
//! Refuses to know what is done about it. Invariant: any text gives an average or none.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

const FILE: &str = "/proc/pressure/memory";

/// Windows to try, in microseconds: one second, and what those without rights may ask for.
const WINDOWS: [u64; 2] = [1_000_000, 2_000_000];

/// The longest that the file is.
const TEXT_MAX: u64 = 4096;

/// Watches how much of the time somebody waits for memory.
#[derive(Debug)]
pub struct MemoryPressure {
    file: File,
    percent: u8,
    trigger: bool,
}

impl MemoryPressure {
    /// Watches for times in which `percent` (1 to 100) of the time somebody waited. Fails with
    /// [`io::ErrorKind::Unsupported`] where the kernel does not tell.
    pub fn watch(percent: u8) -> io::Result<Self> {
        let percent = percent.clamp(1, 100);
        for window in WINDOWS {
            // Each try needs a file of its own: it takes one trigger.
            let mut file = match OpenOptions::new().read(true).write(true).open(FILE) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                Err(error) => return Err(explain(error)),
            };
            let stall = window / 100 * u64::from(percent);
            match file.write_all(format!("some {stall} {window}\0").as_bytes()) {
                Ok(()) => return Ok(Self { file, percent, trigger: true }),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(explain(error)),
            }
        }
        let mut watch = Self { file: File::open(FILE).map_err(explain)?, percent, trigger: false };
        // With PSI built in but off, opening works and reading does not.
        watch.average()?;
        Ok(watch)
    }

    /// Whether the descriptor becomes ready (`POLLPRI`) by itself under pressure. Otherwise
    /// [`is_pressed`](Self::is_pressed) must be asked again and again.
    pub fn has_trigger(&self) -> bool {
        self.trigger
    }

    /// Whether somebody waits too much, on an average of ten seconds.
    pub fn is_pressed(&mut self) -> io::Result<bool> {
        Ok(self.average()? >= f64::from(self.percent))
    }

    /// Share of the last ten seconds in percent.
    fn average(&mut self) -> io::Result<f64> {
        let mut text = String::new();
        self.file.rewind()?;
        (&self.file).take(TEXT_MAX).read_to_string(&mut text).map_err(explain)?;
        parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for MemoryPressure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_refusal(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::INVAL))
}

/// Tells a kernel without PSI from other trouble.
fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::OPNOTSUPP) => io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no pressure stall information (CONFIG_PSI, psi=1)",
        ),
        _ => error,
    }
}

/// The average of ten seconds in the line `some`.
fn parse(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    value.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\n\
                    full avg10=99.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(parse(text), Some(12.5));
        for text in ["", "some", "some avg10=", "some avg10=x", "full avg10=1.0", "some avg10=inf"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn this_machine_is_watched_or_says_why_not() {
        match MemoryPressure::watch(100) {
            Ok(mut watch) => {
                watch.is_pressed().unwrap();
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
}
