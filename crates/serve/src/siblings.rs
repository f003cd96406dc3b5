// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the next files of a directory before they are asked for.
//!
//! Programs that copy, pack, hash or search trees read the files of a directory one after the other, and
//! each small file is a request that they wait for. Who has read two in the order of the directory is
//! likely to want the next; who has read directories whole will want those of the one he lists now.
//! These files are decoded meanwhile and put into the kernel's page cache ([`ahead`]), which knows them
//! already because it was given attributes with the entries. Then no request comes for them at all.
//!
//! A reader who finds everything in the page cache is not heard of any more. So of each row of files one
//! is left out: when it is asked for, the next row is read. Rows grow while this goes well, as the
//! kernel's readahead does, and are bounded in files and bytes: that much is lost when the reader stops.
//!
//! Here is what is known of directories and decided of readers; it makes no call and reads nothing.
//! Invariant: at most [`LISTINGS_MAX`] directories with [`LISTED_MAX`] files each are remembered.

pub(crate) mod ahead;

use std::collections::VecDeque;

/// Directories remembered: a tool that goes down a tree comes back to those above.
const LISTINGS_MAX: usize = 8;
/// Files of a directory remembered. Further ones are not read ahead, and the kernel is not given
/// attributes with their entries: it would hold an inode for each.
pub(crate) const LISTED_MAX: usize = 1024;
/// Files in a row at first and at most.
const ROW_FIRST: usize = 4;
const ROW_MAX: usize = 32;
/// Files that a reader may pass over (links, files that are large) without losing the order.
const SLACK: usize = 2;
/// Directories read to their ends in a row, from which on the next one is expected to be, too.
const STREAK: u32 = 2;

/// What is known of directories and their readers.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    /// The last one first.
    listings: VecDeque<Listing>,
    /// Numbers listings.
    next: u64,
    /// Directories in a row whose files were read.
    streak: u32,
}

/// The regular files of a directory, all known to the kernel.
#[derive(Debug)]
struct Listing {
    id: u64,
    directory: u64,
    files: Vec<u64>,
    /// Position behind the last entry seen; `None`: all were.
    behind: Option<u64>,
    /// The file behind the last one that was read.
    next: usize,
    /// Files read in order, as far as we know.
    run: usize,
    /// Files before this one are read or will be.
    ahead: usize,
    row: usize,
}

/// Files to be read ahead.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Row {
    /// The directory they are of, and where in it each stands.
    pub(crate) listing: u64,
    pub(crate) files: Vec<(usize, u64)>,
}

impl Siblings {
    /// Entries of `directory` go to the kernel with attributes, those from `position` on up to `behind`
    /// (`None`: the last). Which of its files are to be read at once.
    pub(crate) fn listed(
        &mut self,
        directory: u64,
        position: u64,
        files: &[u64],
        behind: Option<u64>,
    ) -> Option<Row> {
        let index = self.listings.iter().position(|listing| listing.directory == directory);
        let mut listing = if position > 0 {
            // Whoever begins in the middle was there before, and has forgotten.
            let goes_on = |index: &usize| self.listings[*index].behind == Some(position);
            self.listings.remove(index.filter(goes_on)?)?
        } else {
            self.judge_last();
            if let Some(index) = index {
                self.listings.remove(index);
            }
            self.next = self.next.wrapping_add(1);
            Listing::new(self.next, directory)
        };
        listing.behind = behind;
        let room = LISTED_MAX.saturating_sub(listing.files.len());
        listing.files.extend(files.iter().take(room));
        let row = if self.streak >= STREAK && behind.is_none() { listing.begin() } else { None };
        self.listings.push_front(listing);
        self.listings.truncate(LISTINGS_MAX);
        row
    }

    /// Whether files of the directory listed last were read.
    fn judge_last(&mut self) {
        let Some(last) = self.listings.front().filter(|last| !last.files.is_empty()) else {
            return;
        };
        let enough = last.files.len().min(2);
        self.streak = if last.run >= enough { self.streak.saturating_add(1) } else { 0 };
    }

    /// Whether the entries of `directory` from `position` on go with attributes.
    pub(crate) fn wants_attributes(&self, directory: u64, position: u64) -> bool {
        let listing = self.listings.iter().find(|listing| listing.directory == directory);
        position == 0 || listing.is_none_or(|listing| listing.files.len() < LISTED_MAX)
    }

    /// Somebody reads a file from its start. Which files are to be read now.
    pub(crate) fn read(&mut self, file: u64) -> Option<Row> {
        let expected = |listing: &Listing| {
            let end =
                listing.ahead.max(listing.next).saturating_add(SLACK).min(listing.files.len());
            let near = listing.files.get(listing.next..end)?;
            near.iter().position(|&node| node == file).map(|index| listing.next + index)
        };
        for listing in &mut self.listings {
            if let Some(index) = expected(listing) {
                return listing.advance(index);
            }
        }
        for listing in &mut self.listings {
            if let Some(index) = listing.files.iter().position(|&node| node == file) {
                (listing.next, listing.ahead, listing.run) = (index + 1, index + 1, 1);
                listing.row = ROW_FIRST;
                return None;
            }
        }
        None
    }

    /// A file that was listed turned out to be known as another node.
    pub(crate) fn rename(&mut self, from: u64, to: u64) {
        for listing in &mut self.listings {
            if let Some(file) = listing.files.iter_mut().find(|file| **file == from) {
                *file = to;
            }
        }
    }

