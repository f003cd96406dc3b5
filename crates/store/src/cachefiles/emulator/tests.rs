// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache and the daemon against each other, in one process and over a socket.

use super::super::daemon::{Device, ObjectFile};
use super::super::*;
use crate::{Cancel, Deadline, Demand};
use rustix::io::Errno;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Long enough on the slowest machine: only a hang takes it.
fn patient() -> Demand {
    Demand::soft(Duration::from_secs(60))
}

#[derive(Debug)]
struct Patterns;

#[derive(Debug)]
struct Pattern(u8, u64);

impl BlobProvider for Patterns {
    fn blob(&self, _: &[u8], cookie: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        match cookie {
            b"none" => Err(ProviderError::new(Errno::NOENT, "none")),
            _ => Ok(Arc::new(Pattern(cookie[0], 100_000 + u64::from(cookie[0])))),
        }
    }
}

fn byte(seed: u8, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ seed
}

impl ProvidedBlob for Pattern {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64, _: &Demand) -> Result<(), ProviderError> {
        if self.0 == b'!' && offset >= 8192 {
            return Err(ProviderError::new(Errno::IO, "broken"));
        }
        for (at, target) in buf.iter_mut().enumerate() {
            *target = byte(self.0, offset + at as u64);
        }
        Ok(())
    }
}

fn check(object: &Object, seed: u8, offset: u64, len: usize) {
    let mut buf = vec![0; len];
    object.read_at(&mut buf, offset, &patient()).unwrap();
    for (at, found) in buf.iter().enumerate() {
        assert_eq!(*found, byte(seed, offset + at as u64), "at {}", offset + at as u64);
    }
}

fn cache(config: EmulatorConfig) -> (tempfile::TempDir, Emulator) {
    let root = tempfile::tempdir().unwrap();
    let emulator = Emulator::new(root.path(), config).unwrap();
    (root, emulator)
}

/// Runs a daemon beside `body`.
fn with_daemon(device: Arc<dyn Device>, restore: bool, body: impl FnOnce(&Daemon)) {
    let config = DaemonConfig { threads: 4, restore, ..DaemonConfig::default() };
    let daemon = Daemon::new(device, Arc::new(Patterns), config);
    daemon.bind().unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| daemon.run());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&daemon)));
        daemon.stopper().cancel();
        running.join().unwrap().unwrap();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A device that is read by hand.
fn bound(emulator: &Emulator) -> LocalDevice {
    let device = emulator.device().unwrap();
    device.command(b"bind ondemand").unwrap();
    device
}

fn next(device: &LocalDevice) -> (Message, Option<Box<dyn ObjectFile>>) {
    let mut buf = [0; MESSAGE_MAX];
    while !device.wait(Duration::from_secs(1)).unwrap().request {}
    let (len, object) = device.receive(&mut buf).unwrap();
    (Message::parse(device.form(), &buf[..len]).unwrap(), object)
}

fn answer(device: &LocalDevice, size: i64) -> (u32, Box<dyn ObjectFile>) {
    let (message, object) = next(device);
    assert!(matches!(message.body, Body::Open(_)), "{message:?}");
    device.command(&Command::Open { id: message.id, size }.text()).unwrap();
    (message.object, object.unwrap())
}

