// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread's `io_uring` and the memory that it shares with the kernel.
//!
//! The only module of the crate with `unsafe` code. Knows what a command is; refuses to know what
//! a request means.
//!
//! Invariant, on which every proof below rests: the memory of a slot belongs either to us or to
//! the kernel. It goes to the kernel when a command that names it is put into the submission
//! queue, and comes back with the completion of that command; there is at most one such command
//! at a time, and the kernel touches the memory only in between. While it is the kernel's, no
//! reference to it exists and it is never freed: if the ring ends with a slot that did not come
//! back, its memory is given up for good.
#![expect(unsafe_code, reason = "memory shared with the kernel, commands that name it")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;

use io_uring::opcode::UringCmd80;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, types};
use zerocopy::IntoBytes;

use crate::abi::{RingCommand, RingHeaders, ring};
use crate::fs::SPARE_LEN;

const PAGE_LEN: usize = 4096;
/// Bytes before the payload: the headers, and further on where both are.
const HEAD_LEN: usize = PAGE_LEN;
/// Where in the head the kernel finds where headers and payload are.
const AREAS_AT: usize = 1024;
/// Where in a command its field `len` is, for which the library has no setter.
const COMMAND_LEN_AT: usize = 24;

const _: () = assert!(size_of::<RingHeaders>() <= AREAS_AT);
const _: () = assert!(AREAS_AT + size_of::<[Area; AREAS]>() <= HEAD_LEN);
const _: () = assert!(COMMAND_LEN_AT + size_of::<u32>() <= size_of::<Entry128>());

/// An area of memory as the kernel wants it described (`struct iovec`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Area {
    start: *mut u8,
    len: usize,
}

/// Headers and payload.
const AREAS: usize = 2;

/// Whose the memory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Us,
    Kernel,
}

/// Zeroed memory at a fixed place, owned.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned alone and tied to no thread.
unsafe impl Send for Memory {}

impl Memory {
    fn new(len: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(len.max(PAGE_LEN), PAGE_LEN);
        let layout = layout.map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, layout })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed nowhere else.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Room for one request at a time, of one queue of the kernel's.
struct Slot {
    queue: u16,
    /// Head, payload and spare room. None only while the channel is dropped.
    memory: Option<Memory>,
    owner: Owner,
}

/// What became of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) slot: usize,
    /// Not negative: there is a request in the slot. Else an error number, negative.
    pub(super) result: i32,
}

/// The memory of a slot that is ours.
#[derive(Debug)]
pub(super) struct Buffers<'a> {
    /// Starts with [`RingHeaders`].
    pub(super) head: &'a mut [u8],
    /// The payload and, behind it, room that the kernel knows nothing of.
    pub(super) payload: &'a mut [u8],
}

