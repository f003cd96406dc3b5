// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache's end of a Unix socket: serves its device to a daemon in another process.
//!
//! A connection is the open device. It begins with a greeting: a status, the form, and two events to
//! poll. Then each packet of the daemon (number, letter, rest) is a read (`R`) or a write (`W`) of
//! the device and gets one packet back (number, status, rest). With an OPEN come two descriptors:
//! the object's file, for writing, and a socket on which READs are completed and whose end says that
//! the daemon has let go of the object. Invariant: a daemon that sends nonsense loses its own
//! connection or object, nothing else.

use super::emulator::{LocalDevice, LocalObject, wait_for};
use super::{Emulator, Form, MESSAGE_MAX, ObjectFile};
use ferrofs_linux::{descriptors, process};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::{debug, warn};

/// Begins a greeting.
pub(super) const GREETING: &[u8; 8] = b"ferroCF1";
/// The longest packet.
pub(super) const PACKET_MAX: usize = 4096 + 16;

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a socket knows its peer's user, no more")]
pub enum Peers {
    /// Our own user, and root.
    #[default]
    OwnUser,
    /// Nobody.
    Nobody,
}

/// A cache that listens.
#[derive(Debug)]
pub struct CacheSocket {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CacheSocket {
    /// Listens at `path`, which must not exist or be a socket that nobody listens at.
    pub fn listen(emulator: Emulator, path: &Path, peers: Peers) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open =
            || rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let listener = open()?;
        match rustix::net::bind(&listener, &address) {
            Err(Errno::ADDRINUSE) => {
                if rustix::net::connect(open()?, &address) != Err(Errno::CONNREFUSED) {
                    return Err(Errno::ADDRINUSE.into());
                }
                std::fs::remove_file(path)?;
                rustix::net::bind(&listener, &address)?;
            }
            other => other?,
        }
        rustix::net::listen(&listener, 8)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let builder = thread::Builder::new().name(String::from("cache-socket"));
        let thread = builder.spawn(move || accept(&emulator, &listener, peers, &seen))?;
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for CacheSocket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told its own panic.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(emulator: &Emulator, listener: &OwnedFd, peers: Peers, stop: &Arc<AtomicBool>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        threads.retain(|thread| !thread.is_finished());
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if wait_for(&mut fds, Duration::from_millis(100)).is_err() {
            break;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else { continue };
        if let Err(errno) = check_peer(&socket, peers) {
            warn!("a connection of another user is refused");
            greet(emulator, &socket, Err(errno));
            continue;
        }
        let device = match emulator.device() {
            Ok(device) => device,
            Err(error) => {
                greet(emulator, &socket, Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
                continue;
            }
        };
        if greet(emulator, &socket, Ok(())) {
            let stop = Arc::clone(stop);
            threads.push(thread::spawn(move || {
                let served = Connection::new(device, socket).and_then(|mut one| one.serve(&stop));
                if let Err(error) = served {
                    warn!(%error, "a daemon's connection has ended");
                }
            }));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn check_peer(socket: &OwnedFd, peers: Peers) -> Result<(), Errno> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    let known = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    if known && peers == Peers::OwnUser { Ok(()) } else { Err(Errno::PERM) }
}

/// Whether the peer is to be served.
fn greet(emulator: &Emulator, socket: &OwnedFd, status: Result<(), Errno>) -> bool {
    let mut bytes = GREETING.to_vec();
    bytes.extend_from_slice(&number_of(status).to_le_bytes());
    bytes.push(u8::from(emulator.inner_form() == Form::Merged));
    let fds = [emulator.requests_fd(), emulator.culling_fd()];
    let fds = if status.is_ok() { &fds[..] } else { &[] };
    descriptors::send(socket, &bytes, fds).is_ok() && status.is_ok()
}

/// 0 or an error number.
fn number_of(status: Result<(), Errno>) -> u32 {
    status.map_or_else(|errno| errno.raw_os_error().cast_unsigned(), |()| 0)
}

/// A daemon and the objects that it holds.
struct Connection {
    device: LocalDevice,
    socket: OwnedFd,
    epoll: OwnedFd,
    objects: HashMap<u64, (OwnedFd, LocalObject)>,
    next: u64,
}

impl Connection {
    fn new(device: LocalDevice, socket: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self { device, socket, epoll, objects: HashMap::new(), next: 1 })
    }

    /// Until the daemon's last copy of the connection is closed.
    fn serve(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&pause)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    0 => {
                        if !self.packet()? {
                            return Ok(());
                        }
                    }
                    object => self.control(object),
                }
            }
        }
        Ok(())
    }

