// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon against caches that say nonsense, against direct I/O, and culling on its behalf.

use super::super::*;
use super::*;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

fn patient() -> Demand {
    Demand::soft(Duration::from_secs(60))
}

/// A blob whose bytes tell their place.
#[derive(Debug)]
struct Places(u64);

impl BlobProvider for Places {
    fn blob(&self, _: &[u8], _: &[u8]) -> Result<Arc<dyn ProvidedBlob>, ProviderError> {
        Ok(Arc::new(Self(self.0)))
    }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

impl ProvidedBlob for Places {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64, _: &Demand) -> Result<(), ProviderError> {
        assert!(offset + buf.len() as u64 <= self.0, "past the end");
        for (at, target) in buf.iter_mut().enumerate() {
            *target = byte(offset + at as u64);
        }
        Ok(())
    }
}

/// A message, and what comes with it.
type Said = (Vec<u8>, Option<Arc<Noted>>);

/// A device that says what it was told to, and notes what it is told.
#[derive(Debug, Default)]
struct Scripted {
    form: Option<Form>,
    messages: Mutex<VecDeque<Said>>,
    commands: Mutex<Vec<String>>,
    /// OPENs that were given out.
    opens: AtomicU64,
}

#[derive(Debug, Default)]
struct Noted {
    written: Mutex<Vec<(u64, usize)>>,
    completed: Mutex<Vec<u32>>,
    /// Writes no more than this at once.
    short: usize,
    full: bool,
}

impl ObjectFile for Arc<Noted> {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let aligned = [buf.as_ptr().addr() as u64, buf.len() as u64, offset];
        assert!(aligned.iter().all(|number| number % 4096 == 0), "{aligned:?}");
        if self.full {
            return Err(Errno::NOSPC.into());
        }
        let len = if self.short > 0 { buf.len().min(self.short) } else { buf.len() };
        self.written.lock().unwrap().push((offset, len));
        Ok(len)
    }

    fn complete(&self, id: u32) -> io::Result<()> {
        self.completed.lock().unwrap().push(id);
        // Somebody gave up waiting.
        Err(Errno::NOENT.into())
    }
}

impl Device for Scripted {
    fn form(&self) -> Form {
        self.form.unwrap_or(Form::Merged)
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<Box<dyn ObjectFile>>)> {
        let Some((bytes, file)) = self.messages.lock().unwrap().pop_front() else {
            return Ok((0, None));
        };
        buf[..bytes.len()].copy_from_slice(&bytes);
        let parsed = Message::parse(self.form(), &bytes);
        if parsed.is_ok_and(|message| matches!(message.body, Body::Open(_))) {
            self.opens.fetch_add(1, Ordering::SeqCst);
        }
        Ok((bytes.len(), file.map(|file| Box::new(file) as Box<dyn ObjectFile>)))
    }

    fn command(&self, text: &[u8]) -> io::Result<()> {
        self.commands.lock().unwrap().push(String::from_utf8_lossy(text).into_owned());
        Ok(())
    }

    fn wait(&self, _: Duration) -> io::Result<Ready> {
        let empty = self.messages.lock().unwrap().is_empty();
        // As a cache does: what follows an OPEN comes after its answer.
        let commands = self.commands.lock().unwrap();
        let answers = commands.iter().filter(|text| text.starts_with("copen")).count() as u64;
        if answers < self.opens.load(Ordering::SeqCst) {
            return Ok(Ready::default());
        }
        Ok(Ready { request: !empty, culling: false, closed: empty })
    }
}

fn message(form: Form, id: u32, object: u32, body: Body) -> Vec<u8> {
    Message { id, object, body }.encode(form).unwrap()
}

fn open(fd: u32) -> Body {
    Body::Open(Open { volume: b"v".to_vec(), cookie: b"c".to_vec(), fd, flags: 0 })
}

fn read(offset: u64, len: u64, fd: u32) -> Body {
    Body::Read(Read { offset, len, fd })
}

fn serve(messages: Vec<Said>, form: Form) -> (Vec<String>, DaemonStats) {
    let device = Arc::new(Scripted {
        form: Some(form),
        messages: Mutex::new(messages.into()),
        ..Scripted::default()
    });
    // One thread: in order.
    let config = DaemonConfig { threads: 1, ..DaemonConfig::default() };
    let daemon = Daemon::new(device.clone(), Arc::new(Places(100_001)), config);
    daemon.run().unwrap();
    let commands = device.commands.lock().unwrap().clone();
    (commands, daemon.stats())
}

