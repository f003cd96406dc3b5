// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dump.erofs -S`: counted and shown as there, which differs from [`ferrofs_check::statistics`].
//!
//! Names are counted, not inodes: a file with two hard links counts twice. What a file takes is the
//! number of blocks in its inode if it is compressed, else its size. The packed inode has no name; it
//! counts where bytes on disk are counted. An ending counts as the first known one that begins like
//! it: `.o` as `.odex`.

use crate::output::Out;
use ferrofs_image::format::inode::{FileType, Layout};
use ferrofs_image::{Image, Inode, Nid};
use std::collections::HashSet;
use std::io::Write;

/// Known endings, in this order.
const ENDINGS: [&str; 9] = [".txt", ".so", ".xml", ".apk", ".odex", ".vdex", ".oat", ".rc", ".otf"];
/// Sizes up to 1 KiB, and then each power of two; the last is everything from 32 MiB on.
const CLASSES: usize = 17;
/// Characters of a bar that stands for everything.
const BAR: f64 = 50.0;

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    names: u64,
    regular: u64,
    directories: u64,
    char_devices: u64,
    block_devices: u64,
    fifos: u64,
    sockets: u64,
    symlinks: u64,
    compressed: u64,
    uncompressed: u64,
    original_bytes: u64,
    stored_bytes: u64,
    original_sizes: [u64; CLASSES],
    stored_sizes: [u64; CLASSES],
    /// By ending; the last is all others.
    endings: [u64; ENDINGS.len() + 1],
}

/// Walks the image.
pub(super) fn count(image: &Image) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    if let Some(nid) = image.superblock().packed {
        let stored = counts.stored(image, &image.inode(nid)?);
        counts.stored_bytes = counts.stored_bytes.saturating_add(stored);
        counts.stored_sizes[class(stored)] += 1;
    }
    let root = image.root();
    counts.inode(image, b"", &image.inode(root)?);
    let mut entered: HashSet<Nid> = HashSet::from([root]);
    let mut pending = vec![root];
    while let Some(nid) = pending.pop() {
        for entry in image.directory(&image.inode(nid)?)?.cursor() {
            let entry = entry?;
            if entry.is_dot() {
                continue;
            }
            let inode = image.inode(entry.nid)?;
            counts.inode(image, &entry.name, &inode);
            if inode.file_type == FileType::Directory && entered.insert(entry.nid) {
                pending.push(entry.nid);
            }
        }
    }
    Ok(counts)
}

impl Counts {
    fn inode(&mut self, image: &Image, name: &[u8], inode: &Inode) {
        self.names += 1;
        let stored = self.stored(image, inode);
        let counter = match inode.file_type {
            FileType::Regular => &mut self.regular,
            FileType::Directory => &mut self.directories,
            FileType::CharDevice => &mut self.char_devices,
            FileType::BlockDevice => &mut self.block_devices,
            FileType::Fifo => &mut self.fifos,
            FileType::Socket => &mut self.sockets,
            FileType::Symlink => &mut self.symlinks,
        };
        *counter += 1;
        if inode.file_type == FileType::Regular {
            self.original_bytes = self.original_bytes.saturating_add(inode.size);
            self.stored_bytes = self.stored_bytes.saturating_add(stored);
            self.original_sizes[class(inode.size)] += 1;
            self.stored_sizes[class(stored)] += 1;
            self.endings[ending(name)] += 1;
        }
    }

    /// Bytes that a file takes.
    fn stored(&mut self, image: &Image, inode: &Inode) -> u64 {
        match inode.layout() {
            Layout::CompressedFull | Layout::CompressedCompact => {
                self.compressed += 1;
                inode.record.wide_u().saturating_mul(image.superblock().block_bits.size_u64())
            }
            _ => {
                self.uncompressed += 1;
                inode.size
            }
        }
    }

