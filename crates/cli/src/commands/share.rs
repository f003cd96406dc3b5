// SPDX-License-Identifier: MIT OR Apache-2.0
//! `share`.

mod estimate;
mod html;

use crate::args::{ShareArgs, ShareCommand};

pub(crate) fn run(args: &ShareArgs) -> anyhow::Result<u8> {
    match &args.command {
        ShareCommand::Estimate(args) => estimate::run(args),
    }
}
