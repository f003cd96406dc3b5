// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a device come from.

use std::io::{self, IoSliceMut};
use std::sync::Arc;

/// A device: bytes at offsets, read by many threads at once.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset` on, or fails; reading past the end is
    /// [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills `bufs` one after the other with what follows from `offset` on, or fails. One operation
    /// where the device can do that; by default one for each buffer.
    fn read_vectored_exact_at(
        &self,
        mut offset: u64,
        bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<()> {
        for buf in bufs {
            self.read_exact_at(offset, buf)?;
            offset = offset.saturating_add(ferrofs_format::num::u64_from_usize(buf.len()));
        }
        Ok(())
    }

    /// The `len` bytes from `offset` on, if they are in memory for as long as the device is: then
    /// nobody copies them. By default they are not.
    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// Bytes of the device.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for std::fs::File {
    #[cfg(unix)]
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    #[cfg(unix)]
    fn read_vectored_exact_at(
        &self,
        mut offset: u64,
        mut bufs: &mut [IoSliceMut<'_>],
    ) -> io::Result<()> {
        // Linux and macOS take 1024.
        const BUFFERS_MAX: usize = 256;
        IoSliceMut::advance_slices(&mut bufs, 0);
        while !bufs.is_empty() {
            let some = bufs.len().min(BUFFERS_MAX);
            let count =
                match rustix::io::preadv(self, bufs.get_mut(..some).unwrap_or_default(), offset) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => count,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(errno) => return Err(errno.into()),
                };
            // The system reads no more than it was given room for.
            IoSliceMut::advance_slices(&mut bufs, count);
            offset = offset.saturating_add(ferrofs_format::num::u64_from_usize(count));
        }
        Ok(())
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let count = std::os::windows::fs::FileExt::seek_read(self, buf, offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf = buf.get_mut(count..).unwrap_or_default();
            offset = offset.saturating_add(ferrofs_format::num::u64_from_usize(count));
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        // Block devices have no length in their metadata; seeking to the end works for both.
        use std::io::Seek;
        let metadata = self.metadata()?;
        if metadata.is_file() { Ok(metadata.len()) } else { (&*self).seek(io::SeekFrom::End(0)) }
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(len)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(ferrofs_format::num::u64_from_usize(self.len()))
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }

    fn read_vectored_exact_at(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        (**self).read_vectored_exact_at(offset, bufs)
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).bytes(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }

    fn read_vectored_exact_at(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        (**self).read_vectored_exact_at(offset, bufs)
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).bytes(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

/// A source from `offset` bytes on: an image that begins inside a file.
pub(crate) struct Shifted {
    pub(crate) inner: Box<dyn ReadAt>,
    pub(crate) offset: u64,
}

impl ReadAt for Shifted {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = self.offset.checked_add(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.inner.read_exact_at(start, buf)
    }

    fn read_vectored_exact_at(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let start = self.offset.checked_add(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.inner.read_vectored_exact_at(start, bufs)
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.inner.bytes(self.offset.checked_add(offset)?, len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.inner.size()?.saturating_sub(self.offset))
    }
}