/// A ring and its slots.
pub(super) struct Channel {
    ring: IoUring<Entry128>,
    slots: Vec<Slot>,
    payload_len: usize,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Channel {
    /// A ring with a slot for each of `queues`, whose payloads have `payload_len` bytes. It is
    /// disabled until the thread that is to use it calls [`Channel::enable`].
    pub(super) fn new(queues: &[u16], payload_len: usize) -> io::Result<Self> {
        let entries =
            u32::try_from(queues.len().max(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
        // One thread submits and waits, and wants to be disturbed only while it waits: then the
        // kernel delivers a request in the context of its call.
        let ring = IoUring::<Entry128>::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)?;
        let len = payload_len.checked_add(HEAD_LEN + SPARE_LEN);
        let len = len.ok_or(io::ErrorKind::InvalidInput)?;
        let slot = |&queue: &u16| {
            Memory::new(len).map(|memory| Slot { queue, memory: Some(memory), owner: Owner::Us })
        };
        let slots = queues.iter().map(slot).collect::<io::Result<_>>()?;
        Ok(Self { ring, slots, payload_len })
    }

    /// Makes the calling thread the one that uses the ring.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The queue that a slot belongs to.
    pub(super) fn queue(&self, slot: usize) -> Option<u16> {
        self.slots.get(slot).map(|slot| slot.queue)
    }

    /// Slots that the kernel has.
    pub(super) fn in_kernel(&self) -> usize {
        self.slots.iter().filter(|slot| slot.owner == Owner::Kernel).count()
    }

    /// The memory of a slot. None if the kernel has it.
    pub(super) fn buffers(&mut self, slot: usize) -> Option<Buffers<'_>> {
        let slot = self.slots.get_mut(slot).filter(|slot| slot.owner == Owner::Us)?;
        let memory = slot.memory.as_mut()?;
        let payload_len = memory.layout.size().checked_sub(HEAD_LEN)?;
        // SAFETY: the memory is longer than the head.
        let payload = unsafe { memory.start.add(HEAD_LEN) };
        // SAFETY: the memory is allocated, was zeroed and has been written by the kernel and
        // through such references only; it is ours (checked above), so nobody else touches it
        // while the reference lives, which borrows the channel.
        let head = unsafe { slice::from_raw_parts_mut(memory.start.as_ptr(), HEAD_LEN) };
        // SAFETY: as for the head, and this part starts where that ends.
        let payload = unsafe { slice::from_raw_parts_mut(payload.as_ptr(), payload_len) };
        Some(Buffers { head, payload })
    }

    /// Gives a slot to the kernel for the first time. Takes effect with [`Channel::wait`].
    pub(super) fn register(&mut self, device: BorrowedFd<'_>, slot: usize) -> io::Result<()> {
        let payload_len = self.payload_len;
        let chosen = self.slots.get(slot).ok_or(io::ErrorKind::InvalidInput)?;
        let memory = chosen.memory.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let command = RingCommand { queue: chosen.queue, ..RingCommand::default() };
        // SAFETY: the memory is longer than the head.
        let payload = unsafe { memory.start.add(HEAD_LEN) };
        let areas = [
            Area { start: memory.start.as_ptr(), len: size_of::<RingHeaders>() },
            Area { start: payload.as_ptr(), len: payload_len },
        ];
        // SAFETY: this lies within the head.
        let areas_at = unsafe { memory.start.add(AREAS_AT) }.cast::<[Area; AREAS]>();
        if chosen.owner == Owner::Us {
            // SAFETY: inside the head, which is ours; aligned, as the head is to a page.
            unsafe { areas_at.write(areas) };
        }
        let address = areas_at.as_ptr().expose_provenance() as u64;
        let entry = entry(device, ring::REGISTER, &command, Some((address, AREAS as u32)));
        self.push(slot, entry)
    }

    /// Gives a slot with an answer in it back to the kernel, to be filled with the next request.
    /// Takes effect with [`Channel::wait`].
    pub(super) fn commit(
        &mut self,
        device: BorrowedFd<'_>,
        slot: usize,
        commit_id: u64,
    ) -> io::Result<()> {
        let queue = self.queue(slot).ok_or(io::ErrorKind::InvalidInput)?;
        let command = RingCommand { commit_id, queue, ..RingCommand::default() };
        self.push(slot, entry(device, ring::COMMIT_AND_FETCH, &command, None))
    }

    fn push(&mut self, slot: usize, entry: Entry128) -> io::Result<()> {
        let chosen = self.slots.get_mut(slot).ok_or(io::ErrorKind::InvalidInput)?;
        if chosen.owner != Owner::Us {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let entry = entry.user_data(slot as u64);
        // SAFETY: the one memory the command names, now or by what was registered, is that of
        // the slot. It is ours, so no other command names it, and if this succeeds it becomes the
        // kernel's: nobody refers to it or frees it until the command has completed.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is one entry for each slot, so the queue cannot be full.
        pushed.map_err(|_| io::ErrorKind::QuotaExceeded)?;
        chosen.owner = Owner::Kernel;
        Ok(())
    }

    /// Submits what was given to the kernel.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.ring.submit().map(drop)
    }

    /// Submits what was given to the kernel and waits until something comes back.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(drop)
    }

    /// Takes one slot back, if one has come.
    pub(super) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry: cqueue::Entry = self.ring.completion().next()?;
            let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            // A command is completed once: without the flag that says there is more to come.
            if cqueue::more(entry.flags()) {
                continue;
            }
            if let Some(chosen) = self.slots.get_mut(slot) {
                chosen.owner = Owner::Us;
                return Some(Completion { slot, result: entry.result() });
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if slot.owner == Owner::Kernel {
                // The kernel may still write to it, whatever becomes of the ring.
                tracing::warn!(queue = slot.queue, "a FUSE buffer stays with the kernel");
                std::mem::forget(slot.memory.take());
            }
        }
    }
}