#[test]
fn malformed_messages_harm_nobody_else() {
    let good = Arc::new(Noted::default());
    let mut messages = vec![(message(Form::Merged, 1, 1, open(9)), Some(Arc::clone(&good)))];
    let valid = message(Form::Merged, 2, 1, read(0, 4096, 0));
    for at in 0..valid.len() {
        messages.push((valid[..at.max(1)].to_vec(), None));
    }
    let whole = message(Form::Merged, 3, 7, open(9));
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 0xff;
        // Of those that are still messages none has a descriptor.
        messages.push((wrong, None));
    }
    messages.push((vec![0xff; MESSAGE_MAX], None));
    messages.push((message(Form::Merged, 4, 1, read(4096, 4096, 0)), None));
    let (commands, stats) = serve(messages, Form::Merged);
    assert!(stats.malformed > 30, "{stats:?}");
    assert!(commands.contains(&String::from("copen 1,100001")), "{commands:?}");
    assert_eq!(*good.completed.lock().unwrap(), [4]);
    assert_eq!(*good.written.lock().unwrap(), [(4096, 4096)]);
}

#[test]
fn ranges_that_lie_end_in_an_answer() {
    let good = Arc::new(Noted::default());
    let mut messages = vec![(message(Form::Merged, 1, 1, open(9)), Some(Arc::clone(&good)))];
    let ranges = [
        (u64::MAX, 4096),
        (u64::MAX - 4095, 4096),
        (0, u64::MAX),
        (1 << 63, 1 << 63),
        (102_400, 4096),
        (98_304, 1 << 40),
        (5, 1),
        (0, 0),
    ];
    for (number, (offset, len)) in ranges.iter().enumerate() {
        let id = 10 + number as u32;
        let mut bytes = message(Form::Merged, id, 1, read(0, 4096, 0));
        bytes[16..24].copy_from_slice(&offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&len.to_le_bytes());
        messages.push((bytes, None));
    }
    let (_, stats) = serve(messages, Form::Merged);
    let completed = good.completed.lock().unwrap().clone();
    assert_eq!(completed.len() as u64 + stats.malformed, ranges.len() as u64, "{stats:?}");
    for (offset, len) in good.written.lock().unwrap().iter() {
        assert!(offset + *len as u64 <= 102_400, "{offset}+{len}");
    }
}

#[test]
fn stale_requests_are_left_alone_or_refused() {
    let (first, second) = (Arc::new(Noted::default()), Arc::new(Noted::default()));
    let messages = vec![
        (message(Form::Merged, 1, 1, read(0, 4096, 0)), None),
        (message(Form::Merged, 2, 1, Body::Close), None),
        (message(Form::Merged, 3, 1, open(9)), Some(Arc::clone(&first))),
        // Opened again, with another descriptor: the old one is let go of.
        (message(Form::Merged, 4, 1, open(9)), Some(Arc::clone(&second))),
        (message(Form::Merged, 6, 1, open(9)), None),
    ];
    let (commands, stats) = serve(messages, Form::Merged);
    let copens = ["copen 3,100001", "copen 4,100001"];
    assert!(copens.iter().all(|text| commands.iter().any(|c| c == text)), "{commands:?}");
    let refused = format!("copen 6,-{}", Errno::MFILE.raw_os_error());
    assert!(commands.contains(&refused), "{commands:?}");
    assert_eq!((stats.reads, stats.refused), (0, 1));
    assert_eq!(Arc::strong_count(&first), 1);
    // The original form answers without a descriptor: the reader gets its error at once.
    let (commands, _) =
        serve(vec![(message(Form::Original, 7, 0, read(0, 4096, 5)), None)], Form::Original);
    assert_eq!(commands, ["cread 7"]);
}

#[test]
fn writes_that_are_cut_short_go_on_at_pages_or_fail() {
    for (short, full, failed) in [(5000, false, 0), (100, false, 1), (0, true, 1)] {
        let file = Arc::new(Noted { short, full, ..Noted::default() });
        let held = Held::new(Arc::new(Places(100_001)), Box::new(Arc::clone(&file)));
        let filled = held.fill(0..20_000, &mut Buffer::new(), &patient());
        assert_eq!(u32::from(filled.is_err()), failed);
        if failed == 0 {
            let starts: Vec<u64> = file.written.lock().unwrap().iter().map(|w| w.0).collect();
            assert_eq!(starts, [0, 4096, 8192, 12288, 16384]);
        }
    }
}