#[test]
fn a_daemon_serves_in_both_forms_and_keeps_to_alignment() {
    for form in [Form::Merged, Form::Original] {
        let failover = form == Form::Merged;
        let (_root, emulator) =
            cache(EmulatorConfig { form, failover, ..EmulatorConfig::default() });
        let device = Arc::new(emulator.device().unwrap());
        with_daemon(device, false, |daemon| {
            let volume = emulator.volume(b"erofs,x").unwrap();
            let object = volume.cookie(b"abc", &patient()).unwrap();
            assert_eq!(object.size(), 100_000 + u64::from(b'a'));
            check(&object, b'a', 5, 10_000);
            check(&object, b'a', 0, object.size() as usize);
            assert!(object.is_present(0..object.size()).unwrap());
            let reads = daemon.stats().reads;
            check(&object, b'a', 0, object.size() as usize);
            assert_eq!(daemon.stats().reads, reads);
            assert!(object.read_at(&mut [0; 2], object.size() - 1, &patient()).is_err());
            let bad = volume.cookie(b"!", &patient()).unwrap();
            check(&bad, b'!', 0, 8192);
            let failed = bad.read_at(&mut [0; 1], 50_000, &patient());
            assert_eq!(failed.unwrap_err().errno(), Errno::IO);
            if form == Form::Merged {
                assert_eq!(volume.cookie(b"none", &patient()).unwrap_err().errno(), Errno::NOENT);
            }
        });
    }
}

#[test]
fn what_was_read_stays_when_the_blob_is_opened_again() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    with_daemon(Arc::new(emulator.device().unwrap()), false, |daemon| {
        let volume = emulator.volume(b"v").unwrap();
        check(&volume.cookie(b"a", &patient()).unwrap(), b'a', 0, 100_000);
        let reads = daemon.stats().reads;
        check(&volume.cookie(b"a", &patient()).unwrap(), b'a', 0, 100_000);
        assert_eq!(daemon.stats().reads, reads);
    });
}

#[test]
fn the_device_has_the_manners_of_the_kernels() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    let volume = emulator.volume(b"v").unwrap();
    assert_eq!(volume.cookie(b"a", &patient()).unwrap_err(), ReadError::Unbound);
    let device = emulator.device().unwrap();
    assert_eq!(Errno::from_io_error(&emulator.device().unwrap_err()), Some(Errno::BUSY));
    let errno = |text: &[u8]| Errno::from_io_error(&device.command(text).unwrap_err()).unwrap();
    assert_eq!(errno(b"bind"), Errno::OPNOTSUPP);
    assert_eq!(errno(b"bind x"), Errno::INVAL);
    device.command(b"brun 20%").unwrap();
    device.command(b"bind ondemand").unwrap();
    assert_eq!(device.receive(&mut [0; MESSAGE_MAX]).unwrap().0, 0);
    thread::scope(|scope| {
        let opener = scope.spawn(|| volume.cookie(b"a", &patient()));
        while !device.wait(Duration::from_secs(1)).unwrap().request {}
        // Too small a buffer leaves the request where it is.
        let small = device.receive(&mut [0; 20]).unwrap_err();
        assert_eq!(Errno::from_io_error(&small), Some(Errno::MSGSIZE));
        assert!(device.wait(Duration::ZERO).unwrap().request);
        let (message, file) = next(&device);
        assert!(!device.wait(Duration::ZERO).unwrap().request);
        for wrong in [format!("copen {},5", message.id + 1), String::from("copen 77,5")] {
            assert_eq!(errno(wrong.as_bytes()), Errno::INVAL);
        }
        assert!(file.unwrap().complete(message.id).is_err());
        // Without its descriptor the object is asked for again.
        let (_, _file) = answer(&device, 5);
        assert_eq!(opener.join().unwrap().unwrap().size(), 5);
    });
    assert!(matches!(next(&device).0.body, Body::Close));
    assert_eq!(emulator.load(), (0, 0));
}

#[test]
fn nobody_waits_for_a_device_that_is_closed() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    let device = bound(&emulator);
    let volume = emulator.volume(b"v").unwrap();
    thread::scope(|scope| {
        let opener = scope.spawn(|| volume.cookie(b"a", &patient()));
        let _file = answer(&device, 50_000);
        let object = Arc::new(opener.join().unwrap().unwrap());
        let readers: Vec<_> = (0..8)
            .map(|at| {
                let object = Arc::clone(&object);
                scope.spawn(move || object.read_at(&mut [0; 1], at * 5000, &Demand::default()))
            })
            .collect();
        let _ = next(&device);
        drop(device);
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap_err().errno(), Errno::IO);
        }
        assert_eq!(object.read_at(&mut [0; 1], 0, &patient()).unwrap_err(), ReadError::Dead);
        assert_eq!(volume.cookie(b"b", &patient()).unwrap_err(), ReadError::Dead);
        // Another daemon begins anew.
        with_daemon(Arc::new(emulator.device().unwrap()), false, |_| {
            check(&volume.cookie(b"a", &patient()).unwrap(), b'a', 0, 100_000);
            assert_eq!(object.read_at(&mut [0; 1], 0, &patient()).unwrap_err(), ReadError::Dead);
        });
    });
}

