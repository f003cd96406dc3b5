// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `ferrofs` command: arguments in, text or JSON out.
//!
//! All work is done by the crates below; here are arguments ([`args`]), what is shown of results, and
//! the manners of other programs ([`personality`]): called as `mkfs.erofs`, `fsck.erofs`,
//! `dump.erofs`, `erofsfuse` or `mount.erofs` it takes their options. Invariants: results go to the
//! standard output and messages to the standard error; an error is one line for each cause; a reader
//! that has gone away is no error.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod errors;
mod hints;
mod interrupt;
mod json;
mod network;
mod output;
mod personality;
mod progress;
mod size;
mod time;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == ferrofs_serve::WORKER_COMMAND) {
        return ExitCode::from(commands::mount::work());
    }
    if words.get(1).is_some_and(|word| word == ferrofs_serve::GUARD_COMMAND) {
        return ExitCode::from(ferrofs_serve::guard(words.get(2..).unwrap_or_default()));
    }
    if words.get(1).is_some_and(|word| word == ferrofs_serve::DOMAIN_COMMAND) {
        return ExitCode::from(commands::mount::serve_domain(words.get(2..).unwrap_or_default()));
    }
    if let Some((tool, rest)) = personality::find(&words) {
        return ExitCode::from(tool.run(rest));
    }
    if let Err(error) = network::hide_password(&words) {
        errors::print("ferrofs", &error);
        return ExitCode::FAILURE;
    }
    ExitCode::from(run(&words))
}

/// The command's own manners.
fn run(words: &[OsString]) -> u8 {
    // fsck(8) has a code of its own for usage errors.
    let usage = if words.get(1).is_some_and(|word| word == "check") { 16 } else { 1 };
    let cli = match args::Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.use_stderr();
            // If the terminal is gone there is nobody to tell.
            let _ = error.print();
            return if failed { usage } else { 0 };
        }
    };
    let failed = cli.command.failure_code();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(error) if errors::is_broken_pipe(&error) => 0,
        Err(error) => {
            errors::print("ferrofs", &error);
            interrupt::code().unwrap_or(failed)
        }
    }
}
