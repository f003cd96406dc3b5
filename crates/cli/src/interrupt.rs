// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C and its kin while files are written: the job ends in order and leaves nothing half done.
//!
//! Invariants: a signal that is ignored (`nohup`, a background job of a plain shell) stays ignored; a
//! second one ends the process at once; before [`watch`] signals do what they always do.

use ferrofs_linux::signals::{Signal, Signals};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static NUMBER: AtomicU8 = AtomicU8::new(0);

/// Catches signals from now on; gives what the first one sets. If they cannot be caught, they end the
/// process as before.
pub(crate) fn watch() -> &'static AtomicBool {
    let ignored = ignored();
    let wanted: Vec<Signal> = [Signal::Interrupt, Signal::Terminate, Signal::Hangup]
        .into_iter()
        .filter(|signal| ignored >> (signal.raw() - 1) & 1 == 0)
        .collect();
    if let Ok(signals) = Signals::catch(&wanted) {
        std::thread::spawn(move || {
            while let Ok(Some(signal)) = signals.wait(None) {
                let number = signal.raw() as u8;
                if REQUESTED.load(Ordering::SeqCst) {
                    std::process::exit(i32::from(128 + number));
                }
                NUMBER.store(number, Ordering::SeqCst);
                REQUESTED.store(true, Ordering::SeqCst);
            }
        });
    }
    &REQUESTED
}

/// Whether a signal has come.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// The exit code of shells for the signal that has come.
pub(crate) fn code() -> Option<u8> {
    requested().then(|| 128 + NUMBER.load(Ordering::SeqCst))
}

/// Signals that this process ignores, as bits.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