#[test]
fn a_completed_read_without_bytes_fails_and_a_short_one_asks_again() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    let device = bound(&emulator);
    let volume = emulator.volume(b"v").unwrap();
    thread::scope(|scope| {
        let opener = scope.spawn(|| volume.cookie(b"a", &patient()));
        let (_, file) = answer(&device, 8192);
        let object = opener.join().unwrap().unwrap();
        let reader = scope.spawn(|| object.read_at(&mut [0; 8192], 0, &patient()).map(|()| object));
        let (message, _) = next(&device);
        file.write_at(&[1; 4096], 0).unwrap();
        file.complete(message.id).unwrap();
        assert!(file.complete(message.id).is_err(), "twice");
        let (message, _) = next(&device);
        let Body::Read(read) = message.body else { panic!() };
        assert_eq!(read.range(), 4096..8192);
        file.complete(message.id).unwrap();
        assert_eq!(reader.join().unwrap().unwrap_err(), ReadError::Missing { offset: 4096 });
    });
}

#[test]
fn a_lost_descriptor_is_asked_for_again_or_fails() {
    for failover in [true, false] {
        let (_root, emulator) = cache(EmulatorConfig { failover, ..EmulatorConfig::default() });
        let device = bound(&emulator);
        let volume = emulator.volume(b"v").unwrap();
        thread::scope(|scope| {
            let opener = scope.spawn(|| volume.cookie(b"a", &patient()));
            let (_, file) = answer(&device, 4096);
            let object = opener.join().unwrap().unwrap();
            let reader = scope.spawn(move || object.read_at(&mut [0; 4096], 0, &patient()));
            let (first, _) = next(&device);
            drop(file);
            if failover {
                let (_, file) = answer(&device, 4096);
                let (again, _) = next(&device);
                assert_eq!(again.id, first.id);
                file.write_at(&[1; 4096], 0).unwrap();
                file.complete(again.id).unwrap();
                reader.join().unwrap().unwrap();
            } else {
                assert_eq!(reader.join().unwrap().unwrap_err().errno(), Errno::IO);
            }
        });
    }
}

#[test]
fn restore_brings_back_what_was_not_answered() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    let device = Arc::new(bound(&emulator));
    let volume = emulator.volume(b"v").unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| volume.cookie(b"a", &patient()).unwrap());
        let (_, file) = answer(&device, 100_000 + i64::from(b'a'));
        let object = first.join().unwrap();
        let second = scope.spawn(|| volume.cookie(b"b", &patient()).unwrap());
        let lost = next(&device);
        let reader = scope.spawn(move || check(&object, b'a', 0, 90_000));
        let _ = next(&device);
        // The daemon dies with an OPEN and a READ in its hands.
        drop((file, lost));
        with_daemon(device, true, |_| {
            reader.join().unwrap();
            check(&second.join().unwrap(), b'b', 0, 90_000);
        });
    });
}

