// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread that answers the requests of its ring.
//!
//! Invariant: every request that comes goes back with an answer, whatever the kernel's numbers
//! say; the thread ends when the kernel has taken all its slots away.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno as Os;
use zerocopy::{FromBytes, IntoBytes};

use super::super::worker::Pool;
use super::Rings;
use super::channel::{Buffers, Channel, Completion};
use crate::abi::{InHeader, OutHeader, RingEntry, RingHeaders, opcode};
use crate::buffer::Payload;
use crate::dispatch::{Answer, Dispatcher, Scratch};
use crate::fs::Errno;
use crate::mount::Unmounter;
use crate::request::header;

/// How often the slots of a thread are registered anew after the kernel refused an answer.
const AGAIN_MAX: u32 = 64;
/// Room for the operation's own structure in the headers.
const OPERATION_MAX: usize = 128;
/// The longest request that is put together: no read-only operation has as much.
const MESSAGE_MAX: usize = 8192;

pub(super) struct Server<'a> {
    rings: &'a Arc<Rings>,
    pool: &'a Arc<Pool>,
    unmounter: Option<&'a Unmounter>,
    channel: Channel,
    /// For each slot whether the kernel has accepted it.
    accepted: Vec<bool>,
    again: u32,
    answerer: Answerer,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        rings: &'a Arc<Rings>,
        pool: &'a Arc<Pool>,
        channel: Channel,
        unmounter: Option<&'a Unmounter>,
    ) -> Self {
        let accepted = vec![false; channel.len()];
        let answerer = Answerer::default();
        Self { rings, pool, unmounter, channel, accepted, again: 0, answerer }
    }

    /// Answers until the kernel has taken all slots away: the mount is gone.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        self.channel.enable()?;
        for slot in 0..self.channel.len() {
            self.register(slot)?;
        }
        while self.channel.in_kernel() > 0 {
            match self.channel.wait() {
                Ok(()) => {}
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            }
            while let Some(completion) = self.channel.next() {
                if completion.result >= 0 {
                    self.answer(completion.slot)?;
                } else {
                    self.lost(completion)?;
                }
            }
        }
        Ok(())
    }

    fn register(&mut self, slot: usize) -> io::Result<()> {
        self.channel.register(self.pool.device(), slot)?;
        self.channel.submit()?;
        if let Some(queue) = self.channel.queue(slot) {
            self.rings.kick(self.pool, queue);
        }
        Ok(())
    }

    fn answer(&mut self, slot: usize) -> io::Result<()> {
        if let Some(accepted) = self.accepted.get_mut(slot) {
            *accepted = true;
        }
        let number = self.channel.queue(slot).unwrap_or_default();
        let Some(buffers) = self.channel.buffers(slot) else { return Ok(()) };
        let (opcode, node) = header(buffers.head).map_or((0, 0), |(h, _)| (h.opcode, h.nodeid));
        if opcode == opcode::READ {
            self.rings.set_file(self.pool, node);
        }
        // What we brought about ourselves is no reason to grow: it would be one again and again.
        let counts = opcode != opcode::NOTIFY_REPLY;
        let queue = self.rings.queues.get(usize::from(number)).filter(|_| counts);
        if let Some(queue) = queue {
            queue.requests.fetch_add(1, Ordering::Relaxed);
            let busy = queue.busy.fetch_add(1, Ordering::SeqCst).saturating_add(1);
            if busy >= queue.slots.load(Ordering::SeqCst) {
                self.rings.grow(self.pool, number, self.unmounter);
            }
        }
        let Some(buffers) = self.channel.buffers(slot) else { return Ok(()) };
        let commit_id = self.answerer.answer(self.pool.dispatcher(), buffers);
        if let Some(queue) = queue {
            queue.busy.fetch_sub(1, Ordering::SeqCst);
        }
        self.channel.commit(self.pool.device(), slot, commit_id)
    }

    /// A slot came back empty.
    fn lost(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { slot, result } = completion;
        let errno = Os::from_raw_os_error(result.saturating_neg());
        let ended = matches!(errno, Os::NOTCONN | Os::CONNABORTED | Os::NODEV | Os::CANCELED);
        let accepted = self.accepted.get(slot).copied().unwrap_or_default();
        if !ended && accepted && self.again < AGAIN_MAX {
            // The kernel did not want the answer, and with it lost sight of the slot.
            tracing::error!(%errno, "the kernel refused an answer over io_uring");
            self.again = self.again.saturating_add(1);
            return self.register(slot);
        }
        if !ended {
            tracing::warn!(%errno, accepted, "the kernel refused a slot for FUSE over io_uring");
        }
        if let Some(queue) = self.rings.queue(&self.channel, slot) {
            let one_less = |slots: usize| Some(slots.saturating_sub(1));
            let _ = queue.slots.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        }
        Ok(())
    }
}

