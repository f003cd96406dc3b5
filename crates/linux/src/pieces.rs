// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stretch of addresses put together from pages of a file in memory.
//!
//! Invariants: a [`MemoryFile`] never shrinks, and its descriptor stays here, so no access to a mapped
//! page ends in a signal; a [`Pieces`] maps inside its own reservation only, never writable, and gives
//! copies of bytes instead of references, since the owner of the file may give pages back.

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;

/// The unit of all places and lengths here. With larger pages of the machine, mapping fails.
pub const PAGE: usize = 4096;

/// Memory with offsets, as a file without a name.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("ferrofs-pages", flags)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { file: File::from(file) })
    }

    /// Writes, and makes the file as long as that needs.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Gives memory back; what is mapped of it reads as zeros.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

/// Reserved addresses, with pieces in them; unmapped when dropped.
#[derive(Debug)]
pub struct Pieces {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: it owns its addresses as a `Vec` does, nothing of it belongs to a thread.
unsafe impl Send for Pieces {}
// SAFETY: shared references only read; changing the mapping needs `&mut`.
unsafe impl Sync for Pieces {}

impl Pieces {
    /// Reserves so many bytes, rounded up to pages, which read as zeros.
    pub fn reserve(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so nothing that exists is touched.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ, flags) }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Puts `len` bytes of `file` from `from` on at `at`, all of them whole pages, over what was there.
    pub fn place(&mut self, at: usize, file: &MemoryFile, from: u64, len: usize) -> io::Result<()> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.len);
        let whole = at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0;
        let there = from.checked_add(len as u64);
        let size = file.file.metadata()?.len();
        if !fits
            || !whole
            || !from.is_multiple_of(PAGE as u64)
            || there.is_none_or(|end| end > size)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: `at` lies inside the reservation, see above.
        let target = unsafe { self.start.as_ptr().byte_add(at) };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces pages of the reservation only, to which no reference was ever given.
        unsafe { mmap(target, len, ProtFlags::READ, flags, &file.file, from) }?;
        Ok(())
    }

    /// Bytes of it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes: never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies, for those who give these pages to a guest, say.
    #[must_use]
    pub const fn address(&self) -> *const u8 {
        self.start.as_ptr().cast_const().cast()
    }

    /// Copies bytes from `at` on, as many as fit.
    pub fn read(&self, at: usize, buf: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(at).min(buf.len());
        if count > 0 {
            // SAFETY: `at` is inside.
            let from = unsafe { self.address().add(at) };
            // SAFETY: `count` bytes are inside, too, mapped readable for as long as `self` lives, and
            // the file behind them does not shrink; `buf` is somewhere else, since nothing here is
            // ever writable.
            unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), count) };
        }
        count
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and no reference to it exists.
        let _ = unsafe { munmap(self.start.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_in_any_order() {
        let file = MemoryFile::new().unwrap();
        for page in 0..4_u8 {
            file.write_at(&[page + 1; PAGE], u64::from(page) * PAGE as u64).unwrap();
        }
        let mut pieces = Pieces::reserve(5 * PAGE - 7).unwrap();
        assert_eq!(pieces.len(), 5 * PAGE);
        pieces.place(0, &file, 3 * PAGE as u64, PAGE).unwrap();
        pieces.place(2 * PAGE, &file, 0, 2 * PAGE).unwrap();
        let mut bytes = vec![9; 6 * PAGE];
        assert_eq!(pieces.read(0, &mut bytes), 5 * PAGE);
        for (page, value) in [4, 0, 1, 2, 0, 9].into_iter().enumerate() {
            assert_eq!(bytes[page * PAGE..][..PAGE], [value; PAGE], "page {page}");
        }
        assert_eq!(pieces.read(5 * PAGE, &mut bytes), 0);
        assert_eq!(file.memory().unwrap(), 4 * PAGE as u64);
        file.punch(0, PAGE as u64).unwrap();
        assert_eq!(file.memory().unwrap(), 3 * PAGE as u64);
        pieces.read(2 * PAGE, &mut bytes[..1]);
        assert_eq!(bytes[0], 0);
    }

    #[test]
    fn nothing_beyond_either_end() {
        let file = MemoryFile::new().unwrap();
        file.write_at(&[1; 2 * PAGE], 0).unwrap();
        let mut pieces = Pieces::reserve(2 * PAGE).unwrap();
        let page = PAGE as u64;
        for (at, from, len) in [
            (PAGE, 0, 2 * PAGE),
            (!(PAGE - 1), 0, PAGE),
            (0, page, 2 * PAGE),
            (0, !(page - 1), PAGE),
            (1, 0, PAGE),
            (0, 1, PAGE),
            (0, 0, 1),
            (0, 0, 0),
        ] {
            assert!(pieces.place(at, &file, from, len).is_err(), "{at} {from} {len}");
        }
    }
}
