// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a miss costs when the origin costs nothing: CPU time of the reading thread, without the
//! source's own copy; and, in the same run, what its two great parts cost alone: the digest, and the
//! write of new pages of a sparse file. `miss [ROUNDS]`; the best round counts, for others may be at
//! work on the machine. `TMPDIR` tells on which file system.

use ferrofs_store::{
    Algorithm, BlobSpec, BuiltTable, Cache, CacheConfig, Demand, FetchContext, FetchError,
    Geometry, Identity, Origin, RangeSource, Sink, TableBuilder, TableSpec,
};
use std::cell::Cell;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

thread_local! {
    /// CPU time of this thread that the source took.
    static SOURCE: Cell<i64> = const { Cell::new(0) };
}

/// Gives what it has, without a copy where the sink has room for it that was filled before.
#[derive(Debug)]
struct Memory(Arc<Vec<u8>>);

impl RangeSource for Memory {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn identity(&self, _: &FetchContext) -> Result<Identity, FetchError> {
        Ok(Identity { size: self.0.len() as u64, validator: None })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        sink: &mut dyn Sink,
        _: &FetchContext,
    ) -> Result<(), FetchError> {
        if sink.begin(range.start, Some(self.0.len() as u64)).is_err() {
            return Ok(());
        }
        let mut at = range.start as usize;
        while at < range.end as usize {
            let room = sink.room();
            let len = room.len().min(range.end as usize - at);
            let start = cpu();
            room[..len].copy_from_slice(&self.0[at..at + len]);
            SOURCE.set(SOURCE.get() + cpu() - start);
            at += len;
            if sink.filled(len).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Nanoseconds of CPU that this thread has used.
fn cpu() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

const LEN: usize = 128 << 10;
const COUNT: usize = 1024;

/// In an order that no reader ahead can guess.
fn places() -> impl Iterator<Item = usize> {
    (0..COUNT).map(|index| index * 389 % COUNT * LEN)
}

/// Microseconds of CPU for each of `COUNT`: mean and median of what `work` returns in nanoseconds.
fn each(mut work: impl FnMut(usize) -> i64) -> (f64, f64) {
    let mut costs: Vec<i64> = places().map(&mut work).collect();
    costs.sort_unstable();
    let mean = costs.iter().sum::<i64>() as f64 / COUNT as f64;
    (mean / 1000.0, costs[COUNT / 2] as f64 / 1000.0)
}

fn timed(work: impl FnOnce()) -> i64 {
    let start = cpu();
    work();
    cpu() - start
}

fn round(bytes: &Arc<Vec<u8>>, table: &BuiltTable) -> Vec<(&'static str, (f64, f64))> {
    let origin = Origin::new(Arc::new(Memory(Arc::clone(bytes))));
    let source = Arc::new(Memory(Arc::new(table.to_bytes())));
    let pinned = TableSpec::Pinned { pin: table.pin(), source };
    let spec = BlobSpec { size: Some(bytes.len() as u64), table: pinned, ..BlobSpec::new(origin) };
    let folder = tempfile::tempdir().unwrap();
    let config = CacheConfig::new(folder.path().join("cache"));
    let blob = Cache::open(config).unwrap().blob(spec).unwrap();
    let mut buf = vec![1; LEN];
    let mut read = |at: usize| blob.read_exact_at(&mut buf, at as u64, &Demand::default()).unwrap();
    let miss = each(|at| {
        let before = SOURCE.get();
        timed(|| read(at)) - (SOURCE.get() - before)
    });
    let hit = each(|at| timed(|| read(at)));
    let digest = each(|at| {
        timed(|| {
            for group in bytes[at..at + LEN].chunks(64 << 10) {
                std::hint::black_box(Algorithm::Blake3.digest(group));
            }
        })
    });
    let plain = std::fs::File::create(folder.path().join("plain")).unwrap();
    plain.set_len(bytes.len() as u64).unwrap();
    let write = each(|at| timed(|| plain.write_all_at(&buf, at as u64).unwrap()));
    let found = std::fs::File::create(folder.path().join("found")).unwrap();
    found.set_len(bytes.len() as u64).unwrap();
    let found = each(|at| {
        timed(|| {
            let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&found, flags, at as u64, LEN as u64).unwrap();
            found.write_all_at(&buf, at as u64).unwrap();
        })
    });
    let writes = [("write alone", write), ("write, blocks found first", found)];
    [("miss", miss), ("hit", hit), ("digest alone", digest)].into_iter().chain(writes).collect()
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(5, |text| text.parse().unwrap());
    let mut bytes = vec![0; LEN * COUNT];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    let geometry = Geometry::new(Algorithm::Blake3);
    let table = TableBuilder::new(geometry).unwrap().build(&bytes[..]).unwrap();
    let bytes = Arc::new(bytes);
    let all: Vec<_> = (0..rounds).map(|_| round(&bytes, &table)).collect();
    for index in 0..all[0].len() {
        let name = all[0][index].0;
        let best = |pick: fn(&(f64, f64)) -> f64| {
            all.iter().map(|round| pick(&round[index].1)).fold(f64::INFINITY, f64::min)
        };
        println!("{name}, 128 KiB: mean {:.1} us, median {:.1} us", best(|c| c.0), best(|c| c.1));
    }
}