/// Runs a daemon of the socket at `path` beside `body`.
fn beside(device: Arc<dyn Device>, body: impl FnOnce()) {
    let daemon = Daemon::new(device, Arc::new(Places(100_001)), DaemonConfig::default());
    daemon.bind().unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| daemon.run());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        daemon.stopper().cancel();
        running.join().unwrap().unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn direct_writes_are_aligned_whatever_is_read() {
    // Not on tmpfs everywhere: older ones refuse direct I/O.
    let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let config = EmulatorConfig { direct: true, read_max: 16384, ..EmulatorConfig::default() };
    let emulator = Emulator::new(root.path(), config).unwrap();
    let path = root.path().join("socket");
    let _socket = CacheSocket::listen(emulator.clone(), &path, Peers::OwnUser).unwrap();
    beside(Arc::new(SocketDevice::connect(&path).unwrap()), || {
        let object = emulator.volume(b"v").unwrap().cookie(b"c", &patient()).unwrap();
        for (from, len) in [(1, 1), (4095, 2), (100_000, 1), (50_001, 20_003), (0, 100_001)] {
            let mut buf = vec![0; len];
            object.read_at(&mut buf, from, &patient()).unwrap();
            assert!((from..).zip(&buf).all(|(at, found)| *found == byte(at)), "{from}+{len}");
        }
    });
    // What a daemon that heeds no rule would get.
    let device = loop {
        // The daemon's connection may not have been let go of yet.
        if let Ok(device) = emulator.device() {
            break device;
        }
        thread::sleep(Duration::from_millis(5));
    };
    device.command(b"bind ondemand").unwrap();
    thread::scope(|scope| {
        let opener = scope.spawn(|| emulator.volume(b"v").unwrap().cookie(b"d", &patient()));
        let mut buf = [0; MESSAGE_MAX];
        while !device.wait(Duration::from_secs(1)).unwrap().request {}
        let (len, file) = device.receive(&mut buf).unwrap();
        let id = Message::parse(Form::Merged, &buf[..len]).unwrap().id;
        let file = file.unwrap();
        let mut pages = Buffer::new();
        let pages = pages.pages();
        for (from, to, offset) in [(0, 4096, 1), (0, 4095, 0), (1, 4097, 0), (0, 512, 512)] {
            let error = file.write_at(&pages[from..to], offset).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL));
        }
        assert_eq!(file.write_at(&pages[..8192], 4096).unwrap(), 8192);
        device.command(&Command::Open { id, size: 50_000 }.text()).unwrap();
        opener.join().unwrap().unwrap();
    });
}

/// A cache at a socket that greets properly and sends these descriptors with its first OPEN.
fn impostor(path: &Path, fds: Vec<OwnedFd>) -> thread::JoinHandle<String> {
    let address = rustix::net::SocketAddrUnix::new(path).unwrap();
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        let event = rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let idle = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let greeting = [&super::super::socket::GREETING[..], &[0, 0, 0, 0, 1]].concat();
        let send = ferrofs_linux::descriptors::send;
        send(&socket, &greeting, &[event.as_fd(), idle.as_fd()]).unwrap();
        let mut fds = Some(fds);
        loop {
            let mut buf = [0; 5000];
            let (len, _) = ferrofs_linux::descriptors::receive(&socket, &mut buf).unwrap();
            assert!(len > 8, "the daemon has gone before it answered");
            let mut reply = [&buf[..8], &[0; 4]].concat();
            match (buf[8], fds.take()) {
                (b'R', Some(fds)) => {
                    reply.extend(message(Form::Merged, 5, 1, open(9)));
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    send(&socket, &reply, &fds).unwrap();
                }
                (kind, none) => {
                    fds = none;
                    send(&socket, &reply, &[]).unwrap();
                    let text = String::from_utf8_lossy(&buf[9..len]).into_owned();
                    if kind == b'W' && text.starts_with("copen") {
                        return text;
                    }
                }
            }
        }
    })
}

