// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power is lost at any operation; whatever is called present afterwards must be there.

use super::{Log, Runs, commit, discard, evict};
use crate::disk::model::ModelDir;
use crate::disk::{DiskFile, Folder, Open, or_absent};
use crate::map::{Bits, GRAIN, GROUP_GRAINS};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::AtomicU64;

/// Four groups and a short grain.
const GRAINS: u64 = 4 * GROUP_GRAINS + 1;
const SIZE: u64 = (GRAINS - 1) * GRAIN + 100;

fn content(grain: u64) -> Vec<u8> {
    let len = GRAIN.min(SIZE - grain * GRAIN);
    (0..len).map(|at| ((grain * 31 + at / 512 * 7 + at) % 255 + 1) as u8).collect()
}

/// As a process that works on the blob, until power is lost.
struct Worker {
    folder: ModelDir,
    words: [AtomicU64; 2],
    dirty: Runs,
    log: Log,
}

impl Worker {
    /// As `cache::files::order` after a new boot.
    fn open(folder: &ModelDir) -> io::Result<Self> {
        let mut log = Log::default();
        let data = or_absent(folder.open("data", Open::Existing))?;
        if data.is_none_or(|data| data.len().unwrap() != SIZE) {
            discard(folder)?;
            folder.open("data", Open::Empty)?.set_len(SIZE)?;
        }
        let words = [const { AtomicU64::new(0) }; 2];
        let bits = Bits::new(&words, GRAINS);
        for run in log.load(folder, SIZE)?.iter() {
            bits.set(run);
        }
        Ok(Self { folder: folder.clone(), words, dirty: Runs::default(), log })
    }

    fn bits(&self) -> Bits<'_> {
        Bits::new(&self.words, GRAINS)
    }

    fn step(&mut self, random: &mut fastrand::Rng) -> io::Result<()> {
        let data = self.folder.open("data", Open::Existing)?;
        match random.u8(0..8) {
            0..=3 => {
                let start = random.u64(0..GRAINS);
                let end = (start + random.u64(1..20)).min(GRAINS);
                for grain in start..end {
                    if !self.bits().all(grain..grain + 1) {
                        data.write_all(&content(grain), grain * GRAIN)?;
                        self.bits().set(grain..grain + 1);
                        self.dirty.add(grain..grain + 1);
                    }
                }
            }
            4..=5 => {
                let dirty = std::mem::take(&mut self.dirty);
                let bits = Bits::new(&self.words, GRAINS);
                commit(&self.folder, &data, &mut self.log, SIZE, bits, &dirty, |_| ())?;
            }
            6 => {
                let group = random.u64(0..5);
                let start = group * GROUP_GRAINS;
                let mut gone = Runs::default();
                gone.add(start..(start + GROUP_GRAINS).min(GRAINS));
                let bits = Bits::new(&self.words, GRAINS);
                let clear = || {
                    for run in gone.iter() {
                        bits.clear(run);
                    }
                };
                evict(&self.folder, &data, &mut self.log, SIZE, &gone, clear)?;
            }
            // Another process joins, knowing nothing of the log.
            _ => self.log = Log::default(),
        }
        Ok(())
    }

    fn check(&self) {
        let Ok(data) = self.folder.open("data", Open::Existing) else { return };
        for run in self.bits().runs(0..GRAINS, true) {
            for grain in run {
                let expected = content(grain);
                let mut found = vec![0; expected.len()];
                assert_eq!(data.read_up_to(&mut found, grain * GRAIN).unwrap(), found.len());
                assert!(found == expected, "grain {grain} is called present and is not");
            }
        }
    }
}

#[test]
fn nothing_is_called_present_that_is_not() {
    let mut survived = 0_u64;
    for seed in 0..1000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut folder = ModelDir::default();
        // Several boots, each ending at some operation; what one leaves the next begins with.
        for _ in 0..4 {
            folder.fuse(random.u32(0..150));
            if let Ok(mut worker) = Worker::open(&folder) {
                worker.check();
                while worker.step(&mut random).is_ok() {}
            }
            folder = folder.crash(&mut random);
            // Recovery itself changes things: look at a copy first.
            let copy = folder.crash(&mut random);
            let worker = Worker::open(&copy).unwrap();
            worker.check();
            survived += worker.bits().ones(0..GRAINS);
        }
    }
    assert!(survived > 3000, "the log keeps something: {survived}");
}

proptest! {
    #[test]
    fn runs_are_those_of_a_set(
        changes in proptest::collection::vec((0_u64..60, 0_u64..60, any::<bool>()), 0..30),
    ) {
        let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
        for (a, b, add) in changes {
            let range = a.min(b)..a.max(b);
            if add {
                runs.add(range.clone());
                model.extend(range);
            } else {
                runs.remove(range.clone());
                model.retain(|at| !range.contains(at));
            }
        }
        let found: Vec<u64> = runs.iter().flatten().collect();
        prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_log_says_a_part_of_what_it_said(
        at in 0_usize..400, flip in 1_u8..=255, cut in any::<bool>(),
    ) {
        let folder = ModelDir::default();
        let mut log = Log::default();
        for grain in 0..8 {
            let mut runs = Runs::default();
            runs.add(grain * 4..grain * 4 + 2);
            log.load(&folder, SIZE).unwrap();
            log.present(&folder, SIZE, &runs).unwrap();
        }
        let full = log.runs.clone();
        let file = folder.open("log", Open::Existing).unwrap();
        let len = file.len().unwrap();
        let at = at as u64 % len;
        if cut {
            file.set_len(at).unwrap();
        } else {
            let mut byte = [0];
            file.read_up_to(&mut byte, at).unwrap();
            file.write_all(&[byte[0] ^ flip], at).unwrap();
        }
        let mut fresh = Log::default();
        for run in fresh.load(&folder, SIZE).unwrap().iter() {
            prop_assert!(full.iter().any(|known| known.start <= run.start && run.end <= known.end));
        }
        // It can be gone on with.
        let mut runs = Runs::default();
        runs.add(60..61);
        fresh.present(&folder, SIZE, &runs).unwrap();
        let mut again = Log::default();
        prop_assert_eq!(again.load(&folder, SIZE).unwrap(), &fresh.runs);
    }
}