    /// One packet of the daemon; false at its end.
    fn packet(&mut self) -> io::Result<bool> {
        let mut buf = [0; PACKET_MAX];
        let (len, fds) = match descriptors::receive(&self.socket, &mut buf) {
            Ok(received) => received,
            // A worker that was killed leaves this; others may hold the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        // Nothing is ever sent to us.
        drop(fds);
        if len == 0 {
            return Ok(false);
        }
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a packet of no known kind");
        let (number, rest) = buf[..len].split_first_chunk::<8>().ok_or_else(malformed)?;
        match rest {
            [b'W', text @ ..] => {
                let status = number_of(self.device.write(text));
                self.reply(*number, status, &[], &[])?;
            }
            [b'R', room @ ..] => {
                let room = room.try_into().map(u32::from_le_bytes).map_err(|_| malformed())?;
                self.read(*number, room as usize)?;
            }
            _ => return Err(malformed()),
        }
        Ok(true)
    }

    fn read(&mut self, number: [u8; 8], room: usize) -> io::Result<()> {
        let mut message = [0; MESSAGE_MAX];
        let room = room.min(MESSAGE_MAX);
        let (len, object) = match self.device.read(&mut message[..room]) {
            Ok(delivery) => (delivery.len, delivery.object),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return self.reply(number, number_of(Err(errno)), &[], &[]);
            }
        };
        let Some(object) = object else { return self.reply(number, 0, &message[..len], &[]) };
        let (ours, theirs) = process::message_pair()?;
        let sent = self.reply(number, 0, &message[..len], &[object.file().as_fd(), theirs.as_fd()]);
        drop(theirs);
        sent?;
        let key = self.next;
        self.next += 1;
        epoll::add(&self.epoll, &ours, EventData::new_u64(key), EventFlags::IN)?;
        self.objects.insert(key, (ours, object));
        Ok(())
    }

    fn reply(
        &self,
        number: [u8; 8],
        status: u32,
        rest: &[u8],
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut bytes = number.to_vec();
        bytes.extend_from_slice(&status.to_le_bytes());
        bytes.extend_from_slice(rest);
        descriptors::send(&self.socket, &bytes, fds).map(|_| ())
    }

    /// Something on an object's socket: a completion, or its end.
    fn control(&mut self, key: u64) {
        let Some((socket, object)) = self.objects.get(&key) else { return };
        let mut buf = [0; 8];
        let good = match descriptors::receive(socket, &mut buf) {
            Ok((4, fds)) if fds.is_empty() => {
                let id = u32::from_le_bytes([buf[0], buf[1], buf[2], buf[3]]);
                let status = object.complete(id).map_err(|error| {
                    debug!(id, %error, "a completion is stale");
                    Errno::from_io_error(&error).unwrap_or(Errno::IO)
                });
                descriptors::send(socket, &number_of(status).to_le_bytes(), &[]).is_ok()
            }
            Ok((0, _)) => false,
            Ok(_) | Err(_) => {
                warn!("an object's socket says nonsense: the object is let go of");
                false
            }
        };
        if !good {
            // Closing it takes it out of the epoll set.
            self.objects.remove(&key);
        }
    }
}
