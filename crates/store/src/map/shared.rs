// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map's file: header, bits, last use of each group.

use super::{Bits, GRAIN, GRAIN_BITS, GROUP};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

/// Bytes before the bits. A cache line of its own for the generation.
const HEADER_LEN: usize = 128;
const MAGIC: u64 = u64::from_le_bytes(*b"frfsmap1");
/// No blob is larger: its map alone would have 2 GiB.
pub(crate) const SIZE_MAX: u64 = 1 << 46;

// Words of the header. A map is of one machine and one boot: its words are in its own order.
const WORD_MAGIC: usize = 0;
const WORD_SIZE: usize = 1;
const WORD_BOOT: usize = 2; // and 3
const WORD_SHAPE: usize = 4;
const WORD_SEAL: usize = 5;
const WORD_GENERATION: usize = 8;
/// For who shares numbers, not presence.
const WORD_NUMBERS: Range<usize> = 9..11;

/// What was found where a map was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MapState {
    /// A map of this boot: to be trusted.
    Trusted,
    /// None, one of another boot, of another shape, or not a map: the log tells.
    Stale,
}

/// The map of one blob, mapped.
pub(crate) struct Map {
    base: NonNull<AtomicU64>,
    len: usize,
    size: u64,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Bytes of the file of a map.
const fn file_len(size: u64) -> u64 {
    let words = size.div_ceil(GRAIN).div_ceil(64);
    let epochs = size.div_ceil(GROUP).div_ceil(4);
    HEADER_LEN as u64 + (words + epochs) * 8
}

/// Gives a file its blocks now: on a disk that is full by the time somebody writes to a mapped page
/// without one, that process is killed (SIGBUS).
fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // A file system that cannot promise.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

impl Map {
    /// Maps the file of a map that is to be for a blob of `size` bytes, and tells whether it can be
    /// trusted. The file gets its length; nothing else of it is changed.
    #[expect(unsafe_code, reason = "memory that processes share is had only so")]
    pub(crate) fn open(file: &File, size: u64) -> io::Result<(Self, MapState)> {
        if size > SIZE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let len = file_len(size);
        let found = file.metadata()?;
        if found.len() != len {
            if found.len() != 0 {
                file.set_len(0)?;
            }
            file.set_len(len)?;
        }
        if found.len() != len || found.blocks().saturating_mul(512) < len {
            reserve(file, len)?;
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping of a length that is not zero, at a place that the kernel chooses:
        // nothing that exists is touched. The file lies in a folder of ours alone (0700) and is
        // never made shorter while it is mapped: see `Blob`'s opening, which does it only under the
        // lock that proves that there is no user.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = Self { base, len, size };
        let state = if map.is_trusted() { MapState::Trusted } else { MapState::Stale };
        Ok((map, state))
    }

    /// Whether a file has the length of a map for a blob of `size` bytes.
    pub(crate) fn fits(file: &File, size: u64) -> io::Result<bool> {
        Ok(size <= SIZE_MAX && file.metadata()?.len() == file_len(size))
    }

    #[expect(unsafe_code, reason = "memory that processes share is had only so")]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is a mapping of `len` bytes, a multiple of 8, aligned to a page, that lives
        // as long as `self`. Other processes change it at any time, which is what atomics allow.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len / 8) }
    }

    /// A number over all that the header must be, so that a damaged one is not trusted.
    fn seal(&self) -> u64 {
        let (boot, shape) = (boot_id(), Self::shape());
        let mut seal = crc32c::crc32c(&self.size.to_le_bytes());
        for word in [MAGIC, boot[0], boot[1], shape] {
            seal = crc32c::crc32c_append(seal, &word.to_le_bytes());
        }
        u64::from(seal) | 1 << 32
    }

    const fn shape() -> u64 {
        (GRAIN_BITS as u64) << 32 | GROUP.trailing_zeros() as u64
    }

    fn header(&self) -> [(usize, u64); 6] {
        let boot = boot_id();
        [
            (WORD_MAGIC, MAGIC),
            (WORD_SIZE, self.size),
            (WORD_BOOT, boot[0]),
            (WORD_BOOT + 1, boot[1]),
            (WORD_SHAPE, Self::shape()),
            (WORD_SEAL, self.seal()),
        ]
    }

    fn is_trusted(&self) -> bool {
        // Without a boot id no map can be trusted over an end of all processes.
        boot_id() != [0; 2]
            && self
                .header()
                .iter()
                .all(|(word, value)| self.words()[*word].load(Ordering::Acquire) == *value)
    }

