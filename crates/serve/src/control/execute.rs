// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answering side: carries out commands.
//!
//! Invariant: whatever a line holds, there is an answer, soon; a change that is refused has changed
//! nothing.

use super::message::{
    Change, Command, ImagePath, InjectFault, Prefetched, Refusal, Reply, Request, Snapshot, VERSION,
};
use crate::domain::Sight;
use crate::metrics;
use crate::prefetch::Ahead;
use crate::settings::{EngineSettings, show};
use crate::siblings::ahead::AheadStats;
use crate::{ErofsFs, lazy};
use ferrofs_engine::{DropCaches, Fault};
use ferrofs_format::inode::FileType;
use ferrofs_fuse::{Session, Transport};
use ferrofs_image::{Image, Inode, Nid};
use ferrofs_store::Blob;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

type Outcome = Result<Value, Refusal>;

/// Files and directories that one prefetch looks at.
const PREFETCH_NODES_MAX: usize = 4096;
/// Bytes of one wish to the engine, which looks at no more.
const PREFETCH_PIECE: u64 = 8 << 20;

/// What commands work on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) fs: Arc<ErofsFs>,
    /// None: the kernel serves itself.
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) started: Instant,
    /// Where it is mounted.
    pub(crate) target: PathBuf,
    /// The image.
    pub(crate) image: PathBuf,
    /// Servers before this one; none where there cannot be any.
    pub(crate) takeovers: Option<u64>,
    /// Where the image's bytes come from, if not from files.
    pub(crate) blobs: Vec<Blob>,
    /// Who fetches what nobody waits for, if it is read on demand.
    pub(crate) ahead: Option<Arc<Ahead>>,
    /// The kernel reads the image; the engine only looks for what commands name.
    pub(crate) by_kernel: bool,
    /// Limit of the caches as set; under memory pressure the one in force is lower.
    pub(crate) cache_bytes: Arc<AtomicU64>,
    /// Further facts for `get`.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// Its place in a domain, if it shares memory.
    pub(crate) sight: Option<Sight>,
}

impl Shared {
    /// What was put into the kernel's page cache before it was asked for.
    pub(crate) fn ahead_stats(&self) -> AheadStats {
        self.sight.as_ref().map_or_else(|| self.fs.ahead_stats(), Sight::ahead_stats)
    }

    /// Counters of blobs, by name; nothing if there are none.
    pub(crate) fn store_counters(&self) -> Vec<(&'static str, u64)> {
        if self.blobs.is_empty() {
            return Vec::new();
        }
        let mut counters = lazy::counters(&lazy::stats(&self.blobs), &self.blobs);
        if let Some(ahead) = &self.ahead {
            counters.extend(ahead.counters());
        }
        counters
    }
}

