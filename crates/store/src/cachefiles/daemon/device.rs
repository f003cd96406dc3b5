// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two devices: the kernel's, and a cache behind a Unix socket.

use super::super::emulator::wait_for;
use super::super::socket::{GREETING, PACKET_MAX};
use super::super::{Form, MESSAGE_MAX};
use super::{Device, ObjectFile, Ready};
use ferrofs_linux::cachefiles::{self, CacheDevice};
use ferrofs_linux::descriptors;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `/dev/cachefiles`.
#[derive(Debug)]
pub struct KernelDevice(CacheDevice);

impl KernelDevice {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        Ok(Self(CacheDevice::open()?))
    }

    /// Takes over the descriptor that a supervisor has kept.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(CacheDevice::adopt(fd)?))
    }
}

impl AsFd for KernelDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Debug)]
struct KernelObject(File);

impl Device for KernelDevice {
    fn form(&self) -> Form {
        Form::Merged
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<Box<dyn ObjectFile>>)> {
        let (len, fd) = self.0.receive(buf)?;
        Ok((len, fd.map(|fd| Box::new(KernelObject(fd.into())) as Box<dyn ObjectFile>)))
    }

    fn command(&self, text: &[u8]) -> io::Result<()> {
        self.0.command(text)
    }

    fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        wait_for(&mut fds, timeout)?;
        let request = fds[0].revents().contains(PollFlags::IN);
        // Asked apart: while room is short the device is always writable.
        let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
        wait_for(&mut fds, Duration::ZERO)?;
        Ok(Ready { request, culling: fds[0].revents().contains(PollFlags::OUT), closed: false })
    }
}

impl ObjectFile for KernelObject {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn complete(&self, id: u32) -> io::Result<()> {
        cachefiles::read_complete(&self.0, id)
    }
}

/// A cache that listens at a socket.
#[derive(Debug)]
pub struct SocketDevice {
    form: Form,
    requests: OwnedFd,
    culling: OwnedFd,
    socket: OwnedFd,
    /// Number of the last packet: an answer to another is of a process before this one.
    number: Mutex<u64>,
}

impl SocketDevice {
    /// Connects. EBUSY: another daemon serves it; EPERM: it is another user's.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &address)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Err(Errno::PERM.into());
        }
        let mut buf = [0; 64];
        let (len, fds) = descriptors::receive(&socket, &mut buf)?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no cache listens there");
        let rest = buf[..len].strip_prefix(GREETING).ok_or_else(malformed)?;
        let (status, form) = rest.split_first_chunk().ok_or_else(malformed)?;
        status_of(u32::from_le_bytes(*status))?;
        let form = match form {
            [0] => Form::Original,
            [1] => Form::Merged,
            _ => return Err(malformed()),
        };
        let [requests, culling] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| malformed())?;
        Self::adopt([socket, requests, culling], form)
    }

    /// Takes over the descriptors that a supervisor has kept: see [`SocketDevice::descriptors`].
    pub fn adopt(fds: [OwnedFd; 3], form: Form) -> io::Result<Self> {
        let [socket, requests, culling] = fds;
        let number = Mutex::new(fastrand::u64(..));
        Ok(Self { form, requests, culling, socket, number })
    }

    /// What a supervisor is to keep.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.socket.as_fd(), self.requests.as_fd(), self.culling.as_fd()]
    }

    /// Sends one packet and waits for its answer.
    fn call(&self, request: &[u8], rest: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut last = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.wrapping_add(1);
        let number = last.to_le_bytes();
        descriptors::send(&self.socket, &[&number[..], request].concat(), &[])?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "an answer of no known kind");
        loop {
            let mut buf = [0; PACKET_MAX];
            let (len, mut fds, all) = descriptors::receive_some(&self.socket, &mut buf)?;
            if !all {
                // We have too many open. The answer counts, so that its opener is told.
                tracing::warn!("no more descriptors can be had; raise the limit (ulimit -n)");
                fds.clear();
            }
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (found, answer) = buf[..len].split_first_chunk::<8>().ok_or_else(malformed)?;
            if *found != number {
                continue;
            }
            let (status, answer) = answer.split_first_chunk().ok_or_else(malformed)?;
            status_of(u32::from_le_bytes(*status))?;
            rest.get_mut(..answer.len()).ok_or_else(malformed)?.copy_from_slice(answer);
            return Ok((answer.len(), fds));
        }
    }
}

fn status_of(number: u32) -> io::Result<()> {
    match i32::try_from(number) {
        Ok(0) => Ok(()),
        Ok(number @ 1..4096) => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// An object's file, and the socket on which its READs are completed.
#[derive(Debug)]
struct SocketObject {
    file: File,
    control: Mutex<OwnedFd>,
}

impl SocketObject {
    /// Only what it should be: a file that can be written and not read, and a socket.
    fn new(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let [file, control] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|_| wrong("an OPEN without its two descriptors"))?;
        let mode = rustix::fs::fcntl_getfl(&file)? & OFlags::RWMODE;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind != FileType::RegularFile || mode != OFlags::WRONLY {
            return Err(wrong("an object's descriptor is no file for writing"));
        }
        if rustix::net::sockopt::socket_type(&control).ok() != Some(SocketType::SEQPACKET) {
            return Err(wrong("an object's second descriptor is no socket of packets"));
        }
        // Whoever sent it cannot make us wait for ever.
        let patience = Some(Duration::from_secs(30));
        rustix::net::sockopt::set_socket_timeout(
            &control,
            rustix::net::sockopt::Timeout::Recv,
            patience,
        )?;
        Ok(Self { file: file.into(), control: Mutex::new(control) })
    }
}

impl Device for SocketDevice {
    fn form(&self) -> Form {
        self.form
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<Box<dyn ObjectFile>>)> {
        let room = u32::try_from(buf.len().min(MESSAGE_MAX)).unwrap_or(0);
        let (len, fds) = self.call(&[&b"R"[..], &room.to_le_bytes()].concat(), buf)?;
        if fds.is_empty() {
            return Ok((len, None));
        }
        match SocketObject::new(fds) {
            Ok(object) => Ok((len, Some(Box::new(object)))),
            // The message stays: its opener is told.
            Err(error) => {
                tracing::warn!(%error, "a descriptor is refused");
                Ok((len, None))
            }
        }
    }

    fn command(&self, text: &[u8]) -> io::Result<()> {
        self.call(&[&b"W"[..], text].concat(), &mut []).map(|_| ())
    }

    fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let mut fds = [
            PollFd::new(&self.requests, PollFlags::IN),
            PollFd::new(&self.socket, PollFlags::RDHUP),
        ];
        wait_for(&mut fds, timeout)?;
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let [request, closed] = fds.map(|fd| fd.revents());
        let mut fds = [PollFd::new(&self.culling, PollFlags::IN)];
        wait_for(&mut fds, Duration::ZERO)?;
        Ok(Ready {
            request: request.contains(PollFlags::IN),
            culling: fds[0].revents().contains(PollFlags::IN),
            closed: closed.intersects(gone),
        })
    }
}

impl ObjectFile for SocketObject {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn complete(&self, id: u32) -> io::Result<()> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        descriptors::send(&*control, &id.to_le_bytes(), &[])?;
        let mut status = [0; 4];
        match descriptors::receive(&*control, &mut status)? {
            (4, _) => status_of(u32::from_le_bytes(status)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
