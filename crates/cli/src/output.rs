// SPDX-License-Identifier: MIT OR Apache-2.0
//! The standard output: buffered, and names made harmless where a terminal would obey them.

use ferrofs_check::RawPath;
use ferrofs_format::inode::FileType;
use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

/// The standard output.
#[derive(Debug)]
pub(crate) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    terminal: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { stdout: BufWriter::with_capacity(64 << 10, stdout.lock()), terminal }
    }

    /// A name of an image: as it is in a file or pipe; with control characters escaped on a terminal.
    pub(crate) fn name<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.terminal {
            Cow::Owned(RawPath(bytes.to_vec()).to_string().into_bytes())
        } else {
            Cow::Borrowed(bytes)
        }
    }

    /// Writes a name.
    pub(crate) fn write_name(&mut self, bytes: &[u8]) -> io::Result<()> {
        let name = self.name(bytes);
        self.stdout.write_all(&name)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdout.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// A name of an image for messages: always escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    RawPath(bytes.to_vec()).to_string()
}

/// The letter for the type bits of a mode.
pub(crate) fn kind_letter(mode: u16) -> char {
    FileType::from_mode(mode).map_or('?', FileType::letter)
}

/// `drwxr-xr-x`, as ls(1) has it.
pub(crate) fn mode_text(letter: char, mode: u16) -> String {
    let mut text = String::with_capacity(10);
    text.push(letter);
    for (shift, special, set, unset) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A UUID with its dashes.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let text = hex(uuid);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode_text('d', 0o755), "drwxr-xr-x");
        assert_eq!(mode_text('-', 0o6644), "-rwSr-Sr--");
        assert_eq!(mode_text('d', 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text('-', 0o7111), "---s--s--t");
    }

    #[test]
    fn uuids() {
        let uuid: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid_text(&uuid), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
