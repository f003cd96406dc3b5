// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `ferrofs` command.
#![forbid(unsafe_code)]

fn main() {}
