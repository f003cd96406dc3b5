// SPDX-License-Identifier: MIT OR Apache-2.0
//! What files the images of a domain have, and what of an image read on demand is to be had without
//! fetching it.
//!
//! An image is walked once, when it joins. Of one whose bytes are somewhere else it is then known, by
//! its own digests, which files another image of the domain has: bytes of those are not fetched along
//! with others (`Blob::leave_out`). Invariant: this decides on guesses alone, never on what a reader
//! gets; what an image says wrongly costs waiting.

use super::fs::DomainFs;
use super::member::Member;
use crate::lazy::{Ranges, without};
use crate::{Error, Result, prefetch};
use ferrofs_engine::{Hint, Request};
use ferrofs_format::features::CompatFeatures;
use ferrofs_format::inode::FileType;
use ferrofs_image::Nid;
use std::collections::{HashMap, HashSet};
use std::io::{self, IoSliceMut};
use std::ops::{ControlFlow, Range};
use std::slice::from_ref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Directory entries of an image that are looked at when it joins; files behind them are met when they
/// are asked for.
const ENTRIES_MAX: u32 = 1 << 24;
/// How long a mount waits for an image's metadata, and then for it to be known what others have.
const METADATA_TIME: Duration = Duration::from_secs(5);
const SURVEY_TIME: Duration = Duration::from_secs(5);

/// Has nothing guessed of an image whose files are not known yet, if its digests will tell what others
/// have; else lets it guess.
pub(crate) fn wait(member: &Member) {
    for blob in &member.blobs {
        let left_out = if has_digests(member) { blob.size() } else { 0 };
        blob.leave_out(from_ref(&(0..left_out)));
    }
}

/// A new image is among the others: learns what it has, if that takes fetching, and looks anew what
/// need not be fetched. Waits for that, but not for long: who reads meanwhile would fetch metadata once
/// more, page by page, and files by what is asked for at a time, because nothing is guessed yet.
pub(crate) fn begin(fs: &Arc<DomainFs>, member: &Arc<Member>) -> Result<()> {
    if member.blobs.is_empty() {
        renew(fs);
        return Ok(());
    }
    // Its metadata must come first: what is not known of it yet is not shared by others.
    let (fs, member) = (Arc::clone(fs), Arc::clone(member));
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let work = move || {
        if !member.is_first {
            let ends = Ends::new(&fs, &member);
            let find = |digest: &[u8; 32], end: &mut [u8]| ends.fill(digest, end);
            let with_digests = has_digests(&member);
            prefetch::all_metadata(&member.blobs, with_digests.then_some(&find));
        }
        // Nobody may listen any more.
        let _ = tell.send(());
        if has_digests(&member)
            && let Some(blob) = member.blobs.first()
        {
            // What is missing of it is wanted, and lies behind the data as a rule.
            let start = prefetch::metadata_start(member.image()).unwrap_or_default();
            blob.leave_out(from_ref(&(0..start)));
        }
        count(&fs, &member);
        member.is_counted.store(true, Ordering::Release);
        look(&fs);
        drop(tell);
    };
    start(work).map_err(|error| Error::Io { doing: "start a thread", error })?;
    if told.recv_timeout(METADATA_TIME).is_ok() {
        // The end is told by hanging up.
        let _ = told.recv_timeout(SURVEY_TIME);
    }
    Ok(())
}

