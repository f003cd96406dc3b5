// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong on the way, as data; some of it ends the job.

use super::walk::Job;
use super::{Problem, ProblemKind};
use crate::dirs::Dir;
use ferrofs_image::Nid;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Why a file could not be made whole.
#[derive(Debug)]
pub(super) enum Failure {
    Image(ferrofs_image::Error),
    Io(io::Error),
    Short { offset: u64 },
    BytesMax,
    Stopped,
}

impl From<ferrofs_image::Error> for Failure {
    fn from(error: ferrofs_image::Error) -> Self {
        Self::Image(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Job<'_> {
    /// Reports a failure at `at` in `dir`, or of `dir` itself.
    pub(super) fn fail(&self, dir: &Dir, at: Option<(&[u8], Nid)>, failure: &Failure) {
        let (kind, text, errno) = match failure {
            Failure::Stopped => return,
            Failure::Image(error @ ferrofs_image::Error::Io { errno, .. }) => {
                (ProblemKind::Read, error.to_string(), *errno)
            }
            Failure::Image(error) => (ProblemKind::Image, error.to_string(), None),
            Failure::Short { offset } => {
                (ProblemKind::Image, format!("content ends early, at byte {offset}"), None)
            }
            Failure::BytesMax => {
                let max = self.options.bytes_max.unwrap_or(0);
                (ProblemKind::Limit, format!("more than {max} bytes would be written"), None)
            }
            Failure::Io(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (ProblemKind::Exists, error.to_string(), error.raw_os_error())
            }
            Failure::Io(error) => {
                (ProblemKind::Write, format!("cannot write: {error}"), error.raw_os_error())
            }
        };
        self.problem(dir, at, kind, text, errno);
        // What comes next would fail, too.
        let hopeless = match failure {
            Failure::BytesMax => true,
            Failure::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            _ => false,
        };
        if hopeless {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn problem(
        &self,
        dir: &Dir,
        at: Option<(&[u8], Nid)>,
        kind: ProblemKind,
        detail: String,
        errno: Option<i32>,
    ) {
        self.problems_total.fetch_add(1, Ordering::Relaxed);
        if !self.options.continue_on_error {
            self.stopped.store(true, Ordering::Relaxed);
        }
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < self.options.problems_max {
            let path = dir.path();
            let (path, nid) = match at {
                Some((name, nid)) => (path.join(name), nid.0),
                None => (path, dir.inode.map_or(0, |inode| inode.nid.0)),
            };
            problems.push(Problem { path, nid, kind, detail, errno });
        }
    }
}
