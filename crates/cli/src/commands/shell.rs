// SPDX-License-Identifier: MIT OR Apache-2.0
//! `completions` and `man`: made from the definition of the command line.

use crate::args::Cli;
use anyhow::Context;
use clap::CommandFactory;
use std::io::Write;
use std::path::Path;

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ferrofs", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(0)
}

pub(crate) fn man(directory: &Path) -> anyhow::Result<u8> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("cannot write man pages into {}", directory.display()))?;
    Ok(0)
}
