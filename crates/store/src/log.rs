// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is present durably: an append-only record of runs of grains.
//!
//! It refuses to know how bytes come and who reads them. Invariant: a record that says "present" is
//! written only after the bytes it speaks of are durable, one that says "gone" is durable before
//! they are taken away; so whatever part of the log survives a loss of power, no grain that it
//! calls present lacks its bytes.
//!
//! File: header of 32 bytes (magic, blob size, random id, CRC-32C), then records: number of runs,
//! kind, sequence number, CRC-32C, runs (first grain, grains). Little-endian. The CRC of a record
//! continues that of the one before, so that a record which an earlier, lost end of the file left
//! behind never follows one of a later time.

#[cfg(test)]
mod tests;

use crate::disk::{DiskFile, Folder, Open, or_absent};
use crate::map::{GRAIN, GROUP_GRAINS};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

const NAME: &str = "log";
/// A log that is being made. It becomes the log by its name, whole or not at all.
const NEW: &str = "log.new";
const MAGIC: [u8; 8] = *b"frfslog1";
const HEADER_LEN: usize = 32;
const RECORD_LEN: usize = 20;
const RUN_LEN: usize = 16;
/// Runs in a record: more become several records.
const RUNS_MAX: usize = 4096;
/// A log is written anew when it is larger than this and than twice what it must hold.
const COMPACT_MIN: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Present = 1,
    Gone = 2,
}

/// Runs that do not touch, by their starts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Runs(BTreeMap<u64, u64>);

impl Runs {
    pub(crate) fn add(&mut self, run: Range<u64>) {
        if run.start >= run.end {
            return;
        }
        let (mut start, mut end) = (run.start, run.end);
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.0.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.0.insert(start, end);
    }

