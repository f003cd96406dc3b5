// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trace that is learned while an image is mounted, and its file.
//!
//! While the mount is there the run so far is written again and again to a file of its own,
//! `FILE.KEEPER~`, from which the next worker goes on if one dies; when the mount ends it is merged
//! into FILE. Invariants: FILE is a whole trace at any moment, and counts a mount as one run, however
//! many workers served it.

use ferrofs_store::{Blob, Recorder, Trace};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the run so far is written, if something was added.
const EVERY: Duration = Duration::from_secs(5);
/// What touches are rounded to.
const UNIT: u64 = 4096;

/// A trace that is being learned.
#[derive(Debug)]
pub(crate) struct Recording {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    recorder: Recorder,
    target: PathBuf,
    unfinished: PathBuf,
    /// Touches that were written; `None` when the mount has ended.
    written: Mutex<Option<usize>>,
}

impl Recording {
    /// Begins to record what is read of `blobs`, or goes on with what workers before this one have
    /// recorded since the mount was made, `elapsed` ago.
    pub(crate) fn start(
        target: PathBuf,
        blobs: &[Blob],
        takeovers: u64,
        elapsed: Duration,
    ) -> io::Result<Self> {
        let keeper = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let mut unfinished = target.clone().into_os_string();
        unfinished.push(format!(".{keeper}~"));
        let unfinished = PathBuf::from(unfinished);
        // What another mount has left there is not of this run.
        let before = if takeovers > 0 { read(&unfinished)? } else { None };
        let recorder = match before {
            Some(trace) => Recorder::resume(trace, elapsed),
            None => Recorder::resume(Trace::default(), elapsed),
        };
        for blob in blobs {
            if let Some(of_blob) = recorder.blob(&blob.id().to_string(), blob.size(), UNIT) {
                blob.record(of_blob);
            }
        }
        let written = Mutex::new(Some(0));
        let inner = Arc::new(Inner { recorder, target, unfinished, written });
        let weak = Arc::downgrade(&inner);
        std::thread::Builder::new().name(String::from("record")).spawn(move || {
            loop {
                std::thread::sleep(EVERY);
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.flush() {
                    tracing::warn!(%error, "the trace so far was not written");
                }
            }
        })?;
        Ok(Self { inner })
    }

    /// Touches so far.
    pub(crate) fn touch_count(&self) -> u64 {
        self.inner.recorder.touch_count() as u64
    }

    /// Merges the run into the file.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let inner = &*self.inner;
        let mut written = inner.written.lock().unwrap_or_else(PoisonError::into_inner);
        let run = inner.recorder.trace();
        let merged = match read(&inner.target)? {
            Some(before) => Trace::merge(&[before, run], 1),
            None => Trace::merge(&[run], 1),
        };
        write(&inner.target, &merged)?;
        *written = None;
        match std::fs::remove_file(&inner.unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Inner {
    fn flush(&self) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.recorder.touch_count();
        if written.is_none_or(|written| written == count) {
            return Ok(());
        }
        write(&self.unfinished, &self.recorder.trace())?;
        *written = Some(count);
        Ok(())
    }
}

/// A trace, if the file is there.
fn read(path: &Path) -> io::Result<Option<Trace>> {
    match File::open(path) {
        Ok(file) => Trace::read(io::BufReader::new(file)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a trace under its name when it is complete.
fn write(path: &Path, trace: &Trace) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let unfinished = PathBuf::from(name);
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(trace.emit().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    let written = write();
    if written.is_err() {
        // What counts is why it could not be written.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrofs_store::Touch;

    #[test]
    fn traces_are_written_whole_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        assert!(read(&path).unwrap().is_none());
        let touches = vec![Touch { micros: 1, blob: 0, start: 0, len: 4096, runs: 1 }];
        let trace = Trace { blobs: vec![String::from("a")], runs: 1, touches };
        write(&path, &trace).unwrap();
        assert_eq!(read(&path).unwrap(), Some(trace.clone()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("no/trace"), &trace).is_err());
        std::fs::write(&path, "something else").unwrap();
        assert!(read(&path).is_err());
    }
}
