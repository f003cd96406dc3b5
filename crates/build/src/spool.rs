// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces of metadata that become known before they have a place: index areas and inline tails.
//!
//! They stay in memory up to a limit and go to an unnamed file beside the image behind it, so that
//! a tree of a million small files does not have to fit in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::output::unnamed_file;
use crate::{Error, Result};

/// A piece, by where it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Piece {
    offset: u64,
    pub(crate) len: u32,
}

/// The pieces.
#[derive(Debug)]
pub(crate) struct Spool {
    /// Where the file is made when it is needed.
    directory: PathBuf,
    memory_max: usize,
    /// What is not in the file yet.
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    flushed: u64,
}

impl Spool {
    pub(crate) fn new(directory: PathBuf, memory_max: usize) -> Self {
        Self { directory, memory_max, memory: Vec::new(), file: None, flushed: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Piece> {
        if self.memory.len() + bytes.len() > self.memory_max && !self.memory.is_empty() {
            self.flush()?;
        }
        let offset = self.flushed + self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        Ok(Piece { offset, len: bytes.len() as u32 })
    }

    fn flush(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(unnamed_file(&self.directory)?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&self.memory, self.flushed)
                .map_err(|error| Error::io("write a temporary file in", &self.directory, error))?;
        }
        self.flushed += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Appends a piece to `out`.
    pub(crate) fn read(&self, piece: Piece, out: &mut Vec<u8>) -> Result<()> {
        let len = piece.len as usize;
        if piece.offset >= self.flushed {
            let start = (piece.offset - self.flushed) as usize;
            out.extend_from_slice(&self.memory[start..start + len]);
            return Ok(());
        }
        let at = out.len();
        out.resize(at + len, 0);
        match &self.file {
            Some(file) => file
                .read_exact_at(&mut out[at..], piece.offset)
                .map_err(|error| Error::io("read a temporary file in", &self.directory, error)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_from_memory_and_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path().to_owned(), 100);
        let pieces: Vec<(Piece, Vec<u8>)> = (0..50u8)
            .map(|n| {
                let bytes = vec![n; usize::from(n) * 3];
                (spool.push(&bytes).unwrap(), bytes)
            })
            .collect();
        assert!(spool.file.is_some());
        for (piece, bytes) in pieces {
            let mut out = vec![7];
            spool.read(piece, &mut out).unwrap();
            assert_eq!(out[1..], bytes);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "unnamed");
    }
}
