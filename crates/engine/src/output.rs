// SPDX-License-Identifier: MIT OR Apache-2.0
//! The caller's buffers as one run of bytes.

use std::io::IoSliceMut;
use std::ops::Range;

/// A run of output bytes, counted from the start of the request, in one or more pieces.
pub(crate) struct Output<'a> {
    start: usize,
    pieces: Vec<&'a mut [u8]>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(buffers: &'a mut [IoSliceMut<'_>]) -> Self {
        Self { start: 0, pieces: buffers.iter_mut().map(|buffer| &mut **buffer).collect() }
    }

    pub(crate) fn whole(buffer: &'a mut [u8]) -> Self {
        Self { start: 0, pieces: vec![buffer] }
    }

    /// Bytes there is room for.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// The same bytes for a while.
    pub(crate) fn reborrow(&mut self) -> Output<'_> {
        let pieces = self.pieces.iter_mut().map(|piece| &mut **piece).collect();
        Output { start: self.start, pieces }
    }

    /// Cuts at `at`; what lies before stays.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut before = self.start;
        for index in 0..self.pieces.len() {
            let end = before + self.pieces[index].len();
            if at < end {
                let mut rest = self.pieces.split_off(index);
                let first = std::mem::take(&mut rest[0]);
                let (keep, give) = first.split_at_mut(at.saturating_sub(before));
                if !keep.is_empty() {
                    self.pieces.push(keep);
                }
                rest[0] = give;
                return Self { start: at, pieces: rest };
            }
            before = end;
        }
        Self { start: at, pieces: Vec::new() }
    }

    /// Calls `each` with the bytes of `range`, piece by piece, and their offset in `range`.
    pub(crate) fn for_each(
        &mut self,
        range: &Range<usize>,
        mut each: impl FnMut(usize, &mut [u8]),
    ) {
        let mut before = self.start;
        for piece in &mut self.pieces {
            let end = before + piece.len();
            let from = range.start.max(before);
            let to = range.end.min(end);
            if from < to {
                each(from - range.start, &mut piece[from - before..to - before]);
            }
            before = end;
        }
    }

    /// Copies `bytes` to `at`.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.for_each(&(at..at + bytes.len()), |offset, piece| {
            piece.copy_from_slice(&bytes[offset..offset + piece.len()]);
        });
    }

    /// The bytes from `at` to the end of the piece that `at` lies in.
    pub(crate) fn piece_from(&mut self, at: usize) -> &mut [u8] {
        let mut before = self.start;
        for piece in &mut self.pieces {
            let end = before + piece.len();
            if at < end {
                return &mut piece[at.saturating_sub(before)..];
            }
            before = end;
        }
        &mut []
    }

    /// `range` as one slice, if it lies in one piece.
    pub(crate) fn contiguous(&mut self, range: &Range<usize>) -> Option<&mut [u8]> {
        self.piece_from(range.start).get_mut(..range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_run() {
        let mut bufs = [vec![0; 3], vec![], vec![0; 5]];
        let mut slices: Vec<IoSliceMut<'_>> =
            bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let mut output = Output::new(&mut slices);
        assert_eq!(output.len(), 8);
        output.write(1, &[1, 2, 3, 4]);
        assert!(output.contiguous(&(2..4)).is_none());
        assert_eq!(output.contiguous(&(3..5)).unwrap(), [3, 4]);
        assert_eq!(output.piece_from(4).len(), 4);
        let mut whole = output.reborrow();
        let mut rest = whole.split_off(4);
        assert_eq!((whole.len(), rest.len()), (4, 4));
        rest.write(6, &[9, 9]);
        assert_eq!(rest.contiguous(&(4..8)).unwrap(), [4, 0, 9, 9]);
        assert_eq!(rest.split_off(8).len(), 0);
        assert_eq!(whole.split_off(3).contiguous(&(3..4)).unwrap(), [3]);
        assert_eq!(bufs, [vec![0, 1, 2], vec![], vec![3, 4, 0, 9, 9]]);
    }
}