#[test]
fn a_reader_may_give_up() {
    let (_root, emulator) = cache(EmulatorConfig::default());
    let device = bound(&emulator);
    let volume = emulator.volume(b"v").unwrap();
    let short = Demand::soft(Duration::from_millis(20));
    assert_eq!(volume.cookie(b"a", &short).unwrap_err(), ReadError::Deadline);
    let cancel = Cancel::new();
    let demand =
        Demand { deadline: Deadline::Hard, cancel: Some(cancel.clone()), ..Demand::default() };
    thread::scope(|scope| {
        let reader = scope.spawn(|| volume.cookie(b"b", &demand));
        cancel.cancel();
        assert_eq!(reader.join().unwrap().unwrap_err(), ReadError::Cancelled);
    });
    assert_eq!(emulator.load().1, 0);
    drop(device);
}

#[test]
fn culling_takes_the_longest_unused_and_nothing_in_use() {
    let room = Arc::new(std::sync::atomic::AtomicU8::new(50));
    let seen = Arc::clone(&room);
    let space = Arc::new(move || {
        let blocks = seen.load(std::sync::atomic::Ordering::SeqCst);
        Space { blocks, files: 50 }
    });
    let (_root, emulator) =
        cache(EmulatorConfig { space: Some(space), ..EmulatorConfig::default() });
    with_daemon(Arc::new(emulator.device().unwrap()), false, |_| {
        let volume = emulator.volume(b"v").unwrap();
        let kept = volume.cookie(b"a", &patient()).unwrap();
        check(&kept, b'a', 0, 4096);
        check(&volume.cookie(b"b", &patient()).unwrap(), b'b', 0, 4096);
        assert_eq!(emulator.cull().unwrap(), 0);
        room.store(0, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(emulator.cull().unwrap(), 1);
        assert_eq!(volume.cookie(b"c", &patient()).unwrap_err(), ReadError::Full);
        check(&kept, b'a', 0, 8192);
        room.store(50, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(emulator.cull().unwrap(), 0);
        check(&volume.cookie(b"b", &patient()).unwrap(), b'b', 0, 8192);
    });
}

#[test]
fn a_daemon_serves_over_a_socket() {
    let (root, emulator) = cache(EmulatorConfig::default());
    let path = root.path().join("socket");
    let _socket = CacheSocket::listen(emulator.clone(), &path, Peers::OwnUser).unwrap();
    let device = SocketDevice::connect(&path).unwrap();
    let busy = SocketDevice::connect(&path).unwrap_err();
    assert_eq!(Errno::from_io_error(&busy), Some(Errno::BUSY));
    with_daemon(Arc::new(device), false, |daemon| {
        let volume = emulator.volume(b"v").unwrap();
        thread::scope(|scope| {
            for seed in b'a'..b'm' {
                let volume = &volume;
                scope.spawn(move || {
                    let object = volume.cookie(&[seed], &patient()).unwrap();
                    for offset in [90_000, 0, 40_000, 40_001] {
                        check(&object, seed, offset, 9000);
                    }
                });
            }
        });
        assert_eq!(daemon.stats().failed, 0);
    });
}

#[test]
fn nonsense_on_a_socket_harms_nobody_else() {
    let (root, emulator) = cache(EmulatorConfig::default());
    let path = root.path().join("socket");
    let _socket = CacheSocket::listen(emulator.clone(), &path, Peers::OwnUser).unwrap();
    for bytes in
        [&b"x"[..], b"12345678", b"12345678Q", b"12345678R", b"12345678R12345", &[0xff; 3000]]
    {
        // The one before may not have been let go of yet.
        let device = loop {
            match SocketDevice::connect(&path) {
                Ok(device) => break device,
                Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY)),
            }
            thread::sleep(Duration::from_millis(5));
        };
        ferrofs_linux::descriptors::send(device.descriptors()[0], bytes, &[]).unwrap();
        assert!(device.command(b"tag x").is_err());
    }
    let device = loop {
        if let Ok(device) = SocketDevice::connect(&path) {
            break device;
        }
        thread::sleep(Duration::from_millis(5));
    };
    with_daemon(Arc::new(device), false, |_| {
        check(&emulator.volume(b"v").unwrap().cookie(b"a", &patient()).unwrap(), b'a', 0, 50_000);
    });
}
