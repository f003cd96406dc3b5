// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that will be opened next are made ready, when files are opened in the order of their tree.
//!
//! Who reads a tree of small files waits for each to be found in the domain and decoded. Here that is
//! done by a thread of its own, in rows: the kernel gets to know all files of a row by one listing of
//! the domain's folder, and their content before it asks for it. Invariants: what is done ahead is
//! bounded in files and bytes; nobody waits for this thread but for the one file that it is at.

use super::backing::Numbers;
use super::fs::DomainFs;
use super::member::Member;
use super::nodes::FileId;
use super::sharing::Sharing;
use ferrofs_image::Nid;
use rustix::fs::{RawDir, SeekFrom};
use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Files between two that are opened one after the other, for these to be in order.
const GAP_MAX: u64 = 16;
/// Files opened in order before something is done.
const RUN_MIN: u32 = 3;
/// Files of a row: the first, and at most.
const ROW_MIN: usize = 8;
const ROW_MAX: usize = 64;
/// Bytes of a row, by the sizes of its files; the last file may be larger.
const ROW_BYTES: u64 = 2 << 20;
/// Room for an entry of a listing with attributes: 128, 24 and a name of 21 bytes, padded.
const ENTRY_LEN: usize = 176;

/// Watches what is opened in a view.
#[derive(Debug)]
pub(crate) struct Ahead {
    state: Mutex<State>,
    rows: SyncSender<Row>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    run: u32,
    /// What lies before this place is ready, or asked for.
    until: u64,
    row: usize,
}

/// Files that are to be made ready.
#[derive(Clone, Copy, Debug)]
struct Row {
    from: u64,
    count: usize,
}

struct Worker {
    domain: Arc<DomainFs>,
    member: Arc<Member>,
    numbers: Weak<Numbers>,
}

impl Ahead {
    /// Starts the thread. It ends with this, or with the numbers.
    pub(crate) fn start(
        domain: &Arc<DomainFs>,
        member: &Arc<Member>,
        numbers: &Arc<Numbers>,
    ) -> io::Result<Self> {
        let (rows, wanted) = sync_channel(1);
        let worker = Worker {
            domain: Arc::clone(domain),
            member: Arc::clone(member),
            numbers: Arc::downgrade(numbers),
        };
        let thread = std::thread::Builder::new().name(String::from("ahead"));
        thread.spawn(move || worker.run(&wanted))?;
        Ok(Self { state: Mutex::default(), rows })
    }

    /// A file is opened.
    pub(crate) fn note(&self, sharing: &Sharing, id: FileId) {
        let Some(place) = sharing.place(id) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = state.next(place)
            && self.rows.try_send(row).is_ok()
        {
            state.until = row.from.saturating_add(row.count as u64);
        }
    }
}

impl State {
    /// What is to be made ready when the file at `place` is opened.
    fn next(&mut self, place: u64) -> Option<Row> {
        let last = std::mem::replace(&mut self.last, place);
        match place.checked_sub(last) {
            Some(0) => return None,
            Some(1..=GAP_MAX) => self.run = self.run.saturating_add(1),
            _ => {
                self.run = 0;
                self.until = 0;
                self.row = 0;
            }
        }
        let from = self.until.max(place.saturating_add(1));
        // As long as half of a row is ready there is time.
        if self.run < RUN_MIN || from - place > self.row as u64 / 2 + 1 {
            return None;
        }
        self.row = (self.row * 2).clamp(ROW_MIN, ROW_MAX);
        Some(Row { from, count: self.row })
    }
}

impl Worker {
    fn run(&self, rows: &Receiver<Row>) {
        while let Ok(row) = rows.recv() {
            let Some(numbers) = self.numbers.upgrade() else { return };
            self.make_ready(&numbers, row);
        }
    }

    fn make_ready(&self, numbers: &Numbers, row: Row) {
        let mut files: Vec<(Nid, u64, u64)> = Vec::with_capacity(row.count);
        let mut bytes: u64 = 0;
        for placed in self.domain.sharing.placed(row.from, row.count) {
            // Behind the last file of an image come those of another.
            if placed.id.slot != self.member.slot || bytes > ROW_BYTES {
                break;
            }
            let Ok(inode) = self.member.image().inode(placed.id.nid) else { continue };
            let Ok(node) = self.domain.sharing.resolve(&self.member, &inode) else { continue };
            bytes = bytes.saturating_add(inode.size);
            files.push((inode.nid, node, inode.size));
        }
        let new = self.domain.sharing.list(files.iter().map(|(_, node, _)| *node));
        if new > files.len() / 2 {
            // Without it each is looked up.
            let _ = list(numbers, row.from, files.len());
        }
        for (nid, node, size) in files {
            numbers.make_ready(nid, node, size);
        }
    }
}

/// Has the kernel know `count` files from a place on.
fn list(numbers: &Numbers, from: u64, count: usize) -> io::Result<()> {
    let folder = numbers.folder()?;
    rustix::fs::seek(folder, SeekFrom::Start(from))?;
    let mut room = vec![MaybeUninit::uninit(); count * ENTRY_LEN];
    let mut listing = RawDir::new(folder, &mut room);
    // What is listed does not matter here. One request, if the kernel uses all the room.
    for _ in 0..count {
        if listing.next().transpose()?.is_none() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(places: impl IntoIterator<Item = u64>) -> Vec<(u64, usize)> {
        let mut state = State::default();
        let mut found = Vec::new();
        for place in places {
            if let Some(row) = state.next(place) {
                state.until = row.from + row.count as u64;
                found.push((row.from, row.count));
            }
        }
        found
    }

    #[test]
    fn rows_follow_each_other_and_grow() {
        let found = rows(1000..1400);
        assert_eq!(found[0], (1004, ROW_MIN));
        assert!(found.windows(2).all(|two| two[0].0 + two[0].1 as u64 == two[1].0), "{found:?}");
        assert_eq!(found.last().unwrap().1, ROW_MAX);
    }

    #[test]
    fn who_jumps_about_gets_nothing() {
        assert!(rows((0..1000).map(|number| number * 7919 % 10_007)).is_empty());
        assert!(rows([5; 100]).is_empty(), "one file again and again");
        assert!(rows((0..1000).rev()).is_empty());
        // A run that breaks off begins anew.
        assert_eq!(rows([51, 52, 53, 90, 91, 92, 93]), [(94, ROW_MIN)]);
    }
}
