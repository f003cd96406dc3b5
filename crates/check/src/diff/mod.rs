// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparing two trees, each an image or a directory.
//!
//! Both are walked side by side in the order of names, so that only one directory's names are in
//! memory for each level; content is compared by several threads meanwhile. Differences come in the
//! order of paths.

mod content;
mod side;

use crate::{Context, Error, RawPath, Result};
use content::Verdict;
use ferrofs_engine::Engine;
use serde::Serialize;
use side::{Handle, Meta, Names, Open};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

/// One of two trees to compare.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Side<'a> {
    /// An image.
    Image(&'a Engine),
    /// A directory of this machine.
    #[cfg(target_os = "linux")]
    Directory(&'a std::path::Path),
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// Content of regular files.
    pub content: bool,
    /// Permissions.
    pub mode: bool,
    /// Owners.
    pub owner: bool,
    /// Modification times.
    pub mtime: bool,
    /// Nanoseconds of those: images may hold whole seconds only.
    pub nanoseconds: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Which names are links to one inode.
    pub links: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            content: true,
            mode: true,
            owner: true,
            mtime: true,
            nanoseconds: true,
            xattrs: true,
            links: true,
        }
    }
}

/// What differs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Attribute {
    /// Type of the file.
    Type,
    /// Permissions.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Size of a regular file.
    Size,
    /// Content of a regular file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Device number.
    Rdev,
    /// An extended attribute.
    Xattr,
    /// Which names are links to one inode.
    Links,
}

/// One attribute that differs, with both values as text.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Change {
    /// Which.
    pub attribute: Attribute,
    /// The first side's.
    pub a: String,
    /// The second side's.
    pub b: String,
}

/// How a path differs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Status {
    /// It is in the first tree only; what is below is not listed.
    OnlyA,
    /// It is in the second tree only; what is below is not listed.
    OnlyB,
    /// It is in both.
    Changed {
        /// What differs.
        changes: Vec<Change>,
    },
    /// It could not be compared.
    Failed {
        /// Why.
        detail: String,
    },
}

/// One path that differs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Difference {
    /// The path, from the tops of the trees.
    pub path: RawPath,
    /// How.
    #[serde(flatten)]
    pub status: Status,
}

/// What was compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiffReport {
    /// Paths in both trees.
    pub compared: u64,
    /// Paths that differ.
    pub differences: u64,
    /// Paths of those that could not be compared.
    pub failed: u64,
    /// Whether everything was gone through.
    pub complete: bool,
}

impl DiffReport {
    /// Whether the trees are alike.
    #[must_use]
    pub const fn is_equal(&self) -> bool {
        self.complete && self.differences == 0
    }
}

/// Differences that wait for content before them.
const WAITING_MAX: usize = 512;

/// Compares two trees; `visit` gets what differs and ends the job by breaking.
pub fn diff(
    a: Side<'_>,
    b: Side<'_>,
    options: &DiffOptions,
    context: Context<'_>,
    mut visit: impl FnMut(Difference) -> ControlFlow<()>,
) -> Result<DiffReport> {
    let (a, b) = (Open::new(a)?, Open::new(b)?);
    std::thread::scope(|scope| {
        let (jobs, queue) = mpsc::sync_channel::<content::Job>(WAITING_MAX);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for _ in 0..context.threads() {
            let (a, b, queue) = (&a, &b, Arc::clone(&queue));
            scope.spawn(move || content::work(a, b, &queue, context));
        }
        let mut walk = Walk {
            a: &a,
            b: &b,
            options,
            context,
            jobs,
            waiting: VecDeque::new(),
            links: [HashMap::new(), HashMap::new()],
            report: DiffReport { complete: true, ..DiffReport::default() },
        };
        walk.run(&mut visit)?;
        Ok(walk.report)
    })
}

/// A difference that is complete, or waits for content.
struct Waiting {
    path: RawPath,
    changes: Vec<Change>,
    content: Option<Arc<Verdict>>,
}

struct Walk<'a> {
    a: &'a Open<'a>,
    b: &'a Open<'a>,
    options: &'a DiffOptions,
    context: Context<'a>,
    jobs: mpsc::SyncSender<content::Job>,
    waiting: VecDeque<Waiting>,
    /// First path of every inode with several names, for each side.
    links: [HashMap<(u64, u64), RawPath>; 2],
    report: DiffReport,
}

/// A pair of directories being walked.
struct Frame<'a> {
    path: RawPath,
    a: std::iter::Peekable<Names<'a>>,
    b: std::iter::Peekable<Names<'a>>,
}

type Visit<'v> = &'v mut dyn FnMut(Difference) -> ControlFlow<()>;

