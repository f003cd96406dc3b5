// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many requests at a time, some of them slow.

use super::*;

/// As many slow reads as may be, one after the other; whoever comes then is answered all the same.
#[test]
fn slow_reads_hold_up_nobody_else() {
    over_each_transport(|transport| {
        let config = SessionConfig { threads_max: 9, ..over(transport) };
        let fs = Arc::new(Memory::new(1));
        let mut mount = Mount::new(Arc::clone(&fs), config).unwrap();
        let mut readers = Vec::new();
        for part in 0..8_u64 {
            let file = mount.direct("gated");
            readers.push(std::thread::spawn(move || {
                let mut buf = [0; 4096];
                file.read_exact_at(&mut buf, part * 65536).unwrap();
                assert_eq!(buf[5], byte_at(part * 65536 + 5));
            }));
            fs.wait_for_gated(part as usize + 1);
        }
        let file = mount.direct("file");
        within_limit("a fast read", move || {
            let mut buf = [0; 4096];
            for page in 0..200 {
                file.read_exact_at(&mut buf, page * 4096).unwrap();
                assert_eq!(buf[7], byte_at(page * 4096 + 7));
            }
        });
        fs.open_gate();
        for reader in readers {
            reader.join().unwrap();
        }
        mount.finish();
    });
}

/// Readers of all kinds at a time, with odd offsets and lengths, and slow and failing files.
#[test]
fn everything_at_once() {
    over_each_transport(|transport| {
        let fs = Arc::new(Memory::new(1));
        fs.open_gate();
        let mut mount = Mount::new(fs, over(transport)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..12_u64 {
                let mount = &mount;
                scope.spawn(move || exercise(mount, thread));
            }
        });
        let stats = mount.finish();
        assert_eq!(stats.ring_requests > 0, transport == Transport::Ring);
    });
}

fn exercise(mount: &Mount, thread: u64) {
    let cached = File::open(mount.path("file")).unwrap();
    let direct = mount.direct("file");
    let corrupt = mount.direct("corrupt");
    let mut buf = vec![0; 300_000];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread + 1);
    for step in 0..150_u64 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let offset = seed % (FILE_SIZE + 5000);
        let len = (seed >> 32) as usize % buf.len();
        let file = if step % 2 == 0 { &cached } else { &direct };
        let mut done = 0;
        while done < len {
            match file.read_at(&mut buf[done..len], offset + done as u64).unwrap() {
                0 => break,
                read => done += read,
            }
        }
        assert_eq!(done as u64, FILE_SIZE.saturating_sub(offset).min(len as u64));
        assert!(buf[..done].iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)));
        match step % 16 {
            3 => drop(corrupt.read_at(&mut buf[..4096], 0).unwrap_err()),
            5 => drop(fs::metadata(mount.path("absent")).unwrap_err()),
            7 => {
                let name = format!("many/entry-{}", seed % MANY);
                assert_eq!(fs::metadata(mount.path(&name)).unwrap().size(), 1000 + seed % MANY);
            }
            9 => assert!(fs::read_dir(mount.path("many")).unwrap().count() > 5000),
            11 => drop(rustix::fs::fadvise(&cached, 0, None, rustix::fs::Advice::DontNeed)),
            _ => {}
        }
    }
}

/// Reads as long as the kernel permits, in one request.
#[test]
fn long_reads() {
    over_each_transport(|transport| {
        let config = SessionConfig { max_read: 4 << 20, ..over(transport) };
        let fs = Arc::new(Memory::new(1));
        let mut mount = Mount::new(Arc::clone(&fs), config).unwrap();
        let max_read = mount.negotiated.max_read as usize;
        assert!((1 << 20..=4 << 20).contains(&max_read));
        let mut buf = vec![0; max_read + 4096];
        let start = buf.as_ptr().align_offset(4096);
        let buf = &mut buf[start..start + max_read];
        let file = mount.direct("file");
        file.read_exact_at(buf, 4096).unwrap();
        assert!(buf.iter().zip(4096..).all(|(byte, at)| *byte == byte_at(at)));
        assert_eq!(fs.reads.load(Ordering::SeqCst), 1);
        drop(file);
        mount.finish();
    });
}