#[test]
fn descriptors_that_are_something_else_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let plain = root.path().join("file");
    std::fs::write(&plain, "content").unwrap();
    let writer = || OwnedFd::from(File::options().write(true).open(&plain).unwrap());
    let control = || ferrofs_linux::process::message_pair().unwrap().0;
    let null = |write: bool| {
        OwnedFd::from(File::options().read(!write).write(write).open("/dev/null").unwrap())
    };
    let wrong: Vec<(&str, Vec<OwnedFd>)> = vec![
        ("none", vec![]),
        ("one", vec![writer()]),
        ("three", vec![writer(), control(), control()]),
        ("a file for reading", vec![File::open(&plain).unwrap().into(), control()]),
        ("a file for both", {
            let file = File::options().read(true).write(true).open(&plain).unwrap();
            vec![file.into(), control()]
        }),
        ("a device", vec![null(true), control()]),
        ("a folder", vec![File::open(root.path()).unwrap().into(), control()]),
        ("a pipe", vec![rustix::pipe::pipe().unwrap().1, control()]),
        ("a socket as file", vec![control(), control()]),
        ("a file as socket", vec![writer(), writer()]),
        ("a stream", vec![writer(), std::os::unix::net::UnixStream::pair().unwrap().0.into()]),
    ];
    for (number, (what, fds)) in wrong.into_iter().enumerate() {
        let path = root.path().join(number.to_string());
        let cache = impostor(&path, fds);
        let device = Arc::new(SocketDevice::connect(&path).unwrap());
        let daemon = Daemon::new(device, Arc::new(Places(5000)), DaemonConfig::default());
        daemon.run().unwrap();
        let answer = cache.join().unwrap();
        assert!(answer.starts_with("copen 5,-"), "{what}: {answer}");
    }
    assert_eq!(std::fs::read(&plain).unwrap(), b"content");
    let path = root.path().join("good");
    let cache = impostor(&path, vec![writer(), control()]);
    let device = Arc::new(SocketDevice::connect(&path).unwrap());
    Daemon::new(device, Arc::new(Places(5000)), DaemonConfig::default()).run().unwrap();
    assert_eq!(cache.join().unwrap(), "copen 5,5000");
}

#[test]
fn objects_are_culled_by_name_unless_in_use() {
    let root = tempfile::tempdir().unwrap();
    let room = Arc::new(std::sync::atomic::AtomicU8::new(50));
    let seen = Arc::clone(&room);
    let space = Arc::new(move || Space {
        blocks: seen.load(Ordering::SeqCst),
        files: seen.load(Ordering::SeqCst),
    });
    let config = EmulatorConfig { space: Some(space), ..EmulatorConfig::default() };
    let emulator = Emulator::new(root.path(), config).unwrap();
    let path = root.path().join("socket");
    let _socket = CacheSocket::listen(emulator.clone(), &path, Peers::OwnUser).unwrap();
    let device = Arc::new(SocketDevice::connect(&path).unwrap());
    let seen = Arc::clone(&device);
    beside(device, || {
        let volume = emulator.volume(b"v").unwrap();
        let object = volume.cookie(b"used", &patient()).unwrap();
        object.read_at(&mut [0; 10], 0, &patient()).unwrap();
        drop(volume.cookie(b"idle", &patient()).unwrap());
        let status = |text: &str| match seen.command(text.as_bytes()) {
            Ok(()) => None,
            Err(error) => Errno::from_io_error(&error),
        };
        assert_eq!(status("inuse Dused"), Some(Errno::BUSY));
        assert_eq!(status("inuse Didle"), None);
        assert_eq!(status("cull Dused"), Some(Errno::BUSY));
        assert_eq!(status("cull Dother"), Some(Errno::NOENT));
        assert_eq!(status("cull ../Didle"), Some(Errno::INVAL));
        assert_eq!(status("cull"), Some(Errno::INVAL));
        assert_eq!(status("cull Didle"), None);
        assert_eq!(status("cull Didle"), Some(Errno::NOENT));
        // While room is short the one who makes some takes what is unused, and only that.
        drop(volume.cookie(b"idle", &patient()).unwrap());
        assert!(!seen.wait(Duration::ZERO).unwrap().culling);
        let before = std::env::current_dir().unwrap();
        let culler = Culler::new(root.path());
        assert_eq!(culler.cull(&*seen).unwrap(), 0);
        room.store(3, Ordering::SeqCst);
        // The cache notices by itself from time to time; here it is asked to look, and finds both.
        let removed = emulator.cull().unwrap();
        assert_eq!(removed, 1);
        assert!(seen.wait(Duration::ZERO).unwrap().culling);
        assert_eq!(culler.cull(&*seen).unwrap(), 0, "all that is left is in use");
        std::env::set_current_dir(before).unwrap();
        object.read_at(&mut [0; 10], 50_000, &patient()).unwrap();
    });
}
