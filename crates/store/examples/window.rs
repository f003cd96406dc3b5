// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints what windows fetch for several readers over a link of 20 ms and 200 Mbit/s, in simulated
//! time: `cargo run -p ferrofs-store --example window`.

#[path = "../src/window/simulate.rs"]
mod simulate;

use ferrofs_store::{Window, WindowConfig};

fn main() {
    print!("{}", simulate::table(WindowConfig::default()));
}
