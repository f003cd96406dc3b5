// SPDX-License-Identifier: MIT OR Apache-2.0
//! JSON on the standard output.

use crate::output::Out;
use serde::Serialize;
use std::io::{self, Write};

/// Writes one value and a newline.
pub(crate) fn write(out: &mut Out, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Writes an array element by element, so that none but the current one is in memory.
#[derive(Debug)]
pub(crate) struct Array {
    empty: bool,
}

impl Array {
    pub(crate) fn begin(out: &mut Out) -> io::Result<Self> {
        write!(out, "[")?;
        Ok(Self { empty: true })
    }

    pub(crate) fn push(&mut self, out: &mut Out, value: &impl Serialize) -> io::Result<()> {
        let separator = if self.empty { "\n  " } else { ",\n  " };
        self.empty = false;
        write!(out, "{separator}")?;
        Ok(serde_json::to_writer(&mut *out, value)?)
    }

    pub(crate) fn end(self, out: &mut Out) -> io::Result<()> {
        writeln!(out, "{}]", if self.empty { "" } else { "\n" })
    }
}
