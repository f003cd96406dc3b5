// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the threads of rings run.

use std::collections::BTreeMap;

use super::*;

/// The threads of this process that answer over rings and may run on one processor only: how many for
/// each processor.
fn settled() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // Threads of other tests end meanwhile.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().to_owned()
        };
        let cpus = field("Cpus_allowed_list:");
        if field("Name:") == "fuse-ring" && cpus.parse::<usize>().is_ok() {
            *found.entry(cpus).or_default() += 1;
        }
    }
    found
}

#[test]
fn threads_of_rings_stay_where_their_readers_are() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if !can_mount() || cpus < 2 {
        return println!("skipped: no FUSE, or one processor only");
    }
    let Some(allowed) = Allowed::new() else { return };
    for follow_reader in [false, true] {
        let config = SessionConfig { follow_reader, ..over(Transport::Ring) };
        let mut mount = Mount::new(Arc::new(Memory::new(1)), config).unwrap();
        assert_eq!(fs::read(mount.path("file")).unwrap().len() as u64, FILE_SIZE);
        let threads = settled();
        if follow_reader {
            assert!(threads.len() >= cpus, "{threads:?}");
            assert!(threads.values().all(|count| *count >= 2), "{threads:?}");
        } else {
            assert_eq!(threads, BTreeMap::new());
        }
        assert!(mount.finish().ring_requests > 0);
    }
    drop(allowed);
}