    /// Makes it the map of a blob of which only `present` (grains) is there. Nobody else may use it.
    pub(crate) fn reset(&self, present: &[Range<u64>]) {
        self.words()[WORD_SEAL].store(0, Ordering::SeqCst);
        for word in &self.words()[HEADER_LEN / 8..] {
            word.store(0, Ordering::Relaxed);
        }
        for range in present {
            self.bits().set(range.clone());
        }
        for (word, value) in self.header() {
            // The seal is the last: a map whose maker was killed here is not trusted.
            self.words()[word].store(value, Ordering::SeqCst);
        }
    }

    /// The bits of grains.
    pub(crate) fn bits(&self) -> Bits<'_> {
        let count = self.size.div_ceil(GRAIN);
        let start = HEADER_LEN / 8;
        Bits::new(&self.words()[start..start + count.div_ceil(64) as usize], count)
    }

    #[expect(unsafe_code, reason = "two bytes each in the same shared memory")]
    fn epochs(&self) -> &[AtomicU16] {
        let start = HEADER_LEN / 8 + self.size.div_ceil(GRAIN).div_ceil(64) as usize;
        let words = &self.words()[start..];
        // SAFETY: the words are in the mapping and live as long as `self`; four of the smaller
        // atomics have the size of a larger one and need less alignment; these words are used only
        // through this function.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
    }

    /// When a group was last used; 0: never.
    pub(crate) fn epoch(&self, group: u64) -> u16 {
        self.epochs().get(group as usize).map_or(0, |epoch| epoch.load(Ordering::Relaxed))
    }

    /// Notes a use of the groups of a range of bytes. Relaxed: only an estimate hangs on it.
    pub(crate) fn touch(&self, range: &Range<u64>, epoch: u16) {
        let groups = (range.start / GROUP) as usize..range.end.div_ceil(GROUP) as usize;
        for slot in self.epochs().get(groups).unwrap_or_default() {
            if slot.load(Ordering::Relaxed) != epoch {
                slot.store(epoch, Ordering::Relaxed);
            }
        }
    }

    /// Where a read begins: give it to [`Map::is_same`] after the bytes were read.
    ///
    /// Why this is enough: the evictor clears bits, raises the generation, then punches. A reader
    /// that sees the raised generation here (acquire) sees the cleared bits, too. One that saw set
    /// bits under the old generation and read a hole has read after the punch, which is after the
    /// raise: reading and punching exclude each other in the kernel, by the inode's lock or the
    /// pages', and so order both sides; the fence keeps the compiler and the processor from
    /// looking at the generation before the read.
    pub(crate) fn generation(&self) -> u64 {
        self.words()[WORD_GENERATION].load(Ordering::Acquire)
    }

    /// Whether nothing was evicted since.
    pub(crate) fn is_same(&self, generation: u64) -> bool {
        fence(Ordering::SeqCst);
        self.words()[WORD_GENERATION].load(Ordering::SeqCst) == generation
    }

    /// Two numbers that processes share; [`Map::reset`] leaves them as they are.
    pub(crate) fn numbers(&self) -> [&AtomicU64; 2] {
        let words = self.words();
        [&words[WORD_NUMBERS.start], &words[WORD_NUMBERS.start + 1]]
    }

    /// Raises the generation: after bits were cleared, before bytes are taken away.
    pub(crate) fn raise(&self) {
        self.words()[WORD_GENERATION].fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Map {
    #[expect(unsafe_code, reason = "the other end of the mapping")]
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made, of the same length; all borrows of it have ended.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}

// SAFETY: all access to the mapping is by atomics.
#[expect(unsafe_code, reason = "a pointer to shared atomics")]
unsafe impl Send for Map {}
// SAFETY: all access to the mapping is by atomics.
#[expect(unsafe_code, reason = "a pointer to shared atomics")]
unsafe impl Sync for Map {}

/// The kernel's number of this boot; zeros if it does not tell.
pub(crate) fn boot_id() -> [u64; 2] {
    static BOOT: OnceLock<[u64; 2]> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let number = u128::from_str_radix(&digits, 16).unwrap_or(0);
        [(number >> 64) as u64, number as u64]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page without a block of its own could be written to only if there is room then, and whoever
    /// writes is killed if there is none.
    #[test]
    fn all_of_a_map_has_its_room_before_it_is_used() {
        let file = tempfile::tempfile().unwrap();
        for size in [0, 5_000, 10 << 30] {
            let (map, state) = Map::open(&file, size).unwrap();
            assert_eq!(state, MapState::Stale);
            let meta = file.metadata().unwrap();
            assert_eq!(meta.len(), file_len(size));
            assert!(meta.blocks() * 512 >= meta.len(), "{size}: {} blocks", meta.blocks());
            drop(map);
        }
    }
}