/// A command for the device; `areas` is the address and number of areas, if it names any.
fn entry(
    device: BorrowedFd<'_>,
    operation: u32,
    command: &RingCommand,
    areas: Option<(u64, u32)>,
) -> Entry128 {
    let mut argument = [0; 80];
    let bytes = command.as_bytes();
    if let Some(start) = argument.get_mut(..bytes.len()) {
        start.copy_from_slice(bytes);
    }
    let builder = UringCmd80::new(types::Fd(device.as_raw_fd()), operation).cmd(argument);
    let Some((address, count)) = areas else { return builder.build() };
    let mut entry = builder.addr(Some(address)).build();
    let field = (&raw mut entry).cast::<u8>();
    // SAFETY: the offset lies within the entry (asserted above).
    let field = unsafe { field.add(COMMAND_LEN_AT) };
    // SAFETY: the entry is the kernel's 128-byte structure of plain integers, laid out as in C,
    // and owned here; its field `len`, four bytes of any value, is at this offset.
    unsafe { field.cast::<u32>().write_unaligned(count) };
    entry
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn channel(queues: &[u16]) -> Option<Channel> {
        match Channel::new(queues, 8192) {
            Ok(channel) => Some(channel),
            Err(error) => {
                println!("skipped: io_uring does not work here: {error}");
                None
            }
        }
    }

    #[test]
    fn memory_is_ours_until_it_is_given_away_and_again_when_it_is_back() {
        let Some(mut channel) = channel(&[0, 7]) else { return };
        channel.enable().unwrap();
        assert_eq!((channel.len(), channel.queue(1), channel.in_kernel()), (2, Some(7), 0));
        let buffers = channel.buffers(0).unwrap();
        assert_eq!(buffers.head.len(), HEAD_LEN);
        assert_eq!(buffers.payload.len(), 8192 + SPARE_LEN);
        assert_eq!(buffers.payload.as_ptr() as usize % PAGE_LEN, 0);
        buffers.payload.fill(7);
        // Not a FUSE device: the kernel refuses the command and so gives the memory back.
        let file = tempfile::tempfile().unwrap();
        channel.register(file.as_fd(), 0).unwrap();
        assert!(channel.buffers(0).is_none());
        assert!(channel.register(file.as_fd(), 0).is_err());
        assert!(channel.commit(file.as_fd(), 0, 1).is_err());
        assert!(channel.buffers(1).is_some());
        assert_eq!(channel.in_kernel(), 1);
        channel.wait().unwrap();
        let back = channel.next().unwrap();
        assert_eq!(back.slot, 0);
        assert!(back.result < 0);
        assert!(channel.next().is_none());
        assert!(channel.buffers(0).unwrap().payload.iter().all(|byte| *byte == 7));
        assert!(channel.buffers(2).is_none());
    }

    #[test]
    fn the_command_is_where_the_kernel_looks_for_it() {
        let file = tempfile::tempfile().unwrap();
        let command = RingCommand { flags: 1, commit_id: 2, queue: 3, padding: [0; 6] };
        let entry = entry(file.as_fd(), ring::REGISTER, &command, Some((0x1122_3344, 2)));
        let text = format!("{entry:?}");
        assert!(!text.is_empty());
        // SAFETY: plain integers, of which 128 bytes are initialised.
        let bytes: [u8; 128] = unsafe { std::mem::transmute_copy(&entry) };
        assert_eq!(bytes[0], 46);
        assert_eq!(bytes[4..8], file.as_raw_fd().to_ne_bytes());
        assert_eq!(bytes[8..12], ring::REGISTER.to_ne_bytes());
        assert_eq!(bytes[16..24], 0x1122_3344_u64.to_ne_bytes());
        assert_eq!(bytes[24..28], 2_u32.to_ne_bytes());
        assert_eq!(&bytes[48..72], command.as_bytes());
    }
}