/// Looks anew what images read on demand need not fetch, in a thread of its own.
pub(crate) fn renew(fs: &Arc<DomainFs>) {
    if fs.members().iter().any(|member| !member.blobs.is_empty()) {
        let fs = Arc::clone(fs);
        // Without it more is fetched than need be, or later.
        let _ = start(move || look(&fs));
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(String::from("survey")).spawn(work).map(drop)
}

/// What the other images of a domain have, by what they say.
struct Ends(HashMap<[u8; 32], (Arc<Member>, Nid)>);

impl Ends {
    fn new(fs: &DomainFs, member: &Member) -> Self {
        Self(fs.sharing.claimed_elsewhere(member.slot))
    }

    /// Fills in the last bytes of the content of a digest, if it is here. It may be something else.
    fn fill(&self, digest: &[u8; 32], end: &mut [u8]) -> bool {
        let Some((member, nid)) = self.0.get(digest).filter(|(member, nid)| member.has(*nid))
        else {
            return false;
        };
        let engine = member.fs.engine();
        let file = member.image().inode(*nid).and_then(|inode| engine.open(&inode));
        let Ok(file) = file else { return false };
        let Some(offset) = file.size().checked_sub(end.len() as u64) else { return false };
        let request = Request { offset, len: end.len(), hint: Hint::Random, ..Request::default() };
        engine.read(&file, &request, &mut [IoSliceMut::new(end)]).into_result().is_ok()
    }
}

fn has_digests(member: &Member) -> bool {
    member.image().superblock().compat.has(CompatFeatures::ISHARE_XATTRS)
}

/// Who comes last sees all that happened before.
fn look(fs: &DomainFs) {
    let _one = fs.survey.lock().unwrap_or_else(PoisonError::into_inner);
    for member in fs.members() {
        // Else it is done when it is counted.
        if member.is_counted.load(Ordering::Acquire) {
            leave_out(fs, &member);
        }
    }
}

/// Tells the blobs of an image what its readers have from others.
fn leave_out(fs: &DomainFs, member: &Member) {
    let mut there: Vec<Ranges> = member.blobs.iter().map(|_| Ranges::default()).collect();
    let mut wanted: Vec<Ranges> = member.blobs.iter().map(|_| Ranges::default()).collect();
    for said in fs.sharing.said_elsewhere(member.slot) {
        let is_there = said.again || said.others.iter().any(|(other, nid)| other.has(*nid));
        // What cannot be looked at is not left out.
        let _ = stored(member, said.nid, |device, range| {
            let ranges = if is_there { &mut there } else { &mut wanted };
            if let Some(ranges) = ranges.get_mut(usize::from(device)) {
                ranges.add(range);
            }
        });
    }
    for ((blob, there), wanted) in member.blobs.iter().zip(there).zip(wanted) {
        // Files may have extents in common.
        let ranges = without(&there.settled(), &wanted.settled());
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        tracing::debug!(blob = %blob.id(), bytes, runs = ranges.len(), "found in other images");
        blob.leave_out(&ranges);
    }
}

/// Visits the blocks that a file's bytes lie in.
fn stored(
    member: &Member,
    nid: Nid,
    mut visit: impl FnMut(u16, Range<u64>),
) -> ferrofs_image::Result<()> {
    let image = member.image();
    let block = u64::from(image.superblock().block_bits.size());
    let map = image.map(&image.inode(nid)?)?;
    image.stored_runs(&map, |device, range| {
        // Nothing else lies in them.
        let end = range.end.div_ceil(block).saturating_mul(block);
        visit(device, range.start / block * block..end);
    })
}

/// Takes note of all files of an image. What cannot be read is left out: whoever asks for it gets the
/// error.
pub(crate) fn count(fs: &DomainFs, member: &Arc<Member>) {
    let image = member.image();
    let mut pending = vec![image.root()];
    let mut seen: HashSet<Nid> = HashSet::from([image.root()]);
    let mut left = ENTRIES_MAX;
    while let Some(nid) = pending.pop() {
        let Ok(directory) = image.inode(nid) else { continue };
        let Ok(directory) = image.directory(&directory) else { continue };
        let first = pending.len();
        let walked = directory.walk(0, |entry, _| {
            // Hard links, and directories in circles: there are no more inodes than the image has
            // room for.
            if !matches!(entry.name, b"." | b"..")
                && seen.insert(entry.nid)
                && let Ok(inode) = image.inode(entry.nid)
            {
                match inode.file_type {
                    FileType::Directory => pending.push(entry.nid),
                    FileType::Regular => {
                        // An error is told to whoever opens it.
                        let _ = fs.sharing.note(member, &inode);
                    }
                    _ => {}
                }
            }
            left = left.saturating_sub(1);
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if left == 0 {
            return;
        }
        // In the order of names, in which trees are read: files are prepared ahead in it.
        pending[first..].reverse();
        if let Err(error) = walked {
            tracing::warn!(nid = nid.0, %error, "a directory cannot be read");
        }
    }
}

#[cfg(test)]
mod tests;