/// Whether waiting may simply be tried again.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Os::from_raw_os_error);
    matches!(errno, Some(Os::INTR | Os::AGAIN | Os::BUSY))
}

/// Makes answers in the memory that the requests came in.
#[derive(Debug, Default)]
struct Answerer {
    message: Vec<u8>,
    bytes: Vec<u8>,
}

impl Answerer {
    /// Replaces the request in `buffers` by its answer. Returns by what name the kernel knows it.
    fn answer(&mut self, dispatcher: &Dispatcher, buffers: Buffers<'_>) -> u64 {
        let Buffers { head, payload } = buffers;
        // The kernel fills in all of it; were it not there, nobody would be left to answer.
        let Ok((headers, _)) = RingHeaders::mut_from_prefix(head) else { return 0 };
        let commit_id = headers.entry.commit_id;
        let unique = InHeader::read_from_prefix(headers.in_out.as_bytes())
            .map_or(commit_id, |(header, _)| header.unique);
        let mut scratch =
            Scratch { pages: Payload(payload), bytes: std::mem::take(&mut self.bytes) };
        let answer = match assemble(headers, scratch.pages.0, &mut self.message) {
            Ok(()) => dispatcher.handle(&self.message, &mut scratch),
            Err(errno) => Some(Answer::error(unique, errno)),
        };
        // Even what wants no answer gets one here: it is how the slot goes back.
        let silent = OutHeader { len: size_of::<OutHeader>() as u32, error: 0, unique };
        let (header, len) = match answer {
            None => (silent, 0),
            Some(answer) => match answer.settle(&mut scratch) {
                Ok(len) => (answer.header, u32::try_from(len).unwrap_or_default()),
                Err(errno) => (Answer::error(unique, errno).header, 0),
            },
        };
        self.bytes = scratch.bytes;
        if let Ok((out, _)) = OutHeader::mut_from_prefix(headers.in_out.as_mut_bytes()) {
            *out = header;
        }
        headers.entry = RingEntry { commit_id, payload_len: len, ..RingEntry::default() };
        commit_id
    }
}

/// Puts a request together as `/dev/fuse` would deliver it: header, the operation's structure,
/// and what follows it.
fn assemble(headers: &RingHeaders, payload: &[u8], message: &mut Vec<u8>) -> Result<(), Errno> {
    message.clear();
    let in_out = headers.in_out.as_bytes();
    let (header, _) = InHeader::read_from_prefix(in_out).map_err(|_| Errno::PROTO)?;
    let total = header.len as usize;
    let payload_len = headers.entry.payload_len as usize;
    if total > MESSAGE_MAX {
        // Only what would change something is as long.
        return Err(Errno::ROFS);
    }
    let payload = payload.get(..payload_len).ok_or(Errno::PROTO)?;
    let operation = total
        .checked_sub(size_of::<InHeader>())
        .and_then(|rest| rest.checked_sub(payload_len))
        .filter(|len| *len <= OPERATION_MAX)
        .and_then(|len| headers.operation.as_bytes().get(..len))
        .ok_or(Errno::PROTO)?;
    message.extend_from_slice(header.as_bytes());
    message.extend_from_slice(operation);
    message.extend_from_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests;
