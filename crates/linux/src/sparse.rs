// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a file has data and where it has holes, and copying ranges.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The most that is copied through memory at a time, in bytes.
const COPY_LEN: usize = 256 << 10;

/// A part of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Where it starts.
    pub offset: u64,
    /// Its length, never 0.
    pub len: u64,
    /// It is a hole: reads as zeros and takes no space.
    pub hole: bool,
}

/// The parts of the first `len` bytes of a file, in order and without gaps. On a file system that
/// does not tell, all is data. Moves the file's position. A file that shrinks meanwhile ends in a
/// hole.
pub fn segments<F: AsFd>(file: F, len: u64) -> Segments<F> {
    Segments { file, offset: 0, len, blind: false }
}

/// Iterator of [`segments`].
#[derive(Debug)]
pub struct Segments<F> {
    file: F,
    offset: u64,
    len: u64,
    /// The file system does not tell.
    blind: bool,
}

impl<F: AsFd> Iterator for Segments<F> {
    type Item = io::Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        let (offset, rest) = (self.offset, self.len.checked_sub(self.offset)?);
        if rest == 0 {
            return None;
        }
        let (hole, end) = match self.locate(offset) {
            Ok(found) => found,
            Err(errno) => {
                self.offset = self.len;
                return Some(Err(errno.into()));
            }
        };
        // Whatever the file system says, there is progress and an end.
        let end = end.min(self.len);
        let len = end.checked_sub(offset).filter(|len| *len > 0).unwrap_or(rest);
        self.offset = offset.saturating_add(len);
        Some(Ok(Segment { offset, len, hole }))
    }
}

impl<F: AsFd> Segments<F> {
    /// What is at `offset` and where it ends.
    fn locate(&mut self, offset: u64) -> Result<(bool, u64), Errno> {
        if self.blind {
            return Ok((false, self.len));
        }
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // No more data until the end.
            Err(Errno::NXIO) => return Ok((true, self.len)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.blind = true;
                return Ok((false, self.len));
            }
            Err(errno) => return Err(errno),
        };
        if data > offset {
            return Ok((true, data));
        }
        match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(hole) => Ok((false, hole)),
            Err(Errno::NXIO) => Ok((true, self.len)),
            Err(errno) => Err(errno),
        }
    }
}

/// Copies `len` bytes between files, within the kernel where it can. Returns how many were copied:
/// fewer only if the source ends.
pub fn copy_range(
    source: impl AsFd,
    source_offset: u64,
    target: impl AsFd,
    target_offset: u64,
    len: u64,
) -> io::Result<u64> {
    let mut from = source_offset;
    let mut to = target_offset;
    let mut done = 0_u64;
    while done < len {
        let wanted = usize::try_from(len.saturating_sub(done)).unwrap_or(usize::MAX).min(1 << 30);
        let (from, to) = (&mut from, &mut to);
        match rustix::fs::copy_file_range(&source, Some(from), &target, Some(to), wanted) {
            Ok(0) => break,
            Ok(copied) => done = done.saturating_add(copied as u64),
            Err(Errno::INTR) => {}
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BADF
                | Errno::IO,
            ) => {
                // Across file systems, or one that cannot. A real error comes again.
                let rest = len.saturating_sub(done);
                return Ok(done.saturating_add(copy_by_hand(source, *from, target, *to, rest)?));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    if done < len {
        // Some file systems (procfs and its like) answer zero though there is something to read.
        let rest = len.saturating_sub(done);
        done = done.saturating_add(copy_by_hand(source, from, target, to, rest)?);
    }
    Ok(done)
}

fn copy_by_hand(
    source: impl AsFd,
    mut from: u64,
    target: impl AsFd,
    mut to: u64,
    len: u64,
) -> io::Result<u64> {
    let mut buf = vec![0; usize::try_from(len).unwrap_or(COPY_LEN).min(COPY_LEN)];
    let mut done = 0_u64;
    while done < len {
        let wanted = usize::try_from(len.saturating_sub(done)).unwrap_or(usize::MAX).min(COPY_LEN);
        let part = buf.get_mut(..wanted).unwrap_or_default();
        let read = match rustix::io::pread(&source, &mut *part, from) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let mut part = part.get(..read).unwrap_or_default();
        while !part.is_empty() {
            let written = match rustix::io::pwrite(&target, part, to) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            part = part.get(written..).unwrap_or_default();
            to = to.saturating_add(written as u64);
        }
        from = from.saturating_add(read as u64);
        done = done.saturating_add(read as u64);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn all(file: &File, len: u64) -> Vec<Segment> {
        segments(file, len).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn segments_cover_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.write_at(b"data", 1 << 20).unwrap();
        file.write_at(b"more", 3 << 20).unwrap();
        file.set_len(5 << 20).unwrap();
        for len in [5 << 20, (1 << 20) + 2, 100, 6 << 20] {
            let segments = all(&file, len);
            let mut offset = 0;
            for segment in &segments {
                assert_eq!(segment.offset, offset);
                assert!(segment.len > 0);
                offset += segment.len;
                if segment.hole {
                    let mut part = vec![1; segment.len.min(4 << 20) as usize];
                    let read = file.read_at(&mut part, segment.offset).unwrap();
                    assert!(part[..read].iter().all(|&byte| byte == 0));
                }
            }
            assert_eq!(offset, len);
        }
        assert!(all(&file, 0).is_empty());
        let holes = all(&file, 5 << 20).iter().filter(|segment| segment.hole).count();
        if holes == 0 {
            println!("skipped: the file system here does not tell its holes");
        } else {
            assert_eq!(holes, 3);
        }
    }

    #[test]
    fn files_that_do_not_tell_are_all_data() {
        // The directory of processes has no holes to tell of.
        let file = File::open("/proc/self/stat").unwrap();
        let segments = all(&file, 10);
        assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), 10);
    }

    #[test]
    fn ranges_are_copied_both_ways() {
        let source = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
        source.write_all_at(&content, 0).unwrap();
        let target = tempfile::tempfile().unwrap();
        assert_eq!(copy_range(&source, 1000, &target, 5, 500_000).unwrap(), 500_000);
        assert_eq!(copy_by_hand(&source, 1000, &target, 600_000, 500_000).unwrap(), 500_000);
        let mut copied = vec![0; 500_000];
        for offset in [5, 600_000] {
            target.read_exact_at(&mut copied, offset).unwrap();
            assert!(copied == content[1000..501_000]);
        }
        assert_eq!(copy_range(&source, 599_990, &target, 0, 100).unwrap(), 10);
        let text = File::open("/proc/self/stat").unwrap();
        assert!(copy_range(&text, 0, &target, 0, 10).unwrap() == 10);
    }
}