impl<'a> Walk<'a> {
    fn run(&mut self, visit: Visit<'_>) -> Result<()> {
        let root = RawPath::from(&b"/"[..]);
        let (top_a, top_b) = (self.a.top()?, self.b.top()?);
        let mut stack = vec![];
        if self.pair(&root, &top_a, &top_b, visit).is_continue() {
            stack.push(self.frame(root, &top_a, &top_b)?);
        }
        while let Some(frame) = stack.last_mut() {
            if self.context.cancelled() {
                self.report.complete = false;
                return Err(Error::Cancelled);
            }
            let next = match (frame.a.peek(), frame.b.peek()) {
                (None, None) => {
                    stack.pop();
                    continue;
                }
                (Some(Err(_)), _) | (Some(Ok(_)), None) => (frame.a.next(), None),
                (_, Some(Err(_))) | (None, Some(_)) => (None, frame.b.next()),
                (Some(Ok(a)), Some(Ok(b))) => match a.0.cmp(&b.0) {
                    std::cmp::Ordering::Less => (frame.a.next(), None),
                    std::cmp::Ordering::Greater => (None, frame.b.next()),
                    std::cmp::Ordering::Equal => (frame.a.next(), frame.b.next()),
                },
            };
            let path = frame.path.clone();
            let flow = match next {
                (Some(Err(text)), _) | (_, Some(Err(text))) => {
                    let detail = Status::Failed { detail: text };
                    let flow = self.done(path, detail, visit);
                    // The names behind are not known: what is left would all seem to be missing.
                    stack.pop();
                    flow
                }
                (Some(Ok((name, _))), None) => self.done(path.join(&name), Status::OnlyA, visit),
                (None, Some(Ok((name, _)))) => self.done(path.join(&name), Status::OnlyB, visit),
                (Some(Ok((name, a))), Some(Ok((_, b)))) => {
                    self.context.entries(1);
                    let path = path.join(&name);
                    match self.pair(&path, &a, &b, visit) {
                        ControlFlow::Break(false) => ControlFlow::Continue(()),
                        ControlFlow::Break(true) => ControlFlow::Break(()),
                        ControlFlow::Continue(()) => match self.frame(path.clone(), &a, &b) {
                            Ok(frame) => {
                                stack.push(frame);
                                ControlFlow::Continue(())
                            }
                            Err(error) => {
                                let detail = Status::Failed { detail: error.to_string() };
                                self.done(path, detail, visit)
                            }
                        },
                    }
                }
                (None, None) => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                self.report.complete = false;
                return Ok(());
            }
        }
        if self.drain(0, visit).is_break() {
            self.report.complete = false;
        }
        Ok(())
    }

    fn frame(&self, path: RawPath, a: &Handle, b: &Handle) -> Result<Frame<'a>> {
        let (a, b) = (self.a.names(a)?.peekable(), self.b.names(b)?.peekable());
        Ok(Frame { path, a, b })
    }

    /// Compares two entries. Continues if both are directories to go into; else breaks, with `true`
    /// if the job is to end.
    fn pair(
        &mut self,
        path: &RawPath,
        a: &Handle,
        b: &Handle,
        visit: Visit<'_>,
    ) -> ControlFlow<bool> {
        self.report.compared += 1;
        let (meta_a, meta_b) = match (self.a.meta(a), self.b.meta(b)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => {
                let status = Status::Failed { detail: error };
                let flow = self.done(path.clone(), status, visit);
                return ControlFlow::Break(flow.is_break());
            }
        };
        let mut changes = meta_a.changes(&meta_b, self.options);
        if self.options.links {
            changes.extend(self.link_change(path, &meta_a, &meta_b));
        }
        let same_type = meta_a.kind == meta_b.kind;
        let mut content = None;
        let comparable = same_type && meta_a.kind == "file" && meta_a.size == meta_b.size;
        if self.options.content && comparable && meta_a.size > 0 {
            let verdict = Arc::new(Verdict::default());
            content = Some(Arc::clone(&verdict));
            let job = content::Job { a: a.clone(), b: b.clone(), size: meta_a.size, verdict };
            if self.jobs.send(job).is_err() {
                return ControlFlow::Break(true);
            }
        }
        if !changes.is_empty() || content.is_some() {
            self.waiting.push_back(Waiting { path: path.clone(), changes, content });
            if self.drain(WAITING_MAX, visit).is_break() {
                return ControlFlow::Break(true);
            }
        }
        if same_type && meta_a.kind == "dir" {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(false)
        }
    }

    fn link_change(&mut self, path: &RawPath, a: &Meta, b: &Meta) -> Option<Change> {
        if a.kind == "dir" || b.kind == "dir" || (a.nlink <= 1 && b.nlink <= 1) {
            return None;
        }
        let mut first = |side: usize, meta: &Meta| {
            if meta.nlink <= 1 {
                return path.clone();
            }
            self.links[side].entry(meta.id).or_insert_with(|| path.clone()).clone()
        };
        let (a, b) = (first(0, a), first(1, b));
        (a != b).then(|| Change { attribute: Attribute::Links, a: a.to_string(), b: b.to_string() })
    }

    /// Notes a difference that is complete.
    fn done(&mut self, path: RawPath, status: Status, visit: Visit<'_>) -> ControlFlow<()> {
        // Everything before comes first.
        self.drain(0, visit)?;
        self.emit(Difference { path, status }, visit)
    }

    /// Gives away the oldest differences until `keep` are left.
    fn drain(&mut self, keep: usize, visit: Visit<'_>) -> ControlFlow<()> {
        while self.waiting.len() > keep {
            let Some(Waiting { path, mut changes, content }) = self.waiting.pop_front() else {
                break;
            };
            let mut failed = None;
            match content.map(|verdict| verdict.wait()) {
                Some(Err(detail)) => failed = Some(detail),
                Some(Ok(Some(offset))) => {
                    let text = format!("first differs at byte {offset}");
                    let (a, b) = (text.clone(), text);
                    changes.push(Change { attribute: Attribute::Content, a, b });
                }
                Some(Ok(None)) | None => {}
            }
            if !changes.is_empty() {
                let status = Status::Changed { changes };
                self.emit(Difference { path: path.clone(), status }, visit)?;
            }
            if let Some(detail) = failed {
                self.emit(Difference { path, status: Status::Failed { detail } }, visit)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn emit(&mut self, difference: Difference, visit: Visit<'_>) -> ControlFlow<()> {
        self.report.differences += 1;
        if matches!(difference.status, Status::Failed { .. }) {
            self.report.failed += 1;
        }
        visit(difference)
    }
}