    pub(crate) fn remove(&mut self, run: Range<u64>) {
        while let Some((&first, &last)) = self.0.range(..run.end).next_back() {
            if last <= run.start {
                break;
            }
            self.0.remove(&first);
            if last > run.end {
                self.0.insert(run.end, last);
            }
            if first < run.start {
                self.0.insert(first, run.start);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Where the log ends, as this process knows it. Others append, too.
#[derive(Debug, Default)]
pub(crate) struct Log {
    id: [u8; 8],
    end: u64,
    sequence: u64,
    crc: u32,
    runs: Runs,
}

impl Log {
    /// Reads what the log says and cuts what is torn at its end. The caller holds the lock of the
    /// log. A log that is not one of a blob of `size` bytes says nothing, and is removed.
    pub(crate) fn load<F: Folder>(&mut self, folder: &F, size: u64) -> io::Result<&Runs> {
        if let Some(file) = or_absent(folder.open(NAME, Open::Existing))? {
            if self.follow(&file, size)? {
                if file.len()? > self.end {
                    file.set_len(self.end)?;
                    // Before anything is written behind it: what was cut must not come back there.
                    file.sync()?;
                }
                return Ok(&self.runs);
            }
            discard(folder)?;
        }
        *self = Self::default();
        Ok(&self.runs)
    }

    /// Bytes that it calls present, read without the lock and without changing anything.
    pub(crate) fn peek<F: Folder>(&mut self, folder: &F, size: u64) -> io::Result<u64> {
        if let Some(file) = or_absent(folder.open(NAME, Open::Existing))? {
            self.follow(&file, size)?;
        }
        Ok(self.runs.iter().map(|run| (run.end - run.start) * GRAIN).sum())
    }

    /// Reads on from where it was read last; whether it is a log at all.
    fn follow<D: DiskFile>(&mut self, file: &D, size: u64) -> io::Result<bool> {
        let mut header = [0; HEADER_LEN];
        if file.read_up_to(&mut header, 0)? < HEADER_LEN || header != emit_header(size, id(&header))
        {
            return Ok(false);
        }
        if self.id != id(&header) || self.end < HEADER_LEN as u64 || file.len()? < self.end {
            *self = Self { id: id(&header), end: HEADER_LEN as u64, ..Self::default() };
            self.crc = crc32c::crc32c(&header);
        }
        let grains = size.div_ceil(GRAIN);
        while let Some((kind, runs, len, crc)) = self.parse(file)? {
            for run in runs {
                let run = run.start..run.end.min(grains);
                match kind {
                    Kind::Present => self.runs.add(run),
                    Kind::Gone => self.runs.remove(run),
                }
            }
            self.end += len;
            self.sequence += 1;
            self.crc = crc;
        }
        Ok(true)
    }

    /// The record at the end, if there is a whole one.
    #[expect(clippy::type_complexity, reason = "the parts of a record")]
    fn parse<D: DiskFile>(
        &self,
        file: &D,
    ) -> io::Result<Option<(Kind, Vec<Range<u64>>, u64, u32)>> {
        let mut head = [0; RECORD_LEN];
        if file.read_up_to(&mut head, self.end)? < RECORD_LEN {
            return Ok(None);
        }
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let kind = match u16::from_le_bytes([head[2], head[3]]) {
            1 => Kind::Present,
            2 => Kind::Gone,
            _ => return Ok(None),
        };
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        if count == 0 || count > RUNS_MAX || word(&head[4..12]) != self.sequence {
            return Ok(None);
        }
        let mut body = vec![0; count * RUN_LEN];
        if file.read_up_to(&mut body, self.end + RECORD_LEN as u64)? < body.len() {
            return Ok(None);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, &head[..12]), &body);
        if head[12..16] != crc.to_le_bytes() || head[16..] != [0; 4] {
            return Ok(None);
        }
        let mut runs = vec![];
        for run in body.chunks_exact(RUN_LEN) {
            let start = word(&run[..8]);
            let Some(end) = start.checked_add(word(&run[8..])) else { return Ok(None) };
            runs.push(start..end);
        }
        Ok(Some((kind, runs, (RECORD_LEN + body.len()) as u64, crc)))
    }

    /// Says that runs are present. The caller holds the lock of the log, has loaded it since, and
    /// the bytes are durable; so is the name of the data's file. Durable afterwards.
    pub(crate) fn present<F: Folder>(
        &mut self,
        folder: &F,
        size: u64,
        runs: &Runs,
    ) -> io::Result<()> {
        let mut all = self.runs.clone();
        for run in runs.iter() {
            all.add(run);
        }
        let need = (all.len() * RUN_LEN) as u64;
        if self.end == 0 || self.end > COMPACT_MIN.max(need.saturating_mul(2)) {
            return self.rewrite(folder, size, all);
        }
        self.append(folder, Kind::Present, runs)
    }

    /// Says that runs are gone, if it said that they are there. As [`Log::present`].
    pub(crate) fn gone<F: Folder>(&mut self, folder: &F, runs: &Runs) -> io::Result<()> {
        if self.end == 0 {
            return Ok(());
        }
        self.append(folder, Kind::Gone, runs)
    }

    fn append<F: Folder>(&mut self, folder: &F, kind: Kind, runs: &Runs) -> io::Result<()> {
        let list: Vec<Range<u64>> = runs.iter().collect();
        if list.is_empty() {
            return Ok(());
        }
        let file = folder.open(NAME, Open::Existing)?;
        let mut bytes = vec![];
        let (mut crc, mut sequence) = (self.crc, self.sequence);
        for runs in list.chunks(RUNS_MAX) {
            crc = emit(&mut bytes, kind, sequence, crc, runs);
            sequence += 1;
        }
        let written = file.write_all(&bytes, self.end).and_then(|()| file.sync());
        if written.is_err() {
            // What of it is there is not known: nothing is built on it.
            *self = Self::default();
            return written;
        }
        self.end += bytes.len() as u64;
        (self.crc, self.sequence) = (crc, sequence);
        for run in list {
            match kind {
                Kind::Present => self.runs.add(run),
                Kind::Gone => self.runs.remove(run),
            }
        }
        Ok(())
    }

    /// Writes a new log that says only what holds now, and puts it in the place of the old one.
    fn rewrite<F: Folder>(&mut self, folder: &F, size: u64, runs: Runs) -> io::Result<()> {
        let id = fastrand::u64(1..).to_le_bytes();
        let header = emit_header(size, id);
        let mut bytes = header.to_vec();
        let (mut crc, mut sequence) = (crc32c::crc32c(&header), 0);
        let list: Vec<Range<u64>> = runs.iter().collect();
        for runs in list.chunks(RUNS_MAX) {
            crc = emit(&mut bytes, Kind::Present, sequence, crc, runs);
            sequence += 1;
        }
        let file = folder.open(NEW, Open::Empty)?;
        file.write_all(&bytes, 0)?;
        file.sync()?;
        folder.rename(NEW, NAME)?;
        folder.sync()?;
        *self = Self { id, end: bytes.len() as u64, sequence, crc, runs };
        Ok(())
    }
}

/// Removes the log, durably: before a new data file gets the old one's name.
pub(crate) fn discard<F: Folder>(folder: &F) -> io::Result<()> {
    if or_absent(folder.remove(NAME))?.is_some() {
        folder.sync()?;
    }
    Ok(())
}

fn id(header: &[u8; HEADER_LEN]) -> [u8; 8] {
    header[16..24].try_into().expect("eight bytes")
}

fn emit_header(size: u64, id: [u8; 8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&size.to_le_bytes());
    header[16..24].copy_from_slice(&id);
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    header
}

fn emit(bytes: &mut Vec<u8>, kind: Kind, sequence: u64, crc: u32, runs: &[Range<u64>]) -> u32 {
    let start = bytes.len();
    bytes.extend((runs.len() as u16).to_le_bytes());
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend([0; 8]);
    for run in runs {
        bytes.extend(run.start.to_le_bytes());
        bytes.extend((run.end - run.start).to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc, &bytes[start..start + 12]);
    let crc = crc32c::crc32c_append(crc, &bytes[start + RECORD_LEN..]);
    bytes[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Makes what is set of `dirty` (grains) durable, and says so. The caller holds the lock of the
/// log, so nothing is evicted meanwhile: what is set now stays set. `lost` takes bits back.
pub(crate) fn commit<F: Folder>(
    folder: &F,
    data: &impl DiskFile,
    log: &mut Log,
    size: u64,
    bits: crate::map::Bits<'_>,
    dirty: &Runs,
    lost: impl FnOnce(&Runs),
) -> io::Result<()> {
    log.load(folder, size)?;
    let mut set = Runs::default();
    for run in dirty.iter() {
        // Bits are looked at before the sync: the bytes of those were written before it.
        bits.runs(run, true).for_each(|run| set.add(run));
    }
    for run in log.runs.clone().iter() {
        set.remove(run);
    }
    if set.is_empty() {
        return Ok(());
    }
    if let Err(error) = data.sync() {
        // What could not be written is not written at the next sync, either, which succeeds.
        lost(&set);
        return Err(error);
    }
    if log.end == 0 {
        // The first log of this data: its name must not be less durable than the log's.
        folder.sync()?;
    }
    log.present(folder, size, &set)
}

/// Takes groups of grains away: from the map, then from the log, then from the disk. The caller
/// holds the lock of the log and has claimed the grains, so that nobody writes them meanwhile.
pub(crate) fn evict<F: Folder>(
    folder: &F,
    data: &impl DiskFile,
    log: &mut Log,
    size: u64,
    gone: &Runs,
    clear: impl FnOnce(),
) -> io::Result<()> {
    debug_assert!(gone.iter().all(|run| run.start % GROUP_GRAINS == 0));
    log.load(folder, size)?;
    clear();
    log.gone(folder, gone)?;
    for run in gone.iter() {
        data.punch(crate::map::bytes_of(&run, size))?;
    }
    Ok(())
}