/// The answer to a line, with a newline at its end.
pub(crate) fn answer(shared: &Shared, line: &[u8]) -> Vec<u8> {
    // A defect behind a command must not end the thread that all others need.
    let outcome = catch_unwind(AssertUnwindSafe(|| execute(shared, line))).unwrap_or_else(|_| {
        Err(Refusal(String::from("the command failed by a defect of ferrofs")))
    });
    let (ok, error) = match outcome {
        Ok(value) => (Some(value), None),
        Err(Refusal(text)) => (None, Some(text)),
    };
    let reply = Reply { version: VERSION, ok, error };
    let mut bytes = serde_json::to_vec(&reply).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn execute(shared: &Shared, line: &[u8]) -> Outcome {
    let refuse =
        |error: serde_json::Error| Refusal(format!("the request is not understood: {error}"));
    let request: Request = serde_json::from_slice(line).map_err(refuse)?;
    if request.version != VERSION {
        let text = format!("version {} is asked for; this is {VERSION}", request.version);
        return Err(Refusal(text));
    }
    let engine = shared.fs.engine();
    let command = serde_json::from_value(request.command).map_err(refuse)?;
    if shared.by_kernel
        && matches!(command, Command::Set(_) | Command::DropCaches(_) | Command::Inject(_))
    {
        return Err(Refusal(String::from("the kernel reads this image, not the server asked")));
    }
    if shared.sight.is_some()
        && !shared.blobs.is_empty()
        && matches!(command, Command::Prefetch(_) | Command::PrefetchAll)
    {
        let text = "prefetch: images of a domain are fetched when they are read, not before";
        return Err(Refusal(String::from(text)));
    }
    match command {
        Command::Stats => {
            let session = shared.session.as_ref().map(|session| session.stats());
            let mut snapshot = Snapshot::new(
                &engine.stats(),
                &session.unwrap_or_default(),
                shared.started.elapsed(),
            );
            let ahead = shared.ahead_stats();
            snapshot.fuse.insert(String::from("ahead_files"), ahead.files);
            snapshot.fuse.insert(String::from("ahead_bytes"), ahead.bytes);
            if let Some(takeovers) = shared.takeovers {
                snapshot.fuse.insert(String::from("takeovers"), takeovers);
            }
            if !shared.blobs.is_empty() {
                let pairs = shared.store_counters().into_iter();
                snapshot.store = pairs.map(|(name, value)| (name.to_owned(), value)).collect();
            }
            snapshot.sharing = shared.sight.as_ref().map(Sight::look);
            serde_json::to_value(snapshot).map_err(refuse)
        }
        Command::Metrics => Ok(Value::String(metrics::text(shared))),
        Command::Get => Ok(get(shared)),
        Command::Set(changes) => set(shared, &changes),
        Command::DropCaches(what) => {
            let what = match what {
                1 => DropCaches::Encoded,
                2 => DropCaches::Decoded,
                3 => DropCaches::All,
                _ => return Err(Refusal(String::from("drop_caches: 1, 2 or 3"))),
            };
            engine.drop_caches(what);
            Ok(Value::Null)
        }
        Command::Inject(InjectFault { fault, file }) => {
            let mut fault: Fault =
                fault.parse().map_err(|error| Refusal(format!("inject: {error}")))?;
            if let Some(path) = file {
                fault.nid = Some(resolve(engine.image(), &path)?.nid);
            }
            engine.inject(fault);
            Ok(Value::Null)
        }
        Command::ClearFaults => {
            engine.clear_faults();
            Ok(Value::Null)
        }
        Command::Prefetch(paths) => match &shared.ahead {
            Some(ahead) => ahead.paths(&paths).map(|done| json!(done)).map_err(Refusal),
            None => prefetch(shared, &paths),
        },
        Command::PrefetchAll => {
            let ahead = shared.ahead.as_ref().ok_or_else(|| {
                Refusal(String::from("all of it is here: it is not read on demand"))
            })?;
            ahead.all().map(|done| json!(done)).map_err(Refusal)
        }
    }
}

fn get(shared: &Shared) -> Value {
    let config = shared.fs.engine().config();
    let limit = shared.cache_bytes.load(Ordering::Relaxed);
    let mut found = Map::new();
    if !shared.by_kernel {
        for (name, value) in show(&config) {
            found.insert(name.to_owned(), value.into());
        }
        found.insert(String::from("cache"), limit.to_string().into());
        if config.cache_bytes != limit {
            found.insert(String::from("cache_in_force"), config.cache_bytes.to_string().into());
        }
    }
    found.insert(String::from("image"), shared.image.to_string_lossy().into());
    found.insert(String::from("mount"), shared.target.to_string_lossy().into());
    found.insert(String::from("pid"), std::process::id().to_string().into());
    found.insert(String::from("version"), env!("CARGO_PKG_VERSION").into());
    let transport = match shared.session.as_ref().map(|session| session.transport()) {
        Some(Transport::Ring) => "io_uring",
        Some(_) => "/dev/fuse",
        None => "fanotify",
    };
    found.insert(String::from("transport"), transport.into());
    for (name, value) in &shared.facts {
        found.insert((*name).to_owned(), value.clone().into());
    }
    let notes = shared.ahead.as_ref().map(|ahead| ahead.notes()).unwrap_or_default();
    if !notes.is_empty() {
        found.insert(String::from("notes"), notes.join("; ").into());
    }
    Value::Object(found)
}

fn set(shared: &Shared, changes: &[Change]) -> Outcome {
    let settings = EngineSettings::of_changes(changes).map_err(Refusal)?;
    settings
        .apply(shared.fs.engine())
        .map_err(|busy| Refusal(format!("the cache strategy stays: {busy}")))?;
    if let Some(bytes) = settings.cache_bytes {
        shared.cache_bytes.store(bytes, Ordering::Relaxed);
    }
    Ok(Value::Null)
}

fn resolve(image: &Image, path: &ImagePath) -> Result<Inode, Refusal> {
    let bytes = path.as_bytes();
    image.resolve(bytes).map_err(|error| Refusal(format!("{}: {error}", path.shown())))
}

/// Wishes for all files at and below `paths`, as much as fits into the cache.
fn prefetch(shared: &Shared, paths: &[ImagePath]) -> Outcome {
    let engine = shared.fs.engine();
    let image = engine.image();
    let found: Result<Vec<Inode>, Refusal> =
        paths.iter().map(|path| resolve(image, path)).collect();
    let mut pending: Vec<Nid> = found?.iter().rev().map(|inode| inode.nid).collect();
    let refused = engine.stats().background_refused;
    let mut room = engine.config().cache_bytes;
    let mut done = Prefetched { complete: true, ..Prefetched::default() };
    let mut nodes = 0;
    while let Some(nid) = pending.pop() {
        nodes += 1;
        let fail = |error| Refusal(format!("inode {}: {error}", nid.0));
        if nodes > PREFETCH_NODES_MAX || room == 0 {
            done.complete = false;
            break;
        }
        let inode = image.inode(nid).map_err(fail)?;
        if inode.file_type == FileType::Directory {
            let mut below = Vec::new();
            let directory = image.directory(&inode).map_err(fail)?;
            directory
                .walk(0, |entry, _| {
                    if !matches!(entry.name, b"." | b"..") {
                        below.push(entry.nid);
                    }
                    let full = pending.len() + below.len() > PREFETCH_NODES_MAX;
                    if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .map_err(fail)?;
            pending.extend(below.into_iter().rev());
        } else if inode.file_type == FileType::Regular {
            let file = engine.open(&inode).map_err(fail)?;
            let wanted = file.size().min(room);
            done.complete &= wanted == file.size();
            let mut at = 0;
            while at < wanted {
                let end = at.saturating_add(PREFETCH_PIECE).min(wanted);
                engine.prefetch(&file, at..end);
                at = end;
            }
            room -= wanted;
            done.files += 1;
            done.bytes = done.bytes.saturating_add(wanted);
        }
    }
    done.complete &= engine.stats().background_refused == refused;
    Ok(json!(done))
}