    /// Whether a file of a row is still ahead of its reader.
    pub(crate) fn is_ahead(&self, listing: u64, index: usize) -> bool {
        let found = self.listings.iter().find(|found| found.id == listing);
        found.is_some_and(|found| found.next <= index)
    }
}

impl Listing {
    fn new(id: u64, directory: u64) -> Self {
        let (files, behind) = (Vec::new(), None);
        Self { id, directory, files, behind, next: 0, run: 0, ahead: 0, row: ROW_FIRST }
    }

    /// A reader of everything comes here. He will be at the first file before us.
    fn begin(&mut self) -> Option<Row> {
        (self.ahead, self.row) = (1, ROW_MAX);
        self.row(usize::MAX)
    }

    /// The file at `index` is read, in order; those before it were found in the page cache.
    fn advance(&mut self, index: usize) -> Option<Row> {
        self.run += index + 1 - self.next;
        self.next = index + 1;
        self.ahead = self.ahead.max(self.next);
        let left = self.ahead - self.next;
        if self.run < 2 || left > self.row / 2 {
            return None;
        }
        // Left out, so that its reader is heard of when half of the row is still ahead of him.
        self.row(self.ahead + self.row / 2)
    }

    /// The next row, without the file at `left_out`.
    fn row(&mut self, left_out: usize) -> Option<Row> {
        let start = self.ahead.min(self.files.len());
        let end = start.saturating_add(self.row).min(self.files.len());
        let all = (start..end).filter(|index| *index != left_out);
        let files: Vec<_> = all.map(|index| (index, self.files[index])).collect();
        (self.ahead, self.row) = (end, (self.row * 2).min(ROW_MAX));
        (!files.is_empty()).then_some(Row { listing: self.id, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(row: Option<Row>) -> Vec<usize> {
        row.map(|row| row.files.into_iter().map(|(index, _)| index).collect()).unwrap_or_default()
    }

    /// Reads files in order; returns how many requests come.
    fn read(siblings: &mut Siblings, files: &[u64], row: Option<Row>) -> usize {
        let mut stored = vec![false; files.len()];
        let mut requests = 0;
        let mut store = |row| {
            for index in indexes(row) {
                assert!(!stored[index], "once");
                stored[index] = true;
            }
            stored.clone()
        };
        let mut now = store(row);
        for (index, file) in files.iter().enumerate() {
            if !now[index] {
                requests += 1;
                now = store(siblings.read(*file));
            }
        }
        requests
    }

    #[test]
    fn who_reads_in_order_is_served_ahead_and_heard_of() {
        let mut siblings = Siblings::default();
        let files: Vec<u64> = (100..300).collect();
        assert_eq!(siblings.listed(1, 0, &files, None), None);
        assert_eq!(siblings.read(100), None, "one is no order");
        let row = siblings.read(101);
        assert_eq!(indexes(row), [2, 3, 5]);
        assert!(siblings.is_ahead(1, 2) && !siblings.is_ahead(1, 1) && !siblings.is_ahead(9, 2));

        let mut siblings = Siblings::default();
        siblings.listed(1, 0, &files, None);
        let requests = read(&mut siblings, &files, None);
        assert!(requests < 20, "{requests} requests for 200 files");
    }

    #[test]
    fn without_order_nothing_is_read_ahead() {
        let mut siblings = Siblings::default();
        let files: Vec<u64> = (100..300).collect();
        siblings.listed(1, 0, &files, None);
        for step in 0..200 {
            assert_eq!(siblings.read(100 + step * 77 % 200), None);
        }
        assert_eq!(siblings.read(7), None, "not known");
    }

    #[test]
    fn files_that_turn_out_to_be_others_keep_their_places() {
        let mut siblings = Siblings::default();
        siblings.listed(1, 0, &[10, 11, 12, 13, 14], None);
        siblings.rename(11, 5);
        siblings.rename(99, 6);
        assert_eq!(siblings.read(10), None);
        assert_eq!(indexes(siblings.read(5)), [2, 3]);
    }

    #[test]
    fn entries_come_in_pieces() {
        let mut siblings = Siblings::default();
        siblings.listed(1, 0, &[10, 11], Some(5));
        assert!(siblings.wants_attributes(1, 5));
        siblings.listed(1, 5, &[12, 13], Some(9));
        assert_eq!(siblings.listed(2, 7, &[20], None), None, "its start was not seen");
        assert_eq!(siblings.listings[0].files, [10, 11, 12, 13]);
        let many: Vec<u64> = (1000..5000).collect();
        siblings.listed(1, 9, &many, None);
        assert_eq!(siblings.listings[0].files.len(), LISTED_MAX);
        assert!(!siblings.wants_attributes(1, 4000) && siblings.wants_attributes(1, 0));
        for directory in 2..20 {
            siblings.listed(directory, 0, &[], None);
        }
        assert_eq!(siblings.listings.len(), LISTINGS_MAX);
    }

    #[test]
    fn who_has_read_whole_directories_is_expected_to_go_on() {
        let mut siblings = Siblings::default();
        for directory in 0..6_u64 {
            let files: Vec<u64> = (0..100).map(|file| 1 + directory * 100 + file).collect();
            let row = siblings.listed(directory, 0, &files, None);
            assert_eq!(row.is_some(), directory >= 2, "{directory}");
            let requests = read(&mut siblings, &files, row);
            assert!(requests < 10, "{requests} requests");
        }
        // Some are only listed.
        assert!(siblings.listed(7, 0, &[1001, 1002], None).is_some());
        assert!(siblings.listed(8, 0, &[1003, 1004], None).is_none());
    }
}
