// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's side of the cache: what reads and writes of the device do.

use super::super::daemon::{Device, ObjectFile, Ready};
use super::super::{Command, Form};
use super::{Emulator, errno_of, set_limit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The open device. Dropping it is the death of the cache.
#[derive(Debug)]
pub struct LocalDevice {
    emulator: Emulator,
}

/// What one read of the device gave.
#[derive(Debug)]
pub(in super::super) struct Delivery {
    pub(in super::super) len: usize,
    /// What comes with an OPEN.
    pub(in super::super) object: Option<LocalObject>,
}

/// The anonymous descriptor of an object. Dropping it closes it.
#[derive(Debug)]
pub struct LocalObject {
    emulator: Emulator,
    object: u32,
    generation: u64,
    file: File,
}

impl LocalDevice {
    pub(super) fn open(emulator: Emulator) -> io::Result<Self> {
        let mut state = emulator.lock();
        state.open_device()?;
        state.thresholds = emulator.inner.config.thresholds;
        emulator.publish(&mut state);
        drop(state);
        Ok(Self { emulator })
    }

    /// One read: the next request that was not delivered, 0 if there is none. EMSGSIZE: the buffer
    /// is too small, the request stays new.
    pub(in super::super) fn read(&self, buf: &mut [u8]) -> io::Result<Delivery> {
        let emulator = &self.emulator;
        let form = emulator.inner.config.form;
        let mut state = emulator.lock();
        if !state.is_bound() {
            return Err(Errno::OPNOTSUPP.into());
        }
        let Some(next) = state.next() else { return Ok(Delivery { len: 0, object: None }) };
        // A CLOSE has no place in the original form: the descriptor's end says it.
        let Ok(bytes) = next.message.encode(form) else {
            state.delivered(next.message.id);
            emulator.publish(&mut state);
            return Ok(Delivery { len: 0, object: None });
        };
        let Some(room) = buf.get_mut(..bytes.len()) else { return Err(Errno::MSGSIZE.into()) };
        let mut object = None;
        if let Some((name, generation)) = next.file {
            let file = match emulator.inner.files.writer(&name, emulator.inner.config.direct) {
                Ok(file) => file,
                Err(error) => {
                    // Nobody can answer it: the opener learns why.
                    state.delivered(next.message.id);
                    state.opened(next.message.id, Err(errno_of(&error)));
                    emulator.publish(&mut state);
                    return Ok(Delivery { len: 0, object: None });
                }
            };
            let emulator = emulator.clone();
            object = Some(LocalObject { emulator, object: next.message.object, generation, file });
        }
        room.copy_from_slice(&bytes);
        state.delivered(next.message.id);
        emulator.publish(&mut state);
        Ok(Delivery { len: bytes.len(), object })
    }

    /// One write: a command.
    pub(in super::super) fn write(&self, text: &[u8]) -> Result<(), Errno> {
        let emulator = &self.emulator;
        let form = emulator.inner.config.form;
        let command = Command::parse(text).map_err(super::super::CommandError::errno)?;
        match (command, form) {
            (Command::Open { id, size }, Form::Merged) => {
                let size = match u64::try_from(size) {
                    Ok(size) => Ok(size),
                    Err(_) => Err(answered_errno(size)),
                };
                return self.answer_open(id, size);
            }
            (Command::Init { id, size }, Form::Original) => {
                // The cache always wants the size; without it the request fails, not the daemon.
                let size = size.filter(|size| *size > 0).ok_or(Errno::INVAL);
                return self.answer_open(id, size);
            }
            (Command::Read { id }, Form::Original) => {
                return emulator.lock().completed(id, None);
            }
            (Command::Restore, Form::Merged) => {
                let mut state = emulator.lock();
                state.restore();
                emulator.publish(&mut state);
            }
            (Command::Bind { on_demand }, _) => emulator.lock().bind(on_demand)?,
            (Command::Limit(limit, percent), _) => {
                let mut state = emulator.lock();
                if state.is_bound() {
                    return Err(Errno::BUSY);
                }
                set_limit(&mut state.thresholds, limit, percent);
            }
            // The cache's owner has told where it lies.
            (Command::Dir(_), _) => return Err(Errno::EXIST),
            (Command::Tag(_) | Command::Debug(_), _) => {}
            (Command::Cull(name), _) => {
                let name = emulator.inner.files.find(&name).map_err(|error| errno_of(&error))?;
                emulator.remove(&name)?;
            }
            (Command::InUse(name), _) => {
                let name = emulator.inner.files.find(&name).map_err(|error| errno_of(&error))?;
                if emulator.lock().uses_file(&name) {
                    return Err(Errno::BUSY);
                }
            }
            _ => return Err(Errno::OPNOTSUPP),
        }
        Ok(())
    }

    fn answer_open(&self, id: u32, size: Result<u64, Errno>) -> Result<(), Errno> {
        let emulator = &self.emulator;
        let mut state = emulator.lock();
        let (_, name, known) = state.opening(id)?;
        let result = match size {
            // Opened again it must be the same blob: readers know its size.
            Ok(size) if known.is_some_and(|known| known != size) => Err(Errno::IO),
            Ok(size) if i64::try_from(size.next_multiple_of(4096)).is_err() => Err(Errno::FBIG),
            Ok(size) => prepare(emulator, &name, size, known.is_some()).map(|()| size),
            Err(errno) => Err(errno),
        };
        state.opened(id, result);
        emulator.publish(&mut state);
        // A size that cannot be is the daemon's fault; an error that it tells is not.
        match (size, result) {
            (Ok(_), Err(errno)) => Err(errno),
            _ => Ok(()),
        }
    }
}

/// Minus an error number, as `copen` has it; EIO for what is none.
fn answered_errno(size: i64) -> Errno {
    let number = size.checked_neg().and_then(|number| i32::try_from(number).ok());
    let number = number.filter(|number| (1..4096).contains(number));
    number.map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Makes an object's file as long as its blob. One of another length is of another blob.
fn prepare(emulator: &Emulator, name: &str, size: u64, again: bool) -> Result<(), Errno> {
    let file = emulator.inner.files.object(name).map_err(|error| errno_of(&error))?;
    let len = file.metadata().map_err(|error| errno_of(&error))?.len();
    // Whole pages are written, also at the end.
    if len == size || len == size.next_multiple_of(4096) || again {
        return Ok(());
    }
    let set = file.set_len(0).and_then(|()| file.set_len(size));
    set.map_err(|error| errno_of(&error))
}

impl Drop for LocalDevice {
    fn drop(&mut self) {
        let mut state = self.emulator.lock();
        state.die();
        self.emulator.publish(&mut state);
    }
}

impl LocalObject {
    /// Its file, to be sent away.
    pub(in super::super) fn file(&self) -> &File {
        &self.file
    }
}

impl ObjectFile for LocalObject {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let direct = self.emulator.inner.config.direct;
        // As direct I/O has it, also on file systems (tmpfs) that are less strict.
        let aligned = [buf.as_ptr().addr() as u64, buf.len() as u64, offset];
        if direct && aligned.iter().any(|number| number % 4096 != 0) {
            return Err(Errno::INVAL.into());
        }
        self.file.write_at(buf, offset)
    }

    fn complete(&self, id: u32) -> io::Result<()> {
        Ok(self.emulator.lock().completed(id, Some((self.object, self.generation)))?)
    }
}

impl Drop for LocalObject {
    fn drop(&mut self) {
        let mut state = self.emulator.lock();
        state.dropped(self.object, self.generation, self.emulator.inner.config.failover);
        self.emulator.publish(&mut state);
    }
}

impl Device for LocalDevice {
    fn form(&self) -> Form {
        self.emulator.inner.config.form
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<Box<dyn ObjectFile>>)> {
        let delivery = self.read(buf)?;
        let object = delivery.object.map(|object| Box::new(object) as Box<dyn ObjectFile>);
        Ok((delivery.len, object))
    }

    fn command(&self, text: &[u8]) -> io::Result<()> {
        Ok(self.write(text)?)
    }

    fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let mut fds = [PollFd::new(&self.emulator.inner.requests, PollFlags::IN)];
        wait_for(&mut fds, timeout)?;
        let request = fds[0].revents().contains(PollFlags::IN);
        let culling = self.emulator.lock().is_culling();
        Ok(Ready { request, culling, closed: false })
    }
}

/// Polls, at most for so long. A signal ends it early.
pub(in super::super) fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
