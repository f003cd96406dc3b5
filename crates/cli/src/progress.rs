// SPDX-License-Identifier: MIT OR Apache-2.0
//! A progress bar on the standard error, if that is a terminal; else nothing.

use ferrofs_build::{Done, Phase};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Read};

/// Progress of a build, a check or an extraction.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar, hidden where nobody looks or wants it.
    pub(crate) fn new(quiet: bool, message: &'static str) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_message(message);
        Self { bar }
    }

    /// A reader that tells how far it is, of so many bytes.
    pub(crate) fn reading<R: Read>(&self, reader: R, total: u64) -> impl Read + use<R> {
        self.bytes_total(total);
        self.bar.wrap_read(reader)
    }

    /// Knows how many bytes there are.
    fn bytes_total(&self, total: u64) {
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        self.bar.set_style(style_of(style));
        self.bar.set_length(total);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl ferrofs_build::Progress for Bar {
    fn phase(&mut self, phase: Phase) {
        self.bar.set_message(match phase {
            Phase::Plan => "planning",
            Phase::Data => "data",
            Phase::Metadata => "metadata",
            _ => "finishing",
        });
    }

    fn advance(&mut self, done: Done) {
        if self.bar.length() != Some(done.bytes_total) {
            self.bytes_total(done.bytes_total);
        }
        self.bar.set_position(done.bytes);
    }

    fn is_cancelled(&self) -> bool {
        crate::interrupt::requested()
    }
}

/// The total is not known: what is done, and how fast.
impl ferrofs_check::Progress for Bar {
    fn bytes(&self, count: u64) {
        if self.bar.position() == 0 {
            self.bar.set_style(style_of("{msg} {bytes} {bytes_per_sec} {elapsed}"));
        }
        self.bar.inc(count);
    }
}
