// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a miss costs when the origin costs nothing: CPU time of the reading thread.

use ferrofs_store::{
    Algorithm, BlobSpec, Cache, CacheConfig, Demand, FetchContext, FetchError, Geometry, Identity,
    Origin, RangeSource, Sink, TableBuilder, TableSpec,
};
use std::ops::Range;
use std::sync::Arc;

/// Gives what it has, without a copy where the sink has room for it that was filled before.
#[derive(Debug)]
struct Memory(Vec<u8>);

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
            room[..len].copy_from_slice(&self.0[at..at + len]);
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

fn main() {
    const LEN: usize = 128 << 10;
    const COUNT: usize = 1024;
    let mut bytes = vec![0; LEN * COUNT];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    let geometry = Geometry::new(Algorithm::Blake3);
    let table = TableBuilder::new(geometry).unwrap().build(&bytes[..]).unwrap();
    let size = bytes.len() as u64;
    let origin = Origin::new(Arc::new(Memory(bytes)));
    let pinned = TableSpec::Pinned { pin: table.pin(), source: Arc::new(Memory(table.to_bytes())) };
    let spec = BlobSpec { size: Some(size), table: pinned, ..BlobSpec::new(origin) };
    let folder = tempfile::tempdir().unwrap();
    let blob = Cache::open(CacheConfig::new(folder.path())).unwrap().blob(spec).unwrap();
    let mut buf = vec![0; LEN];
    let mut costs = vec![];
    // In an order that no reader ahead can guess.
    for index in 0..COUNT {
        let offset = (index * 389 % COUNT * LEN) as u64;
        let start = cpu();
        blob.read_exact_at(&mut buf, offset, &Demand::default()).unwrap();
        costs.push(cpu() - start);
    }
    costs.sort_unstable();
    let micros = |cost: i64| cost as f64 / 1000.0;
    let mean = costs.iter().sum::<i64>() / COUNT as i64;
    let stats = blob.stats();
    println!(
        "miss of 128 KiB: mean {:.1} us, median {:.1} us, 90 % {:.1} us ({} misses)",
        micros(mean),
        micros(costs[COUNT / 2]),
        micros(costs[COUNT * 9 / 10]),
        stats.misses
    );
    let start = cpu();
    for index in 0..COUNT {
        blob.read_exact_at(&mut buf, (index * LEN) as u64, &Demand::default()).unwrap();
    }
    println!("hit of 128 KiB: mean {:.1} us", micros((cpu() - start) / COUNT as i64));
    let start = cpu();
    for index in 0..COUNT {
        use std::os::unix::fs::FileExt;
        blob.data_file().read_exact_at(&mut buf, (index * LEN) as u64).unwrap();
    }
    println!("pread of 128 KiB: mean {:.1} us", micros((cpu() - start) / COUNT as i64));
}