    /// The whole report.
    pub(super) fn show(&self, out: &mut Out) -> std::io::Result<()> {
        for (label, count) in [
            ("total file count", self.names),
            ("unknown type count", 0),
            ("regular file count", self.regular),
            ("directory count", self.directories),
            ("char dev count", self.char_devices),
            ("block dev count", self.block_devices),
            ("FIFO file count", self.fifos),
            ("SOCK file count", self.sockets),
            ("symlink file count", self.symlinks),
        ] {
            writeln!(out, "Filesystem {label}:\t\t{count}")?;
        }
        writeln!(out, "Filesystem compressed files:            {}", self.compressed)?;
        writeln!(out, "Filesystem uncompressed files:          {}", self.uncompressed)?;
        writeln!(out, "Filesystem total original file size:    {} Bytes", self.original_bytes)?;
        writeln!(out, "Filesystem total file size:             {} Bytes", self.stored_bytes)?;
        let rate = match self.original_bytes {
            0 => 100.0,
            bytes => self.stored_bytes as f64 * 100.0 / bytes as f64,
        };
        writeln!(out, "Filesystem compress rate:               {rate:.2}%")?;
        self.show_sizes("Original", &self.original_sizes, out)?;
        self.show_sizes("On-disk", &self.stored_sizes, out)?;
        writeln!(out, "\nFile type distribution:")?;
        writeln!(out, "{:<23}count            ratio |{:<50}|", "type", "distribution")?;
        for (name, &count) in ENDINGS.iter().chain(&["others"]).zip(&self.endings) {
            self.row(&format!("{name:<17}"), count, out)?;
        }
        Ok(())
    }

    fn show_sizes(&self, what: &str, sizes: &[u64], out: &mut Out) -> std::io::Result<()> {
        writeln!(out, "\n{what} file size distribution:")?;
        writeln!(out, "{:<23}count            ratio |{:<50}|", ">=(KB) .. <(KB)", "distribution")?;
        for (class, &count) in sizes.iter().enumerate() {
            let from = if class == 0 { 0 } else { 1_u64 << (class - 1) };
            let end =
                if class + 1 == CLASSES { String::new() } else { (1_u64 << class).to_string() };
            self.row(&format!("{from:>6} .. {end:<6}"), count, out)?;
        }
        Ok(())
    }

    /// One row: its share is that of all regular files.
    fn row(&self, label: &str, count: u64, out: &mut Out) -> std::io::Result<()> {
        let share = count as f64 / self.regular.max(1) as f64;
        let bar = "#".repeat((share.min(1.0) * BAR) as usize);
        writeln!(out, "{label}\t{count:<8}{:>12.2}% |{bar:<50}|", share * 100.0)
    }
}

/// Which row of sizes.
fn class(bytes: u64) -> usize {
    let kib = bytes >> 10;
    ((u64::BITS - kib.leading_zeros()) as usize).min(CLASSES - 1)
}

/// Which row of endings.
fn ending(name: &[u8]) -> usize {
    let others = ENDINGS.len();
    let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else { return others };
    let of = |known: &&str| known.as_bytes().starts_with(&name[dot..]);
    ENDINGS.iter().position(of).unwrap_or(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_erofs_utils() {
        for (bytes, row) in
            [(0, 0), (1023, 0), (1024, 1), (4095, 2), (4096, 3), (32 << 20, 16), (u64::MAX, 16)]
        {
            assert_eq!(class(bytes), row, "{bytes}");
        }
        for (name, row) in
            [("a.txt", ".txt"), ("a.b.so", ".so"), ("a.o", ".odex"), ("e.", ".txt"), (".rc", ".rc")]
        {
            assert_eq!(ENDINGS[ending(name.as_bytes())], row, "{name}");
        }
        for name in ["a", "", "a.text", "libc.so.6", "a.TXT"] {
            assert_eq!(ending(name.as_bytes()), ENDINGS.len(), "{name}");
        }
    }
}
