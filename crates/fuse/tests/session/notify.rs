// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data given to the kernel that it did not ask for.

use super::*;

fn mounted(transport: Transport) -> (Arc<Memory>, Mount) {
    let fs = Arc::new(Memory::new(1));
    let mount = Mount::new(Arc::clone(&fs), over(transport)).unwrap();
    (fs, mount)
}

fn bytes(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(byte_at).collect()
}

/// Reads and tells how many requests that took.
fn read(fs: &Memory, file: &File, offset: u64, len: usize) -> (Vec<u8>, usize) {
    // No readahead: only the pages that are read are asked for.
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random).unwrap();
    let before = fs.reads.load(Ordering::SeqCst);
    let mut buf = vec![0; len];
    let read = file.read_at(&mut buf, offset).unwrap();
    buf.truncate(read);
    (buf, fs.reads.load(Ordering::SeqCst) - before)
}

/// The node that "file" has.
const NODE: u64 = 2;

#[test]
fn stored_pages_are_read_without_a_request() {
    over_each_transport(|transport| {
        let (fs, mut mount) = mounted(transport);
        let file = File::open(mount.path("file")).unwrap();
        // Unlike what the file system would say, to tell them apart.
        let other = vec![0x5a; 3 * 4096 + 100];
        assert_eq!(mount.notifier.store(NODE, 8192, &other).unwrap(), 3 * 4096);
        assert_eq!(read(&fs, &file, 8192, 3 * 4096), (other[..3 * 4096].to_vec(), 0));
        let (around, requests) = read(&fs, &file, 4096, 4096);
        assert_eq!((around, requests), (bytes(4096, 4096), 1));
        let (behind, requests) = read(&fs, &file, 5 * 4096, 4096);
        assert_eq!((behind, requests), (bytes(5 * 4096, 4096), 1));
        // Taken away, it is asked for again.
        mount.notifier.inval_inode(NODE, 8192, Some(4096)).unwrap();
        assert_eq!(read(&fs, &file, 8192, 4096), (bytes(8192, 4096), 1));
        assert_eq!(read(&fs, &file, 3 * 4096, 4096), (vec![0x5a; 4096], 0));
        mount.notifier.inval_inode(NODE, 0, None).unwrap();
        assert_eq!(read(&fs, &file, 3 * 4096, 4096), (bytes(3 * 4096, 4096), 1));
        // The file does not grow, whatever is stored.
        let tail = bytes(FILE_SIZE - 4096, 10_000);
        assert_eq!(mount.notifier.store(NODE, FILE_SIZE - 4096, &tail).unwrap(), 4096);
        assert_eq!(mount.notifier.store(NODE, FILE_SIZE, &tail).unwrap(), 0);
        assert_eq!(file.metadata().unwrap().len(), FILE_SIZE);
        assert_eq!(read(&fs, &file, FILE_SIZE - 4096, 8192), (tail[..4096].to_vec(), 0));
        // More than the kernel takes at a time.
        let long = vec![0x77; 3 << 20];
        assert_eq!(mount.notifier.store(NODE, 1 << 20, &long).unwrap(), 3 << 20);
        assert_eq!(read(&fs, &file, (4 << 20) - 4096, 4096), (vec![0x77; 4096], 0));
        let unknown = mount.notifier.store(1_000_000, 0, &[0; 4096]).unwrap_err();
        assert_eq!(unknown.kind(), std::io::ErrorKind::NotFound);
        drop(file);
        mount.finish();
        let ended = mount.notifier.store(NODE, 0, &[0; 4096]).unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::NotConnected);
    });
}

#[test]
fn surplus_comes_to_the_page_cache_and_never_blocks() {
    over_each_transport(|transport| {
        let (fs, mut mount) = mounted(transport);
        let surplus = mount.notifier.surplus(1 << 20).unwrap();
        let file = File::open(mount.path("file")).unwrap();
        assert!(surplus.offer(NODE, 65536, vec![0x5a; 65536]));
        assert!(!surplus.offer(NODE, 0, vec![0; (1 << 20) + 1]));
        while surplus.stats().stored_bytes < 65536 {
            std::thread::yield_now();
        }
        assert_eq!(read(&fs, &file, 65536, 65536), (vec![0x5a; 65536], 0));
        // Pages that a read waits for: the queue waits, whoever fills it does not.
        let gated = File::open(mount.path("gated")).unwrap();
        let reader = std::thread::spawn(move || gated.read_at(&mut [0; 4096], 0));
        fs.wait_for_gated(1);
        // The node that "gated" has.
        let mut offered = 0;
        while surplus.offer(7, 0, bytes(0, 65536)) {
            offered += 1;
        }
        assert!(offered <= 16);
        fs.open_gate();
        reader.join().unwrap().unwrap();
        while surplus.stats().waiting_bytes > 0 {
            std::thread::yield_now();
        }
        let stats = surplus.stats();
        assert_eq!((stats.stored, stats.refused, stats.dropped), (1 + offered, 0, 2));
        drop(file);
        mount.finish();
    });
}
